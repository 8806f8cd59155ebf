//! What a runner gets to do one task, and which runner does which kind.
//!
//! A runner is `async fn run(ctx: &TaskContext, …) -> Result<Products, Failure>`. It may be dropped at
//! any await: whatever it started must end by that (see [`crate::process::Group`]). When
//! [`StopSignal::stopped`] resolves it ends its processes and returns any failure: the slot already
//! knows why it stopped. [`Warm`] is `Default`, one per slot; dropping it ends its processes; a session
//! whose render was stopped or dropped halfway must not be used again.

use crate::artifacts::{Artifacts, Place};
use crate::cache::{Fetched, TRANSFERS, Watch};
use crate::log::{LogWriter, printable};
use crate::{Config, blender, command, encode, merge, upscale};
use futures_util::{FutureExt, StreamExt, stream};
use pictor_tasks::body::Body;
use pictor_tasks::message::{
    Brief, Execution, Failure, FailureKind, FileRef, Input, Output, Products, StepKey, Try,
};
use pictor_tasks::output::in_folder;
use pictor_tasks::space::Value;
use pictor_tasks::template::{Placeholder, Template, pad};
use pictor_tasks::worker::Gpu;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

/// Notes that one task may leave, and the length of each.
const NOTES_MAX: usize = 20;
const NOTE_BYTES_MAX: usize = 1_000;

/// The GPU that a slot drives.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its number on this machine, as the driver counts.
    pub index: u32,
    /// What it is.
    pub gpu: Gpu,
}

/// What a slot keeps from one task to the next: what is slow to load.
#[derive(Default)]
pub(crate) struct Warm {
    /// Blender with its scenes.
    pub(crate) blender: blender::Sessions,
    /// The network, and the picture whose tiles it does.
    pub(crate) upscaler: upscale::Upscaler,
}

/// Everything that a runner needs to do one task.
#[derive(Debug)]
pub struct TaskContext {
    /// What to do; the same for all tasks of the step.
    pub brief: Arc<Brief>,
    /// The step.
    pub key: StepKey,
    /// The task and its attempt.
    pub task: Try,
    /// This carrying-out.
    pub execution: Execution,
    /// The slot, from 0.
    pub slot: u32,
    /// The slot's GPU, if it has one.
    pub device: Option<Device>,
    /// The artifacts that the task reads, by step and then in index order.
    pub inputs: Vec<Input>,
    /// A folder of the task's own. It exists, is empty, and is removed afterwards.
    pub scratch: PathBuf,
    /// Artifact storage.
    pub artifacts: Artifacts,
    /// The task's log.
    pub log: LogWriter,
    /// Where to say how far the task is.
    pub progress: Progress,
    /// Tells when to give up.
    pub stop: StopSignal,
    /// The worker's settings.
    pub config: Arc<Config>,
    pub(crate) notes: Mutex<Vec<String>>,
}

/// A failure of this kind, with this message.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

impl TaskContext {
    /// Does the task with the runner of its kind.
    pub(crate) async fn run(&self, warm: &mut Warm) -> Result<Products, Failure> {
        let mut products = match &self.brief.body {
            Body::Noop(_) => Products::default(),
            Body::Command(body) => Box::pin(command::run(self, body)).await?,
            Body::Encode(body) => Box::pin(encode::run(self, body)).await?,
            Body::Merge(_) => Box::pin(merge::run(self)).await?,
            Body::Inspect(_)
            | Body::Bake(_)
            | Body::Blender(_)
            | Body::Finish(_)
            | Body::Develop(_) => Box::pin(blender::run(self, &mut warm.blender)).await?,
            Body::Probe(_) | Body::Extract(_) | Body::Upscale(_) | Body::Stitch(_) => {
                Box::pin(upscale::run(self, &mut warm.upscaler)).await?
            }
        };
        products.notes.append(&mut lock(&self.notes));
        Ok(products)
    }

    /// The task as people write it: `render[frame=7]`.
    pub fn name(&self) -> String {
        let label = self.brief.space.label(self.task.index);
        if label.is_empty() {
            self.brief.step.clone()
        } else {
            format!("{}[{label}]", self.brief.step)
        }
    }

