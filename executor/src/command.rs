//! `command` steps: any program, in a scratch folder of its own, with files in and files out.

use crate::artifacts::storage_failure;
use crate::process::{program_failure, run as run_program};
use crate::task::{TaskContext, failure, lock};
use pictor_tasks::body::{Body, Command};
use pictor_tasks::message::{Binding, Bound, Failure, FailureKind, Input, Products};
use pictor_tasks::output::in_folder;
use pictor_tasks::range::Ranges;
use pictor_tasks::space::Values;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

/// The longest file that lists a dimension's values.
const BINDING_BYTES_MAX: u64 = 64 << 20;
/// The longest readable part of a link's name.
const LABEL_BYTES_MAX: usize = 180;

/// Runs the task's program.
pub(crate) async fn run(ctx: &TaskContext, body: &Command) -> Result<Products, Failure> {
    if !ctx.config.allow_commands {
        let message = "This worker runs no commands; its operator has to allow them.";
        return Err(failure(FailureKind::Unsupported, message));
    }
    let mut command = prepare(ctx, body).await?;
    let heard = Mutex::new(Heard::default());
    let mut on_line = |line: &str| {
        lock(&heard).line(ctx, line);
        true
    };
    let status = run_program(ctx, &mut command, &mut on_line).await?;
    if !status.success() {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let plain = program_failure(ctx, &program, status);
        let said = lock(&heard).failed.take();
        return Err(said.map_or(plain, |said| failure(FailureKind::Failed, said)));
    }
    let mut products = Products::default();
    for (name, file) in &body.outputs {
        let path = checked_output(ctx, name, file)?;
        products.outputs.push(ctx.put_as(name, &path, file).await?);
    }
    for dim in &ctx.brief.binds {
        let values = read_binding(&bind_path(ctx, dim)).map_err(|why| {
            failure(FailureKind::BadOutput, format!("The values of the dimension `{dim}`: {why}"))
        })?;
        products.bindings.push(Binding { dim: dim.clone(), values });
    }
    Ok(products)
}

async fn prepare(ctx: &TaskContext, body: &Command) -> Result<tokio::process::Command, Failure> {
    let mut arguments = Vec::with_capacity(body.run.len());
    for argument in &body.run {
        arguments.push(ctx.resolve(argument).await?);
    }
    let Some((program, arguments)) = arguments.split_first().filter(|(p, _)| !p.is_empty()) else {
        return Err(failure(FailureKind::Invalid, "`run` names no program."));
    };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).current_dir(&ctx.scratch).env_clear();
    for (name, fallback) in [("PATH", "/usr/bin:/bin"), ("HOME", "/"), ("LANG", "C.UTF-8")] {
        command.env(name, std::env::var_os(name).unwrap_or_else(|| fallback.into()));
    }
    if let Some(device) = &ctx.device {
        let index = device.index.to_string();
        let uuid = Some(&device.gpu.uuid).filter(|uuid| !uuid.is_empty());
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        command.env("CUDA_VISIBLE_DEVICES", uuid.unwrap_or(&index));
    }
    for (name, value) in &body.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("`{}` cannot be an environment variable.", name.escape_debug());
            return Err(failure(FailureKind::Invalid, message));
        }
        command.env(name, ctx.resolve(value).await?);
    }
    make_folders(ctx, body)
        .map_err(|error| storage_failure("The scratch folder cannot be prepared", &error))?;
    for file in body.outputs.values() {
        if !is_inside(file) {
            let message =
                format!("The output `{file}` is not a file name: it leads out of the folder.");
            return Err(failure(FailureKind::Invalid, message));
        }
    }
    Ok(command)
}

