//! The `render:` macro as dimensions and steps: whatever it can do a user can write by hand.

use pictor_tasks::body::{Develop, Encode, Merge, PictureFormat, Render, Scene, Tiles};
use pictor_tasks::job::Diagnostic;
use pictor_tasks::job::spec::{
    DimSpec, FrameFormat, Frames, JobSpec, NeedOn, NeedSpec, Preview, RenderJob, StepSpec,
    TilesSpec,
};
use pictor_tasks::units::Grid;
use std::collections::BTreeMap;

/// The dimension of a render's frames: public, so that a job's own steps can join it.
const FRAME: &str = "frame";
/// The private dimension of a render's tiles.
const TILE: &str = "render.tile";
/// Pixels along each side of a tile that `tiles: auto` aims at.
const AUTO_TILE: u32 = 512;

/// A job in its general form, and for each step how many of the steps the user wrote come before.
pub(crate) fn expand(spec: &JobSpec, problems: &mut Vec<Diagnostic>) -> JobSpec {
    let mut job = spec.clone();
    if let Some(render) = job.render.take() {
        expand_render(&render, &mut job, problems);
    }
    job
}

fn expand_render(render: &RenderJob, job: &mut JobSpec, problems: &mut Vec<Diagnostic>) {
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
    let tiles = tiles(render, problems).map(|grid| {
        let dim = DimSpec { grid: Some(grid), ..DimSpec::default() };
        job.dims.insert(TILE.into(), dim);
        Tiles { grid, dim: TILE.into() }
    });
    let mut steps = steps(render, tiles);
    for step in &steps {
        if let Some(at) = job.steps.iter().position(|s| s.name == step.name) {
            problems.push(
                Diagnostic::new(
                    format!("steps[{at}].name"),
                    format!("`render` already makes a step called `{}`", step.name),
                )
                .with_hint(Some("choose another name".into())),
            );
        }
    }
    job.steps.append(&mut steps);
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
    let frames_path = || deliver("frames/{frame:04}.exr".into());
    let finishes = render.compositor != Some(false) || render.denoise != Some(false);
    let multilayer = render.output.format == FrameFormat::ExrMultilayer;
    let mut last = "render";
    let mut steps = vec![StepSpec { inspect: Some(scene.clone()), ..step("inspect", &[], &[]) }];
    let over: &[&str] = if tiles.is_some() { &[FRAME, TILE] } else { &[FRAME] };
    let body = Render { scene: scene.clone(), tiles: tiles.clone() };
    steps.push(StepSpec { blender: Some(body), ..step("render", over, &["inspect"]) });
    if let Some(tiles) = tiles {
        steps.push(StepSpec { merge: Some(Merge { tiles }), ..step("merge", &[FRAME], &[last]) });
        last = "merge";
    }
    if multilayer || !finishes {
        steps.last_mut().expect("there is a render").deliver = frames_path();
    }
    if finishes {
        let mut finish =
            StepSpec { finish: Some(scene.clone()), ..step("finish", &[FRAME], &[last]) };
        if !multilayer {
            finish.deliver = frames_path();
        }
        steps.push(finish);
        last = "finish";
    }
    let format = match render.output.preview {
        Preview::On(format) => Some(format),
        Preview::Off => render.output.video.as_ref().map(|_| PictureFormat::Png),
    };
    if let Some(format) = format {
        let develop = Develop { scene, format };
        let mut develop = StepSpec { develop: Some(develop), ..step("develop", &[FRAME], &[last]) };
        if render.output.preview != Preview::Off {
            develop.deliver = deliver(format!("previews/{{frame:04}}.{}", format.extension()));
        }
        steps.push(develop);
    }
    if let Some(file) = &render.output.video {
        let encode = Encode {
            file: file.clone(),
            fps: render.output.fps,
            codec: render.output.codec,
            quality: render.output.quality,
        };
        let encode = StepSpec {
            encode: Some(encode),
            deliver: BTreeMap::from([("video".to_owned(), file.clone())]),
            ..step("encode", &[], &["develop"])
        };
        steps.push(encode);
    }
    steps
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
        denoise: render.denoise,
        compositor: render.compositor,
        all_passes: render.output.format == FrameFormat::ExrMultilayer,
        allow_missing: render.allow_missing,
        set: render.set.clone(),
        state: None,
        frame: None,
    }
}

fn step(name: &str, over: &[&str], needs: &[&str]) -> StepSpec {
    let need = |step: &&str| NeedSpec {
        step: (*step).into(),
        offset: BTreeMap::new(),
        on: NeedOn::Success,
    };
    StepSpec {
        name: name.into(),
        over: over.iter().map(|d| (*d).into()).collect(),
        needs: needs.iter().map(need).collect(),
        ..StepSpec::default()
    }
}

fn deliver(path: String) -> BTreeMap<String, String> {
    BTreeMap::from([("image".to_owned(), path)])
}
