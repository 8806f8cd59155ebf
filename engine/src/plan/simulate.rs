//! Applies `render.simulate` to the steps of a render.

use super::expand::{need, step};
use pictor_tasks::body::{Body, Scene, Simulate};
use pictor_tasks::job::spec::StepSpec;
use pictor_tasks::range::Ranges;

/// The name of the step that bakes.
const BAKE: &str = "bake";

/// Passes the frame of a single-frame job to `inspect`, as nothing needs to be simulated before the first frame of a
/// simulation; with `simulate: bake`, adds the step that bakes, which all steps that use the scene then need.
pub(crate) fn simulate(steps: &mut Vec<StepSpec>, frames: Option<&Ranges>) {
    let only = frames.filter(|frames| frames.len() == 1).and_then(|frames| frames.get(0));
    let Some(inspect) = steps.iter_mut().find_map(|step| step.work.inspect.as_mut()) else {
        return;
    };
    inspect.frame = only.map(|frame| frame.to_string());
    if inspect.simulate != Simulate::Bake {
        return;
    }
    let last = frames.and_then(|frames| frames.iter().max());
    let scene = Scene { frame: last.map(|frame| frame.to_string()), ..inspect.clone() };
    for step in steps.iter_mut() {
        if step.work.blender.is_some() || step.work.finish.is_some() || step.work.develop.is_some()
        {
            step.needs.push(need(BAKE));
        }
    }
    steps.insert(1, StepSpec { work: Body::Bake(scene).into(), ..step(BAKE, &[], &["inspect"]) });
}
