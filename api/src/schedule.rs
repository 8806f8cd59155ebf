//! Schedules: jobs that are submitted at recurring times.

use crate::JobBody;
use pictor_tasks::state::{CatchUp, Overlap};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A schedule to be added or replaced.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "ScheduleBody")]
pub struct NewSchedule {
    /// Name of the schedule.
    pub name: String,
    /// Due times, as cron fields.
    pub cron: String,
    /// Time zone in which `cron` is read.
    pub zone: String,
    /// What to do when an earlier run of the schedule has not ended.
    pub overlap: Overlap,
    /// What to do about due times that were missed while no server was running.
    pub catch_up: CatchUp,
    /// Longest delay of a start, as in `10m`.
    pub jitter: String,
    /// The job to be submitted at each due time.
    pub job: ScheduledJob,
    /// Folder that results are copied to; empty if there is none.
    pub out_dir: String,
    /// Whether the schedule is paused.
    pub paused: bool,
}

/// A schedule in a request. Its job is written as in a submission.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = NewSchedule))]
#[serde(deny_unknown_fields)]
pub struct ScheduleBody {
    /// Name of the schedule: 1 to 64 letters, digits, `.`, `_` and `-`.
    #[cfg_attr(
        feature = "openapi",
        schema(
            example = "nightly",
            min_length = 1,
            max_length = 64,
            pattern = "^[A-Za-z0-9._-]+$"
        )
    )]
    name: String,
    /// When it is due: five cron fields (minute, hour, day of the month, month, weekday), six with a second before
    /// them, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[cfg_attr(feature = "openapi", schema(example = "30 2 * * mon-fri", max_length = 256))]
    cron: String,
    /// Time zone in which `cron` is read, a name from the IANA database.
    #[serde(default = "utc")]
    #[cfg_attr(feature = "openapi", schema(default = "UTC", example = "Europe/Berlin"))]
    zone: String,
    /// What to do when an earlier run of the schedule has not ended.
    #[serde(default)]
    overlap: Overlap,
    /// What to do about due times that were missed while no server was running.
    #[serde(default)]
    catch_up: CatchUp,
    /// Starts are delayed by up to this time, as in `90s` or `10m`, so that not everything starts on the hour. Has to
    /// be less than the time between two due times.
    #[serde(default = "none")]
    #[cfg_attr(feature = "openapi", schema(default = "0s", example = "10m"))]
    jitter: String,
    /// The job: the text of a job file (YAML or JSON), or the job itself as JSON.
    #[cfg_attr(feature = "openapi", schema(value_type = JobBody, example = "pictor: v1\nname: nothing\nsteps: [{ name: wait, noop: {} }]\n"))]
    job: SentJob,
    /// Name of the job file, for error messages.
    #[serde(default)]
    source_name: String,
    /// Values that replace those in the job, such as `16` for `render.samples`. Each value is parsed as YAML.
    #[serde(default)]
    set: BTreeMap<String, String>,
    /// The uploaded files that the job names: maps each name to the BLAKE3 digest of the file, or of the file list of a
    /// packed scene.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, crate::Digest>))]
    assets: BTreeMap<String, String>,
    /// Folder that results are copied to, each run's into a folder of its own; empty if there is none.
    #[serde(default)]
    out_dir: String,
    /// Whether the schedule is paused: it starts nothing until it is resumed.
    #[serde(default)]
    paused: bool,
}

/// A job in a request.
#[derive(Deserialize)]
#[serde(untagged)]
enum SentJob {
    /// As the command line sends it, and as it is stored.
    Whole(ScheduledJob),
    Alone(JobBody),
}

impl From<ScheduleBody> for NewSchedule {
    fn from(sent: ScheduleBody) -> Self {
        let ScheduleBody { name, cron, zone, overlap, catch_up, jitter, out_dir, paused, .. } =
            sent;
        let ScheduleBody { job, source_name, set, assets, .. } = sent;
        let job = match job {
            SentJob::Whole(job) => job,
            SentJob::Alone(job) => ScheduledJob { text: job.text(), source_name, set, assets },
        };
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduledJob {
    /// Text of the job file.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "pictor: v1\nname: nothing\nsteps: [{ name: wait, noop: {} }]\n")
    )]
    pub text: String,
    /// Name of the job file, for error messages.
    #[serde(default)]
    pub source_name: String,
    /// Values that replace those in the job file, as in `render.samples: 16`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Digests of the uploaded files (or packed scenes) that the job names, by the name that it uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, crate::Digest>))]
    pub assets: BTreeMap<String, String>,
}

/// A schedule as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleView {
    /// Name of the schedule.
    pub name: String,
    /// Account that the schedule and its runs belong to.
    pub account: String,
    /// Due times, as the cron fields were written.
    pub cron: String,
    /// Time zone in which `cron` is read.
    pub zone: String,
    /// What happens when an earlier run has not ended.
    pub overlap: Overlap,
    /// What happens about due times that were missed.
    pub catch_up: CatchUp,
    /// Longest delay of a start, in milliseconds.
    pub jitter_ms: i64,
    /// Folder that results are copied to; empty if there is none.
    pub out_dir: String,
    /// Whether the schedule is paused.
    pub paused: bool,
    /// When it was added or last replaced, in milliseconds since 1970.
    pub created_ms: i64,
    /// The next five due times, in milliseconds since 1970, without jitter; empty while it is paused.
    pub next_ms: Vec<i64>,
    /// The same times as RFC 3339 text, in the schedule's zone.
    pub next: Vec<String>,
    /// Outcome of the last due time; null before the first.
    pub last: Option<DueTimeView>,
}

/// A schedule with its job and the outcomes of its last due times.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleDetail {
    /// The schedule itself.
    #[serde(flatten)]
    pub schedule: ScheduleView,
    /// The job that it submits.
    pub job: ScheduledJob,
    /// Outcomes of the last due times, latest first; up to 50.
    #[serde(rename = "fires")]
    pub due_times: Vec<DueTimeView>,
}

/// The outcome of one due time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = FireView))]
pub struct DueTimeView {
    /// The due time, in milliseconds since 1970.
    pub due_ms: i64,
    /// `started`; `replaced`: started, and the unfinished run was cancelled; `queued`: waits until the unfinished run
    /// has ended; `skipped`: no run; `failed`: the job could not be submitted.
    pub outcome: String,
    /// Id of the run that it started, if it started one.
    pub run: Option<String>,
}

/// The result of triggering a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Triggered {
    /// The due time that the run counts for, in milliseconds since 1970.
    pub due_ms: i64,
    /// `started`, `replaced` or `queued`.
    pub outcome: String,
    /// Id of the run, also of one that is queued and does not exist yet.
    pub run: String,
}
