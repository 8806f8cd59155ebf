//! The network of a slot: loaded for the first tile and kept for the next ones.

use super::strip::Strip;
use crate::ground::failure::failure;
use crate::task::TaskContext;
use pictor_models::{Device, Ender, Folder, Listener, Manifest, ModelError, Net, Planar, Runtime};
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::units::Resolution;
use std::num::NonZero;
use std::sync::Arc;

/// What a slot keeps from one tile to the next.
#[derive(Default)]
pub(crate) struct Upscaler {
    pub(super) network: Option<Network>,
    pub(super) strip: Option<Strip>,
}

/// A loaded network.
pub(super) struct Network {
    digest: String,
    net: Net,
    /// Why it does not run on the slot's GPU, if it has one.
    pub(super) fallback: Option<String>,
}

/// A model of this worker, and the device that runs it. If either is missing, another worker may have it.
#[derive(Clone)]
pub(super) struct Model {
    folder: Folder,
    pub(super) manifest: Manifest,
    device: Device,
    threads: Device,
}

impl Model {
    /// Finds a model by its name.
    pub(super) fn find(ctx: &TaskContext, name: &str) -> Result<Self, Failure> {
        let folder = Folder::new(ctx.config.models.clone());
        let manifest = folder.find(name).map_err(|error| model_failure(&error))?;
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = cpus / usize::try_from(ctx.config.slots.max(1)).unwrap_or(usize::MAX);
        let threads = Device::Cpu(NonZero::new(share).unwrap_or(NonZero::<usize>::MIN));
        let gpu = ctx.device.as_ref().and_then(|device| i32::try_from(device.index).ok());
        Ok(Self { folder, manifest, device: gpu.map_or(threads, Device::Gpu), threads })
    }

    /// Whether it runs on a GPU, if that works.
    pub(super) fn wants_gpu(&self) -> bool {
        matches!(self.device, Device::Gpu(_))
    }

    /// Loads the model, or returns `kept` if that is the same one.
    pub(super) fn load(&self, kept: Option<Network>) -> Result<Network, Failure> {
        if let Some(network) = kept.filter(|network| network.digest == self.manifest.digest) {
            return Ok(network);
        }
        let library = Runtime::find(self.folder.path()).ok_or_else(|| {
            let folder = self.folder.path().display();
            let message = format!(
                "This worker has no ONNX Runtime, which runs networks: fetch it with `pictor models \
                 pull`, or set ORT_DYLIB_PATH to a libonnxruntime.so. It is looked for in {folder}."
            );
            failure(FailureKind::Unsupported, message)
        })?;
        let load = || {
            let runtime = Runtime::load(&library)?;
            let bytes = self.folder.read(&self.manifest)?;
            match Net::load(&runtime, &bytes, self.device) {
                Err(error) if self.wants_gpu() => {
                    let net = Net::load(&runtime, &bytes, self.threads)?;
                    Ok((net, Some(error.to_string())))
                }
                loaded => loaded.map(|net| (net, None)),
            }
        };
        let (net, fallback) = load().map_err(|error: ModelError| model_failure(&error))?;
        Ok(Network { digest: self.manifest.digest.clone(), net, fallback })
    }
}

impl Network {
    /// A handle that cancels its runs; afterwards the network cannot be used any more.
    pub(super) fn ender(&self) -> Ender {
        self.net.ender()
    }

    /// Runs the network `passes` times on a part of a picture whose first pixel is at `at`. Each pass multiplies the
    /// size by `scale`. `listener` receives the progress, where it can be observed.
    pub(super) fn run(
        &mut self,
        part: Planar,
        at: [u32; 2],
        [passes, scale]: [u32; 2],
        listener: &Listener,
    ) -> Result<Planar, Failure> {
        let mut picture = part;
        for pass in 0..passes {
            let listener = listener.clone();
            self.net.tell(Arc::new(move |run| listener(share(pass, run, passes))));
            let size = picture.size();
            let wanted = Resolution { width: size.width * scale, height: size.height * scale };
            let made = self.net.run(&picture, at.map(|pixel| pixel * scale.pow(pass))).map_err(
                |error| {
                    let message = error.to_string();
                    let kind =
                        if message.contains("allocate memory") || message.contains("BFCArena") {
                            FailureKind::OutOfMemory
                        } else {
                            FailureKind::Failed
                        };
                    failure(kind, format!("{message}."))
                },
            )?;
            if made.size() != wanted {
                let message = format!(
                    "The network made {} pixels of {size}, not {wanted}: it does not take pictures \
                     of this size.",
                    made.size()
                );
                return Err(failure(FailureKind::BadOutput, message));
            }
            if made.samples().iter().any(|sample| sample.is_nan()) {
                let message = "The network made something that is no number.";
                return Err(failure(FailureKind::BadOutput, message));
            }
            // The network expects display values from 0 to 1, and its own output may lie slightly outside.
            picture = if pass + 1 < passes { limited(&made) } else { made };
        }
        Ok(picture)
    }
}

/// The progress from 0 to 1 through `all` items of equal size, `before` of which are done while the next is at
/// `current`.
#[expect(clippy::cast_precision_loss, reason = "people see whole percents")]
pub(super) fn share(before: u32, current: f32, all: u32) -> f32 {
    (before as f32 + current) / all.max(1) as f32
}

fn limited(picture: &Planar) -> Planar {
    let samples = picture.samples().iter().map(|sample| sample.clamp(0.0, 1.0)).collect();
    Planar::new(picture.channels(), picture.size(), samples).expect("as many samples as before")
}

/// Reported as unsupported: another worker may have what is missing here.
fn model_failure(error: &ModelError) -> Failure {
    let kind = match error {
        ModelError::Io(..) => FailureKind::Storage,
        _ => FailureKind::Unsupported,
    };
    let message = error.to_string();
    let (first, rest) = message.split_at(message.chars().next().map_or(0, char::len_utf8));
    failure(kind, format!("{}{rest}.", first.to_uppercase()))
}
