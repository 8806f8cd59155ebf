//! Checks of the compiler once all names are resolved: that spaces are valid, that bodies fit their steps, that outputs
//! that are removed early are not needed later.

use super::{Dim, DimBound, DimCounts, DimValues, MAX_TASKS, Plan, Step, box_size};
use pictor_tasks::body::{Body, Scene, Simulate};
use pictor_tasks::job::Diagnostic;
use std::collections::BTreeSet;

/// Reports invalid dimensions and spaces.
pub(crate) fn spaces(plan: &Plan, problems: &mut Vec<Diagnostic>) {
    for dim in &plan.dims {
        let (mut root, mut hops) = (dim, 0);
        while let DimValues::Blocks { of, .. } = root.values {
            (root, hops) = (&plan.dims[of], hops + 1);
            if hops > plan.dims.len() {
                let message = format!("dimension `{}` is derived from itself", dim.name);
                problems.push(Diagnostic::new(format!("dims.{}.of", dim.name), message));
                return;
            }
        }
        if hops > 0 && root.bound.is_some() {
            let message = "a bounded dimension cannot be cut into blocks";
            problems.push(Diagnostic::new(format!("dims.{}.of", dim.name), message));
        }
        if let Some(bound) = &dim.bound {
            bound_fits(plan, dim, bound, problems);
        }
        for binder in dim.binders() {
            if !plan.steps[binder as usize].over.is_empty() {
                let message = format!(
                    "step `{}` runs over dimensions, but values are reported by a single task",
                    plan.steps[binder as usize].name
                );
                problems.push(Diagnostic::new(format!("dims.{}.from", dim.name), message));
            }
        }
    }
    for (number, step) in plan.steps.iter().enumerate() {
        space_fits(plan, number, step, problems);
    }
}

fn bound_fits(plan: &Plan, dim: &Dim, bound: &DimBound, problems: &mut Vec<Diagnostic>) {
    let (name, by) = (&dim.name, &plan.dims[bound.by]);
    if by.name == *name {
        let message = format!("dimension `{name}` cannot be bounded by itself");
        problems.push(Diagnostic::new(format!("dims.{name}.bounded_by"), message));
    } else if let (DimCounts::Fixed(counts), DimValues::Fixed(values)) = (&bound.counts, &by.values)
        && counts.len() != values.len() as usize
    {
        let message = format!(
            "there are {} counts for the {} values of dimension `{}`",
            counts.len(),
            values.len(),
            by.name
        );
        problems.push(Diagnostic::new(format!("dims.{name}.counts"), message));
    }
}

fn space_fits(plan: &Plan, number: usize, step: &Step, problems: &mut Vec<Diagnostic>) {
    let mut problem = |message: String| {
        problems.push(Diagnostic::new(format!("steps[{number}].over"), message));
    };
    let mut lens = Vec::new();
    for (i, &dim) in step.over.iter().enumerate() {
        let name = &plan.dims[dim].name;
        if let Some(other) = step.over[..i].iter().find(|d| plan.root(**d).0 == plan.root(dim).0) {
            let other = &plan.dims[*other].name;
            problem(format!("`{other}` and `{name}` are the same dimension, cut differently"));
        }
        if let Some(bound) = &plan.dims[dim].bound
            && !step.over.contains(&bound.by)
        {
            let by = &plan.dims[bound.by].name;
            problem(format!("`{name}` is bounded by `{by}`, so the step must run over both"));
        }
        if let DimValues::Fixed(values) = &plan.dims[dim].values {
            lens.push(values.len());
        }
    }
    let size = box_size(lens.into_iter());
    if size > u64::from(MAX_TASKS) {
        problem(format!("the step would have {size} tasks; the limit is {MAX_TASKS}"));
    }
    for need in &step.needs {
        for &ours in &step.over {
            for &theirs in &plan.steps[need.step as usize].over {
                let ((root, a), (other, b)) = (plan.root(ours), plan.root(theirs));
                if root == other && a % b != 0 && b % a != 0 {
                    problem(format!(
                        "blocks of {a} (`{}`) and of {b} (`{}` of step `{}`) do not fit into each other",
                        plan.dims[ours].name,
                        plan.dims[theirs].name,
                        plan.steps[need.step as usize].name
                    ));
                }
            }
        }
    }
}

