//! Access and machines: tokens and what they allow, registered workers, the audit log, schedules and webhook messages.

use crate::{Error, NewRun};
use async_trait::async_trait;
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::state::{CatchUp, DueOutcome, Overlap, Service, TokenRole};
use pictor_tasks::worker::Inventory;

/// An access token, as the server keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Public part of the token, by which it is looked up.
    pub id: String,
    /// Label that an administrator gave it, such as the machine that uses it.
    pub name: String,
    /// Role whose rights it grants.
    pub role: TokenRole,
    /// Account that the token acts for.
    pub account: String,
    /// Hash of the secret part, which is not stored.
    pub secret_hash: [u8; 32],
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was revoked, in milliseconds since 1970; `None` while it is valid.
    pub revoked_ms: Option<i64>,
    /// For a machine's token: public part of the token with which the machine enrolled. Empty for all others, and for
    /// machines that enrolled before this was recorded.
    pub origin: String,
}

/// A token in the list of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedToken {
    /// Public part of the token.
    pub id: String,
    /// Label that an administrator gave it.
    pub name: String,
    /// Role whose rights it grants; `None` if the stored word is damaged: the token is refused.
    pub role: Option<TokenRole>,
    /// Account that the token acts for.
    pub account: String,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was revoked, in milliseconds since 1970.
    pub revoked_ms: Option<i64>,
}

/// A worker to be registered.
#[derive(Clone, Copy, Debug)]
pub struct NewWorker<'a> {
    /// Name of the worker, unique within the account.
    pub name: &'a str,
    /// Account that the worker belongs to.
    pub account: &'a str,
    /// Id of the worker's token.
    pub token: &'a str,
    /// Hardware and programs of its machine.
    pub inventory: &'a Inventory,
}

/// A registered worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Number of the worker, counted from 1.
    pub id: WorkerId,
    /// Name of the worker, unique within the account.
    pub name: String,
    /// Account that the worker belongs to.
    pub account: String,
    /// Public part of the token that the worker uses.
    pub token: String,
    /// Hardware and programs that the worker reported when it last registered.
    pub inventory: Inventory,
    /// Whether it is in service.
    pub state: Service,
    /// When it first registered, in milliseconds since 1970.
    pub registered_ms: i64,
    /// When it was last heard from, in milliseconds since 1970. Updated at intervals, so it may lag.
    pub seen_ms: i64,
    /// When it last signed off, in milliseconds since 1970.
    pub left_ms: Option<i64>,
}

impl WorkerRecord {
    /// Whether it has signed off and has not come back since.
    pub fn has_left(&self) -> bool {
        self.left_ms.is_some_and(|left_ms| left_ms >= self.seen_ms)
    }
}

/// An entry of the audit log: one call that changed something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    /// Position in the log; assigned by the database.
    pub number: i64,
    /// When the call was made, in milliseconds since 1970.
    pub time_ms: i64,
    /// Account of the token that the call was made with.
    pub account: String,
    /// Public part of that token.
    pub token: String,
    /// What was done, such as `run.submit`.
    pub action: String,
    /// The object that was changed, such as a run's id.
    pub target: String,
    /// Further details, as JSON.
    pub detail: String,
    /// Network address of the caller.
    pub address: String,
}

/// A file that an account has uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The account.
    pub account: String,
    /// Digest of the file.
    pub digest: String,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// When the account uploaded it last, in milliseconds since 1970.
    pub uploaded_ms: i64,
}

