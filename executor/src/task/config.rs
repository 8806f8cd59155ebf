//! A worker's settings.

use crate::ground::log::OpenLogs;
use crate::programs::Programs;
use pictor_tasks::units::Bytes;
use pictor_tasks::worker::Inventory;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::time::Duration;

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of artifacts, logs and scratch folders. It is created if needed.
    pub data: PathBuf,
    /// The folder of models and of ONNX Runtime.
    pub models: PathBuf,
    /// The number of tasks at a time. Slot `i` uses GPU `i`, if there is one.
    pub slots: u32,
    /// The hardware and software of the machine.
    pub inventory: Inventory,
    /// Whether `command` steps may run here.
    pub allow_commands: bool,
    /// Whether the programs of `command` steps may connect to other machines.
    pub allow_network: bool,
    /// The interval between heartbeats.
    pub heartbeat: Duration,
    /// How long a bundle may be held before the worker claims it.
    pub claim_after: Duration,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// How much has to stay free on the disk of `data`: a task that has written as much is stopped when less is left.
    pub disk_left: Bytes,
    /// The paths of the programs.
    pub programs: Programs,
    /// The user's cache folder, whose content can be made again; `None` for no cache.
    pub cache: Option<PathBuf>,
    /// Notified about the logs that tasks write, if they are sent to a farm.
    pub logs: Option<Arc<OpenLogs>>,
}

impl Config {
    /// Defaults: one slot for each GPU, or one, no commands, models below the data folder, and no cache.
    pub fn new(data: PathBuf, inventory: Inventory) -> Self {
        let slots = u32::try_from(inventory.gpus.len()).unwrap_or(u32::MAX).max(1);
        Self {
            models: data.join("models"),
            data,
            slots,
            inventory,
            allow_commands: false,
            allow_network: false,
            heartbeat: Duration::from_secs(5),
            claim_after: Duration::from_secs(5),
            grace: Duration::from_secs(1),
            disk_left: Bytes(1 << 30),
            programs: Programs::default(),
            cache: None,
            logs: None,
        }
    }

    /// The inventory that the worker offers: the machine's, as far as its operator allows.
    pub fn offer(&self) -> Inventory {
        Inventory {
            slots: self.slots,
            allows_commands: self.allow_commands,
            ..self.inventory.clone()
        }
    }

    /// The folder of the artifacts, below the data folder.
    pub fn artifacts(&self) -> PathBuf {
        self.data.join("artifacts")
    }
}
