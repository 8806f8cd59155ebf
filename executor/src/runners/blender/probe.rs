//! Finds out on which devices each Blender can render here. How it was built says little: a distribution's build
//! supports CUDA and has no kernels to run on it. So every way is tried with a few pixels, once for each Blender, GPU
//! and driver.

use super::keep_bytecode;
use crate::programs::process::transcript;
use crate::programs::version_cache::{self, Program};
use crate::programs::{Confinement, Device};
use pictor_tasks::worker::{Blender, Gpu};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use tokio::process::Command;
use tokio::time::Duration;

/// The script that makes the attempts inside of Blender.
const SCRIPT: &str = include_str!("probe.py");
/// The prefix of its output lines.
const PREFIX: &str = "@pictor ";
/// Cycles' name for the CPU.
const CPU: &str = "CPU";
/// Cycles' names for its ways to use an NVIDIA GPU.
pub(super) const CUDA: &str = "CUDA";
pub(super) const OPTIX: &str = "OPTIX";
/// A driver that has to compile the kernels first takes minutes.
const LIMIT: Duration = Duration::from_mins(10);
/// The name of the file in the user's cache folder, and the most entries that are kept in it.
const NAME: &str = "blenders.json";
const KEPT_MAX: usize = 100;
/// The longest reason in characters; longer ones are cut.
const WHY_CHARS: usize = 300;

/// The result for one GPU, or for the CPU alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tried {
    /// The ways that work.
    works: BTreeSet<String>,
    /// The ways that fail, with the reasons.
    fails: BTreeMap<String, String>,
    /// Whether this Blender includes its denoiser.
    denoiser: bool,
    /// Whether another attempt would have the same result, so that this one may be remembered.
    lasting: bool,
}

/// One line of the script's output.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    End { end: bool },
    Build { denoiser: bool, kernels: Vec<String> },
    Way { way: String, ok: Option<bool>, why: Option<String> },
}

/// Finds out what Blenders can do with these GPUs, unless it is remembered. Does nothing without a GPU.
pub(crate) async fn try_gpus(blenders: &mut [Blender], gpus: &[Gpu], cache: Option<&Path>) {
    let mut kept: BTreeMap<String, Tried> =
        cache.map(|cache| version_cache::read(&cache.join(NAME))).unwrap_or_default();
    let known = kept.len();
    for blender in blenders {
        blender.devices.insert(CPU.to_owned());
        for (index, gpu) in (0..).zip(gpus) {
            let key = key(blender, gpu);
            let tried = match kept.get(&key) {
                Some(tried) => tried.clone(),
                None => ask(blender, Some(Device { index, gpu: gpu.clone() }), cache).await,
            };
            tell(blender, gpu, &tried);
            if tried.lasting {
                kept.insert(key, tried);
            }
        }
    }
    if kept.len() != known {
        remember(cache, kept);
    }
}

/// The same, but also tries the CPU and ignores remembered results: for troubleshooting. The new results are
/// remembered.
pub async fn try_everything(blenders: &mut [Blender], gpus: &[Gpu], cache: Option<&Path>) {
    let mut kept: BTreeMap<String, Tried> =
        cache.map(|cache| version_cache::read(&cache.join(NAME))).unwrap_or_default();
    for blender in blenders {
        let alone = ask(blender, None, cache).await;
        if alone.works.contains(CPU) {
            blender.devices.insert(CPU.to_owned());
        } else {
            let why = alone.fails.get(CPU).map_or("it says nothing", String::as_str);
            blender.notes.push(format!("Blender {} does not render: {why}.", blender.version));
        }
        if !alone.denoiser {
            blender.notes.push(format!("Blender {} has no denoiser.", blender.version));
        }
        for (index, gpu) in (0..).zip(gpus) {
            let tried = ask(blender, Some(Device { index, gpu: gpu.clone() }), cache).await;
            tell(blender, gpu, &tried);
            kept.insert(key(blender, gpu), tried);
        }
    }
    if !gpus.is_empty() {
        kept.retain(|_, tried| tried.lasting);
        remember(cache, kept);
    }
}

/// A key that stays the same as long as the Blender, the GPU, its driver and the script are the same.
fn key(blender: &Blender, gpu: &Gpu) -> String {
    let file = Program::file(Path::new(&blender.path)).map(|file| file.folder_name());
    let all = (SCRIPT, &blender.path, &blender.version, file, &gpu.uuid, &gpu.name, &gpu.driver);
    blake3::hash(format!("{all:?}").as_bytes()).to_hex()[..32].to_owned()
}

/// Adds a result to what is known of a Blender.
fn tell(blender: &mut Blender, gpu: &Gpu, tried: &Tried) {
    blender.devices.extend(tried.works.iter().cloned());
    blender.gpus.insert(gpu.uuid.clone(), tried.works.clone());
    if tried.works.is_empty() {
        let why: Vec<String> =
            tried.fails.iter().map(|(way, why)| format!("{way}: {why}")).collect();
        blender.notes.push(format!(
            "Blender {} cannot use the GPU {}: {}. `pictor setup-blender` gets one with kernels for \
             GPUs; or use blender.org's build.",
            blender.version,
            gpu.name,
            why.join("; ")
        ));
    }
}