/// A job that is submitted at recurring times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Name of the schedule, unique in the farm.
    pub id: String,
    /// Account that the schedule belongs to.
    pub account: String,
    /// Due times, as a cron expression.
    pub cron: String,
    /// Time zone in which the expression is read, such as `Europe/Berlin`.
    pub zone: String,
    /// What to do when the previous run has not ended.
    pub overlap: Overlap,
    /// What to do about times missed while no server ran.
    pub catch_up: CatchUp,
    /// Most milliseconds by which a start is delayed.
    pub jitter_ms: i64,
    /// The job file as it was written.
    pub job: String,
    /// Name of the job file, for error messages.
    pub source_name: String,
    /// Folder that results are copied to; empty if there is none.
    pub out_dir: String,
    /// Whether the schedule is paused: it starts nothing until it is resumed.
    pub paused: bool,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// Every due time up to this one has been handled, in milliseconds since 1970.
    pub planned_ms: i64,
}

/// The outcome of one due time of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueTime {
    /// Name of the schedule.
    pub schedule: String,
    /// Due time, in milliseconds since 1970.
    pub due_ms: i64,
    /// What it was.
    pub outcome: DueOutcome,
    /// The run that it started. In a call of [`Registry::record_due_time`] the run given beside it counts instead.
    pub run: Option<RunId>,
}

/// A message to be delivered to a webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Number of the message; assigned by the database.
    pub number: i64,
    /// Name of the webhook that it goes to.
    pub hook: String,
    /// Id of the event that it reports. Each webhook gets each event once.
    pub event_id: String,
    /// Body of the message, sent as it is.
    pub body: String,
    /// Number of failed attempts to deliver it.
    pub attempts: u32,
    /// When the next attempt is due, in milliseconds since 1970.
    pub next_ms: i64,
    /// When it was delivered, in milliseconds since 1970; `None` until then.
    pub done_ms: Option<i64>,
    /// Why the last attempt failed; empty if none has.
    pub error: String,
}

