//! A worker's settings.

use crate::ground::log::OpenLogs;
use crate::programs::Programs;
use pictor_tasks::worker::Inventory;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::time::Duration;

/// A worker's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of artifacts, logs and scratch folders. It is made if needed.
    pub data: PathBuf,
    /// The folder of models and of ONNX Runtime.
    pub models: PathBuf,
    /// Tasks at a time. Slot `i` drives GPU `i`, if there is one.
    pub slots: u32,
    /// What the machine has.
    pub inventory: Inventory,
    /// Whether `command` steps may run here.
    pub allow_commands: bool,
    /// How often the worker says that it is alive.
    pub heartbeat: Duration,
    /// How long a bundle may be held before it is claimed.
    pub claim_after: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Where the programs are.
    pub programs: Programs,
    /// The user's folder for what is made again when it is gone, if there is one.
    pub cache: Option<PathBuf>,
    /// Told of the logs that tasks write, if somebody sends them on.
    pub logs: Option<Arc<OpenLogs>>,
}

impl Config {
    /// One slot for each GPU, or one, no commands, models beside the rest of the data, and no cache.
    pub fn new(data: PathBuf, inventory: Inventory) -> Self {
        let slots = u32::try_from(inventory.gpus.len()).unwrap_or(u32::MAX).max(1);
        Self {
            models: data.join("models"),
            data,
            slots,
            inventory,
            allow_commands: false,
            heartbeat: Duration::from_secs(5),
            claim_after: Duration::from_secs(5),
            grace: Duration::from_secs(1),
            programs: Programs::default(),
            cache: None,
            logs: None,
        }
    }

    /// What the worker has to offer: what the machine has, as far as its operator allows.
    pub fn offer(&self) -> Inventory {
        Inventory {
            slots: self.slots,
            allows_commands: self.allow_commands,
            ..self.inventory.clone()
        }
    }

    /// The folder of the artifacts.
    pub fn artifacts(&self) -> PathBuf {
        self.data.join("artifacts")
    }
}