fn remember(cache: Option<&Path>, mut kept: BTreeMap<String, Tried>) {
    let Some(cache) = cache else { return };
    while kept.len() > KEPT_MAX {
        kept.pop_first();
    }
    if let Err(error) = version_cache::write(&cache.join(NAME), &kept) {
        tracing::debug!(%error, "what Blenders can do cannot be remembered");
    }
}

/// Runs the attempts for a GPU, or for the CPU.
async fn ask(blender: &Blender, gpu: Option<Device>, cache: Option<&Path>) -> Tried {
    if let Some(device) = &gpu {
        let (version, gpu) = (&blender.version, &device.gpu.name);
        tracing::info!("trying what Blender {version} can do with {gpu}: once, up to minutes");
    }
    let ways: &[&str] = if gpu.is_some() { &[CUDA, OPTIX] } else { &[CPU] };
    let reported = start(blender, gpu, cache).await;
    let (text, ended) = reported.unwrap_or_else(|error| (String::new(), Err(error)));
    understand(&text, ended, ways)
}

async fn start(
    blender: &Blender,
    gpu: Option<Device>,
    cache: Option<&Path>,
) -> io::Result<(String, io::Result<()>)> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("probe.py");
    std::fs::write(&script, SCRIPT)?;
    let mut command = Command::new(&blender.path);
    command.args(["-b", "--factory-startup", "-Y", "-noaudio", "-P"]).arg(&script);
    // The CPU's picture is the reference for that of a GPU.
    command.arg("--").arg(folder.path()).arg(CPU);
    if gpu.is_some() {
        command.args([CUDA, OPTIX]);
    }
    for name in ["BLENDER_USER_RESOURCES", "BLENDER_USER_CONFIG", "BLENDER_USER_SCRIPTS", "TMPDIR"]
    {
        command.env(name, folder.path());
    }
    keep_bytecode(&mut command, cache);
    let needs = Confinement { gpu, ..Confinement::default() };
    let mut needs = needs.reads(&blender.path).writes(folder.path());
    needs.write.extend(cache.map(Path::to_owned));
    transcript(&command, &needs, LIMIT).await
}

