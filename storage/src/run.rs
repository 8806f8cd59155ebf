//! Runs as they are stored. The same for every store.

use pictor_tasks::history::Row;
use pictor_tasks::message::RunId;

/// A run to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Its id.
    pub id: RunId,
    /// The job's name.
    pub name: String,
    /// The job file as it was written.
    pub spec: String,
    /// The job file's name, for error messages.
    pub source_name: String,
    /// The compiled plan as JSON.
    pub plan: String,
    /// The version of the fold that writes the run's history. At least 1.
    pub fold_version: u32,
    /// Who submitted it.
    pub owner: String,
    /// Its priority when it was submitted.
    pub priority: i32,
    /// When it was submitted, milliseconds since 1970.
    pub created_ms: i64,
    /// The folder that results are copied to; empty if none.
    pub out_dir: String,
}

/// A stored run without its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Its id.
    pub id: RunId,
    /// The job's name.
    pub name: String,
    /// The job file's name.
    pub source_name: String,
    /// The version of the fold that writes its history.
    pub fold_version: u32,
    /// Who submitted it.
    pub owner: String,
    /// Its priority when it was submitted.
    pub priority: i32,
    /// When it was submitted.
    pub created_ms: i64,
    /// The folder that results are copied to; empty if none.
    pub out_dir: String,
    /// `running`, `paused`, `succeeded`, `failed` or `cancelled`: a cache of the history.
    pub state: String,
    /// When it ended: a cache of the history.
    pub finished_ms: Option<i64>,
}

/// What a run was compiled from and to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPlan {
    /// The job file as it was written.
    pub spec: String,
    /// The plan as JSON.
    pub plan: String,
    /// The version of the fold that writes the run's history.
    pub fold_version: u32,
}

/// New history of one run.
#[derive(Clone, Copy, Debug)]
pub struct RunRows<'a> {
    /// The run.
    pub run: &'a RunId,
    /// The rows, without gaps in `seq`.
    pub rows: &'a [Row],
    /// The run's state after them and when it ended, if that changed.
    pub state: Option<(&'a str, Option<i64>)>,
}

/// A message that could not be decoded or folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// When it came.
    pub time_ms: i64,
    /// Why it was rejected, for people.
    pub reason: String,
    /// The message. Only its first 64 KiB are kept.
    pub raw: Vec<u8>,
}