    /// Leaves a sentence for the user that is not a failure.
    pub fn note(&self, sentence: impl Into<String>) {
        let mut sentence: String = sentence.into();
        sentence.truncate(sentence.floor_char_boundary(NOTE_BYTES_MAX));
        let mut notes = lock(&self.notes);
        if notes.len() < NOTES_MAX && !notes.contains(&sentence) {
            notes.push(sentence);
        }
    }

    /// The file that the body names: as it was when the run was submitted.
    pub fn file(&self, name: &str) -> Result<&FileRef, Failure> {
        self.brief.files.get(name).ok_or_else(|| {
            let message =
                format!("The job names the file `{name}`, but it was not submitted with it.");
            failure(FailureKind::Invalid, message)
        })
    }

    /// A path on this machine where the input's bytes can be read. Never write to it.
    pub async fn input_path(&self, input: &Input) -> Result<PathBuf, Failure> {
        let folder = self.scratch.join(".inputs");
        self.artifacts.local(self.place(), &input.output, &folder, &self.watch()).await
    }

    /// The same of many, in their order. Storage may be far away, so several are fetched at a time.
    pub async fn input_paths(&self, inputs: &[&Input]) -> Result<Vec<PathBuf>, Failure> {
        let mut seen = HashSet::new();
        let different = inputs.iter().filter(|input| seen.insert(&input.output.digest));
        let fetches: Vec<_> = different.map(|input| self.input_path(input).boxed()).collect();
        let count = fetches.len();
        let mut arriving = stream::iter(fetches).buffer_unordered(TRANSFERS).enumerate();
        while let Some((done, path)) = arriving.next().await {
            path?;
            if count > 1 {
                self.progress.report(0.0, &format!("fetching inputs: {}/{count}", done + 1));
            }
        }
        let mut paths = Vec::with_capacity(inputs.len());
        for input in inputs {
            paths.push(self.input_path(input).await?);
        }
        Ok(paths)
    }

    /// The inputs that a step made under an output name, in index order.
    pub fn inputs_of<'a>(
        &'a self,
        step: &'a str,
        output: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Input> {
        let wanted = move |i: &&Input| i.step == step && output.is_none_or(|o| i.output.name == o);
        self.inputs.iter().filter(wanted)
    }

    /// Stores a file that the task made as its output `name`.
    pub async fn put(&self, name: &str, path: &Path) -> Result<Output, Failure> {
        let file = path.file_name().and_then(|file| file.to_str()).ok_or_else(|| {
            failure(FailureKind::BadOutput, format!("{} has no usable file name.", path.display()))
        })?;
        self.put_as(name, path, file).await
    }

    /// Stores a file under a name of its own: a relative path. An output of a folder has its own name there:
    /// `put_as("files/depth.exr", path, "files/depth.exr")`.
    pub(crate) async fn put_as(
        &self,
        name: &str,
        path: &Path,
        file: &str,
    ) -> Result<Output, Failure> {
        let (key, made) = self.artifacts.put(self.place(), file, path, &self.watch()).await?;
        let Fetched { digest, size_bytes } = made;
        Ok(Output { name: name.to_owned(), key, digest, size_bytes })
    }

