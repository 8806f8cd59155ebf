//! What a machine has, as the API tells it.

use pictor_tasks::worker;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// One GPU.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// The product name.
    pub name: String,
    /// The vendor's unique id.
    pub uuid: String,
    /// Its memory.
    pub vram_bytes: u64,
    /// The driver's version.
    pub driver: String,
}

/// One Blender of a machine.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Blender {
    /// Its version.
    pub version: String,
    /// Where it is.
    #[serde(default)]
    pub path: String,
    /// What it renders with there: `CPU`, `CUDA`, `OPTIX`. One that is there twice counts once.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub devices: BTreeSet<String>,
    /// For each GPU, by its unique id, those of `devices` that work on it.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub gpus: BTreeMap<String, BTreeSet<String>>,
    /// Sentences about GPUs that it cannot use.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What a machine has.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The machine's name.
    pub name: String,
    /// Logical processors.
    pub cpus: u32,
    /// Main memory.
    pub memory_bytes: u64,
    /// Free disk space where the worker keeps its data.
    pub disk_bytes: u64,
    /// GPUs, in the order of the slots that own them.
    pub gpus: Vec<Gpu>,
    /// Programs found: name to version. Of several Blenders it is the oldest.
    pub software: BTreeMap<String, String>,
    /// Its Blenders, the oldest first.
    #[serde(default)]
    pub blenders: Vec<Blender>,
    /// Words that its operator gave to the machine. One that is there twice counts once.
    #[schema(value_type = Vec<String>)]
    pub labels: BTreeSet<String>,
    /// Networks that it holds, by name. One that is there twice counts once.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub models: BTreeSet<String>,
    /// Tasks that it does at a time.
    pub slots: u32,
    /// Whether it runs `command` steps.
    pub allows_commands: bool,
}

impl From<worker::Inventory> for Inventory {
    fn from(has: worker::Inventory) -> Self {
        let gpu =
            |worker::Gpu { name, uuid, vram_bytes, driver }| Gpu { name, uuid, vram_bytes, driver };
        let blender = |worker::Blender { version, path, devices, gpus, notes }| Blender {
            version,
            path,
            devices,
            gpus,
            notes,
        };
        Self {
            name: has.name,
            cpus: has.cpus,
            memory_bytes: has.memory_bytes,
            disk_bytes: has.disk_bytes,
            gpus: has.gpus.into_iter().map(gpu).collect(),
            software: has.software,
            blenders: has.blenders.into_iter().map(blender).collect(),
            labels: has.labels,
            models: has.models,
            slots: has.slots,
            allows_commands: has.allows_commands,
        }
    }
}

impl From<Inventory> for worker::Inventory {
    fn from(has: Inventory) -> Self {
        let gpu =
            |Gpu { name, uuid, vram_bytes, driver }| worker::Gpu { name, uuid, vram_bytes, driver };
        let blender = |Blender { version, path, devices, gpus, notes }| worker::Blender {
            version,
            path,
            devices,
            gpus,
            notes,
        };
        Self {
            name: has.name,
            cpus: has.cpus,
            memory_bytes: has.memory_bytes,
            disk_bytes: has.disk_bytes,
            gpus: has.gpus.into_iter().map(gpu).collect(),
            software: has.software,
            blenders: has.blenders.into_iter().map(blender).collect(),
            labels: has.labels,
            models: has.models,
            slots: has.slots,
            allows_commands: has.allows_commands,
        }
    }
}