/// Reports bodies that do not fit their step: its inputs, its dimensions, the values that it has to report.
pub(crate) fn bodies(plan: &Plan, problems: &mut Vec<Diagnostic>) {
    for (number, step) in (0u16..).zip(&plan.steps) {
        let path = format!("steps[{number}]");
        let mut problem = |field: &str, message: String| {
            problems.push(Diagnostic::new(format!("{path}.{field}"), message));
        };
        let needed = step.needs.iter().map(|need| &plan.steps[need.step as usize]);
        let makers: Vec<&Step> = needed.filter(|s| s.body.makes_pictures()).collect();
        if let Some(message) = wrong_makers(plan, step, &makers) {
            problem("needs", message);
        }
        if let Body::Encode(encode) = &step.body
            && let Err(message) = encode.codec_of(&encode.file)
        {
            problem("encode", message.trim_end_matches('.').to_owned());
        }
        if let Some(message) = lacks_bake(plan, step) {
            problem("needs", message);
        }
        for (field, over, dim) in dims_of(step, &makers) {
            if !runs_over(plan, over, dim) {
                let what = if field == "tiles" { "the tiles' dimension" } else { "dimension" };
                let message = format!("step `{}` does not run over {what} `{dim}`", over.name);
                problem(&format!("{}.{field}", step.body.kind()), message);
            }
        }
        problems.extend(wrong_reports(plan, number, step));
    }
}

fn runs_over(plan: &Plan, step: &Step, dim: &str) -> bool {
    step.over.iter().any(|over| plan.dims[*over].name == dim)
}

/// A message if the steps whose pictures the step uses are not suitable.
fn wrong_makers(plan: &Plan, step: &Step, makers: &[&Step]) -> Option<String> {
    let (kind, name) = (step.body.kind(), &step.name);
    let count = |makers: usize| match makers {
        0 => "none that makes any".to_owned(),
        more => more.to_string(),
    };
    match &step.body {
        Body::Merge(_) | Body::Finish(_) | Body::Develop(_) | Body::Encode(_) => {
            (makers.len() != 1).then(|| {
                let needs = count(makers.len());
                format!("`{kind}` works on the pictures of one step, but `{name}` needs {needs}")
            })
        }
        Body::Upscale(upscale) => match (&upscale.source, makers.len()) {
            (Some(_), 0) | (None, 1) => None,
            (Some(_), _) => Some(format!(
                "`{name}` has a `source` and needs a step that makes pictures as well"
            )),
            (None, some) => Some(format!(
                "`{kind}` works on a `source` or on the pictures of one step, but `{name}` needs {}",
                count(some)
            )),
        },
        Body::Stitch(stitch) => {
            let tiled = makers.iter().filter(|maker| runs_over(plan, maker, &stitch.tiles.dim));
            let tiled = tiled.count();
            let originals = makers.len() - tiled + usize::from(stitch.source.is_some());
            (tiled != 1 || originals != 1).then(|| {
                format!(
                    "`{kind}` works on the tiles of one step, which runs over `{}`, and on the \
                     pictures as they were, from `source` or one other step; `{name}` has {tiled} and \
                     {originals}",
                    stitch.tiles.dim
                )
            })
        }
        _ => None,
    }
}

/// A message unless a render of a baked scene needs exactly one bake step for that scene.
fn lacks_bake(plan: &Plan, step: &Step) -> Option<String> {
    let Body::Blender(render) = &step.body else { return None };
    let needed = step.needs.iter().map(|need| &plan.steps[need.step as usize].body);
    let same = |scene: &Scene| scene.scene == render.scene.scene;
    let baked = needed.filter(|body| matches!(body, Body::Bake(scene) if same(scene))).count();
    (render.scene.simulate == Simulate::Bake && baked != 1).then(|| {
        format!(
            "`simulate: bake` renders what a `bake` step made of the scene, and `{}` needs {baked} of them",
            step.name
        )
    })
}

