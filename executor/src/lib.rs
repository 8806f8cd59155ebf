//! The execution of tasks: the worker's agent, its slots, and one runner for each kind of task.
//!
//! Each folder uses only those before it: `ground`, `files`, `programs`, `task`, `runners`, `worker`, `farm`.

pub mod farm;
mod files;
mod ground;
mod programs;
mod runners;
mod task;
mod worker;

pub use files::artifacts::Artifacts;
pub use files::cache::CACHE_BYTES;
pub use ground::failure::failure;
pub use ground::log::{LogWriter, OpenLogs, log_path};
pub use ground::progress::{Activity, Progress, StopReason, StopSignal, Stopper};
pub use programs::{
    Confinement, Device, Programs, Sandbox, SandboxPolicy, Shared, process, software,
};
pub use runners::{blender, merge};
pub use task::{Config, TaskContext};
pub use worker::agent::{Agent, Handle, Intake};
pub use worker::inventory;
