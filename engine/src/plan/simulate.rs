//! What `render.simulate` adds to the steps of a render.

use super::expand::{need, step};
use pictor_tasks::body::{Scene, Simulate};
use pictor_tasks::job::spec::StepSpec;
use pictor_tasks::range::Ranges;

/// The step that bakes.
const BAKE: &str = "bake";

/// Tells `inspect` of a job of one frame, before which nothing has to be simulated; with
/// `simulate: bake` adds the step that bakes, for all that work on the scene.
pub(crate) fn simulate(steps: &mut Vec<StepSpec>, frames: Option<&Ranges>) {
    let only = frames.filter(|frames| frames.len() == 1).and_then(|frames| frames.get(0));
    let Some(inspect) = steps.iter_mut().find_map(|step| step.inspect.as_mut()) else { return };
    inspect.frame = only.map(|frame| frame.to_string());
    if inspect.simulate != Simulate::Bake {
        return;
    }
    let last = frames.and_then(|frames| frames.iter().max());
    let scene = Scene { frame: last.map(|frame| frame.to_string()), ..inspect.clone() };
    for step in steps.iter_mut() {
        if step.blender.is_some() || step.finish.is_some() || step.develop.is_some() {
            step.needs.push(need(BAKE));
        }
    }
    steps.insert(1, StepSpec { bake: Some(scene), ..step(BAKE, &[], &["inspect"]) });
}
