//! Expands macros into dimensions and steps, all of which a user could also write by hand. This file has `render:`.

use super::simulate::simulate;
use super::upscale;
use pictor_tasks::body::{Body, Develop, Encode, Merge, PictureFormat, Render, Scene, Tiles};
use pictor_tasks::job::Diagnostic;
use pictor_tasks::job::spec::{
    DimSpec, FrameFormat, Frames, JobSpec, NeedOn, NeedSpec, Preview, RenderJob, StepSpec,
    TilesSpec,
};
use pictor_tasks::units::Grid;
use std::collections::BTreeMap;

/// The dimension of a render's frames. It is public, so that a job's own steps can use it.
pub(crate) const FRAME: &str = "frame";
/// The dimension of the views of a stereoscopic render.
const VIEW: &str = "view";
/// The private dimension of a render's tiles.
const TILE: &str = "render.tile";
/// The side of a tile, in pixels, that `tiles: auto` aims at.
const AUTO_TILE: u32 = 512;

/// A job in its general form, without macros.
pub(crate) struct Expanded {
    pub(crate) job: JobSpec,
    /// For each step, the macro that made it, if any. The user's own steps come first.
    pub(crate) made_by: Vec<Option<&'static str>>,
}

/// Replaces the macros of a job by dimensions and steps.
pub(crate) fn expand(spec: &JobSpec, problems: &mut Vec<Diagnostic>) -> Expanded {
    let mut job = spec.clone();
    let mut made_by = vec![None; job.steps.len()];
    if let Some(render) = job.render.take() {
        let steps = expand_render(&render, &mut job, problems);
        add_steps(steps, "render", &mut job, &mut made_by, problems);
    }
    if let Some(upscale) = job.upscale.take() {
        let steps = upscale::expand(&upscale, &mut job, problems);
        add_steps(steps, "upscale", &mut job, &mut made_by, problems);
    }
    Expanded { job, made_by }
}

/// Adds the steps that a macro made, and reports names that are taken.
fn add_steps(
    steps: Vec<StepSpec>,
    maker: &'static str,
    job: &mut JobSpec,
    made_by: &mut Vec<Option<&'static str>>,
    problems: &mut Vec<Diagnostic>,
) {
    for step in &steps {
        let Some(at) = job.steps.iter().position(|s| s.name == step.name) else { continue };
        let path = match made_by[at] {
            None => format!("steps[{at}].name"),
            Some(_) => maker.to_owned(),
        };
        let message = match made_by[at] {
            None => format!("`{maker}` already makes a step called `{}`", step.name),
            Some(other) => {
                format!("`{other}` and `{maker}` both make a step called `{}`", step.name)
            }
        };
        let hint = match made_by[at] {
            None => "choose another name",
            Some(_) => "make two jobs of it",
        };
        problems.push(Diagnostic::new(path, message).with_hint(Some(hint.into())));
    }
    made_by.extend(vec![Some(maker); steps.len()]);
    job.steps.extend(steps);
}

fn expand_render(
    render: &RenderJob,
    job: &mut JobSpec,
    problems: &mut Vec<Diagnostic>,
) -> Vec<StepSpec> {
    match (&render.frames, job.dims.contains_key(FRAME)) {
        (Frames::Ranges(ranges), false) => {
            let dim = DimSpec { range: Some(ranges.clone()), ..DimSpec::default() };
            job.dims.insert(FRAME.into(), dim);
        }
        (Frames::Scene, false) => {
            let dim = DimSpec { from: Some("inspect".into()), ..DimSpec::default() };
            job.dims.insert(FRAME.into(), dim);
        }
        (Frames::Scene, true) => {}
        (Frames::Ranges(_), true) => problems.push(
            Diagnostic::new(
                "render.frames",
                "the frames are given twice: here and in `dims.frame`",
            )
            .with_hint(Some("remove one of them".into())),
        ),
    }
    if !render.views.is_empty() {
        if job.dims.contains_key(VIEW) {
            let message = "the views are given twice: here and in `dims.view`";
            let hint = Some("remove one of them".into());
            problems.push(Diagnostic::new("render.views", message).with_hint(hint));
        } else {
            let dim = DimSpec { values: Some(render.views.clone()), ..DimSpec::default() };
            job.dims.insert(VIEW.into(), dim);
        }
    }
    let tiles = tiles(render, problems).map(|grid| {
        let dim = DimSpec { grid: Some(grid), ..DimSpec::default() };
        job.dims.insert(TILE.into(), dim);
        Tiles { grid, dim: TILE.into() }
    });
    let mut steps = steps(render, tiles);
    simulate(&mut steps, job.dims.get(FRAME).and_then(|frames| frames.range.as_ref()));
    steps
}

fn tiles(render: &RenderJob, problems: &mut Vec<Diagnostic>) -> Option<Grid> {
    let grid = match (render.tiles, render.resolution) {
        (TilesSpec::Grid(grid), _) => grid,
        (TilesSpec::Auto, Some(size)) => {
            Grid { columns: size.width.div_ceil(AUTO_TILE), rows: size.height.div_ceil(AUTO_TILE) }
        }
        (TilesSpec::Auto, None) => {
            problems.push(
                Diagnostic::new("render.tiles", "`auto` needs the size of the picture").with_hint(
                    Some("add `resolution: WIDTHxHEIGHT`, or give `tiles` as CxR".into()),
                ),
            );
            return None;
        }
    };
    if let Some(size) = render.resolution
        && (grid.columns > size.width || grid.rows > size.height)
    {
        problems.push(Diagnostic::new(
            "render.tiles",
            format!("there are more tiles than pixels: {grid} tiles in {size}"),
        ));
    }
    (grid.tiles() > 1).then_some(grid)
}

