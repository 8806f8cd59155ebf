//! `command` steps: run any program in a scratch folder of its own, with input files and output files.

mod binding;
pub(crate) mod files;
mod outputs;

use crate::ground::failure::{failure, storage_failure};
use crate::ground::lock;
use crate::programs::Confinement;
use crate::programs::process::{program_failure, run as run_program};
use crate::task::TaskContext;
use outputs::FoundOutput;
use pictor_tasks::body::{Body, Command, Written};
use pictor_tasks::message::{Binding, Failure, FailureKind, Input, Products};
use pictor_tasks::output::{check_names, in_folder};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

/// The longest readable part of a link's name, in bytes.
const LABEL_BYTES_MAX: usize = 180;

/// Runs the task's program.
pub(crate) async fn run(ctx: &TaskContext, body: &Command) -> Result<Products, Failure> {
    if !ctx.config.allow_commands {
        let message = "This worker runs no commands; its operator has to allow them.";
        return Err(failure(FailureKind::Unsupported, message));
    }
    let command = prepare(ctx, body).await?;
    let network = ctx.config.allow_network;
    let mut needs = Confinement { network, gpu: ctx.device.clone(), ..ctx.confinement() };
    if body.files.is_empty() && !ctx.brief.folder.is_empty() {
        needs = needs.reads(&ctx.brief.folder);
    }
    let heard = Mutex::new(Heard::default());
    let mut on_line = |line: &str| {
        lock(&heard).line(ctx, line);
        true
    };
    let status = run_program(ctx.supervision(), &command, &needs, &mut on_line).await?;
    if !status.success() {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let plain = program_failure(&ctx.log, &program, status);
        let said = lock(&heard).failed.take();
        return Err(said.map_or(plain, |said| failure(FailureKind::Failed, said)));
    }
    let mut products = Products::default();
    for (name, written) in &body.outputs {
        for FoundOutput { name, path, file } in outputs::find(ctx, name, written)? {
            products.outputs.push(ctx.put_as(&name, &path, &file).await?);
        }
    }
    let names = products.outputs.iter().map(|output| &*output.name);
    check_names(names)
        .map_err(|why| failure(FailureKind::BadOutput, format!("The task failed: {why}.")))?;
    for dim in &ctx.brief.binds {
        let values = binding::read(&bind_path(ctx, dim), &ctx.scratch).map_err(|why| {
            failure(FailureKind::BadOutput, format!("The values of the dimension `{dim}`: {why}"))
        })?;
        products.bindings.push(Binding { dim: dim.clone(), values });
    }
    Ok(products)
}

async fn prepare(ctx: &TaskContext, body: &Command) -> Result<tokio::process::Command, Failure> {
    files::lay_out(ctx, body).await?;
    let mut arguments = Vec::with_capacity(body.run.len());
    for argument in &body.run {
        arguments.push(ctx.resolve(argument).await?);
    }
    let Some((program, arguments)) = arguments.split_first().filter(|(p, _)| !p.is_empty()) else {
        return Err(failure(FailureKind::Invalid, "`run` names no program."));
    };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments);
    for (name, value) in &body.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("`{}` cannot be an environment variable.", name.escape_debug());
            return Err(failure(FailureKind::Invalid, message));
        }
        command.env(name, ctx.resolve(value).await?);
    }
    make_folders(ctx, body)
        .map_err(|error| storage_failure("The scratch folder cannot be prepared", &error))?;
    for file in body.outputs.values().map(Written::file) {
        if !is_inside(file) {
            let message =
                format!("The output `{file}` is not a file name: it leads out of the folder.");
            return Err(failure(FailureKind::Invalid, message));
        }
    }
    Ok(command)
}

fn make_folders(ctx: &TaskContext, body: &Command) -> std::io::Result<()> {
    for file in body.outputs.values().map(Written::file).filter(|file| is_inside(file)) {
        if let Some(folder) = Path::new(file).parent() {
            std::fs::create_dir_all(ctx.scratch.join(folder))?;
        }
    }
    std::fs::create_dir_all(ctx.scratch.join(".bind"))
}

fn is_inside(file: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !file.is_empty() && !file.ends_with('/') && Path::new(file).components().all(plain)
}

/// The path at which the task's program writes an output; `None` if the task has no output of this name.
pub(crate) fn output_path(ctx: &TaskContext, name: &str) -> Option<PathBuf> {
    let Body::Command(body) = &ctx.brief.body else {
        return None;
    };
    body.outputs.get(name).map(|written| ctx.scratch.join(written.file()))
}

/// The path at which the task's program writes the values of a late-bound dimension.
pub(crate) fn bind_path(ctx: &TaskContext, dim: &str) -> PathBuf {
    ctx.scratch.join(".bind").join(dim)
}

