//! People and machines: who may do what, which workers there are, what happens by itself.

use crate::{Error, NewRun};
use async_trait::async_trait;
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::worker::Inventory;

/// What a program shows to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its public part.
    pub id: String,
    /// What it is for, for people.
    pub name: String,
    /// What it allows.
    pub role: String,
    /// Whose it is.
    pub account: String,
    /// A hash of its secret part.
    pub secret_hash: [u8; 32],
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
    /// Since when it is not valid any more.
    pub revoked_ms: Option<i64>,
}

/// A registered worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Its number, from 1.
    pub id: WorkerId,
    /// Its name, unique within the account.
    pub name: String,
    /// Whose it is.
    pub account: String,
    /// The id of its token.
    pub token: String,
    /// What it has.
    pub inventory: Inventory,
    /// `enabled`, `disabled` or `draining`.
    pub state: String,
    /// When it was registered first.
    pub registered_ms: i64,
    /// When it was heard of last, roughly.
    pub seen_ms: i64,
    /// When it left in good order, last.
    pub left_ms: Option<i64>,
}

impl WorkerRecord {
    /// Whether it left in good order and did not come back.
    pub fn has_left(&self) -> bool {
        self.left_ms.is_some_and(|left_ms| left_ms >= self.seen_ms)
    }
}

/// One changing call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its place in the log; given by the database.
    pub number: i64,
    /// When.
    pub time_ms: i64,
    /// Whose token it was made with.
    pub account: String,
    /// The id of that token.
    pub token: String,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// More about it, as JSON.
    pub detail: String,
    /// Where the call came from.
    pub address: String,
}

/// A job that is submitted at times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Its name, unique.
    pub id: String,
    /// Whose it is.
    pub account: String,
    /// When: a cron expression.
    pub cron: String,
    /// The time zone of the expression.
    pub zone: String,
    /// What happens when the run before has not ended.
    pub overlap: String,
    /// What happens with times that were missed.
    pub catch_up: String,
    /// Runs start up to this much later.
    pub jitter_ms: i64,
    /// The job file.
    pub job: String,
    /// The job file's name, for error messages.
    pub source_name: String,
    /// The folder that results are copied to; empty if none.
    pub out_dir: String,
    /// Whether nothing happens for now.
    pub paused: bool,
    /// When it was made.
    pub created_ms: i64,
    /// Everything that was due up to here was dealt with.
    pub planned_ms: i64,
}

/// What became of one due time of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fire {
    /// The schedule.
    pub schedule: String,
    /// The due time.
    pub due_ms: i64,
    /// `started`, `skipped`, `queued`, `replaced` or `failed`.
    pub outcome: String,
    /// The run that it started. When a fire is recorded the run that comes with it counts.
    pub run: Option<RunId>,
}

/// A message to be delivered to somebody's web address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Its number; given by the database.
    pub number: i64,
    /// Where to.
    pub hook: String,
    /// What it is about. Each hook gets each event once.
    pub event_id: String,
    /// The message.
    pub body: String,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// When it is tried next.
    pub next_ms: i64,
    /// When it was delivered.
    pub done_ms: Option<i64>,
    /// Why it was not delivered the last time.
    pub error: String,
}

/// People and machines. Each method is one transaction; the same call again changes nothing more,
/// except that [`Registry::audit`] and [`Registry::delivery_failed`] count twice.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Stores a token. [`Error::Corrupt`]: there is another one with this id.
    async fn add_token(&self, token: &Token) -> Result<(), Error>;
    /// The token with this id, revoked or not.
    async fn token(&self, id: &str) -> Result<Option<Token>, Error>;
    /// Every token, the oldest first.
    async fn tokens(&self) -> Result<Vec<Token>, Error>;
    /// Makes a token invalid. `false`: there is none, or it is invalid already.
    async fn revoke_token(&self, id: &str, now_ms: i64) -> Result<bool, Error>;

    /// Registers a worker. One of the same account and name stays the same worker, in its state.
    async fn register_worker(
        &self,
        (name, account): (&str, &str),
        token: &str,
        inventory: &Inventory,
        now_ms: i64,
    ) -> Result<WorkerId, Error>;
    /// Every worker, in order of number.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, Error>;
    /// The worker with this number.
    async fn worker(&self, id: WorkerId) -> Result<Option<WorkerRecord>, Error>;
    /// Enables, disables or drains a worker. `false`: there is none.
    async fn set_worker_state(&self, id: WorkerId, state: &str) -> Result<bool, Error>;
    /// Notes when workers were heard of. A time before the noted one changes nothing.
    async fn workers_seen(&self, seen: &[(WorkerId, i64)]) -> Result<(), Error>;
    /// Notes that a worker has left in good order.
    async fn worker_left(&self, id: WorkerId, now_ms: i64) -> Result<(), Error>;

    /// Adds an entry to the log of changing calls.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), Error>;
    /// Up to `limit` (at most 1000) entries, the newest first; with `before` those of a lower number.
    async fn audit_page(&self, limit: u32, before: Option<i64>) -> Result<Vec<AuditEntry>, Error>;

    /// Stores a schedule, or replaces one of the same account. `false`: another account has one of
    /// this name.
    async fn put_schedule(&self, schedule: &Schedule) -> Result<bool, Error>;
    /// The schedule of this name.
    async fn schedule(&self, id: &str) -> Result<Option<Schedule>, Error>;
    /// Every schedule, in order of name.
    async fn schedules(&self) -> Result<Vec<Schedule>, Error>;
    /// Removes a schedule and what is known of its fires. `false`: there is none.
    async fn remove_schedule(&self, id: &str) -> Result<bool, Error>;
    /// Stops a schedule for a while, or lets it go on. `false`: there is none.
    async fn pause_schedule(&self, id: &str, paused: bool) -> Result<bool, Error>;
    /// Records what becomes of a due time, with the run that it starts, and moves the schedule's
    /// `planned_ms` there. `false`: somebody did so before, and nothing is stored; only a fire that
    /// was queued can be recorded once more, with another outcome.
    async fn fire(&self, fire: &Fire, run: Option<&NewRun>) -> Result<bool, Error>;
    /// The last `limit` (at most 1000) fires of a schedule, the latest first.
    async fn fires(&self, schedule: &str, limit: u32) -> Result<Vec<Fire>, Error>;

    /// Every fire that is queued, in order of schedule and due time.
    async fn waiting_fires(&self) -> Result<Vec<Fire>, Error>;

    /// Stores messages to be delivered, except those whose hook has their event already. Number,
    /// attempts, error and end are not looked at.
    async fn add_deliveries(&self, deliveries: &[Delivery]) -> Result<(), Error>;
    /// Up to `limit` (at most 1000) messages that are to be delivered to a hook now, the longest due
    /// first.
    async fn due_deliveries(
        &self,
        hook: &str,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<Delivery>, Error>;
    /// The last `limit` (at most 1000) messages for a hook, delivered or not, the newest first.
    async fn deliveries(&self, hook: &str, limit: u32) -> Result<Vec<Delivery>, Error>;
    /// A message was delivered.
    async fn delivery_done(&self, number: i64, now_ms: i64) -> Result<(), Error>;
    /// A message was not delivered, and when it is tried next.
    async fn delivery_failed(&self, number: i64, error: &str, next_ms: i64) -> Result<(), Error>;

    /// Removes what happened before a time: fires that do not wait, and messages that were delivered
    /// or were to be tried again before it. How many.
    async fn forget_before(&self, time_ms: i64) -> Result<u64, Error>;
}
