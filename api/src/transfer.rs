//! Transfer of tasks' files, from and to workers.

use crate::Input;
use pictor_tasks::message::{Execution, StepKey, Try};
use pictor_tasks::ticket::Ticket;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request by which an artifact can be downloaded or uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Link {
    /// An absolute URL, or a path on this server.
    pub url: String,
    /// Headers that the request has to have.
    pub headers: BTreeMap<String, String>,
}

impl Link {
    /// A link to a path on the server that sends it.
    pub fn to(path: String) -> Self {
        Self { url: path, headers: BTreeMap::new() }
    }

    /// Whether it leads to a server of the farm.
    pub fn is_ours(&self) -> bool {
        self.url.starts_with('/')
    }
}

/// A worker asks for the inputs of a task that it is about to start.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InputsRequest {
    /// Run, step and generation of the task.
    pub key: StepKey,
    /// Index and attempt of the task.
    pub task: Try,
    /// The ticket that came with the task.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, pattern = "^[0-9a-f]{1,16}-[0-9a-f]{32}$"))]
    pub ticket: Option<Ticket>,
}

/// An artifact that a task reads, with a link to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkedInput {
    /// The artifact, and the task that made it.
    pub input: Input,
    /// Link by which it can be downloaded.
    pub link: Link,
}

/// The inputs of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inputs {
    /// The inputs, in the order of the step's dependencies and of the tasks that made them.
    pub inputs: Vec<LinkedInput>,
}

/// A worker asks where to store a file that a task made.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputRequest {
    /// Run, step and generation of the task.
    pub key: StepKey,
    /// Index and attempt of the task.
    pub task: Try,
    /// Id of the execution that made the file.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub execution: Execution,
    /// The ticket that came with the task.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, pattern = "^[0-9a-f]{1,16}-[0-9a-f]{32}$"))]
    pub ticket: Option<Ticket>,
    /// Name of the step that the task belongs to.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 150))]
    pub step: String,
    /// Name of the file, or its path in a folder of outputs.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 400))]
    pub file: String,
    /// Size of the file in bytes.
    pub size_bytes: u64,
}

/// Destination of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputPlace {
    /// Key of the artifact to be stored.
    pub key: String,
    /// Link by which it can be uploaded.
    pub link: Link,
}
