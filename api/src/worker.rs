//! Workers: how they are shown, and what they report about themselves.

use crate::{Inventory, Service};
use pictor_tasks::message::{StepKey, Try};
use pictor_tasks::ticket::Ticket;
use serde::{Deserialize, Serialize};

/// A registered worker and its current state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Worker {
    /// Number of the worker, from 1.
    pub id: u32,
    /// Name of the worker, unique within the account.
    pub name: String,
    /// Account that the worker belongs to.
    pub account: String,
    /// Whether it is in service, as an operator has set it.
    pub state: Service,
    /// Whether it was heard from within the length of a lease.
    pub online: bool,
    /// Whether the worker itself accepts tasks now (working hours, idleness).
    pub accepts: bool,
    /// Why it accepts none, for people to read.
    pub reason: String,
    /// When it was last heard from, in milliseconds since 1970.
    pub seen_ms: i64,
    /// When it first registered, in milliseconds since 1970.
    pub registered_ms: i64,
    /// Tasks that it can execute at a time.
    pub slots: u32,
    /// Tasks that it holds now, running or waiting.
    pub tasks: u32,
    /// Hardware and programs of the machine.
    pub inventory: Inventory,
    /// Load of its GPUs at the last heartbeat.
    pub gpus: Vec<GpuLoad>,
    /// Load of the machine at the last heartbeat.
    pub machine: Option<MachineLoad>,
}

/// A change of a worker.
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
    /// UUID of the GPU, as its driver reports it.
    pub uuid: String,
    /// Share of the last interval in which it was computing, in percent.
    #[serde(default)]
    pub utilisation_percent: Option<u32>,
    /// Memory in use, in bytes.
    #[serde(default)]
    pub memory_used_bytes: Option<u64>,
    /// Power draw in watts.
    #[serde(default)]
    pub power_watts: Option<f64>,
    /// Temperature in degrees Celsius.
    #[serde(default)]
    pub temperature_celsius: Option<u32>,
}

/// The load of a machine apart from its GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MachineLoad {
    /// Runnable processes, averaged over a minute.
    pub load: f64,
    /// Available memory, in bytes.
    pub memory_available_bytes: u64,
    /// Free disk space where the worker keeps its data, in bytes.
    pub disk_free_bytes: u64,
}

/// A machine's request to become a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// Name of the worker: 1 to 64 letters, digits, `.`, `_` and `-`. The same name in the same account means the same
    /// worker.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")
    )]
    pub name: String,
    /// Hardware and programs of the machine.
    pub inventory: Inventory,
    /// Identifies where the worker runs: a text that no other live process has, and that the same worker has again
    /// after a crash.
    #[serde(default, rename = "place")]
    #[cfg_attr(feature = "openapi", schema(max_length = 64))]
    pub instance: String,
}

/// Connection to the message broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Amqp {
    /// Address of the broker, with the worker's own name and password.
    pub url: String,
}

/// The registration of a machine as a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Enrolled {
    /// Number of the worker, from 1.
    pub id: u32,
    /// The worker's own token, to be used from now on instead of the one that it enrolled with.
    pub token: String,
    /// Connection over which it gets its tasks.
    pub amqp: Amqp,
    /// Interval of its heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long it may be silent before its tasks are given to others, in milliseconds.
    pub lease_ms: u64,
}

/// Tasks of one step that a worker holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Holding {
    /// Run, step and generation of the tasks.
    pub key: StepKey,
    /// Index and attempt of each task.
    pub tasks: Vec<Try>,
    /// The ticket that came with each task. Without them, the worker only keeps what the server knows it to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub tickets: Vec<Ticket>,
}

/// A heartbeat: the worker is alive.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Heartbeat {
    /// The tasks that it holds, running or waiting.
    pub holding: Vec<Holding>,
    /// Load of its GPUs since the last heartbeat.
    #[serde(default)]
    pub gpus: Vec<GpuLoad>,
    /// Current load of the machine.
    #[serde(default)]
    pub machine: MachineLoad,
    /// Hardware and programs of the machine: in the first heartbeat, and after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// Whether it accepts tasks now.
    #[serde(default = "yes")]
    pub accepts: bool,
    /// Why it accepts none, for people to read.
    #[serde(default)]
    pub reason: String,
    /// Where it runs, as at its registration.
    #[serde(default, rename = "place")]
    #[cfg_attr(feature = "openapi", schema(max_length = 64))]
    pub instance: String,
}

fn yes() -> bool {
    true
}

/// The operator's settings for a worker, in response to a heartbeat.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Orders))]
pub struct HeartbeatReply {
    /// Whether it is in service.
    pub state: Service,
    /// Interval of its heartbeats from now on, in milliseconds, if it is longer than the one at its registration: in a
    /// large farm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub heartbeat_ms: Option<u64>,
}