    /// Whose outputs they are.
    fn place(&self) -> Place<'_> {
        let Self { key, task, execution, .. } = self;
        Place { key, step: &self.brief.step, task: *task, execution: *execution }
    }

    /// Whom transfers tell how far they are.
    pub(crate) fn watch(&self) -> Watch {
        Watch { progress: self.progress.clone(), stop: self.stop.clone() }
    }

    /// Fills in a template of the job file.
    pub async fn resolve(&self, text: &str) -> Result<String, Failure> {
        let invalid = |why: String| failure(FailureKind::Invalid, format!("`{text}`: {why}"));
        let template = Template::parse(text).map_err(|error| invalid(error.to_string()))?;
        let mut values = HashMap::new();
        for placeholder in template.placeholders() {
            if !values.contains_key(placeholder) {
                let value = self.placeholder(placeholder).await?;
                values.insert(placeholder.clone(), value);
            }
        }
        let found = &mut |p: &Placeholder| values.get(p).cloned().ok_or_else(String::new);
        template.render(found).map_err(invalid)
    }

    async fn placeholder(&self, placeholder: &Placeholder) -> Result<String, Failure> {
        let index = self.task.index;
        let value = match placeholder {
            Placeholder::Value { name, width } => {
                self.brief.space.value(index, name).map(|v| pad(&v, *width))
            }
            Placeholder::First { name, width } => self.ends(name).map(|ends| pad(&ends.0, *width)),
            Placeholder::Last { name, width } => self.ends(name).map(|ends| pad(&ends.1, *width)),
            Placeholder::Index { width } => Some(pad(&Value::Int(index.into()), *width)),
            Placeholder::Attempt => Some(self.task.attempt.to_string()),
            Placeholder::JobDir => Some(self.job_folder()?),
            Placeholder::Scratch => Some(text_of(&self.scratch)?),
            Placeholder::Input { step, output } => {
                return text_of(&self.only_input(step, output.as_deref()).await?);
            }
            Placeholder::Inputs { step } => {
                return text_of(&command::inputs_folder(self, step).await?);
            }
            Placeholder::Output { name } => {
                command::output_path(self, name).map(|path| text_of(&path)).transpose()?
            }
            Placeholder::Bind { dim } => {
                let ours = self.brief.binds.contains(dim);
                ours.then(|| text_of(&command::bind_path(self, dim))).transpose()?
            }
        };
        value.ok_or_else(|| {
            let (name, step) = (format!("{placeholder:?}"), &self.brief.step);
            failure(FailureKind::Invalid, format!("The step `{step}` has no such thing: {name}."))
        })
    }

    /// The folder with the files of the command; without any, that of the job file, where there is one.
    fn job_folder(&self) -> Result<String, Failure> {
        if matches!(&self.brief.body, Body::Command(body) if !body.files.is_empty()) {
            return text_of(&command::files::folder(self));
        }
        if self.brief.folder.is_empty() {
            let message = "There is no folder of the job file on a server: name what the command needs in \
                           `files`, and `{job.dir}` is the folder that holds it.";
            return Err(failure(FailureKind::Invalid, message));
        }
        Ok(self.brief.folder.clone())
    }

    fn ends(&self, name: &str) -> Option<(Value, Value)> {
        let space = &self.brief.space;
        let axis = space.axes.iter().position(|axis| axis.name == name)?;
        space.axes[axis].values.ends(space.position(self.task.index, axis))
    }

    /// The folder of outputs that a step left by that name, or as all that it left.
    async fn only_folder(
        &self,
        step: &str,
        output: Option<&str>,
    ) -> Result<Option<PathBuf>, Failure> {
        let inputs: Vec<&Input> = self.inputs_of(step, None).collect();
        let named = |input: &&Input| output.is_none_or(|output| input.output.name == output);
        let plain = |input: &Input| in_folder(&input.output.name).is_none();
        if inputs.iter().any(|input| named(input) && plain(input)) {
            return Ok(None);
        }
        let folder =
            |input: &Input| in_folder(&input.output.name).map(|(folder, _)| folder.to_owned());
        let first = inputs.iter().find_map(|input| {
            folder(input).filter(|folder| output.is_none_or(|output| output == folder))
        });
        let Some(name) = first else { return Ok(None) };
        let inside: Vec<&Input> =
            inputs.iter().filter(|input| folder(input).as_ref() == Some(&name)).copied().collect();
        let one_task = inside.iter().all(|input| input.index == inside[0].index);
        let only = output.is_some() || inside.len() == inputs.len();
        if one_task && only {
            return command::input_folder(self, (step, &name), &inside).await.map(Some);
        }
        let message = format!(
            "`{{input.{step}}}` stands for one file or folder, and there are several. Use `{{inputs.{step}}}`, \
             the folder that holds them all, or name the output."
        );
        Err(failure(FailureKind::Invalid, message))
    }

    async fn only_input(&self, step: &str, output: Option<&str>) -> Result<PathBuf, Failure> {
        if let Some(folder) = self.only_folder(step, output).await? {
            return Ok(folder);
        }
        // Files of folders are asked for by name.
        let plain = |input: &&Input| output.is_some() || in_folder(&input.output.name).is_none();
        let mut found = self.inputs_of(step, output).filter(plain);
        let what = output.map_or_else(|| step.to_owned(), |output| format!("{step}.{output}"));
        match (found.next(), found.count()) {
            (Some(input), 0) => self.input_path(input).await,
            (None, _) => {
                let message =
                    format!("There is no input `{what}`: that step left nothing by that name.");
                Err(failure(FailureKind::Invalid, message))
            }
            (Some(_), more) => Err(failure(
                FailureKind::Invalid,
                format!(
                    "`{{input.{what}}}` stands for one file, and there are {}. Use `{{inputs.{step}}}`, \
                     the folder that holds them all, or name the output.",
                    more + 1
                ),
            )),
        }
    }
}