/// Stores access and machines. Each method is one transaction; repeating a call changes nothing more, except that
/// [`Registry::audit`] and [`Registry::delivery_failed`] count twice.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Stores a token. Fails with [`Error::Corrupt`] if another one has this id.
    async fn add_token(&self, token: &Token) -> Result<(), Error>;
    /// The token with this id, revoked or not.
    async fn token(&self, id: &str) -> Result<Option<Token>, Error>;
    /// Every token, the oldest first, including damaged ones.
    async fn tokens(&self) -> Result<Vec<ListedToken>, Error>;
    /// Revokes a token. Returns `false` if there is none, or if it was revoked before.
    async fn revoke_token(&self, id: &str, now_ms: i64) -> Result<bool, Error>;
    /// How many tokens have been revoked: while this stays the same, none has been.
    async fn revocations(&self) -> Result<u64, Error>;
    /// The tokens of machines that enrolled with this token, in order of id, revoked or not.
    async fn machines_of(&self, token: &str) -> Result<Vec<ListedToken>, Error>;

    /// Registers a worker. One with the same account and name remains the same worker, and keeps its state.
    async fn register_worker(&self, worker: &NewWorker<'_>, now_ms: i64)
    -> Result<WorkerId, Error>;
    /// Every worker, in order of number.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, Error>;
    /// Up to `limit` (at most 1001) workers of a higher number than `after`, in order of number.
    async fn workers_page(&self, limit: u32, after: WorkerId) -> Result<Vec<WorkerRecord>, Error>;
    /// The worker of this number.
    async fn worker(&self, id: WorkerId) -> Result<Option<WorkerRecord>, Error>;
    /// The worker of this name and account.
    async fn worker_named(&self, name: &str, account: &str) -> Result<Option<WorkerRecord>, Error>;
    /// The names of the workers of these numbers.
    async fn worker_names(&self, ids: &[WorkerId]) -> Result<Vec<(WorkerId, String)>, Error>;
    /// Enables, disables or drains a worker. Returns `false` if there is none.
    async fn set_worker_state(&self, id: WorkerId, state: Service) -> Result<bool, Error>;
    /// Records when workers were last heard from. A time before the recorded one changes nothing.
    async fn workers_seen(&self, seen: &[(WorkerId, i64)]) -> Result<(), Error>;
    /// Records that a worker has signed off.
    async fn worker_left(&self, id: WorkerId, now_ms: i64) -> Result<(), Error>;

    /// Adds entries to the audit log.
    async fn audit(&self, entries: &[AuditEntry]) -> Result<(), Error>;
    /// Up to `limit` (at most 1000) entries, newest first; with `before` only those of a lower number.
    async fn audit_page(&self, limit: u32, before: Option<i64>) -> Result<Vec<AuditEntry>, Error>;
    /// Removes the oldest entries of the audit log: those before `time_ms`, and what is more than `keep` entries.
    async fn forget_audit(&self, time_ms: i64, keep: u64) -> Result<(), Error>;

    /// Records that an account has uploaded a file, now if it had before.
    async fn add_upload(&self, upload: &Upload) -> Result<(), Error>;
    /// Those of these files that an account has uploaded.
    async fn uploaded_by(&self, account: &str, digests: &[&str]) -> Result<Vec<String>, Error>;
    /// Total size of the files that an account has uploaded, in bytes.
    async fn uploaded_bytes(&self, account: &str) -> Result<u64, Error>;
    /// Every upload, in order of account and digest.
    async fn uploads(&self) -> Result<Vec<Upload>, Error>;
    /// Removes the records of uploads that were made before `time_ms`, not the files.
    async fn forget_uploads(&self, uploads: &[Upload], time_ms: i64) -> Result<(), Error>;

    /// Stores a schedule, or replaces one of the same account. Returns `false` if another account has one of this name.
    async fn put_schedule(&self, schedule: &Schedule) -> Result<bool, Error>;
    /// The schedule of this name.
    async fn schedule(&self, id: &str) -> Result<Option<Schedule>, Error>;
    /// Every schedule, in order of name.
    async fn schedules(&self) -> Result<Vec<Schedule>, Error>;
    /// Removes a schedule and the records of its due times. Returns `false` if there is none.
    async fn remove_schedule(&self, id: &str) -> Result<bool, Error>;
    /// Pauses or resumes a schedule. Returns `false` if there is none.
    async fn pause_schedule(&self, id: &str, paused: bool) -> Result<bool, Error>;
    /// Records the outcome of a due time, with the run that it starts, and moves the schedule's `planned_ms` there.
    /// Returns `false`, and stores nothing, if an outcome was recorded before; only one that was queued can be recorded
    /// once more, with another outcome.
    async fn record_due_time(
        &self,
        due_time: &DueTime,
        run: Option<&NewRun>,
    ) -> Result<bool, Error>;
    /// The last `limit` (at most 1000) outcomes of a schedule's due times, latest first.
    async fn due_times(&self, schedule: &str, limit: u32) -> Result<Vec<DueTime>, Error>;

    /// Every due time that is queued, in order of schedule and due time.
    async fn queued_due_times(&self) -> Result<Vec<DueTime>, Error>;

    /// Stores messages to be delivered, except those whose webhook already has their event. Their number, attempts,
    /// error and time of delivery are ignored.
    async fn add_deliveries(&self, deliveries: &[Delivery]) -> Result<(), Error>;
    /// Up to `limit` (at most 1000) messages that are to be delivered to a webhook now, longest due first.
    async fn due_deliveries(
        &self,
        hook: &str,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<Delivery>, Error>;
    /// The last `limit` (at most 1000) messages for a webhook, delivered or not, newest first.
    async fn deliveries(&self, hook: &str, limit: u32) -> Result<Vec<Delivery>, Error>;
    /// Records that a message was delivered.
    async fn delivery_done(&self, number: i64, now_ms: i64) -> Result<(), Error>;
    /// Records that an attempt to deliver a message failed, and when the next one is due.
    async fn delivery_failed(&self, number: i64, error: &str, next_ms: i64) -> Result<(), Error>;

    /// Removes what is older than a time: due times that are not queued, and messages whose delivery or next attempt
    /// lies before it. Returns how many.
    async fn forget_before(&self, time_ms: i64) -> Result<u64, Error>;
}
