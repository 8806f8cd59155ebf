//! The inventory of this machine: GPUs, CPUs, memory, disk, networks; its programs are found by
//! [`crate::programs::software`].

use crate::programs::Programs;
use crate::programs::software::{Software, ask_for};
use crate::runners::blender::probe;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::{Device, Nvml};
use pictor_api::{GpuLoad, MachineLoad};
use pictor_models::{Folder, ModelError, Runtime};
use pictor_tasks::worker::{Gpu, Inventory};
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

/// Measures the load of this machine. The driver is loaded once.
pub struct Telemetry {
    nvml: Option<Nvml>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("nvml", &self.nvml.is_some()).finish()
    }
}

impl Telemetry {
    /// Loads NVIDIA's driver library, if it is installed. Blocks for a moment.
    pub fn new() -> Self {
        Self { nvml: Nvml::init().ok() }
    }

    /// The present load of each GPU, in the order of the inventory. May block on the driver.
    pub fn gpus(&self) -> Vec<GpuLoad> {
        let Some(nvml) = &self.nvml else { return Vec::new() };
        let count = nvml.device_count().unwrap_or(0);
        (0..count)
            .filter_map(|index| nvml.device_by_index(index).ok())
            .map(|d| gpu_load(&d))
            .collect()
    }

    /// The present load of the rest of the machine. `data` is the folder of the worker's data.
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

/// Takes the inventory of this machine. `data` is the folder of the worker's data. Only the programs in `wanted` are
/// asked for their version: a job without Blender must not wait for it, nor one with a Blender whose version is stored
/// in the folder `cache`, which also stores what a Blender can do with the GPUs. `models` is the folder of networks.
pub async fn find(
    data: &Path,
    programs: &Programs,
    wanted: &BTreeSet<&str>,
    models: &Path,
    cache: Option<&Path>,
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

/// The networks of this machine; none if they cannot be listed, which is logged.
fn names_of(models: &Path) -> BTreeSet<String> {
    let found = names_in(models).inspect_err(|error| {
        tracing::warn!(%error, "the networks of this machine cannot be listed");
    });
    found.unwrap_or_default()
}

/// The names of the networks in a folder; empty if there is nothing to run them.
fn names_in(models: &Path) -> Result<BTreeSet<String>, ModelError> {
    if Runtime::find(models).is_none() {
        return Ok(BTreeSet::new());
    }
    let found = Folder::new(models.to_owned()).list()?;
    Ok(found.into_iter().map(|model| model.name).collect())
}

/// Checks repeatedly which networks this machine has, and reports every change. Ends when there is no receiver any
/// more.
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
                // A model may be in the process of being removed; any other error was logged at the start.
                Err(error) => tracing::debug!(%error, "networks cannot be listed"),
            }
        }
    };
    tokio::select! {
        () = look => {}
        () = tell.closed() => {}
    }
}

/// The GPUs that NVIDIA's driver reports; empty without a driver.
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

/// The free space of the folder's disk, by the nearest parent folder that exists.
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
        let found = find(nowhere, &programs, &wanted, nowhere, None).await;
        assert!(found.cpus > 0 && found.memory_bytes > 1 << 20 && found.disk_bytes > 0);
        assert!(!found.name.is_empty());
        assert!(!found.software.contains_key("blender") && found.blenders.is_empty());
        let load = Telemetry::new().machine(Path::new("/tmp/not/there"));
        assert!(load.memory_available_bytes > 0 && load.disk_free_bytes > 0, "{load:?}");
        assert!(load.memory_available_bytes <= found.memory_bytes);
    }
}
