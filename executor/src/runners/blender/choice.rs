//! Chooses which of a machine's Blenders runs a scene, and on which device: the oldest that can read the scene, that
//! the job allows, and that can use the slot's GPU.

use super::probe::{CUDA, OPTIX};
use crate::ground::failure::failure;
use crate::programs::{self, how_to_get};
use crate::task::TaskContext;
use pictor_tasks::blend::{HEAD_BYTES, Release};
use pictor_tasks::body::Body;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::worker::{BLENDER, Blender, Device, version_fits};
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// A Blender, and the device on which it renders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// The path of the program.
    pub(super) program: PathBuf,
    /// Cycles' device: `CPU`, `OPTIX:0`.
    pub(super) device: String,
    /// The GPU of that device.
    pub(super) gpu: Option<programs::Device>,
}

/// What a task requires of a Blender.
struct Wanted<'a> {
    /// The release that saved the scene.
    saved: Release,
    /// The versions that the job allows.
    version: &'a str,
    /// The slot's GPU.
    gpu: Option<&'a programs::Device>,
    /// The device that the job asks for.
    device: Option<Device>,
    /// Whether the task renders; all others can run on any device.
    renders: bool,
    /// The scene's path, for messages.
    scene: &'a str,
    /// Blenders that have reported that they cannot do this scene.
    unable: &'a [PathBuf],
}

/// Chooses a Blender for a task whose scene was saved by this release, except for those in `unable`.
pub(super) fn choose(
    ctx: &TaskContext,
    saved: Release,
    unable: &[PathBuf],
) -> Result<Choice, Failure> {
    let body = &ctx.brief.body;
    let scene = body.scene();
    let wanted = Wanted {
        saved,
        version: ctx.brief.blender.as_deref().unwrap_or("*"),
        gpu: ctx.device.as_ref(),
        device: scene.and_then(|scene| scene.device),
        renders: matches!(body, Body::Blender(_)),
        scene: scene.map_or("", |scene| &scene.scene),
        unable,
    };
    wanted.of(&ctx.config.inventory.blenders)
}

impl Wanted<'_> {
    /// The choice among `blenders`, which are ordered from the oldest.
    fn of(&self, blenders: &[Blender]) -> Result<Choice, Failure> {
        let fitting: Vec<&Blender> = blenders.iter().filter(|b| self.fits(b)).collect();
        let Some(&oldest) = fitting.first() else { return Err(self.nothing_fits(blenders)) };
        let processors =
            Choice { program: PathBuf::from(&oldest.path), device: "CPU".into(), gpu: None };
        let gpu = match (self.device, self.gpu) {
            (Some(Device::Cpu), _) | (None | Some(Device::Any), None) => return Ok(processors),
            (_, None) if !self.renders => return Ok(processors),
            (Some(Device::Gpu), None) => {
                let message = format!(
                    "{} is to be rendered on a GPU (`device: gpu`), and this worker found none. Say \
                     `device: any` to render on the processors.",
                    self.scene
                );
                return Err(failure(FailureKind::Unsupported, message));
            }
            (_, Some(gpu)) => gpu,
        };
        let on_gpu = fitting.iter().find_map(|b| Some((b, way(b, gpu)?)));
        if let Some((blender, way)) = on_gpu {
            // Only the chosen GPU is visible.
            let (program, device) = (PathBuf::from(&blender.path), format!("{way}:0"));
            return Ok(Choice { program, device, gpu: Some(gpu.clone()) });
        }
        if self.device == Some(Device::Any) || !self.renders {
            return Ok(processors);
        }
        let notes: Vec<&str> =
            fitting.iter().flat_map(|blender| &blender.notes).map(String::as_str).collect();
        let message = format!(
            "No Blender of this worker can use its GPU {}. {} Get one with `pictor setup-blender`, or \
             say `device: any` to render on the processors.",
            gpu.gpu.name,
            notes.join(" ")
        );
        Err(failure(FailureKind::Unsupported, message))
    }

    fn fits(&self, blender: &Blender) -> bool {
        let reads = Release::of(&blender.version).is_some_and(|release| release >= self.saved);
        let is_able = !self.unable.iter().any(|path| *path == Path::new(&blender.path));
        reads && is_able && version_fits(self.version, &blender.version)
    }

    fn nothing_fits(&self, blenders: &[Blender]) -> Failure {
        let message = if blenders.is_empty() {
            format!("Blender is not on this worker. {}", how_to_get(BLENDER))
        } else {
            let here: Vec<String> =
                blenders.iter().map(|b| format!("{} ({})", b.version, b.path)).collect();
            let asks = match self.version {
                "*" => String::new(),
                version => format!(" and the job asks for `{version}`"),
            };
            format!(
                "{} was saved by Blender {}{asks}; this worker has {}. Get a Blender that fits with \
                 `pictor setup-blender` or from blender.org, and name it with `--blender PATH`.",
                self.scene,
                self.saved,
                here.join(", ")
            )
        };
        failure(FailureKind::Unsupported, message)
    }
}

/// The best way in which a Blender can use a GPU. `OptiX` only pays off with the ray tracing cores of RTX cards.
fn way(blender: &Blender, gpu: &programs::Device) -> Option<&'static str> {
    let works = blender.gpus.get(&gpu.gpu.uuid)?;
    let order = if gpu.gpu.name.contains("RTX") { [OPTIX, CUDA] } else { [CUDA, OPTIX] };
    order.into_iter().find(|way| works.contains(*way))
}

