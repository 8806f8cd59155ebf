//! The output `scene` of `inspect`: a JSON file with what Blender reported about the scene. `encode` takes the frame
//! rate from it.

use crate::ground::failure::{failure, storage_failure};
use crate::task::TaskContext;
use pictor_tasks::message::{Failure, FailureKind, Input, Output};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;

const NAME: &str = "scene";
/// The largest file that is read, in bytes.
const BYTES_MAX: u64 = 8 << 20;

/// Stores an inspection as an output.
pub(crate) async fn leave(ctx: &TaskContext, found: &Map<String, Json>) -> Result<Output, Failure> {
    // Where scripts of the scene cannot put a link in its place.
    let path = ctx.fetched.join("scene.json");
    // How the answer was sent concerns only the session.
    let told: BTreeMap<&String, &Json> =
        found.iter().filter(|(name, _)| !matches!(&***name, "id" | "ok")).collect();
    let text = serde_json::to_vec_pretty(&told)
        .map_err(|error| failure(FailureKind::BadOutput, format!("The inspection: {error}.")))?;
    tokio::fs::write(&path, text).await.map_err(|error| {
        storage_failure(&format!("{} cannot be written", path.display()), &error)
    })?;
    ctx.put(NAME, &path).await
}

/// The frame rate of a scene: an integer over a base, as in 24 / 1.001.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Rate {
    fps: u32,
    #[serde(rename = "fps_base")]
    base: f64,
}

impl Rate {
    /// The quotient, for messages and limits.
    pub(crate) fn value(self) -> f64 {
        f64::from(self.fps) / self.base
    }
}

/// The exact rate, for ffmpeg: `24000/1001`. Blender stores the base in single precision, so the shortest decimal
/// number that rounds to it is the one that was entered.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_possible_truncation, reason = "it was single before")]
        let base = (self.base as f32).to_string();
        let (whole, decimals) = base.split_once('.').unwrap_or((&base, ""));
        let digits = u32::try_from(decimals.len()).unwrap_or(u32::MAX);
        let exact = format!("{whole}{decimals}").parse::<u128>().ok().filter(|base| *base > 0);
        let top = 10_u128.checked_pow(digits).and_then(|ten| ten.checked_mul(self.fps.into()));
        let (Some(bottom), Some(top)) = (exact, top) else { return write!(f, "{}", self.value()) };
        let divisor = greatest_divisor(top, bottom);
        match (top / divisor, bottom / divisor) {
            (rate, 1) => write!(f, "{rate}"),
            (top, bottom) => write!(f, "{top}/{bottom}"),
        }
    }
}

fn greatest_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// The frame rate of the scene in an inspection among the task's inputs; `None` if there is none.
pub(crate) async fn rate(ctx: &TaskContext) -> Result<Option<Rate>, Failure> {
    let mut found: Option<(&Input, Rate)> = None;
    for input in ctx.inputs.iter().filter(|input| input.output.name == NAME) {
        let path = ctx.input_path(input).await?;
        let read = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            std::fs::File::open(path)?.take(BYTES_MAX).read_to_end(&mut text).map(|_| text)
        });
        let text = read.await.map_err(|panic| failure(FailureKind::Failed, panic.to_string()))?;
        let text = text.map_err(|error| storage_failure("An inspection cannot be read", &error))?;
        // A program may write something else under that name.
        let Ok(rate) = serde_json::from_slice::<Rate>(&text) else { continue };
        match found {
            Some((first, other)) if other.to_string() != rate.to_string() => {
                let message = format!(
                    "The scenes of {} and {} have different frame rates, {other} and {rate}: say \
                     which with `fps`.",
                    first.step, input.step
                );
                return Err(failure(FailureKind::Invalid, message));
            }
            Some(_) => {}
            None => found = Some((input, rate)),
        }
    }
    Ok(found.map(|(_, rate)| rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_scene_is_exact() {
        let single = |base: f32| f64::from(base);
        for (fps, base, exact) in [
            (24, 1.0, "24"),
            (24, single(1.001), "24000/1001"),
            (30, single(1.001), "30000/1001"),
            (60, single(1.001), "60000/1001"),
            (25, 2.0, "25/2"),
            (12, single(0.1), "120"),
            (50, 1.001, "50000/1001"),
        ] {
            assert_eq!(Rate { fps, base }.to_string(), exact);
        }
    }

    #[test]
    fn a_rate_that_is_none_is_not_divided_by() {
        for base in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-30] {
            let rate = Rate { fps: 24, base };
            assert!(!rate.value().is_normal() || rate.value() > 1000.0 || rate.value() < 0.0);
            assert!(!rate.to_string().is_empty());
        }
    }
}
