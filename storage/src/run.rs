//! Runs as they are stored, the same for every store.

use pictor_tasks::history::Row;
use pictor_tasks::message::RunId;
use pictor_tasks::state::RunState;
use std::fmt;

/// A run to be stored, with its job file and plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Id of the run, chosen by the server.
    pub id: RunId,
    /// Name of the job, as the job file has it.
    pub name: String,
    /// The job file as it was written.
    pub spec: String,
    /// Name of the job file, for error messages.
    pub source_name: String,
    /// The compiled plan as JSON.
    pub plan: String,
    /// The version of the fold that writes the run's history. At least 1.
    pub fold_version: u32,
    /// Account that submitted it.
    pub account: String,
    /// Priority at submission; it may have changed since.
    pub priority: i32,
    /// When it was submitted, milliseconds since 1970.
    pub created_ms: i64,
    /// Folder that results are copied to; empty if there is none.
    pub out_dir: String,
}

/// A stored run without its job file and plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Id of the run, unique in the store.
    pub id: RunId,
    /// Name of the job, as the job file has it.
    pub name: String,
    /// Name of the job file, for error messages.
    pub source_name: String,
    /// The version of the fold that writes its history.
    pub fold_version: u32,
    /// Account that submitted it.
    pub account: String,
    /// Priority at submission; it may have changed since.
    pub priority: i32,
    /// When it was submitted, in milliseconds since 1970.
    pub created_ms: i64,
    /// Folder that results are copied to; empty if there is none.
    pub out_dir: String,
    /// State of the run: a cache of the history.
    pub state: RunState,
    /// When it ended, in milliseconds since 1970; `None` until then: a cache of the history.
    pub finished_ms: Option<i64>,
}

/// Makes a submission take effect once, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Account that submits: each account has keys of its own.
    pub account: String,
    /// Idempotency key that the submitter chose for this submission.
    pub key: String,
    /// Digest of what is submitted, which has to be the same every time under one key.
    pub request: [u8; 32],
}

/// The result of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The submission is new, and its run was stored.
    New,
    /// The same submission was made before, and created this run.
    Again(RunId),
    /// A different submission was made under the same key, and created this run.
    Conflict(RunId),
}

/// Selects the runs to list. An empty field does not restrict the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only runs in this state.
    pub state: Option<RunState>,
    /// Only runs that this account submitted.
    pub account: Option<String>,
    /// Only runs whose name contains this text, in upper or lower case; in Postgres, its first 600 characters.
    pub name: Option<String>,
}

/// The server that folds and commits.
#[derive(Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Number of the ownership: it rises with every change of owner, from 1.
    pub epoch: u64,
    /// Key that tickets are made with, a secret of the servers. It stays the same from owner to owner, so that a new
    /// one can tell whether a report on an older assignment is genuine.
    pub ticket_key: [u8; 32],
    /// Address at which the other servers reach the owner.
    pub address: String,
}

impl fmt::Debug for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, address, .. } = self;
        f.debug_struct("Ownership").field("epoch", epoch).field("address", address).finish()
    }
}

/// A run's job file and the plan compiled from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPlan {
    /// The job file as it was written.
    pub spec: String,
    /// The compiled plan as JSON.
    pub plan: String,
    /// The version of the fold that writes the run's history.
    pub fold_version: u32,
}

/// New history rows of one run.
#[derive(Clone, Copy, Debug)]
pub struct RunRows<'a> {
    /// Id of the run that the rows belong to.
    pub run: &'a RunId,
    /// The rows, without gaps in `seq`.
    pub rows: &'a [Row],
    /// The run's state after them and when it ended, if that changed.
    pub state: Option<(RunState, Option<i64>)>,
}

/// A message that could not be decoded or folded, kept for inspection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// When it arrived, in milliseconds since 1970.
    pub time_ms: i64,
    /// Why it was rejected, for people to read.
    pub reason: String,
    /// The message as it arrived. Only its first 64 KiB are kept.
    pub raw: Vec<u8>,
}