/// The release that saved a scene file, from its header.
pub(super) fn saved_by(path: &Path) -> Result<Release, Failure> {
    let shown = path.display();
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    match read {
        Ok(_) => Release::that_saved(&head).ok_or_else(|| {
            let message = format!(
                "{shown} is not a .blend file. Save the scene from Blender and give that file."
            );
            failure(FailureKind::Invalid, message)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message =
                format!("There is no scene file at {shown}. Check the path in the job file.");
            Err(failure(FailureKind::Invalid, message))
        }
        Err(error) => {
            let message = format!("The scene {shown} cannot be read: {error}.");
            Err(failure(FailureKind::Storage, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_tasks::worker::Gpu;

    fn blender(version: &str, ways: &[&str]) -> Blender {
        let works = ways.iter().map(|way| (*way).to_owned()).collect();
        Blender {
            version: version.into(),
            path: format!("/b/{version}"),
            devices: ["CPU"].iter().chain(ways).map(|way| (*way).to_owned()).collect(),
            gpus: [("GPU-1".to_owned(), works)].into(),
            notes: vec![format!("{version} has no kernels.")],
        }
    }

    fn gpu(name: &str, uuid: &str) -> programs::Device {
        let (name, uuid, driver) = (name.into(), uuid.into(), String::new());
        programs::Device { index: 3, gpu: Gpu { name, uuid, vram_bytes: 1, driver } }
    }

    fn wanted<'a>(saved: &str, version: &'a str) -> Wanted<'a> {
        let saved = Release::of(saved).unwrap();
        Wanted {
            saved,
            version,
            gpu: None,
            device: None,
            renders: true,
            scene: "a.blend",
            unable: &[],
        }
    }

    fn program(choice: Result<Choice, Failure>) -> String {
        choice.unwrap().program.display().to_string()
    }

    #[test]
    fn a_scene_goes_to_the_oldest_blender_that_can_read_it_and_that_the_job_allows() {
        let here = [blender("3.4.1", &[]), blender("4.5.15", &[]), blender("5.0.1", &[])];
        for (saved, version, chosen) in [
            ("2.79", "*", "/b/3.4.1"),
            ("3.4", "*", "/b/3.4.1"),
            ("3.6", "*", "/b/4.5.15"),
            ("5.0", "*", "/b/5.0.1"),
            ("3.4", ">=4, <5", "/b/4.5.15"),
            ("3.4", "5.0", "/b/5.0.1"),
        ] {
            assert_eq!(program(wanted(saved, version).of(&here)), chosen, "{saved} {version}");
        }
        let unable = [PathBuf::from("/b/3.4.1"), PathBuf::from("/b/4.5.15")];
        assert_eq!(program(Wanted { unable: &unable, ..wanted("3.4", "*") }.of(&here)), "/b/5.0.1");
        let failure = wanted("5.1", ">=4").of(&here).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unsupported);
        for part in
            ["saved by Blender 5.1", "`>=4`", "3.4.1 (/b/3.4.1)", "setup-blender", "--blender"]
        {
            assert!(failure.message.contains(part), "{failure:?}");
        }
    }

    #[test]
    fn processors_do_not_take_a_gpus_place_unless_the_job_says_so() {
        let here = [blender("3.4.1", &[]), blender("5.0.1", &["CUDA", "OPTIX"])];
        let (rtx, other) = (gpu("NVIDIA RTX A4000", "GPU-1"), gpu("NVIDIA H100", "GPU-1"));
        let on = |gpu, device| Wanted { gpu: Some(gpu), device, ..wanted("3.4", "*") };
        let chosen = on(&rtx, None).of(&here).unwrap();
        assert_eq!((chosen.program.to_str(), &*chosen.device), (Some("/b/5.0.1"), "OPTIX:0"));
        assert_eq!(chosen.gpu.as_ref(), Some(&rtx));
        assert_eq!(on(&other, Some(Device::Any)).of(&here).unwrap().device, "CUDA:0");
        assert_eq!(on(&rtx, Some(Device::Cpu)).of(&here).unwrap().device, "CPU");
        assert_eq!(program(on(&rtx, Some(Device::Cpu)).of(&here)), "/b/3.4.1");
        // No Blender can use it: only a job that allows the CPU is rendered there.
        let failure = on(&rtx, None).of(&here[..1]).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.contains("3.4.1 has no kernels. Get one"), "{failure:?}");
        assert!(on(&rtx, Some(Device::Gpu)).of(&here[..1]).is_err());
        assert_eq!(on(&rtx, Some(Device::Any)).of(&here[..1]).unwrap().device, "CPU");
        let finish = Wanted { renders: false, ..on(&rtx, None) };
        assert_eq!(finish.of(&here[..1]).unwrap().device, "CPU");
        // Another GPU is no substitute, either.
        assert!(on(&gpu("NVIDIA RTX A4000", "GPU-2"), None).of(&here).is_err());
    }

    #[test]
    fn a_machine_without_a_gpu_renders_on_its_processors() {
        let here = [blender("5.0.1", &[])];
        assert_eq!(wanted("3.4", "*").of(&here).unwrap().device, "CPU");
        let looks = Wanted { device: Some(Device::Gpu), renders: false, ..wanted("3.4", "*") };
        assert_eq!(looks.of(&here).unwrap().device, "CPU");
        let gpu = Wanted { device: Some(Device::Gpu), ..wanted("3.4", "*") };
        assert!(gpu.of(&here).unwrap_err().message.contains("found none"));
        let failure = wanted("3.4", "*").of(&[]).unwrap_err();
        assert!(failure.message.contains("not on this worker"), "{failure:?}");
    }
}
