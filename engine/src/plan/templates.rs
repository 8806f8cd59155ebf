//! Checks placeholders in a plan's texts: each must have a meaning in its step.

use super::compile::did_you_mean;
use super::{Plan, Step};
use pictor_tasks::body::{Body, Scene};
use pictor_tasks::job::Diagnostic;
use pictor_tasks::space::frame_dim;
use pictor_tasks::template::{Placeholder, Template};

/// Reports placeholders for dimensions, steps or outputs that are not available in the step.
pub(crate) fn check(plan: &Plan, problems: &mut Vec<Diagnostic>) {
    for (number, step) in plan.steps.iter().enumerate() {
        let path = format!("steps[{number}]");
        for (at, text) in texts(step) {
            let place = format!("{path}.{at}");
            match Template::parse(&text) {
                Err(error) => problems.push(Diagnostic::new(place, error.to_string())),
                Ok(template) => {
                    let deliver = at.starts_with("deliver");
                    let wrong =
                        template.placeholders().filter_map(|p| fault(plan, step, p, deliver));
                    problems.extend(wrong.map(|(message, hint)| {
                        Diagnostic::new(place.clone(), message).with_hint(hint)
                    }));
                }
            }
        }
        check_deliver(plan, step, &path, problems);
        if let Some(scene) = step.body.scene() {
            check_scene(plan, step, scene, &path, problems);
        }
        check_bindings(plan, number, step, problems);
    }
}

/// The places where a step uses the folder of the job file although it has no `files`.
pub fn uses_of_folder(plan: &Plan) -> Vec<String> {
    let has_files = |step: &Step| matches!(&step.body, Body::Command(c) if !c.files.is_empty());
    let asks = |text: &str| {
        Template::parse(text)
            .is_ok_and(|template| template.placeholders().any(|p| *p == Placeholder::JobDir))
    };
    let steps = plan.steps.iter().enumerate().filter(|(_, step)| !has_files(step));
    let places = steps.flat_map(|(number, step)| {
        let asked = texts(step).into_iter().filter(|(_, text)| asks(text));
        asked.map(move |(at, _)| format!("steps[{number}].{at}"))
    });
    places.collect()
}

fn texts(step: &Step) -> Vec<(String, String)> {
    let mut texts: Vec<(String, String)> =
        step.deliver.iter().map(|(name, text)| (format!("deliver.{name}"), text.clone())).collect();
    if let Body::Command(command) = &step.body {
        let args = command.run.iter().enumerate();
        texts.extend(args.map(|(i, text)| (format!("command.run[{i}]"), text.clone())));
        let env = command.env.iter();
        texts.extend(env.map(|(name, text)| (format!("command.env.{name}"), text.clone())));
    }
    if let Some(scene) = step.body.scene() {
        let kind = step.body.kind();
        for (field, text) in
            [("camera", &scene.camera), ("view_layer", &scene.view_layer), ("frame", &scene.frame)]
        {
            texts.extend(text.as_ref().map(|text| (format!("{kind}.{field}"), text.clone())));
        }
        for (path, value) in &scene.set {
            texts.extend(value.as_str().map(|v| (format!("{kind}.set.{path}"), v.to_owned())));
        }
    }
    texts
}

/// A message if a placeholder is wrong, with what to do.
fn fault(
    plan: &Plan,
    step: &Step,
    placeholder: &Placeholder,
    deliver: bool,
) -> Option<(String, Option<String>)> {
    let dims: Vec<&str> = step.over.iter().map(|d| plan.dims[*d].name.as_str()).collect();
    let needed: Vec<&str> =
        step.needs.iter().map(|need| plan.steps[need.step as usize].name.as_str()).collect();
    match placeholder {
        Placeholder::Value { name, .. }
        | Placeholder::First { name, .. }
        | Placeholder::Last { name, .. } => (!dims.contains(&name.as_str())).then(|| {
            let message = format!("step `{}` does not run over `{name}`", step.name);
            let files =
                || (name == "files").then(|| "the folder of `files` is `{job.dir}`".to_owned());
            (message, did_you_mean(name, &dims).or_else(files))
        }),
        Placeholder::Index { .. } => None,
        _ if deliver => Some(("only dimensions can be used here".into(), None)),
        Placeholder::Input { step: from, .. } | Placeholder::Inputs { step: from } => {
            (!needed.contains(&from.as_str())).then(|| {
                let message = format!("step `{}` does not need a step `{from}`", step.name);
                (message, did_you_mean(from, &needed))
            })
        }
        Placeholder::Output { name } => {
            let declared = match &step.body {
                Body::Command(command) => command.outputs.contains_key(name),
                _ => false,
            };
            let hint = format!("declare it: `outputs: {{ {name}: FILE }}`");
            (!declared).then(|| (format!("`{name}` is not an output of this step"), Some(hint)))
        }
        Placeholder::Bind { dim } => {
            let number = plan.step(&step.name).expect("it is in the plan");
            let bound = plan.bound_by(number).any(|d| plan.dims[d].name == *dim);
            let hint = format!("declare it: `dims: {{ {dim}: {{ from: {} }} }}`", step.name);
            (!bound)
                .then(|| (format!("dimension `{dim}` does not come from this step"), Some(hint)))
        }
        Placeholder::Attempt | Placeholder::JobDir | Placeholder::Scratch => None,
    }
}

