//! The HTTP messages between a worker and a server.

use crate::worker::inventory::{GpuLoad, MachineLoad};
use pictor_queue::Ticket;
use pictor_tasks::message::{Execution, Input, StepKey, Try, WorkerId};
use pictor_tasks::state::Service;
use pictor_tasks::worker::Inventory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The request of a worker to enrol.
#[derive(Debug, Serialize)]
pub(crate) struct Enrol<'a> {
    pub(crate) name: &'a str,
    pub(crate) inventory: &'a Inventory,
    pub(crate) place: &'a str,
}

/// The response to it.
#[derive(Debug, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) id: WorkerId,
    pub(crate) token: String,
    pub(crate) amqp: Amqp,
    pub(crate) heartbeat_ms: u64,
}

/// The broker's address, with the worker's credentials.
#[derive(Debug, Deserialize)]
pub(crate) struct Amqp {
    pub(crate) url: String,
}

/// The message that a worker is alive.
#[derive(Debug, Serialize)]
pub(crate) struct Heartbeat<'a> {
    /// The name of the place where the worker runs: no two live processes send the same.
    pub(crate) place: &'a str,
    pub(crate) holding: Vec<Holding>,
    pub(crate) gpus: Vec<GpuLoad>,
    pub(crate) machine: MachineLoad,
    /// The inventory: only at the start, and when it has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inventory: Option<&'a Inventory>,
    /// Whether it accepts work now.
    pub(crate) accepts: bool,
    /// Why it does not, for users.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) reason: &'a str,
}

/// The attempts of one step that a worker holds.
#[derive(Debug, Serialize)]
pub(crate) struct Holding {
    pub(crate) key: StepKey,
    pub(crate) tasks: Vec<Try>,
}

/// The operator's wish for the worker.
#[derive(Debug, Deserialize)]
pub(crate) struct Orders {
    pub(crate) state: Service,
}

/// A worker's request before it starts a task.
#[derive(Debug, Serialize)]
pub(crate) struct InputsOf<'a> {
    pub(crate) key: &'a StepKey,
    pub(crate) task: Try,
    pub(crate) ticket: Option<Ticket>,
}

/// The artifacts that the task reads.
#[derive(Debug, Deserialize)]
pub(crate) struct Inputs {
    pub(crate) inputs: Vec<LinkedInput>,
}

/// An artifact, and the link to it.
#[derive(Debug, Deserialize)]
pub(crate) struct LinkedInput {
    pub(crate) input: Input,
    pub(crate) link: Link,
}

/// A worker's request to store a file.
#[derive(Debug, Serialize)]
pub(crate) struct OutputOf<'a> {
    pub(crate) key: &'a StepKey,
    pub(crate) task: Try,
    pub(crate) execution: Execution,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) step: &'a str,
    pub(crate) file: &'a str,
    pub(crate) size_bytes: u64,
}

/// The key of the file, and the link for the upload.
#[derive(Debug, Deserialize)]
pub(crate) struct OutputPlace {
    pub(crate) key: String,
    pub(crate) link: Link,
}

/// A link to download or upload an artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Link {
    /// An absolute URL, or a path of the server that gave it.
    pub(crate) url: String,
    /// Headers to send with the request.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
}

impl Link {
    /// A link to a path of the farm's servers.
    pub(crate) fn to(path: String) -> Self {
        Self { url: path, headers: BTreeMap::new() }
    }

    /// Whether it leads to a server of the farm.
    pub(crate) fn is_ours(&self) -> bool {
        self.url.starts_with('/')
    }
}

/// The body of an error response.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) detail: String,
}
