//! What a step requires of a worker. Steps with equal requirements are one class, so that the farm is searched once for
//! all of them.

use super::Worker;
use crate::plan::Step;
use pictor_tasks::body::{Body, Render, Scene};
use pictor_tasks::worker::{BLENDER, Device, Inventory, Requires, model_hint};

/// Everything that decides whether a worker can do a step's tasks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    requires: Requires,
    body: BodyNeeds,
    /// The memory that the largest GPU must have, in bytes: more than any on which the task has failed.
    vram_bytes: u64,
}

/// The requirements that follow from the kind of work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum BodyNeeds {
    Nothing,
    Commands,
    Model(String),
    /// If the machine has GPUs, a Blender of the required version that can use one.
    GpuBlender,
}

impl Class {
    pub(crate) fn of(step: &Step) -> Self {
        let body = match &step.body {
            Body::Command(_) => BodyNeeds::Commands,
            Body::Upscale(upscale) => BodyNeeds::Model(upscale.model.clone()),
            Body::Blender(Render { scene, .. })
                if matches!(scene.device, None | Some(Device::Gpu)) =>
            {
                BodyNeeds::GpuBlender
            }
            _ => BodyNeeds::Nothing,
        };
        Self { requires: step.requires.clone(), body, vram_bytes: 0 }
    }

    /// The same, on workers with at least this much memory on one GPU.
    pub(crate) fn with_vram(&self, vram_bytes: u64) -> Self {
        Self { vram_bytes, ..self.clone() }
    }

    /// The first requirement that the worker does not meet.
    pub(crate) fn lacks(&self, worker: &Worker) -> Option<String> {
        let has = &worker.inventory;
        if self.body == BodyNeeds::Commands && !has.allows_commands {
            return Some("permission to run commands".into());
        }
        if let BodyNeeds::Model(name) = &self.body
            && !has.models.contains(name)
        {
            let held = has.models.iter().map(String::as_str);
            return Some(format!("model `{name}`: {}", model_hint(name, held)));
        }
        if let Some(lack) = self.requires.missing(has) {
            return Some(lack);
        }
        if self.body == BodyNeeds::GpuBlender {
            let version = self.requires.software.get(BLENDER).map_or("*", String::as_str);
            if has.lacks_gpu_blender(version) {
                return Some("a Blender that can use its GPU".into());
            }
        }
        (worker.vram_bytes() < self.vram_bytes).then(|| "a GPU with more memory".into())
    }
}

/// A hint on how to install something on a machine.
pub(crate) fn how_to_get(what: &str, scene: Option<&Scene>, has: &Inventory) -> String {
    match what.split(' ').next() {
        Some(BLENDER) => {
            let held: Vec<&str> = has.versions(BLENDER).collect();
            let held = if held.is_empty() {
                "; install blender".to_owned()
            } else {
                let needed = scene.map_or(String::new(), |s| format!(", which {} needs", s.scene));
                format!("{needed}; it has {}; get one that fits", held.join(", "))
            };
            format!("{held} (`pictor setup-blender`, `--blender PATH`) and try again")
        }
        Some("ffmpeg") => "; install it (`apt-get install ffmpeg`) and try again".into(),
        Some("a") if what.contains("Blender") => {
            "; get one (`pictor setup-blender`), or say `device: any` to render on the processors"
                .into()
        }
        Some("permission") => "; start it with `--allow-commands`".into(),
        _ => String::new(),
    }
}