/// Interprets a Blender's output and the way it ended.
fn understand(text: &str, ended: io::Result<()>, ways: &[&str]) -> Tried {
    let mut tried = Tried::default();
    let mut trying = None;
    for line in text.lines().filter_map(|line| line.strip_prefix(PREFIX)) {
        match serde_json::from_str(line) {
            Ok(Line::Build { denoiser, kernels }) => {
                tried.denoiser = denoiser;
                if kernels.is_empty() {
                    tracing::debug!("a Blender without kernels for NVIDIA GPUs");
                }
            }
            Ok(Line::Way { way, ok: None, .. }) => trying = Some(way),
            Ok(Line::Way { way, ok: Some(true), .. }) => drop(tried.works.insert(way)),
            Ok(Line::Way { way, ok: Some(false), why }) => {
                let why = why.unwrap_or_default().chars().take(WHY_CHARS).collect();
                tried.fails.insert(way, why);
            }
            Ok(Line::End { end }) => tried.lasting = end,
            Err(error) => tracing::debug!(%error, "a line of probe.py makes no sense"),
        }
    }
    // A crash or a lack of memory may be caused by another program.
    let momentary = |why: &String| why.to_lowercase().contains("memory");
    tried.lasting &= !tried.fails.values().any(momentary);
    let how = match ended {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => "takes too long".to_owned(),
        Err(error) => error.to_string(),
        Ok(()) => "ended without an answer".to_owned(),
    };
    for way in ways {
        if !tried.works.contains(*way) && !tried.fails.contains_key(*way) {
            let when = if trying.as_deref() == Some(way) { "while it was tried" } else { "before" };
            tried.fails.insert((*way).to_owned(), format!("Blender {how} {when}"));
        }
    }
    tried.works.retain(|way| ways.contains(&way.as_str()));
    tried.fails.retain(|way, _| ways.contains(&way.as_str()));
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: [&str; 2] = [CUDA, OPTIX];
    const BUILD: &str = "\n@pictor {\"denoiser\": true, \"kernels\": [\"kernel_sm_86.cubin.zst\"]}\n\
                         @pictor {\"way\": \"CPU\"}\nFra:1 Mem:9M\n\
                         @pictor {\"way\": \"CPU\", \"ok\": true, \"seconds\": 0.01}\n\
                         @pictor {\"way\": \"CUDA\"}\n";

    fn gpu() -> Gpu {
        let (name, uuid) = ("NVIDIA RTX A4000".into(), "GPU-1".into());
        Gpu { name, uuid, vram_bytes: 16 << 30, driver: "550.54".into() }
    }

    fn blender(path: &Path) -> Blender {
        let (path, version) = (path.display().to_string(), "3.4.1".into());
        Blender { path, version, ..Blender::default() }
    }

    #[test]
    fn only_what_rendered_is_offered() {
        let text = format!(
            "{BUILD}@pictor {{\"way\": \"CUDA\", \"ok\": true, \"seconds\": 41.5}}\n\
             @pictor {{\"way\": \"OPTIX\"}}\nError: Failed to load OptiX kernel\n\
             @pictor {{\"way\": \"OPTIX\", \"ok\": false, \"why\": \"the picture is black\"}}\n\
             @pictor {{\"end\": true}}\n"
        );
        let tried = understand(&text, Ok(()), &GPU);
        assert_eq!(tried.works, [CUDA.to_owned()].into());
        assert_eq!(tried.fails[OPTIX], "the picture is black");
        assert!(tried.lasting && tried.denoiser);
        let mut blender = blender(Path::new("/usr/bin/blender"));
        tell(&mut blender, &gpu(), &tried);
        assert!(blender.renders_on_gpus() && blender.notes.is_empty(), "{blender:?}");
    }

    #[test]
    fn a_gpu_that_takes_blender_down_is_no_gpu_and_is_tried_again() {
        let crash = || Err(io::Error::other("was killed by signal 11 (SIGSEGV)"));
        let tried = understand(BUILD, crash(), &GPU);
        assert!(tried.works.is_empty() && !tried.lasting);
        assert_eq!(
            tried.fails[CUDA],
            "Blender was killed by signal 11 (SIGSEGV) while it was tried"
        );
        assert!(tried.fails[OPTIX].ends_with("before"));
        let tried = understand("", Err(io::ErrorKind::TimedOut.into()), &GPU);
        assert!(tried.fails[CUDA].contains("takes too long"));
        let full = "@pictor {\"way\": \"CUDA\", \"ok\": false, \"why\": \"Out of memory in cuMemAlloc\"}\n\
                    @pictor {\"way\": \"OPTIX\", \"ok\": false, \"why\": \"x\"}\n@pictor {\"end\": true}\n";
        assert!(!understand(full, Ok(()), &GPU).lasting, "another program may have had it");
    }

    #[test]
    fn a_blender_without_kernels_says_how_to_get_one_with_them() {
        let text = "@pictor {\"denoiser\": false, \"kernels\": []}\n\
                    @pictor {\"way\": \"CUDA\", \"ok\": false, \"why\": \"CUDA nvcc compiler not found\"}\n\
                    @pictor {\"way\": \"OPTIX\", \"ok\": false, \"why\": \"it was built without OPTIX\"}\n\
                    @pictor nonsense\n@pictor {\"end\": true}\n";
        let mut blender = blender(Path::new("/usr/bin/blender"));
        tell(&mut blender, &gpu(), &understand(text, Ok(()), &GPU));
        assert!(!blender.renders_on_gpus());
        let note = &blender.notes[0];
        for part in ["3.4.1", "RTX A4000", "nvcc compiler not found", "pictor setup-blender"] {
            assert!(note.contains(part), "{note}");
        }
    }

    #[tokio::test]
    async fn the_real_blender_renders_with_the_processors_and_has_no_gpu_that_is_not_there() {
        let here = version_cache::started(Path::new("blender")).unwrap();
        let mut blenders = [blender(&here)];
        try_everything(&mut blenders, &[], None).await;
        assert_eq!(blenders[0].devices, [CPU.to_owned()].into());
        // A driver that does not support this GPU, or no driver at all.
        let cache = tempfile::tempdir().unwrap();
        let mut blenders = [blender(&here)];
        try_gpus(&mut blenders, &[gpu()], Some(cache.path())).await;
        assert_eq!(blenders[0].devices, [CPU.to_owned()].into());
        assert!(blenders[0].gpus["GPU-1"].is_empty() && blenders[0].notes.len() == 1);
        // The result is remembered, whatever it is: this program is not even started.
        let kept = cache.path().join(NAME);
        let text = std::fs::read_to_string(&kept).unwrap();
        let works = text.replacen("\"works\": []", "\"works\": [\"CUDA\"]", 1);
        assert_ne!(text, works);
        std::fs::write(&kept, works).unwrap();
        let mut blenders = [blender(&here)];
        try_gpus(&mut blenders, &[gpu()], Some(cache.path())).await;
        assert!(blenders[0].devices.contains(CUDA));
        let other = Gpu { driver: "560.1".into(), ..gpu() };
        let mut blenders = [blender(&here)];
        try_gpus(&mut blenders, &[other], Some(cache.path())).await;
        assert!(!blenders[0].devices.contains(CUDA), "another driver is tried anew");
    }
}
