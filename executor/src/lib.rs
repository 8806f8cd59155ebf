//! How work is done: the worker's agent, its slots, and one runner for each kind of task.

mod agent;
mod artifacts;
pub mod blender;
mod bundle;
mod clock;
mod command;
mod encode;
mod exr_image;
pub mod inventory;
mod log;
pub mod merge;
pub mod process;
mod slot;
mod task;

pub use agent::{Agent, Config, Handle, Programs};
pub use artifacts::Artifacts;
pub use log::{LogWriter, log_path};
pub use task::{Activity, Device, Progress, StopReason, StopSignal, Stopper, TaskContext, failure};
