//! What this machine has: GPUs, processors, memory, disk, programs.

use crate::config::Programs;
use crate::models::{Folder, ModelError, Runtime};
use crate::process::output;
use crate::told::{Program, Versions};
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::{Device, Nvml};
use pictor_tasks::worker::{Gpu, Inventory};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

/// A program that does not tell its version by then is not used.
const ANSWER: Duration = Duration::from_secs(10);

/// One program that pictor can use, and whether it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is, as in `requires: software`.
    pub name: &'static str,
    /// What pictor does with it.
    pub purpose: &'static str,
    /// Its version, or why it cannot be used.
    pub version: Result<String, String>,
    /// How to get it on Debian.
    pub how_to_get: String,
}

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
/// Blender that told it before, which is remembered in the folder `cache`. `models` is the folder of
/// networks.
pub async fn find(
    data: &Path,
    programs: &Programs,
    wanted: &BTreeSet<&str>,
    (models, cache): (&Path, Option<&Path>),
) -> Inventory {
    let gpus = tokio::task::spawn_blocking(gpus).await.unwrap_or_default();
    let software = ask_all(programs, |name| wanted.contains(name), cache).await.into_iter();
    let software: BTreeMap<String, String> =
        software.filter_map(|found| Some((found.name.to_owned(), found.version.ok()?))).collect();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Inventory {
        name: hostname(),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes("MemTotal:"),
        disk_bytes: disk_bytes(data),
        slots: u32::try_from(gpus.len()).unwrap_or(u32::MAX).max(1),
        gpus,
        software,
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

/// Asks every program that pictor can use for its version, all at the same time. Nothing is remembered:
/// whoever wants to know this is looking for a mistake.
pub async fn doctor(programs: &Programs) -> Vec<Finding> {
    ask_all(programs, |_| true, None).await
}

async fn ask_all(
    programs: &Programs,
    wanted: impl Fn(&str) -> bool,
    cache: Option<&Path>,
) -> Vec<Finding> {
    let (wanted, known) = (&wanted, &cache.map(Versions::read).unwrap_or_default());
    let ask = |name, purpose, program, argument| async move {
        if !wanted(name) {
            return None;
        }
        let file = cache.and_then(|_| Program::find(program));
        let (version, news) = match file.as_ref().and_then(|file| known.of(file)) {
            Some(version) => (Ok(version), None),
            None => (version(program, argument).await, file),
        };
        Some((Finding { name, purpose, version, how_to_get: how_to_get(name) }, news))
    };
    let Programs { blender, ffmpeg, ffprobe, python } = programs;
    let (blender, ffmpeg, ffprobe, python) = tokio::join!(
        ask("blender", "renders scenes", blender, "--version"),
        ask("ffmpeg", "makes videos", ffmpeg, "-version"),
        ask("ffprobe", "checks videos", ffprobe, "-version"),
        ask("python3", "runs scripts of `command` steps", python, "--version"),
    );
    let found: Vec<_> = [blender, ffmpeg, ffprobe, python].into_iter().flatten().collect();
    if let Some(cache) = cache {
        remember(cache, &found);
    }
    found.into_iter().map(|(finding, _)| finding).collect()
}

/// Keeps what programs told just now. Those of which it cannot be kept are asked again.
fn remember(cache: &Path, found: &[(Finding, Option<Program>)]) {
    let told = |(finding, file): &(Finding, Option<Program>)| {
        Some((file.clone()?, finding.version.clone().ok()?))
    };
    let told: Vec<_> = found.iter().filter_map(told).collect();
    if told.is_empty() {
        return;
    }
    // Others may have written it in the meantime.
    let mut versions = Versions::read(cache);
    for (file, version) in told {
        versions.insert(file, version);
    }
    if let Err(error) = versions.write(cache) {
        tracing::debug!(%error, "the versions of programs cannot be remembered");
    }
}

/// How to get a program, as a sentence.
pub(crate) fn how_to_get(program: &str) -> String {
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program);
    match name {
        "blender" => {
            "Get it with `apt install blender`, or from blender.org (with denoiser and newer versions) \
             and put it into PATH."
        }
        "ffmpeg" | "ffprobe" => "Get it with `apt install ffmpeg`.",
        "python" | "python3" => "Get it with `apt install python3`.",
        _ => "Install it and make sure that it is in PATH, or give its full path.",
    }
    .to_owned()
}

async fn version(program: &Path, argument: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    let text = output(command.arg(argument), ANSWER).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("`{}` is not in PATH", program.display()),
        std::io::ErrorKind::TimedOut => format!("`{}` does not answer", program.display()),
        _ => format!("`{}` {error}", program.display()),
    })?;
    version_in(&text).ok_or_else(|| format!("`{}` did not tell its version", program.display()))
}

