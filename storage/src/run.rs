//! Runs as they are stored. The same for every store.

use pictor_tasks::history::Row;
use pictor_tasks::message::RunId;
use std::fmt;

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

/// Makes a submission happen once, however often it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Who submits: everybody has keys of their own.
    pub account: String,
    /// The submitter's name for the submission.
    pub key: String,
    /// A digest of what is submitted: under one key it has to be the same every time.
    pub request: [u8; 32],
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The run was stored.
    New,
    /// The same submission was made before; that is its run.
    Again(RunId),
    /// Another submission was made under the same key; that is its run.
    Conflict(RunId),
}

/// Which runs to list. What is not given is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only those in this state.
    pub state: Option<String>,
    /// Only those of this owner.
    pub owner: Option<String>,
    /// Only those with this in their name, in small or capital letters.
    pub name: Option<String>,
}

/// Who folds and commits.
#[derive(Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Rises with every change of owner, from 1.
    pub epoch: u64,
    /// What tickets are made with: a secret of the servers. It stays the same from owner to owner, so
    /// that a new one can tell whether a report on an older assignment is genuine.
    pub ticket_key: [u8; 32],
    /// Where the owner is reached.
    pub address: String,
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, address, .. } = self;
        f.debug_struct("Ownership").field("epoch", epoch).field("address", address).finish()
    }
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
