//! What a worker and a server say to each other by HTTP.

use crate::worker::inventory::{GpuLoad, MachineLoad};
use pictor_queue::Ticket;
use pictor_tasks::message::{Execution, Input, StepKey, Try, WorkerId};
use pictor_tasks::state::Service;
use pictor_tasks::worker::Inventory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A worker asks to be one.
#[derive(Debug, Serialize)]
pub(crate) struct Enrol<'a> {
    pub(crate) name: &'a str,
    pub(crate) inventory: &'a Inventory,
    pub(crate) place: &'a str,
}

/// It is one.
#[derive(Debug, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) id: WorkerId,
    pub(crate) token: String,
    pub(crate) amqp: Amqp,
    pub(crate) heartbeat_ms: u64,
}

/// Where the broker is, and who the worker is there.
#[derive(Debug, Deserialize)]
pub(crate) struct Amqp {
    pub(crate) url: String,
}

/// A worker is alive.
#[derive(Debug, Serialize)]
pub(crate) struct Heartbeat<'a> {
    /// Where the worker runs: no two processes that live say the same.
    pub(crate) place: &'a str,
    pub(crate) holding: Vec<Holding>,
    pub(crate) gpus: Vec<GpuLoad>,
    pub(crate) machine: MachineLoad,
    /// What it has: only when it begins, and when that has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inventory: Option<&'a Inventory>,
    /// Whether it takes work now.
    pub(crate) accepts: bool,
    /// Why not, for people.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) reason: &'a str,
}

/// Tries that a worker has, of one step.
#[derive(Debug, Serialize)]
pub(crate) struct Holding {
    pub(crate) key: StepKey,
    pub(crate) tasks: Vec<Try>,
}

/// What the operator wants of the worker.
#[derive(Debug, Deserialize)]
pub(crate) struct Orders {
    pub(crate) state: Service,
}

/// A worker is about to start a task.
#[derive(Debug, Serialize)]
pub(crate) struct InputsOf<'a> {
    pub(crate) key: &'a StepKey,
    pub(crate) task: Try,
    pub(crate) ticket: Option<Ticket>,
}

/// What the task reads.
#[derive(Debug, Deserialize)]
pub(crate) struct Inputs {
    pub(crate) inputs: Vec<LinkedInput>,
}

/// An artifact, and how to get it.
#[derive(Debug, Deserialize)]
pub(crate) struct LinkedInput {
    pub(crate) input: Input,
    pub(crate) link: Link,
}

/// A worker has made a file.
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

/// Where it belongs.
#[derive(Debug, Deserialize)]
pub(crate) struct OutputPlace {
    pub(crate) key: String,
    pub(crate) link: Link,
}

/// How to get or put an artifact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Link {
    /// An absolute address, or a path of the server that gave it.
    pub(crate) url: String,
    /// Headers that belong to it.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
}

impl Link {
    /// A path of the farm's servers.
    pub(crate) fn to(path: String) -> Self {
        Self { url: path, headers: BTreeMap::new() }
    }

    /// Whether it leads to a server of the farm.
    pub(crate) fn is_ours(&self) -> bool {
        self.url.starts_with('/')
    }
}

/// Why a server says no.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) detail: String,
}