/// The dimensions that a body names, each with the field and the step that must run over it.
fn dims_of<'a>(step: &'a Step, makers: &[&'a Step]) -> Vec<(&'static str, &'a Step, &'a str)> {
    let mut dims = Vec::new();
    match &step.body {
        Body::Blender(render) => {
            dims.extend(render.tiles.as_ref().map(|tiles| ("tiles", step, &*tiles.dim)));
        }
        Body::Merge(merge) => {
            dims.extend(makers.first().map(|maker| ("tiles", *maker, &*merge.tiles.dim)));
        }
        Body::Extract(extract) => dims.push(("dim", step, &*extract.dim)),
        Body::Upscale(upscale) => {
            dims.extend(upscale.frame.as_deref().map(|frame| ("frame", step, frame)));
            dims.extend(upscale.tiles.as_ref().map(|tiles| ("tiles", step, &*tiles.dim)));
        }
        Body::Stitch(stitch) => {
            dims.extend(stitch.frame.as_deref().map(|frame| ("frame", step, frame)));
        }
        _ => {}
    }
    dims
}

/// Problems with dimensions that should come from the step, but that it cannot report.
fn wrong_reports(plan: &Plan, number: u16, step: &Step) -> Vec<Diagnostic> {
    let (path, kind) = (format!("steps[{number}]"), step.body.kind());
    match &step.body {
        Body::Inspect(_) | Body::Command(_) => Vec::new(),
        Body::Probe(probe) => {
            let tiles = probe.tiles.as_ref().map(|tiles| &tiles.dim);
            let named = |dim: &String| probe.frame.as_ref() == Some(dim) || tiles == Some(dim);
            let dims = plan.bound_by(number).map(|dim| &plan.dims[dim]);
            let mut found = Vec::new();
            for dim in dims {
                let name = &dim.name;
                let by = dim.bound.as_ref().map(|bound| &plan.dims[bound.by].name);
                let per_frame = tiles == Some(name) && probe.frame.is_some();
                if !named(name) {
                    let message = format!("dimension `{name}` takes its values from this step");
                    let hint = "name it in `frame`, or in `tiles` as `dim`".to_owned();
                    found.push(
                        Diagnostic::new(format!("{path}.{kind}"), message).with_hint(Some(hint)),
                    );
                } else if by != probe.frame.as_ref().filter(|_| per_frame) {
                    let message = match probe.frame.as_ref().filter(|_| per_frame) {
                        Some(frame) => {
                            format!(
                                "`{name}` counts the tiles of each frame: bound it by `{frame}`"
                            )
                        }
                        None => format!(
                            "`{name}` is not counted for each position of another dimension"
                        ),
                    };
                    found.push(Diagnostic::new(format!("dims.{name}"), message));
                }
            }
            found
        }
        _ if plan.bound_by(number).next().is_some() => {
            let message = format!("`{kind}` cannot report values for a dimension");
            let hint = Some("an `inspect`, `probe` or `command` step can".into());
            vec![Diagnostic::new(path, message).with_hint(hint)]
        }
        _ => Vec::new(),
    }
}

/// Reports `keep` settings on steps that have no outputs, or whose outputs are results.
pub(crate) fn retention(plan: &Plan, problems: &mut Vec<Diagnostic>) {
    for (number, step) in (0u16..).zip(&plan.steps) {
        let Some(until) = step.keep_until else { continue };
        let (path, name) = (format!("steps[{number}].keep"), &step.name);
        let last = &plan.steps[until as usize].name;
        if !after(plan, number).contains(&until) {
            let message = format!("step `{last}` does not come after `{name}`");
            let hint = format!("name a step that needs `{name}`, or one after that");
            problems.push(Diagnostic::new(format!("{path}.until"), message).with_hint(Some(hint)));
        }
        if !step.body.has_outputs() {
            let message = format!("`{}` leaves nothing that could be removed", step.body.kind());
            problems.push(Diagnostic::new(path, message));
        } else if !step.deliver.is_empty() {
            let message = format!("what `{name}` delivers is a result and stays");
            let hint = Some("remove either `keep` or `deliver`".into());
            problems.push(Diagnostic::new(path, message).with_hint(hint));
        }
    }
}

/// The steps that need a step, directly or indirectly.
fn after(plan: &Plan, step: u16) -> BTreeSet<u16> {
    let (mut after, mut work) = (BTreeSet::new(), vec![step]);
    while let Some(step) = work.pop() {
        let consumers = (0u16..)
            .zip(&plan.steps)
            .filter(|(_, consumer)| consumer.needs.iter().any(|need| need.step == step));
        work.extend(consumers.map(|(number, _)| number).filter(|number| after.insert(*number)));
    }
    after
}
