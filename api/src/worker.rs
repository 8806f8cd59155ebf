//! Workers: what people see of them, and what they say about themselves.

use crate::{Inventory, Service};
use pictor_tasks::message::{StepKey, Try};
use serde::{Deserialize, Serialize};

/// A worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Worker {
    /// Its number.
    pub id: u32,
    /// Its name, unique within the account.
    pub name: String,
    /// Whose it is.
    pub account: String,
    /// Whether it is in service.
    pub state: Service,
    /// Whether it was heard of lately.
    pub online: bool,
    /// Whether the worker itself takes work now (working hours, idleness).
    pub accepts: bool,
    /// Why it takes none, for people.
    pub reason: String,
    /// When it was heard of last, milliseconds since 1970.
    pub seen_ms: i64,
    /// When it was registered, milliseconds since 1970.
    pub registered_ms: i64,
    /// Tasks that it does at a time.
    pub slots: u32,
    /// Tasks that it has now, running or waiting in it.
    pub tasks: u32,
    /// What the machine has.
    pub inventory: Inventory,
    /// What its GPUs are doing.
    pub gpus: Vec<GpuLoad>,
    /// What the machine is doing.
    pub machine: Option<MachineLoad>,
}

/// What to change about a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WorkerPatch {
    /// Whether it is in service from now on.
    pub state: Service,
}

/// The load of one GPU. Values that its driver does not report are null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GpuLoad {
    /// The GPU's unique id.
    pub uuid: String,
    /// The share of the latest interval in which it was computing, from 0 to 100.
    #[serde(default)]
    pub utilisation_percent: Option<u32>,
    /// Its memory that is in use.
    #[serde(default)]
    pub memory_used_bytes: Option<u64>,
    /// What it draws.
    #[serde(default)]
    pub power_watts: Option<f64>,
    /// How hot it is.
    #[serde(default)]
    pub temperature_celsius: Option<u32>,
}

/// The load of a machine beside its GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MachineLoad {
    /// Processes that want a processor, averaged over a minute.
    pub load: f64,
    /// Memory that is left.
    pub memory_available_bytes: u64,
    /// Disk space that is left where the worker keeps its data.
    pub disk_free_bytes: u64,
}

/// A machine that wants to be a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// Its name: 1 to 64 letters, digits, `.`, `_` and `-`. The same name of the same account is the
    /// same worker.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")
    )]
    pub name: String,
    /// What it has.
    pub inventory: Inventory,
    /// Where it runs: a text that no other living process has, and that the same one has after a crash.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_length = 64))]
    pub place: String,
}

/// How to reach the broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Amqp {
    /// The address, with the worker's own name and password.
    pub url: String,
}

/// A machine that is a worker now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Enrolled {
    /// Its number.
    pub id: u32,
    /// What it shows from now on, instead of the token that it enrolled with.
    pub token: String,
    /// Where its work comes from.
    pub amqp: Amqp,
    /// How often it is to send a heartbeat, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long it may be silent before its work is given to others, in milliseconds.
    pub lease_ms: u64,
}

/// Tries of one step that a worker has.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Holding {
    /// The step.
    pub key: StepKey,
    /// The tries.
    pub tasks: Vec<Try>,
}

/// A worker is alive.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Heartbeat {
    /// What it has.
    pub holding: Vec<Holding>,
    /// What its GPUs are doing.
    #[serde(default)]
    pub gpus: Vec<GpuLoad>,
    /// What the machine is doing.
    #[serde(default)]
    pub machine: MachineLoad,
    /// What the machine has, when it begins or that has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// Whether it takes work now.
    #[serde(default = "yes")]
    pub accepts: bool,
    /// Why not, for people.
    #[serde(default)]
    pub reason: String,
    /// Where it runs, as when it registered.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_length = 64))]
    pub place: String,
}

fn yes() -> bool {
    true
}

/// What the operator wants of a worker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Orders {
    /// Whether it is in service.
    pub state: Service,
}
