//! What a runner is given to do one task.
//!
//! A runner is `async fn run(ctx: &TaskContext, …) -> Result<Products, Failure>`. It may be dropped at any await:
//! everything it started must end as a consequence (see [`crate::process::Group`]). When [`StopSignal::stopped`]
//! resolves it ends its processes and returns any failure: the slot already knows why it was stopped.

mod config;
mod made;

pub use config::Config;
pub(crate) use made::{copy_made, open_made};

use crate::files::artifacts::Artifacts;
use crate::files::cache::{TRANSFERS, Watch};
use crate::ground::failure::failure;
use crate::ground::lock;
use crate::ground::log::LogWriter;
use crate::ground::progress::{Progress, StopSignal};
use crate::programs::process::Supervision;
use crate::programs::{Confinement, Device};
use futures_util::{FutureExt, StreamExt, stream};
use pictor_artifacts::{ExecutionKey, Stored};
use pictor_tasks::message::{
    Brief, Execution, Failure, FailureKind, FileRef, Input, Output, StepKey, Try,
};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The most notes that one task may leave, and the length of each.
const NOTES_MAX: usize = 20;
const NOTE_BYTES_MAX: usize = 1_000;
/// Everything that a runner needs to do one task.
#[derive(Debug)]
pub struct TaskContext {
    /// The step's description, which all its tasks share.
    pub brief: Arc<Brief>,
    /// The run and the step.
    pub key: StepKey,
    /// The index of the task, and the number of its attempt.
    pub task: Try,
    /// The id of this execution.
    pub execution: Execution,
    /// The number of the slot, from 0.
    pub slot: u32,
    /// The slot's GPU, if it has one.
    pub device: Option<Device>,
    /// The artifacts that the task reads, ordered by step and then by index.
    pub inputs: Vec<Input>,
    /// The task's own folder. It exists, is empty, and is removed afterwards.
    pub scratch: PathBuf,
    /// The folder in which inputs from elsewhere are put. As others may use the same file, no program may write there.
    pub fetched: PathBuf,
    /// Storage for its inputs and outputs.
    pub artifacts: Artifacts,
    /// Takes the output of its programs.
    pub log: LogWriter,
    /// Takes reports of its progress.
    pub progress: Progress,
    /// Resolves when the task has to stop.
    pub stop: StopSignal,
    /// The settings of the worker.
    pub config: Arc<Config>,
    pub(crate) notes: Mutex<Vec<String>>,
    /// The paths of the inputs that have been fetched so far.
    pub(crate) brought: Mutex<BTreeSet<PathBuf>>,
}

impl TaskContext {
    /// The task's name for users: `render[frame=7]`.
    pub fn name(&self) -> String {
        let label = self.brief.space.label(self.task.index);
        if label.is_empty() {
            self.brief.step.clone()
        } else {
            format!("{}[{label}]", self.brief.step)
        }
    }

    /// Adds a note for the user, which is not a failure.
    pub fn note(&self, sentence: impl Into<String>) {
        let mut sentence: String = sentence.into();
        sentence.truncate(sentence.floor_char_boundary(NOTE_BYTES_MAX));
        let mut notes = lock(&self.notes);
        if notes.len() < NOTES_MAX && !notes.contains(&sentence) {
            notes.push(sentence);
        }
    }

    /// The file that the body names, as it was when the run was submitted.
    pub fn file(&self, name: &str) -> Result<&FileRef, Failure> {
        self.brief.files.get(name).ok_or_else(|| {
            let message =
                format!("The job names the file `{name}`, but it was not submitted with it.");
            failure(FailureKind::Invalid, message)
        })
    }

    /// A path on this machine at which the input can be read. Never write to it.
    pub async fn input_path(&self, input: &Input) -> Result<PathBuf, Failure> {
        let path = self
            .artifacts
            .local(self.execution_key(), &input.output, &self.fetched, &self.watch())
            .await?;
        lock(&self.brought).insert(path.clone());
        Ok(path)
    }

    /// The minimum that a program of this task needs: the inputs that have been fetched so far, and the task's folder.
    pub(crate) fn confinement(&self) -> Confinement {
        // There may be thousands of inputs, but they are in few folders.
        let run = self.artifacts_of_run();
        let place = |path: &PathBuf| {
            let mut folders = [&run, &self.fetched].into_iter();
            folders.find(|folder| path.starts_with(folder)).unwrap_or(path).clone()
        };
        let read: BTreeSet<PathBuf> = lock(&self.brought).iter().map(place).collect();
        let (read, write) = (read.into_iter().collect(), vec![self.scratch.clone()]);
        Confinement { read, write, ..Confinement::default() }
    }

    /// The folder of the run's artifacts, if they are on this machine.
    pub(crate) fn artifacts_of_run(&self) -> PathBuf {
        self.config.artifacts().join("runs").join(&*self.key.run.0)
    }

    /// Connects a program to the task's log and to its stop signal.
    pub(crate) fn supervision(&self) -> Supervision<'_> {
        Supervision { log: &self.log, stop: &self.stop, grace: self.config.grace }
    }

    /// The same for several inputs, in their order. As storage may be remote, several are fetched at a time.
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

    /// Stores a file under a given relative path. For a file of a folder output, name and path are the same:
    /// `put_as("files/depth.exr", path, "files/depth.exr")`.
    pub(crate) async fn put_as(
        &self,
        name: &str,
        path: &Path,
        file: &str,
    ) -> Result<Output, Failure> {
        if made::inside(path, &self.scratch).is_some() {
            let bad = |why: String| failure(FailureKind::BadOutput, format!("{why}."));
            open_made(path, &self.scratch).map_err(bad)?;
        }
        let (key, made) =
            self.artifacts.put(self.execution_key(), file, path, &self.watch()).await?;
        let Stored { digest, size_bytes } = made;
        Ok(Output { name: name.to_owned(), key, digest, size_bytes })
    }

    /// The owner of the task's outputs and inputs.
    fn execution_key(&self) -> ExecutionKey<'_> {
        let Self { key, task, execution, .. } = self;
        ExecutionKey { key, step: &self.brief.step, task: *task, execution: *execution }
    }

    /// The receiver of a transfer's progress, which can also stop it.
    pub(crate) fn watch(&self) -> Watch {
        Watch { progress: self.progress.clone(), stop: self.stop.clone() }
    }
}