fn steps(render: &RenderJob, tiles: Option<Tiles>) -> Vec<StepSpec> {
    let scene = scene(render);
    let frame: &[&str] = if render.views.is_empty() { &[FRAME] } else { &[FRAME, VIEW] };
    let passes = scene.pass_files;
    let finishes = render.compositor != Some(false) || render.denoise != Some(false) || passes;
    let mut last = "render";
    let view = (!render.views.is_empty()).then(|| render.views.join(","));
    let inspected = Scene { view, ..scene.clone() };
    let mut steps =
        vec![StepSpec { work: Body::Inspect(inspected).into(), ..step("inspect", &[], &[]) }];
    let over = [frame, if tiles.is_some() { &[TILE] } else { &[] }].concat();
    let body = Render { scene: scene.clone(), tiles: tiles.clone() };
    steps
        .push(StepSpec { work: Body::Blender(body).into(), ..step("render", &over, &["inspect"]) });
    if let Some(tiles) = tiles {
        steps.push(StepSpec {
            work: Body::Merge(Merge { tiles }).into(),
            ..step("merge", frame, &[last])
        });
        last = "merge";
    }
    if finishes {
        steps.push(StepSpec {
            work: Body::Finish(scene.clone()).into(),
            ..step("finish", frame, &[last])
        });
        last = "finish";
    }
    let whole = steps.last_mut().expect("there is a render");
    whole.deliver = deliver(format!("{}/{{frame:04}}.exr", folder(render, "frames")));
    if finishes {
        // The files of File Output nodes, whose names contain the frame's number.
        whole.deliver.insert("files".into(), folder(render, "files"));
    }
    if passes {
        let path = format!("{}/{{frame:04}}", folder(render, "passes"));
        whole.deliver.insert("passes".into(), path);
    }
    steps.extend(develop(render, scene, frame, last));
    steps.extend(encode(render));
    steps
}

/// The output folder for one kind of results: with several views, a subfolder for each.
fn folder(render: &RenderJob, name: &str) -> String {
    format!("{name}{}", if render.views.is_empty() { "" } else { "/{view}" })
}

/// The step that makes previews, or pictures only for the video.
fn develop(render: &RenderJob, scene: Scene, over: &[&str], last: &str) -> Option<StepSpec> {
    let format = match render.output.preview {
        Preview::On(format) => format,
        Preview::Off if render.output.video.is_some() => PictureFormat::Png,
        Preview::Off => return None,
    };
    let develop = Develop { scene, format };
    let mut develop =
        StepSpec { work: Body::Develop(develop).into(), ..step("develop", over, &[last]) };
    if render.output.preview != Preview::Off {
        let folder = folder(render, "previews");
        develop.deliver = deliver(format!("{folder}/{{frame:04}}.{}", format.extension()));
    }
    Some(develop)
}

/// The step that encodes the video, or one video for each view.
fn encode(render: &RenderJob) -> Option<StepSpec> {
    let file = render.output.video.as_ref()?;
    let over: &[&str] = if render.views.is_empty() { &[] } else { &[VIEW] };
    let encode = Encode {
        file: file.clone(),
        fps: render.output.fps,
        codec: render.output.codec,
        quality: render.output.quality,
        source: None,
        keep_audio: None,
        allow_gaps: false,
    };
    let place = if render.views.is_empty() { file.clone() } else { format!("{{view}}/{file}") };
    // The scene's frame rate is in the output of the inspection.
    let needs: &[&str] = if encode.fps.is_some() { &["develop"] } else { &["develop", "inspect"] };
    Some(StepSpec {
        work: Body::Encode(encode).into(),
        deliver: BTreeMap::from([("video".to_owned(), place)]),
        ..step("encode", over, needs)
    })
}

fn scene(render: &RenderJob) -> Scene {
    Scene {
        scene: render.scene.clone(),
        resolution: render.resolution,
        engine: render.engine.clone(),
        samples: render.samples,
        seed: render.seed,
        camera: render.camera.clone(),
        view_layer: render.view_layer.clone(),
        view: (!render.views.is_empty()).then(|| format!("{{{VIEW}}}")),
        denoise: render.denoise,
        compositor: render.compositor,
        sequencer: render.sequencer,
        border: render.border,
        all_passes: render.output.format == FrameFormat::ExrMultilayer || render.output.passes,
        pass_files: render.output.passes && render.output.format != FrameFormat::ExrMultilayer,
        allow_missing: render.allow_missing,
        allow_scripts: render.allow_scripts,
        device: render.device,
        simulate: render.simulate,
        set: render.set.clone(),
        state: None,
        frame: None,
    }
}

/// A step for a macro, without a body.
pub(crate) fn step(name: &str, over: &[&str], needs: &[&str]) -> StepSpec {
    StepSpec {
        name: name.into(),
        over: over.iter().map(|d| (*d).into()).collect(),
        needs: needs.iter().map(|step| need(step)).collect(),
        ..StepSpec::default()
    }
}

/// A need for a step, without offsets.
pub(crate) fn need(step: &str) -> NeedSpec {
    NeedSpec { step: step.into(), offset: BTreeMap::new(), on: NeedOn::Success }
}

fn deliver(path: String) -> BTreeMap<String, String> {
    BTreeMap::from([("image".to_owned(), path)])
}