/// The folder with links to all inputs from a step. Their names start with a number that sorts them in index order.
/// Files from folder outputs are in subfolders, one for each task. The folder is empty where the step produced nothing,
/// or where the dependency points beyond the range: the first frame of a simulation has none before it.
pub(crate) async fn inputs_folder(ctx: &TaskContext, step: &str) -> Result<PathBuf, Failure> {
    let mut inputs: Vec<&Input> = ctx.inputs_of(step, None).collect();
    inputs.sort_by(|a, b| (a.index, &a.output.name).cmp(&(b.index, &b.output.name)));
    let (inside, inputs): (Vec<&Input>, Vec<&Input>) =
        inputs.into_iter().partition(|input| in_folder(&input.output.name).is_some());
    let names: BTreeSet<&str> = inputs.iter().map(|input| input.output.name.as_str()).collect();
    let (width, folder) = (inputs.len().to_string().len(), ctx.scratch.join("inputs").join(step));
    let unusable = |error: std::io::Error| {
        storage_failure(&format!("The folder {} cannot be made", folder.display()), &error)
    };
    std::fs::create_dir_all(&folder).map_err(unusable)?;
    let paths = ctx.input_paths(&inputs).await?;
    for (number, (input, path)) in inputs.into_iter().zip(paths).enumerate() {
        let file = link_name(input, names.len() > 1);
        link(path, &folder.join(format!("{number:0width$}-{file}"))).map_err(unusable)?;
    }
    let width = inside.last().map_or(0, |input| input.index.to_string().len());
    let paths = ctx.input_paths(&inside).await?;
    for (input, path) in inside.into_iter().zip(paths) {
        // Neither can lead out of the folder: the engine has checked the name.
        let Some((kind, rest)) = in_folder(&input.output.name) else { continue };
        let task = format!("{:0width$}-{}", input.index, plain_label(input));
        link(path, &folder.join(kind).join(task).join(rest)).map_err(unusable)?;
    }
    Ok(folder)
}

/// The folder with links to the files of one task's folder output.
pub(crate) async fn input_folder(
    ctx: &TaskContext,
    step: &str,
    name: &str,
    inputs: &[&Input],
) -> Result<PathBuf, Failure> {
    let folder = ctx.scratch.join("inputs").join(format!("{step}.{name}"));
    let paths = ctx.input_paths(inputs).await?;
    for (input, path) in inputs.iter().zip(paths) {
        let Some((_, rest)) = in_folder(&input.output.name) else { continue };
        link(path, &folder.join(rest)).map_err(|error| {
            storage_failure(&format!("The folder {} cannot be made", folder.display()), &error)
        })?;
    }
    Ok(folder)
}

fn link(path: PathBuf, link: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(link.parent().unwrap_or(link))?;
    std::os::unix::fs::symlink(path, link)
        .or_else(|e| if e.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
}

/// `frame=7,tile=3`, in a form that suits a file name.
fn plain_label(input: &Input) -> String {
    let label = if input.label.is_empty() { &input.step } else { &input.label };
    let mut name = label.replace(|c: char| c == '/' || c.is_control(), "_");
    name.truncate(name.floor_char_boundary(LABEL_BYTES_MAX));
    name
}

/// `frame=7,tile=3.exr`, or `frame=7,tile=3.depth.exr` if the step has several outputs.
fn link_name(input: &Input, several: bool) -> String {
    let mut name = plain_label(input);
    if several {
        name = format!("{name}.{}", input.output.name);
    }
    match Path::new(&input.output.key).extension().and_then(|extension| extension.to_str()) {
        Some(extension) => format!("{name}.{extension}"),
        None => name,
    }
}

/// What a program has reported on its standard output so far.
#[derive(Debug, Default)]
struct Heard {
    fraction: f32,
    message: String,
    failed: Option<String>,
}

impl Heard {
    /// Interprets a line in pictor's own format or that of Open Job Description; other lines are ignored.
    fn line(&mut self, ctx: &TaskContext, line: &str) {
        if let Some(text) = line.strip_prefix("pictor: note ") {
            ctx.note(text.trim());
        } else if let Some(text) = line.strip_prefix("openjd_fail:") {
            self.failed = Some(text.trim().to_owned());
        } else if self.progress(line).is_some() {
            ctx.progress.report(self.fraction, &self.message);
        }
    }

    fn progress(&mut self, line: &str) -> Option<()> {
        if let Some(text) = line.strip_prefix("pictor: progress ") {
            let (number, message) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
            self.fraction = number.parse().ok()?;
            message.trim().clone_into(&mut self.message);
        } else if let Some(text) = line.strip_prefix("openjd_progress:") {
            self.fraction = text.trim().parse::<f32>().ok()? / 100.0;
        } else {
            line.strip_prefix("openjd_status:")?.trim().clone_into(&mut self.message);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_stay_inside_their_folder() {
        for bad in ["", "/x", "../x", "a/../../x", "a/"] {
            assert!(!is_inside(bad), "{bad}");
        }
        assert!(is_inside("a/b.png"));
    }
}
