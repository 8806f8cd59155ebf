//! What this machine has: GPUs, processors, memory, disk, networks; its programs are found by
//! [`crate::programs::software`].

use crate::programs::Programs;
use crate::programs::software::{Software, ask_for};
use crate::runners::blender::probe;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::{Device, Nvml};
use pictor_models::{Folder, ModelError, Runtime};
use pictor_tasks::worker::{Gpu, Inventory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

/// What one GPU is doing. What its driver does not tell is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuLoad {
    /// The GPU's unique id, as in the inventory.
    pub uuid: String,
    /// Share of the last moment in which it computed, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation_percent: Option<u32>,
    /// Memory in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    /// Power that it draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f64>,
    /// Its temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_celsius: Option<u32>,
}

/// What a machine is doing beside its GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineLoad {
    /// Programs that want to compute, averaged over a minute.
    pub load: f64,
    /// Main memory that can still be had.
    pub memory_available_bytes: u64,
    /// Free disk space where the worker keeps its data.
    pub disk_free_bytes: u64,
}

/// Looks at what this machine is doing. The driver is loaded once.
pub struct Telemetry {
    nvml: Option<Nvml>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("nvml", &self.nvml.is_some()).finish()
    }
}

impl Telemetry {
    /// Loads NVIDIA's driver library, if it is there. Takes a moment: not for threads that must not wait.
    pub fn new() -> Self {
        Self { nvml: Nvml::init().ok() }
    }

    /// What each GPU is doing now, in the order of the inventory. May wait for the driver.
    pub fn gpus(&self) -> Vec<GpuLoad> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let count = nvml.device_count().unwrap_or(0);
        (0..count)
            .filter_map(|index| nvml.device_by_index(index).ok())
            .map(|d| gpu_load(&d))
            .collect()
    }

    /// What the rest of the machine is doing now. `data` is where the worker keeps its data.
    pub fn machine(&self, data: &Path) -> MachineLoad {
        let loads = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = loads.split(' ').next().and_then(|load| load.parse().ok());
        MachineLoad {
            load: load.unwrap_or(0.0),
            memory_available_bytes: memory_bytes("MemAvailable:"),
            disk_free_bytes: disk_bytes(data),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

fn gpu_load(device: &Device<'_>) -> GpuLoad {
    GpuLoad {
        uuid: device.uuid().unwrap_or_default(),
        utilisation_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        memory_used_bytes: device.memory_info().ok().map(|memory| memory.used),
        power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1000.0),
        temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
    }
}

/// Looks at this machine. `data` is where the worker keeps its data. Only the programs that are
/// `wanted` are asked for their version: a job without Blender must not wait for it, nor one with a
/// Blender that told it before, which is remembered in the folder `cache`; so is what a Blender can do
/// with the GPUs. `models` is the folder of networks.
pub async fn find(
    data: &Path,
    programs: &Programs,
    wanted: &BTreeSet<&str>,
    (models, cache): (&Path, Option<&Path>),
) -> Inventory {
    let gpus = gpus().await;
    let Software { versions, mut blenders } =
        ask_for(programs, |name| wanted.contains(name), cache).await;
    probe::try_gpus(&mut blenders, &gpus, cache).await;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Inventory {
        name: hostname(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes("MemTotal:"),
        disk_bytes: disk_bytes(data),
        slots: u32::try_from(gpus.len()).unwrap_or(u32::MAX).max(1),
        gpus,
        software: versions,
        blenders,
        labels: BTreeSet::new(),
        models: names_of(models),
        allows_commands: false,
    }
}

/// The networks of this machine.
fn names_of(models: &Path) -> BTreeSet<String> {
    let found = names_in(models).inspect_err(|error| {
        tracing::warn!(%error, "the networks of this machine cannot be listed");
    });
    found.unwrap_or_default()
}

/// The networks in a folder; none if nothing can run them.
fn names_in(models: &Path) -> Result<BTreeSet<String>, ModelError> {
    if Runtime::find(models).is_none() {
        return Ok(BTreeSet::new());
    }
    let found = Folder::new(models.to_owned()).list()?;
    Ok(found.into_iter().map(|model| model.name).collect())
}

/// Looks again and again which networks this machine has, and tells when they are others than those told
/// last. Ends when nobody listens any more.
pub(crate) async fn watch_models(
    models: PathBuf,
    every: Duration,
    tell: watch::Sender<BTreeSet<String>>,
) {
    let look = async {
        loop {
            sleep(every).await;
            let models = models.clone();
            // The folder may be on another machine that does not answer.
            let Ok(found) = tokio::task::spawn_blocking(move || names_in(&models)).await else {
                return;
            };
            match found {
                Ok(found) => drop(tell.send_if_modified(|known| {
                    let is_news = *known != found;
                    *known = found;
                    is_news
                })),
                // Somebody may be removing one; or it was said at the start.
                Err(error) => tracing::debug!(%error, "networks cannot be listed"),
            }
        }
    };
    tokio::select! {
        () = look => {}
        () = tell.closed() => {}
    }
}

/// The GPUs that NVIDIA's driver knows. No driver: no GPUs.
pub async fn gpus() -> Vec<Gpu> {
    tokio::task::spawn_blocking(gpus_of_driver).await.unwrap_or_default()
}

fn gpus_of_driver() -> Vec<Gpu> {
    let found = Nvml::init().and_then(|nvml| {
        let driver = nvml.sys_driver_version()?;
        (0..nvml.device_count()?)
            .map(|index| {
                let device = nvml.device_by_index(index)?;
                let vram_bytes = device.memory_info()?.total;
                Ok(Gpu {
                    name: device.name()?,
                    uuid: device.uuid()?,
                    vram_bytes,
                    driver: driver.clone(),
                })
            })
            .collect()
    });
    found.unwrap_or_else(|error| {
        tracing::debug!(%error, "no NVIDIA GPUs");
        Vec::new()
    })
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "worker".into() } else { name.to_owned() }
}

fn memory_bytes(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Free space of the folder, or of the nearest one above it that exists.
fn disk_bytes(data: &Path) -> u64 {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_path_buf());
    let found = data.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    found.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_has_processors_memory_disk_and_no_program_that_does_not_exist() {
        let programs =
            Programs { blenders: vec!["/nowhere/blender".into()], ..Programs::default() };
        let wanted = BTreeSet::from(["blender"]);
        let nowhere = Path::new("/tmp/not/there");
        let found = find(nowhere, &programs, &wanted, (nowhere, None)).await;
        assert!(found.cpus > 0 && found.memory_bytes > 1 << 20 && found.disk_bytes > 0);
        assert!(!found.name.is_empty());
        assert!(!found.software.contains_key("blender") && found.blenders.is_empty());
        let load = Telemetry::new().machine(Path::new("/tmp/not/there"));
        assert!(load.memory_available_bytes > 0 && load.disk_free_bytes > 0, "{load:?}");
        assert!(load.memory_available_bytes <= found.memory_bytes);
    }
}