/// Checks that deliveries stay in the output folder and do not overwrite each other.
fn check_deliver(plan: &Plan, step: &Step, path: &str, problems: &mut Vec<Diagnostic>) {
    for (name, text) in &step.deliver {
        let place = format!("{path}.deliver.{name}");
        let is_folder = delivers_folder(&step.body, name);
        // Blender adds the frame's number to the names of files that a scene's nodes write.
        let told = |dim: &str| is_folder && name == "files" && frame_dim([dim]).is_some();
        let template = Template::parse(text).ok();
        if let Some(dim) = template.and_then(|template| left_out(plan, step, &template, told)) {
            let message =
                format!("the tasks of step `{}` would overwrite each other's file", step.name);
            let hint = Some(format!("use `{{{dim}}}` in the path"));
            problems.push(Diagnostic::new(place.clone(), message).with_hint(hint));
        }
        if !step.body.leaves(name) && !is_folder {
            let message = format!("`{name}` is not an output of step `{}`", step.name);
            problems.push(Diagnostic::new(place.clone(), message));
        }
        if text.starts_with('/') || text.split('/').any(|part| part == "..") {
            let message = "results can only be delivered inside the output folder";
            problems.push(Diagnostic::new(place, message));
        }
    }
}

/// Whether the step has a folder of outputs with this name: `files`, which the scene's own nodes write, and `passes`.
fn delivers_folder(body: &Body, name: &str) -> bool {
    let of_frames =
        matches!(body, Body::Blender(_) | Body::Merge(_) | Body::Finish(_) | Body::Develop(_));
    of_frames && matches!(name, "files" | "passes")
}

/// A dimension of the step that occurs neither in a delivery's path nor in the names of the delivered files.
fn left_out<'a>(
    plan: &'a Plan,
    step: &Step,
    template: &Template,
    told: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let names = |dim: &str| {
        template.placeholders().any(|placeholder| match placeholder {
            Placeholder::Index { .. } => true,
            Placeholder::Value { name, .. }
            | Placeholder::First { name, .. }
            | Placeholder::Last { name, .. } => name == dim,
            _ => false,
        })
    };
    step.over.iter().map(|dim| plan.dims[*dim].name.as_str()).find(|dim| !names(dim) && !told(dim))
}

fn check_scene(
    plan: &Plan,
    step: &Step,
    scene: &Scene,
    path: &str,
    problems: &mut Vec<Diagnostic>,
) {
    let Some(state) = &scene.state else { return };
    let from = state.split('.').next().unwrap_or_default();
    let needed = step.needs.iter().any(|need| plan.steps[need.step as usize].name == from);
    if !needed {
        let message = format!("step `{}` does not need a step `{from}`", step.name);
        let hint = Some(format!("add `{from}` to its `needs`"));
        let place = format!("{path}.{}.state", step.body.kind());
        problems.push(Diagnostic::new(place, message).with_hint(hint));
    }
}

/// Checks that a command that binds dimensions is told where to write their values.
fn check_bindings(plan: &Plan, number: usize, step: &Step, problems: &mut Vec<Diagnostic>) {
    let Body::Command(command) = &step.body else { return };
    for dim in plan.bound_by(u16::try_from(number).expect("limited")) {
        let name = &plan.dims[dim].name;
        let told = command.run.iter().chain(command.env.values()).any(|text| {
            Template::parse(text).is_ok_and(|template| {
                template
                    .placeholders()
                    .any(|p| matches!(p, Placeholder::Bind { dim } if dim == name))
            })
        });
        if !told {
            let message = format!("dimension `{name}` takes its values from this step");
            let hint = format!("write them to the path `{{bind.{name}}}`, given as an argument");
            problems.push(
                Diagnostic::new(format!("steps[{number}].command.run"), message)
                    .with_hint(Some(hint)),
            );
        }
    }
}