/// The path as text, for arguments and templates.
pub(crate) fn text_of(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        failure(FailureKind::Storage, format!("The path {} is not UTF-8.", path.display()))
    })
}

/// Locks what only ever holds plain data: a panic elsewhere cannot have left it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a task was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The engine wants it no longer.
    Cancelled,
    /// The worker shuts down.
    Shutdown,
    /// It took longer than it may.
    TimedOut(Duration),
    /// It made no progress for too long.
    Stalled(Duration),
}

/// Tells a runner when to give up.
#[derive(Clone, Debug)]
pub struct StopSignal {
    reason: watch::Receiver<Option<StopReason>>,
}

/// The slot's end of a [`StopSignal`].
#[derive(Clone, Debug)]
pub struct Stopper {
    reason: watch::Sender<Option<StopReason>>,
}

impl Stopper {
    /// A pair.
    pub fn new() -> (Self, StopSignal) {
        let (sender, receiver) = watch::channel(None);
        (Self { reason: sender }, StopSignal { reason: receiver })
    }

    /// Stops the task. The first reason stands.
    pub fn stop(&self, reason: StopReason) {
        self.reason.send_if_modified(|now| {
            let first = now.is_none();
            *now = now.or(Some(reason));
            first
        });
    }
}

impl StopSignal {
    /// Why the task was stopped, if it was.
    pub fn reason(&self) -> Option<StopReason> {
        *self.reason.borrow()
    }

    /// Resolves once the task has to stop. Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        let mut reason = self.reason.clone();
        match reason.wait_for(Option::is_some).await.map(|reason| *reason) {
            Ok(Some(reason)) => reason,
            // Nobody is left who could stop the task.
            _ => std::future::pending().await,
        }
    }

    /// What a stopped runner may return.
    pub fn failure(&self) -> Failure {
        failure(FailureKind::Failed, "The task was stopped.")
    }
}

/// How far a task is, for people. Cheap: the slot sends the latest value on, at most twice a second.
#[derive(Clone, Debug)]
pub struct Progress {
    latest: watch::Sender<Option<(f32, String)>>,
    pub(crate) activity: Activity,
}

impl Progress {
    pub(crate) fn new(activity: Activity) -> (Self, watch::Receiver<Option<(f32, String)>>) {
        let (latest, receiver) = watch::channel(None);
        (Self { latest, activity }, receiver)
    }

    /// Says how far the task is, from 0 to 1, with a word such as `sample 12/64`.
    pub fn report(&self, fraction: f32, message: &str) {
        let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        let end = message.floor_char_boundary(NOTE_BYTES_MAX);
        self.latest.send_replace(Some((fraction, printable(&message[..end]))));
        self.activity.touch();
    }
}

/// When a task last showed a sign of life: progress or a line of output.
#[derive(Clone, Debug)]
pub struct Activity {
    last: Arc<Mutex<Instant>>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())) }
    }

    /// A sign of life.
    pub fn touch(&self) {
        *lock(&self.last) = Instant::now();
    }

    pub(crate) fn last(&self) -> Instant {
        *lock(&self.last)
    }
}
