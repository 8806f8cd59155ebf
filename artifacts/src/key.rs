//! The keys of artifacts. Every key is made here.

use crate::{Error, SCRATCH};
use pictor_tasks::message::{Execution, RunId, StepKey, Try};

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest part of a key between two slashes, in bytes: what file systems accept, minus the suffix of a file that is
/// being written.
const PART_BYTES_MAX: usize = 200;

/// One execution of one task, whose files get keys of their own.
#[derive(Clone, Copy, Debug)]
pub struct ExecutionKey<'a> {
    /// Run, step and generation of the task.
    pub key: &'a StepKey,
    /// Name of the step, as the job file has it.
    pub step: &'a str,
    /// Index of the task, and number of its attempt.
    pub task: Try,
    /// Id of the execution, since an attempt may be started twice.
    pub execution: Execution,
}

impl ExecutionKey<'_> {
    /// The key of one of its files.
    pub fn file(&self, file: &str) -> String {
        let (StepKey { run, generation, .. }, Try { index, attempt }) = (self.key, self.task);
        let (step, execution) = (step_folder(run, self.step), self.execution.0);
        format!("{step}/{generation}/{index}/{attempt}-{execution:016x}/{file}")
    }

    /// Whether the key is that of one of its files.
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&self.file("")) && check_key(key).is_ok()
    }
}

/// The key of the asset with this digest.
pub fn asset_key(digest: &str) -> String {
    format!("assets/{digest}")
}

/// The folder of a run's artifacts.
pub fn run_folder(run: &RunId) -> String {
    format!("runs/{run}")
}

/// The folder of the artifacts of one step of a run.
pub fn step_folder(run: &RunId, step: &str) -> String {
    format!("{}/{step}", run_folder(run))
}

/// The folder of a run's logs. No step has this name, because names of steps start with a letter.
pub fn logs_folder(run: &RunId) -> String {
    step_folder(run, "_logs")
}

/// Checks that a key names one place inside the storage, on every kind of storage.
pub fn check_key(key: &str) -> Result<(), Error> {
    let bad_part =
        |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > PART_BYTES_MAX;
    let reserved = key.split('/').next() == Some(SCRATCH);
    let bad_char = |c: char| c.is_control() || c == '\\';
    let bad = key.len() > KEY_BYTES_MAX || reserved || key.contains(bad_char);
    if bad || key.split('/').any(bad_part) {
        return Err(Error::Invalid(format!(
            "`{}` is not an artifact key: expected names with single slashes between them",
            key.escape_debug()
        )));
    }
    Ok(())
}
