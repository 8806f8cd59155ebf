//! How work is done: the worker's agent, its slots, and one runner for each kind of task.

mod agent;
mod artifacts;
pub mod blender;
mod bundle;
mod cache;
mod clock;
mod command;
mod config;
mod encode;
mod exr_image;
pub mod farm;
pub mod inventory;
mod log;
pub mod merge;
pub mod models;
mod picture;
pub mod process;
mod scene_file;
mod slot;
pub mod software;
mod task;
mod told;
mod upscale;
mod video;

pub use agent::{Agent, Handle, Intake};
pub use artifacts::{Artifacts, Place};
pub use cache::CACHE_BYTES;
pub use config::{Config, Programs};
pub use log::{LogWriter, OpenLogs, log_path};
pub use task::{Activity, Device, Progress, StopReason, StopSignal, Stopper, TaskContext, failure};
