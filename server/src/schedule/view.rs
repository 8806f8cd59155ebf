//! What people say about schedules and are told about them.

use super::decide::{CatchUp, Overlap};
use super::timetable::TimetableError;
use crate::SubmitError;
use crate::http::{Digest, JobBody};
use pictor_storage::Fire;
use pictor_tasks::message::RunId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A schedule as somebody wants it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "ScheduleBody")]
pub struct NewSchedule {
    /// Its name.
    pub name: String,
    /// When.
    pub cron: String,
    /// The time zone of the clock that `cron` means.
    pub zone: String,
    /// What happens when an earlier run of the schedule is still going.
    pub overlap: Overlap,
    /// What happens to times that were missed while no server ran.
    pub catch_up: CatchUp,
    /// Runs start up to this much later.
    pub jitter: String,
    /// The job.
    pub job: ScheduledJob,
    /// The folder that results are copied to; empty: nowhere.
    pub out_dir: String,
    /// Whether nothing is to happen for now.
    pub paused: bool,
}

/// A schedule as it is sent. Its job is written as in a submission.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewSchedule)]
#[serde(deny_unknown_fields)]
pub struct ScheduleBody {
    /// Its name: 1 to 64 letters, digits, `.`, `_` and `-`.
    #[schema(example = "nightly", min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    name: String,
    /// When: five cron fields (minute, hour, day of the month, month, weekday), six with a second
    /// before them, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[schema(example = "30 2 * * mon-fri", max_length = 256)]
    cron: String,
    /// The time zone of the clock that `cron` means, a name of the IANA database.
    #[serde(default = "utc")]
    #[schema(default = "UTC", example = "Europe/Berlin")]
    zone: String,
    /// What happens when an earlier run of the schedule is still going.
    #[serde(default)]
    overlap: Overlap,
    /// What happens to times that were missed while no server ran.
    #[serde(default)]
    catch_up: CatchUp,
    /// Runs start up to this much later, as in `90s` or `10m`, so that not everything starts at the
    /// full hour. Less than the time between two due times.
    #[serde(default = "none")]
    #[schema(default = "0s", example = "10m")]
    jitter: String,
    /// The job: the text of a job file (YAML or JSON), or the job itself as JSON.
    #[schema(value_type = JobBody, example = "pictor: v1\nname: nothing\nsteps: [{ name: wait, noop: {} }]\n")]
    job: SentJob,
    /// The job file's name, for error messages.
    #[serde(default)]
    source_name: String,
    /// Values that replace those of the job: `render.samples` to `16`. Each value is read as YAML.
    #[serde(default)]
    set: BTreeMap<String, String>,
    /// The uploaded files that the job names: the name that it uses, to the BLAKE3 digest of the file,
    /// or of the list of files of a packed scene.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Digest>)]
    assets: BTreeMap<String, String>,
    /// The folder that results are copied to, each run's in a folder of its own; empty: nowhere.
    #[serde(default)]
    out_dir: String,
    /// Whether nothing is to happen for now.
    #[serde(default)]
    paused: bool,
}

/// A job as it is sent, now and by older programs.
#[derive(Deserialize)]
#[serde(untagged)]
enum SentJob {
    Text(String),
    Whole(ScheduledJob),
    Tree(Map<String, Value>),
}