/// The version in a program's first lines: the first word with a digit before a dot.
fn version_in(text: &str) -> Option<String> {
    let words = text.lines().take(3).flat_map(str::split_whitespace);
    words.map(|word| word.trim_start_matches(['v', 'n'])).find_map(|word| {
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let number = word[..end].trim_end_matches('.');
        let looks_right = number.starts_with(|c: char| c.is_ascii_digit()) && number.contains('.');
        looks_right.then(|| number.to_owned())
    })
}

/// The GPUs that NVIDIA's driver knows. No driver: no GPUs.
fn gpus() -> Vec<Gpu> {
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
    use std::path::PathBuf;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, version) in [
            ("Blender 3.4.1\n\tbuild date: 2023", "3.4.1"),
            ("Blender 5.0.0 Alpha", "5.0.0"),
            ("ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026", "5.1.9"),
            ("ffmpeg version n4.4.2 Copyright", "4.4.2"),
            ("Read prefs: /x\nBlender 4.2.0", "4.2.0"),
            ("Python 3.11.7", "3.11.7"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("ffmpeg version N-12345-gabc"), None);
    }

    #[tokio::test]
    async fn this_machine_has_processors_memory_disk_and_no_program_that_does_not_exist() {
        let programs = Programs { blender: "/nowhere/blender".into(), ..Programs::default() };
        let wanted = BTreeSet::from(["blender"]);
        let nowhere = Path::new("/tmp/not/there");
        let found = find(nowhere, &programs, &wanted, (nowhere, None)).await;
        assert!(found.cpus > 0 && found.memory_bytes > 1 << 20 && found.disk_bytes > 0);
        assert!(!found.name.is_empty());
        assert!(!found.software.contains_key("blender"));
        let load = Telemetry::new().machine(Path::new("/tmp/not/there"));
        assert!(load.memory_available_bytes > 0 && load.disk_free_bytes > 0, "{load:?}");
        assert!(load.memory_available_bytes <= found.memory_bytes);
        let doctor = doctor(&programs).await;
        assert_eq!(doctor[0].version, Err("`/nowhere/blender` is not in PATH".to_owned()));
        assert!(doctor[0].how_to_get.contains("apt install blender"));
    }
    /// A program that is started from a folder of its own, beside the folder where versions are remembered.
    struct Asked {
        folder: tempfile::TempDir,
        programs: Programs,
    }

    impl Asked {
        /// A copy of this machine's program, under the name `ffmpeg`.
        fn copy_of(program: &str) -> Self {
            let asked = Self::nothing();
            let paths = std::env::var_os("PATH").unwrap();
            let mut paths = std::env::split_paths(&paths).map(|folder| folder.join(program));
            let original = paths.find(|path| path.is_file()).unwrap();
            std::fs::copy(original, &asked.programs.ffmpeg).unwrap();
            asked
        }

        fn nothing() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (blender, ffmpeg) = ("/nowhere/blender".into(), folder.path().join("ffmpeg"));
            let programs = Programs { blender, ffmpeg, ..Programs::default() };
            Self { folder, programs }
        }

        /// Where versions are remembered.
        fn kept(&self) -> PathBuf {
            self.folder.path().join("cache/programs.json")
        }

        /// Puts a version where the program's own is remembered.
        fn pretend(&self, old: &str, new: &str) {
            let text = std::fs::read_to_string(self.kept()).unwrap();
            assert!(text.contains(old), "{text}");
            std::fs::write(self.kept(), text.replace(old, new)).unwrap();
        }

        async fn version(&self) -> Option<String> {
            let (cache, wanted) = (self.folder.path().join("cache"), BTreeSet::from(["ffmpeg"]));
            let folders = (self.folder.path(), Some(cache.as_path()));
            let found = find(self.folder.path(), &self.programs, &wanted, folders).await;
            found.software.get("ffmpeg").cloned()
        }
    }

    #[tokio::test]
    async fn a_version_is_remembered_and_the_doctor_asks_all_the_same() {
        let asked = Asked::copy_of("ffmpeg");
        let version = asked.version().await.unwrap();
        asked.pretend(&version, "1.2.3");
        assert_eq!(asked.version().await.as_deref(), Some("1.2.3"));
        assert_eq!(doctor(&asked.programs).await[1].version.as_ref(), Ok(&version));
        let (folder, wanted) = (asked.folder.path(), BTreeSet::from(["ffmpeg"]));
        let found = find(folder, &asked.programs, &wanted, (folder, None)).await;
        assert_eq!(found.software["ffmpeg"], version);
    }

    #[tokio::test]
    async fn a_program_whose_file_changed_is_asked_anew() {
        let asked = Asked::copy_of("ffmpeg");
        let version = asked.version().await.unwrap();
        asked.pretend(&version, "1.2.3");
        let file = std::fs::File::options().write(true).open(&asked.programs.ffmpeg).unwrap();
        let meta = file.metadata().unwrap();
        file.set_modified(meta.modified().unwrap() + Duration::from_nanos(1)).unwrap();
        drop(file);
        assert_eq!(asked.version().await.as_ref(), Some(&version), "another time");
        asked.pretend(&version, "1.2.3");
        let other = asked.folder.path().join("other");
        std::fs::copy(&asked.programs.ffmpeg, &other).unwrap();
        let file = std::fs::File::options().write(true).open(&other).unwrap();
        file.set_modified(std::fs::metadata(&asked.programs.ffmpeg).unwrap().modified().unwrap())
            .unwrap();
        drop(file);
        std::fs::rename(&other, &asked.programs.ffmpeg).unwrap();
        assert_eq!(asked.version().await.as_ref(), Some(&version), "another file, of the same age");
        std::fs::remove_file(&asked.programs.ffmpeg).unwrap();
        assert_eq!(asked.version().await, None, "no file");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_remembered_and_written_anew() {
        let asked = Asked::copy_of("ffmpeg");
        let version = asked.version().await.unwrap();
        for broken in ["", "{", "[]", "{\"/usr/bin/ffmpeg\": 5}", &" ".repeat(1 << 17)] {
            std::fs::write(asked.kept(), broken).unwrap();
            assert_eq!(asked.version().await.as_ref(), Some(&version), "{broken:.20}");
            asked.pretend(&version, &version);
        }
        std::fs::remove_dir_all(asked.kept().parent().unwrap()).unwrap();
        std::fs::write(asked.kept().parent().unwrap(), "no folder").unwrap();
        assert_eq!(asked.version().await.as_ref(), Some(&version));
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let asked = Asked::copy_of("false");
        assert_eq!(asked.version().await, None);
        assert!(!asked.kept().exists());
        let true_one = Asked::copy_of("ffmpeg");
        std::fs::copy(&true_one.programs.ffmpeg, &asked.programs.ffmpeg).unwrap();
        assert!(asked.version().await.is_some());
        std::fs::copy(Asked::copy_of("false").programs.ffmpeg, &asked.programs.ffmpeg).unwrap();
        assert_eq!(asked.version().await, None);
    }

    #[tokio::test]
    async fn a_script_is_asked_each_time_since_it_may_start_another_program_tomorrow() {
        let asked = Asked::nothing();
        let said = asked.folder.path().join("said");
        let write = |text: &str| std::fs::write(&said, text).unwrap();
        write("ffmpeg version 6.0");
        let script = format!("#!/bin/sh\ncat '{}'\n", said.display());
        std::fs::write(&asked.programs.ffmpeg, script).unwrap();
        let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&asked.programs.ffmpeg, may_run).unwrap();
        assert_eq!(asked.version().await.as_deref(), Some("6.0"));
        write("ffmpeg version 7.0");
        assert_eq!(asked.version().await.as_deref(), Some("7.0"));
        assert!(!asked.kept().exists());
    }
}