fn make_folders(ctx: &TaskContext, body: &Command) -> std::io::Result<()> {
    for file in body.outputs.values().filter(|file| is_inside(file)) {
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

/// Where the task's program writes an output, if there is one of this name.
pub(crate) fn output_path(ctx: &TaskContext, name: &str) -> Option<PathBuf> {
    let Body::Command(body) = &ctx.brief.body else {
        return None;
    };
    body.outputs.get(name).map(|file| ctx.scratch.join(file))
}

/// Where the task's program writes the values of a late-bound dimension.
pub(crate) fn bind_path(ctx: &TaskContext, dim: &str) -> PathBuf {
    ctx.scratch.join(".bind").join(dim)
}

fn checked_output(ctx: &TaskContext, name: &str, file: &str) -> Result<PathBuf, Failure> {
    let path = ctx.scratch.join(file);
    let bad = |why: &str| {
        let message = format!("The output `{name}` ({file}) {why}.");
        Err(failure(FailureKind::BadOutput, message))
    };
    let Ok(meta) = std::fs::symlink_metadata(&path) else {
        return bad("was not written, although the program succeeded");
    };
    // What lies outside the scratch folder is not the task's to give away.
    let real = (path.canonicalize().ok(), ctx.scratch.canonicalize().ok());
    let inside = matches!(&real, (Some(path), Some(scratch)) if path.starts_with(scratch));
    if !meta.is_file() || !inside {
        return bad("is not a plain file in the task's folder");
    }
    if meta.len() == 0 { bad("is empty") } else { Ok(path) }
}

/// The folder with links to all inputs from a step. Their names start with a number that sorts them in
/// index order. Outputs of folders are in folders there, for each task one. It is empty where the step left nothing, or where the need points beyond the end: the
/// first frame of a simulation has none before it.
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
    let link = |path: PathBuf, link: PathBuf| {
        std::fs::create_dir_all(link.parent().unwrap_or(&folder))?;
        std::os::unix::fs::symlink(path, link)
            .or_else(|e| if e.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
    };
    std::fs::create_dir_all(&folder).map_err(unusable)?;
    let paths = ctx.input_paths(&inputs).await?;
    for (number, (input, path)) in inputs.into_iter().zip(paths).enumerate() {
        let file = link_name(input, names.len() > 1);
        link(path, folder.join(format!("{number:0width$}-{file}"))).map_err(unusable)?;
    }
    let width = inside.last().map_or(0, |input| input.index.to_string().len());
    let paths = ctx.input_paths(&inside).await?;
    for (input, path) in inside.into_iter().zip(paths) {
        // Neither leads out of the folder: the engine has checked the name.
        let Some((kind, rest)) = in_folder(&input.output.name) else { continue };
        let task = format!("{:0width$}-{}", input.index, plain_label(input));
        link(path, folder.join(kind).join(task).join(rest)).map_err(unusable)?;
    }
    Ok(folder)
}

/// `frame=7,tile=3`, as a name of files.
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

/// What a program said on its standard output.
#[derive(Debug, Default)]
struct Heard {
    fraction: f32,
    message: String,
    failed: Option<String>,
}

impl Heard {
    /// Understands pictor's lines and those of Open Job Description.
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

/// Reads a dimension's values: a JSON list, ranges such as `1-10`, or one value a line. A JSON object
/// `{"counts": […]}` gives how many positions exist for each position of the bounding dimension.
fn read_binding(path: &Path) -> Result<Bound, String> {
    let size =
        std::fs::symlink_metadata(path).map(|meta| if meta.is_file() { meta.len() } else { 0 });
    match size {
        Err(_) => return Err("the program did not write them, although it succeeded.".into()),
        Ok(size) if size > BINDING_BYTES_MAX => {
            return Err(format!("the file has {size} bytes, more than {BINDING_BYTES_MAX}."));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{error}."))?;
    parse_binding(text.trim())
}

fn parse_binding(text: &str) -> Result<Bound, String> {
    if text.starts_with('{') {
        let counts = serde_json::from_str::<Counts>(text);
        let counts =
            counts.map_err(|error| format!("expected `{{\"counts\": [1, 2]}}`: {error}."))?;
        return Ok(Bound::Counts(counts.counts.into()));
    }
    if text.starts_with('[') {
        let expected = "expected a JSON list of whole numbers or of texts";
        let list: List = serde_json::from_str(text).map_err(|_| format!("{expected}."))?;
        return match list {
            List::Ints(values) => ints(&values),
            List::Names(names) => named(names),
        };
    }
    let looks_like_ranges =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || " ,-x:".contains(c));
    if looks_like_ranges {
        let ranges: Ranges = text.parse().map_err(|error| format!("{error}."))?;
        return Ok(Bound::Values(Values::Ints(ranges)));
    }
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines().map(str::parse).collect::<Result<Vec<i64>, _>>() {
        Ok(values) => ints(&values),
        Err(_) => named(lines().map(str::to_owned).collect()),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    counts: Vec<u32>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum List {
    Ints(Vec<i64>),
    Names(Vec<String>),
}

fn ints(values: &[i64]) -> Result<Bound, String> {
    let ranges = Ranges::from_values(values).map_err(|error| format!("{error}."))?;
    Ok(Bound::Values(Values::Ints(ranges)))
}

fn named(names: Vec<String>) -> Result<Bound, String> {
    let mut seen = BTreeSet::new();
    for name in &names {
        if name.is_empty() || name.len() > 200 || name.contains(char::is_control) {
            let name = name.escape_debug();
            return Err(format!("`{name}` cannot be a value: expected 1 to 200 plain characters."));
        }
        if !seen.insert(name) {
            return Err(format!("`{name}` is there more than once."));
        }
    }
    Ok(Bound::Values(Values::Names(names.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_read_in_each_form() {
        let ranges = |text: &str| Bound::Values(Values::Ints(text.parse().unwrap()));
        for text in ["[1, 2, 3]", "1-3", "1,2,3", "1\n2\n3"] {
            assert_eq!(parse_binding(text).unwrap(), ranges("1-3"), "{text}");
        }
        assert_eq!(parse_binding("5").unwrap(), ranges("5"));
        let names = Bound::Values(Values::Names(["a b".to_owned(), "c".to_owned()].into()));
        assert_eq!(parse_binding("[\"a b\", \"c\"]").unwrap(), names);
        assert_eq!(parse_binding("a b\r\n\nc").unwrap(), names);
        let counts = Bound::Counts([4, 0, 2].into());
        assert_eq!(parse_binding("{\"counts\": [4, 0, 2]}").unwrap(), counts);
        for empty in ["", "[]"] {
            let Bound::Values(values) = parse_binding(empty).unwrap() else { panic!("values") };
            assert!(values.is_empty());
        }
        for bad in ["[1, \"a\"]", "[1.5]", "3-1", "[1, 1]", "a\na", "{\"count\": 1}", "[\"\"]"] {
            assert!(parse_binding(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn outputs_stay_inside_their_folder() {
        for bad in ["", "/x", "../x", "a/../../x", "a/"] {
            assert!(!is_inside(bad), "{bad}");
        }
        assert!(is_inside("a/b.png"));
    }
}