impl From<ScheduleBody> for NewSchedule {
    fn from(sent: ScheduleBody) -> Self {
        let ScheduleBody { name, cron, zone, overlap, catch_up, jitter, out_dir, paused, .. } =
            sent;
        let ScheduleBody { job, source_name, set, assets, .. } = sent;
        let text = match job {
            SentJob::Text(text) => text,
            SentJob::Tree(tree) => {
                serde_json::to_string_pretty(&tree).expect("a tree of texts and numbers")
            }
            SentJob::Whole(job) => {
                return Self { name, cron, zone, overlap, catch_up, jitter, job, out_dir, paused };
            }
        };
        let job = ScheduledJob { text, source_name, set, assets };
        Self { name, cron, zone, overlap, catch_up, jitter, job, out_dir, paused }
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

fn none() -> String {
    "0s".to_owned()
}

/// The job of a schedule. It is compiled anew for each run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduledJob {
    /// The job file's text.
    #[schema(example = "pictor: v1\nname: nothing\nsteps: [{ name: wait, noop: {} }]\n")]
    pub text: String,
    /// The job file's name, for error messages.
    #[serde(default)]
    pub source_name: String,
    /// Changes of values of the job file, as in `render.samples: 16`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// The digests of the uploaded files (or packed scenes) that the job names, by the name it uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Digest>)]
    pub assets: BTreeMap<String, String>,
}

/// A schedule as it stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// Whose it is; also the owner of its runs.
    pub account: String,
    /// When, as it was written.
    pub cron: String,
    /// The time zone.
    pub zone: String,
    /// What happens when an earlier run is still going.
    pub overlap: Overlap,
    /// What happens to times that were missed.
    pub catch_up: CatchUp,
    /// Runs start up to this much later.
    pub jitter_ms: i64,
    /// The folder that results are copied to.
    pub out_dir: String,
    /// Whether nothing happens for now.
    pub paused: bool,
    /// When it was made or replaced, milliseconds since 1970.
    pub created_ms: i64,
    /// The next five due times, milliseconds since 1970, without jitter; none while it is paused.
    pub next_ms: Vec<i64>,
    /// The same as people write them, in the schedule's zone.
    pub next: Vec<String>,
    /// What became of the last due time.
    pub last: Option<FireView>,
}

/// A schedule with all that is known about it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleDetail {
    /// The schedule.
    #[serde(flatten)]
    pub schedule: ScheduleView,
    /// Its job.
    pub job: ScheduledJob,
    /// What became of the last due times, the latest first; up to 50.
    pub fires: Vec<FireView>,
}

/// What became of one due time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FireView {
    /// The due time, milliseconds since 1970.
    pub due_ms: i64,
    /// `started`; `replaced`: started, and what was going was cancelled; `queued`: it waits until
    /// what is going has ended; `skipped`: passed over; `failed`: its job could not be submitted.
    pub outcome: String,
    /// The run that it started.
    pub run: Option<String>,
}

impl From<Fire> for FireView {
    fn from(fire: Fire) -> Self {
        let run = fire.run.map(|run| run.to_string());
        Self { due_ms: fire.due_ms, outcome: fire.outcome, run }
    }
}

/// What came of starting a schedule by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Triggered {
    /// The time that it counts for, milliseconds since 1970.
    pub due_ms: i64,
    /// `started`, `replaced` or `queued`.
    pub outcome: String,
    /// The run; one that is queued will have this id.
    pub run: String,
}

/// Why something cannot be done with a schedule.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The schedule as it is wanted cannot be.
    #[error("{0}")]
    Invalid(String),
    /// Its fields or its zone cannot be read.
    #[error(transparent)]
    Timetable(#[from] TimetableError),
    /// Its job cannot be submitted.
    #[error(transparent)]
    Job(#[from] SubmitError),
    /// There is no such schedule.
    #[error("there is no schedule `{0}`")]
    NoSchedule(String),
    /// There is one of this name already.
    #[error("there is a schedule `{0}` already; replace it, or choose another name")]
    Taken(String),
    /// An earlier run is still going, and the schedule says that then nothing starts.
    #[error("run `{0}` of the schedule is still going, and its rule is `overlap: skip`")]
    Going(RunId),
    /// A run of the schedule waits already.
    #[error("a run of the schedule waits for `{0}` to end already, and only one may wait")]
    Waits(RunId),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] pictor_storage::Error),
    /// The owner failed.
    #[error(transparent)]
    Owner(#[from] crate::Error),
}

impl ScheduleError {
    /// Whether the same call may succeed when it is made again after a while.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error)
            | Self::Owner(crate::Error::Store(error))
            | Self::Job(SubmitError::Store(error)) => error.is_retryable(),
            _ => false,
        }
    }
}
