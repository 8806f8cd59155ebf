//! The manifest: what a worker states about one execution and signs. It has no fractions and no number above 2^53, so
//! that its canonical JSON (RFC 8785) is the same everywhere, and everything in it has a limit.

use crate::hex::{Digest, PublicKey};
use crate::pixels::SignedPixels;
use pictor_tasks::message::{Execution, Output, StepKey, Try};
use serde::{Deserialize, Serialize};

/// The version of the manifest that this code writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// The most bytes of a manifest in canonical form.
pub const BYTES_MAX: usize = 1 << 20;
/// The most outputs of one execution that can be signed.
pub const OUTPUTS_MAX: usize = 1_024;
/// The most samples of the GPU. A worker with a longer task keeps every second, third, … one.
pub const SAMPLES_MAX: usize = 600;
/// The longest name or key of an output, in bytes.
pub const KEY_MAX: usize = 1_024;
/// The longest other text, in bytes.
pub const TEXT_MAX: usize = 128;
/// The largest integer that every JSON reader takes exactly (RFC 8785, section 3.2.2.3).
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// One execution of one attempt at one task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Task {
    /// The run, the step and its generation.
    pub step: StepKey,
    /// The task's index and the attempt.
    #[serde(rename = "try")]
    pub attempt: Try,
    /// The execution, as 16 hexadecimal digits (it may exceed 2^53).
    #[serde(with = "execution")]
    pub execution: Execution,
}

/// A number as 16 hexadecimal digits.
mod execution {
    use pictor_tasks::message::Execution;
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(of: &Execution, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:016x}", of.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Execution, D::Error> {
        let text = String::deserialize(from)?;
        // Other spellings of the same number are caught as not canonical.
        u64::from_str_radix(&text, 16).map(Execution).map_err(de::Error::custom)
    }
}

/// The program that made the pixels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Engine {
    /// Its name, such as `blender`.
    pub name: String,
    /// Its version, such as `4.5.15`.
    pub version: String,
    /// What tells builds of one version apart, such as a commit or a digest of the program.
    pub build: String,
}

/// Machines that are expected to give the same pixels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceClass {
    /// The program and its build. Each build is a class of its own.
    pub engine: Engine,
    /// What computes: `CPU`, `CUDA`, `OPTIX`, `HIP`, `METAL`, `ONEAPI`.
    pub backend: String,
    /// The architecture of the processor or GPU: `x86_64`, `sm_90`.
    pub architecture: String,
    /// The major version of the GPU's driver; 0 if there is none.
    pub driver: u32,
}

/// One output of the execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOutput {
    /// Name, key, BLAKE3 digest and size of its bytes.
    pub output: Output,
    /// Its pixels, if it is a picture.
    pub pixels: Option<SignedPixels>,
}

/// What NVML reported at one moment. It is a hint for people, never a reason to accept: a worker can invent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSample {
    /// Milliseconds since the start.
    pub at_ms: u32,
    /// Utilisation in percent, 0 to 100.
    pub used_percent: u8,
    /// Memory in use, in MiB.
    pub memory_mib: u32,
    /// Clock of the multiprocessors in MHz.
    pub clock_mhz: u32,
    /// Power in milliwatts.
    pub power_mw: u32,
    /// Temperature in degrees Celsius.
    pub celsius: i16,
}

/// When the work was done, by the worker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// The start, in milliseconds since 1970.
    pub started_ms: u64,
    /// The end, in milliseconds since 1970; not before the start (a worker adds the duration to the start, so that a
    /// clock that is set back does not matter).
    pub ended_ms: u64,
    /// How long the worker was busy with the task, in milliseconds; at most the time from start to end.
    pub active_ms: u64,
}

/// What a worker states about one execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the manifest: [`VERSION`].
    pub version: u32,
    /// The execution.
    pub task: Task,
    /// The key of the worker, with which the manifest is signed.
    pub worker: PublicKey,
    /// The digest of the ticket with which the task was assigned.
    pub ticket: Digest,
    /// The digest of the inputs.
    pub inputs: Digest,
    /// The digest of the settings.
    pub settings: Digest,
    /// The seed of the random numbers, if the engine has one.
    pub seed: Option<u32>,
    /// The engine's build and the device.
    pub device: DeviceClass,
    /// The outputs, at most [`OUTPUTS_MAX`].
    pub outputs: Vec<SignedOutput>,
    /// Start, end and active time.
    pub timings: Timings,
    /// Samples of the GPU, at most [`SAMPLES_MAX`].
    pub samples: Vec<GpuSample>,
    /// The digest of the manifest that the worker signed before this one: a chain that shows what was left out.
    pub previous: Option<Digest>,
}

/// Which limit a manifest exceeds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct OutOfBounds {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl Manifest {
    /// Checks everything that can be checked without knowing the job.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let Self { task, device, outputs, timings, samples, .. } = self;
        if self.version != VERSION {
            return wrong("version", format!("is {}, but only {VERSION} is known", self.version));
        }
        text("task.step.run", &task.step.run.0, TEXT_MAX)?;
        text("device.engine.name", &device.engine.name, TEXT_MAX)?;
        text("device.engine.version", &device.engine.version, TEXT_MAX)?;
        text("device.engine.build", &device.engine.build, TEXT_MAX)?;
        text("device.backend", &device.backend, TEXT_MAX)?;
        text("device.architecture", &device.architecture, TEXT_MAX)?;
        at_most("outputs.length", outputs.len(), OUTPUTS_MAX)?;
        for SignedOutput { output, pixels } in outputs {
            text("outputs.output.name", &output.name, KEY_MAX)?;
            text("outputs.output.key", &output.key, KEY_MAX)?;
            if let Err(problem) = output.digest.parse::<Digest>() {
                return wrong("outputs.output.digest", format!("is no digest: {problem}"));
            }
            at_most("outputs.output.size_bytes", output.size_bytes, INTEGER_MAX)?;
            if let Some(Err(problem)) = pixels.map(|pixels| pixels.shape.check()) {
                return wrong("outputs.pixels.shape", format!("is impossible: {problem}"));
            }
        }
        at_most("timings.ended_ms", timings.ended_ms, INTEGER_MAX)?;
        let Some(took) = timings.ended_ms.checked_sub(timings.started_ms) else {
            return wrong("timings.ended_ms", "is before the start".to_owned());
        };
        at_most("timings.active_ms", timings.active_ms, took)?;
        at_most("samples.length", samples.len(), SAMPLES_MAX)?;
        samples.iter().try_for_each(|s| at_most("samples.used_percent", s.used_percent, 100))
    }
}

fn wrong(field: &'static str, problem: String) -> Result<(), OutOfBounds> {
    Err(OutOfBounds { field, problem })
}

fn at_most<T: Copy + PartialOrd + std::fmt::Display>(
    field: &'static str,
    value: T,
    most: T,
) -> Result<(), OutOfBounds> {
    if value > most {
        return wrong(field, format!("is {value}, which is more than {most}"));
    }
    Ok(())
}

fn text(field: &'static str, text: &str, most: usize) -> Result<(), OutOfBounds> {
    if text.is_empty() || text.len() > most || text.chars().any(char::is_control) {
        return wrong(field, format!("is not a text of 1 to {most} bytes without control codes"));
    }
    Ok(())
}
