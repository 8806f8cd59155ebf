//! Files of tasks, from and to workers.

use crate::Input;
use pictor_tasks::message::{Execution, StepKey, Try};
use pictor_tasks::ticket::Ticket;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How to get or put an artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Link {
    /// An absolute address, or a path of this server.
    pub url: String,
    /// Headers that belong to the request.
    pub headers: BTreeMap<String, String>,
}

impl Link {
    /// To a path of the server that is asked.
    pub fn to(path: String) -> Self {
        Self { url: path, headers: BTreeMap::new() }
    }

    /// Whether it leads to a server of the farm.
    pub fn is_ours(&self) -> bool {
        self.url.starts_with('/')
    }
}

/// A worker is about to start a task.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InputsRequest {
    /// The step.
    pub key: StepKey,
    /// The try.
    pub task: Try,
    /// The ticket that came with it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, pattern = "^[0-9a-f]{1,16}-[0-9a-f]{32}$"))]
    pub ticket: Option<Ticket>,
}

/// An artifact that a task reads, and how to get it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkedInput {
    /// The artifact.
    pub input: Input,
    /// How to get it.
    pub link: Link,
}

/// What a task reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inputs {
    /// The artifacts, in the order of the step's needs and of the tasks that made them.
    pub inputs: Vec<LinkedInput>,
}

/// A worker has made a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputRequest {
    /// The step.
    pub key: StepKey,
    /// The try.
    pub task: Try,
    /// Which carrying-out of it.
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub execution: Execution,
    /// The ticket that came with it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, pattern = "^[0-9a-f]{1,16}-[0-9a-f]{32}$"))]
    pub ticket: Option<Ticket>,
    /// The step's name.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 150))]
    pub step: String,
    /// The file's name, or its path in a folder.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 400))]
    pub file: String,
    /// Its size.
    pub size_bytes: u64,
}

/// Where a file belongs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutputPlace {
    /// The artifact's key.
    pub key: String,
    /// How to store it.
    pub link: Link,
}
