//! The statements that are the same for both databases, and the decoding of their rows. Times are parameters; every
//! list has a total order and a limit.

use crate::registry::{
    AuditEntry, Delivery, DueTime, ListedToken, Schedule, Token, Upload, WorkerRecord,
};
use crate::run::{NewRun, Ownership, Rejected, RunFilter, RunRecord, StoredPlan};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::state::{CatchUp, DueOutcome, Overlap, RunState, Service, TokenRole};

/// Most rows of a list.
pub(crate) const PAGE_ROWS_MAX: u32 = 1000;
/// Most bytes of a rejected message that are kept.
pub(crate) const REJECTED_BYTES_MAX: usize = 64 << 10;
/// Most rows that one statement removes.
pub(crate) const REMOVED_ROWS: usize = 50_000;
/// The shard of every row: there is only one so far.
pub(crate) const SHARD: i64 = 0;

/// Selects the columns of a [`RunRow`]; the argument is the rest of the statement.
macro_rules! select_run {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, source_name, fold_version, owner, priority, created_ms, out_dir, \
             state, finished_ms FROM run ",
            $rest
        )
    };
}
pub(crate) type RunRow =
    (String, String, String, i64, String, i64, i64, String, String, Option<i64>);

pub(crate) fn run_record(row: RunRow) -> Option<RunRecord> {
    let (id, name, source_name, fold_version, account, priority, created_ms, out_dir, ..) = row;
    Some(RunRecord {
        id: RunId(id.into()),
        name,
        source_name,
        fold_version: u32::try_from(fold_version).ok()?,
        account,
        priority: i32::try_from(priority).ok()?,
        created_ms,
        out_dir,
        state: RunState::named(&row.8)?,
        finished_ms: row.9,
    })
}

pub(crate) const ADD_RUN: &str = "INSERT INTO run (id, name, spec, source_name, plan, \
     fold_version, owner, priority, created_ms, out_dir) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING";
pub(crate) const RUN_AS_CREATED: &str = "SELECT id, name, spec, source_name, plan, \
     fold_version, owner, priority, created_ms, out_dir FROM run WHERE id = $1";
pub(crate) type NewRunRow = (String, String, String, String, String, i64, String, i64, i64, String);

/// Whether the stored row equals the run.
pub(crate) fn is_run(row: &NewRunRow, run: &NewRun) -> bool {
    let (id, name, spec, source_name, plan, fold_version, owner, priority, created_ms, out_dir) =
        row;
    let texts = [name, spec, source_name, plan, owner, out_dir];
    let expected = [&run.name, &run.spec, &run.source_name, &run.plan, &run.account, &run.out_dir];
    **id == *run.id.0
        && texts == expected
        && *fold_version == i64::from(run.fold_version)
        && *priority == i64::from(run.priority)
        && *created_ms == run.created_ms
}

pub(crate) const ADD_SUBMISSION: &str = "INSERT INTO submission (account, key, request, run) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (account, key) DO NOTHING";
pub(crate) const SUBMISSION: &str =
    "SELECT request, run FROM submission WHERE account = $1 AND key = $2";

/// Lists runs, newest first: the statement and its parameters. What the filter does not restrict is not in the statement,
/// so that the database can use an index for what it does, and the limit is no parameter, since Postgres takes an unknown
/// one for a tenth of the table. `named` is the condition on the name.
pub(crate) fn runs(
    filter: &RunFilter,
    limit: u32,
    after: Option<&RunId>,
    named: &str,
) -> (String, Vec<String>) {
    let name = pattern(filter.name.as_deref().unwrap_or_default());
    let conditions = [
        ("state = ?", filter.state.map_or("", RunState::name)),
        ("owner = ?", filter.account.as_deref().unwrap_or_default()),
        (named, &*name),
        ("number < (SELECT number FROM run WHERE id = ?)", after.map_or("", |run| &*run.0)),
    ];
    let (mut texts, mut values) = (vec!["TRUE".to_owned()], Vec::new());
    for (condition, value) in conditions.into_iter().filter(|(_, value)| !value.is_empty()) {
        values.push(value.to_owned());
        texts.push(condition.replace('?', &format!("${}", values.len())));
    }
    let (all, limit) = (texts.join(" AND "), limit.min(PAGE_ROWS_MAX));
    let found = format!("SELECT number FROM run WHERE {all} ORDER BY number DESC LIMIT {limit}");
    (format!(select_run!("WHERE number IN ({}) ORDER BY number DESC"), found), values)
}

pub(crate) const UNFINISHED_RUNS: &str = select_run!(
    "WHERE finished_ms IS NULL \
     AND number > COALESCE((SELECT number FROM run WHERE id = $1), 0) ORDER BY number"
);
pub(crate) const RUN: &str = select_run!("WHERE id = $1");
pub(crate) const RUNS_BETWEEN: &str =
    select_run!("WHERE id >= $1 AND id < $2 AND ($3 = '' OR owner = $3) ORDER BY id LIMIT 3");
pub(crate) const RUN_PLAN: &str = "SELECT spec, plan, fold_version FROM run WHERE id = $1";

pub(crate) fn stored_plan((spec, plan, version): (String, String, i64)) -> Option<StoredPlan> {
    Some(StoredPlan { spec, plan, fold_version: u32::try_from(version).ok()? })
}

/// A pattern for `LIKE … ESCAPE '\'` that finds `text` anywhere; empty for an empty text.
pub(crate) fn pattern(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let text = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{text}%")
}

pub(crate) const RUN_NUMBER: &str = "SELECT number FROM run WHERE id = $1";
/// The end of a run's history.
pub(crate) const HEAD: &str = "SELECT seq, time_ms FROM ( \
     SELECT * FROM (SELECT seq, time_ms FROM attempt WHERE run = $1 ORDER BY seq DESC LIMIT 1) AS a \
     UNION ALL \
     SELECT * FROM (SELECT seq, time_ms FROM claim WHERE run = $1 ORDER BY seq DESC LIMIT 1) AS c \
     UNION ALL \
     SELECT * FROM (SELECT seq, time_ms FROM event WHERE run = $1 ORDER BY seq DESC LIMIT 1) AS e) \
     AS h ORDER BY seq DESC LIMIT 1";
pub(crate) const REMOVE_HISTORY: [&str; 3] = [
    "DELETE FROM attempt WHERE run = $1 AND seq >= $2 AND seq < $3",
    "DELETE FROM claim WHERE run = $1 AND seq >= $2 AND seq < $3",
    "DELETE FROM event WHERE run = $1 AND seq >= $2 AND seq < $3",
];
pub(crate) const REMOVE_RUN: &str = "DELETE FROM run WHERE number = $1";

pub(crate) const REJECT: &str = "INSERT INTO rejected (time_ms, reason, raw) VALUES ($1, $2, $3)";
/// Keeps the newest thousand: whoever sends more of them fills no disk.
pub(crate) const FORGET_REJECTED: &str =
    "DELETE FROM rejected WHERE number <= (SELECT max(number) FROM rejected) - 1000";
pub(crate) const REJECTED: &str =
    "SELECT time_ms, reason, raw FROM rejected ORDER BY number DESC LIMIT $1";

pub(crate) fn rejected((time_ms, reason, raw): (i64, String, Vec<u8>)) -> Rejected {
    Rejected { time_ms, reason, raw }
}

// A former owner's key stays. The time makes the epoch higher than any before, even after an older copy of the database
// was restored: workers ignore an owner of a lower one.
pub(crate) const TAKE_OWNERSHIP: &str = "INSERT INTO ownership (shard, epoch, ticket_key, \
     address, since_ms) VALUES ($1, 1, $2, $3, $4) ON CONFLICT (shard) DO UPDATE SET \
     epoch = CASE WHEN ownership.epoch < excluded.since_ms / 1000 THEN excluded.since_ms / 1000 \
     ELSE ownership.epoch + 1 END, address = excluded.address, since_ms = excluded.since_ms \
     RETURNING epoch, ticket_key, address";
pub(crate) const OWNER: &str = "SELECT epoch, ticket_key, address FROM ownership WHERE shard = $1";

pub(crate) fn ownership((epoch, key, address): (i64, Vec<u8>, String)) -> Option<Ownership> {
    let ticket_key = key.try_into().ok()?;
    Some(Ownership { epoch: u64::try_from(epoch).ok()?, ticket_key, address })
}

pub(crate) type TokenRow = (String, String, String, String, Vec<u8>, i64, Option<i64>, String);

pub(crate) fn token(row: TokenRow) -> Option<Token> {
    let (id, name, role, account, hash, created_ms, revoked_ms, origin) = row;
    let secret_hash = hash.try_into().ok()?;
    let role = TokenRole::named(&role)?;
    Some(Token { id, name, role, account, secret_hash, created_ms, revoked_ms, origin })
}

pub(crate) type ListedTokenRow = (String, String, String, String, i64, Option<i64>);

pub(crate) fn listed_token(row: ListedTokenRow) -> ListedToken {
    let (id, name, role, account, created_ms, revoked_ms) = row;
    ListedToken { id, name, role: TokenRole::named(&role), account, created_ms, revoked_ms }
}

pub(crate) const ADD_TOKEN: &str = "INSERT INTO token (id, name, role, account, secret_hash, \
     created_ms, revoked_ms, origin) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
     ON CONFLICT (id) DO NOTHING";
pub(crate) const TOKEN: &str = "SELECT id, name, role, account, secret_hash, created_ms, \
     revoked_ms, origin FROM token WHERE id = $1";
pub(crate) const TOKENS: &str = "SELECT id, name, role, account, created_ms, revoked_ms \
     FROM token ORDER BY created_ms, id";
pub(crate) const REVOKE_TOKEN: &str =
    "UPDATE token SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL";
pub(crate) const REVOCATIONS: &str = "SELECT count(revoked_ms) FROM token";
pub(crate) const MACHINES_OF: &str = "SELECT id, name, role, account, created_ms, revoked_ms \
     FROM token WHERE origin = $1 AND origin <> '' ORDER BY id";

/// Selects the columns of a [`WorkerRow`]; the argument is the rest of the statement.
macro_rules! select_worker {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, account, token, inventory, state, registered_ms, seen_ms, left_ms \
             FROM worker ",
            $rest
        )
    };
}
pub(crate) type WorkerRow = (i64, String, String, String, String, String, i64, i64, Option<i64>);

pub(crate) fn worker(row: WorkerRow) -> Option<WorkerRecord> {
    let (id, name, account, token, inventory, state, registered_ms, seen_ms, left_ms) = row;
    let id = WorkerId(u32::try_from(id).ok()?);
    let inventory = serde_json::from_str(&inventory).ok()?;
    Some(WorkerRecord {
        id,
        name,
        account,
        token,
        inventory,
        state: Service::named(&state)?,
        registered_ms,
        seen_ms,
        left_ms,
    })
}

// Tried first, so that workers that register again use up no numbers.
pub(crate) const REGISTER_AGAIN: &str = "UPDATE worker SET token = $3, inventory = $4, \
     seen_ms = $5 WHERE account = $1 AND name = $2 RETURNING id";
pub(crate) const REGISTER: &str = "INSERT INTO worker (account, name, token, inventory, state, \
     registered_ms, seen_ms) VALUES ($1, $2, $3, $4, 'enabled', $5, $5) \
     ON CONFLICT (account, name) DO UPDATE SET token = excluded.token, \
     inventory = excluded.inventory, seen_ms = excluded.seen_ms RETURNING id";
pub(crate) const WORKERS: &str = select_worker!("ORDER BY id");
pub(crate) const WORKERS_PAGE: &str = select_worker!("WHERE id > $1 ORDER BY id LIMIT $2");
pub(crate) const WORKER: &str = select_worker!("WHERE id = $1");
pub(crate) const WORKER_NAMED: &str = select_worker!("WHERE name = $1 AND account = $2");
// The clock may have been set back since the worker was last heard from.
pub(crate) const WORKER_LEFT: &str = "UPDATE worker SET left_ms = \
     CASE WHEN seen_ms > $2 THEN seen_ms ELSE $2 END WHERE id = $1";
pub(crate) const SET_WORKER_STATE: &str = "UPDATE worker SET state = $2 WHERE id = $1";

pub(crate) const AUDIT: &str = "INSERT INTO audit (time_ms, account, token, action, target, \
     detail, address) VALUES ($1, $2, $3, $4, $5, $6, $7)";
pub(crate) const AUDIT_PAGE: &str = "SELECT number, time_ms, account, token, action, target, \
     detail, address FROM audit WHERE number < $1 ORDER BY number DESC LIMIT $2";
/// Times rise with numbers, so that what is old is found from the beginning on.
pub(crate) const FORGET_AUDIT: &str = "DELETE FROM audit WHERE number < COALESCE( \
     (SELECT number FROM audit WHERE time_ms >= $1 ORDER BY number LIMIT 1), \
     (SELECT max(number) + 1 FROM audit)) \
     OR number <= (SELECT max(number) FROM audit) - $2";
pub(crate) type AuditRow = (i64, i64, String, String, String, String, String, String);

pub(crate) fn audit_entry(row: AuditRow) -> AuditEntry {
    let (number, time_ms, account, token, action, target, detail, address) = row;
    AuditEntry { number, time_ms, account, token, action, target, detail, address }
}

pub(crate) const ADD_UPLOAD: &str = "INSERT INTO upload (account, digest, size_bytes, \
     uploaded_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (account, digest) DO UPDATE SET \
     size_bytes = excluded.size_bytes, uploaded_ms = excluded.uploaded_ms";
pub(crate) const UPLOADED_BYTES: &str = "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS bigint) \
     FROM upload WHERE account = $1";
pub(crate) const UPLOADS: &str =
    "SELECT account, digest, size_bytes, uploaded_ms FROM upload ORDER BY account, digest";
pub(crate) const FORGET_UPLOAD: &str =
    "DELETE FROM upload WHERE account = $1 AND digest = $2 AND uploaded_ms < $3";
pub(crate) type UploadRow = (String, String, i64, i64);

pub(crate) fn upload((account, digest, size_bytes, uploaded_ms): UploadRow) -> Upload {
    Upload { account, digest, size_bytes: size_bytes.unsigned_abs(), uploaded_ms }
}

/// Selects the columns of a [`ScheduleRow`]; the argument is the rest of the statement.
macro_rules! select_schedule {
    ($rest:literal) => {
        concat!(
            "SELECT id, account, cron, zone, overlap, catch_up, jitter_ms, job, source_name, \
             out_dir, paused, created_ms, planned_ms FROM schedule ",
            $rest
        )
    };
}
pub(crate) type ScheduleRow =
    (String, String, String, String, String, String, i64, String, String, String, bool, i64, i64);

pub(crate) fn schedule(row: ScheduleRow) -> Option<Schedule> {
    let (id, account, cron, zone, overlap, catch_up, jitter_ms, job, source_name, out_dir, ..) =
        row;
    Some(Schedule {
        id,
        account,
        cron,
        zone,
        overlap: Overlap::named(&overlap)?,
        catch_up: CatchUp::named(&catch_up)?,
        jitter_ms,
        job,
        source_name,
        out_dir,
        paused: row.10,
        created_ms: row.11,
        planned_ms: row.12,
    })
}

pub(crate) const PUT_SCHEDULE: &str = "INSERT INTO schedule (id, account, cron, zone, overlap, \
     catch_up, jitter_ms, job, source_name, out_dir, paused, created_ms, planned_ms) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
     ON CONFLICT (id) DO UPDATE SET cron = excluded.cron, zone = excluded.zone, \
     overlap = excluded.overlap, catch_up = excluded.catch_up, jitter_ms = excluded.jitter_ms, \
     job = excluded.job, source_name = excluded.source_name, out_dir = excluded.out_dir, \
     paused = excluded.paused, created_ms = excluded.created_ms, \
     planned_ms = excluded.planned_ms WHERE schedule.account = excluded.account";
pub(crate) const SCHEDULE: &str = select_schedule!("WHERE id = $1");
pub(crate) const SCHEDULES: &str = select_schedule!("ORDER BY id");
pub(crate) const REMOVE_SCHEDULE: &str = "DELETE FROM schedule WHERE id = $1";
pub(crate) const PAUSE_SCHEDULE: &str = "UPDATE schedule SET paused = $2 WHERE id = $1";

pub(crate) const RECORD_DUE_TIME: &str = "INSERT INTO fire (schedule, due_ms, outcome, run) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (schedule, due_ms) DO UPDATE SET \
     outcome = excluded.outcome, run = excluded.run \
     WHERE fire.outcome = 'queued' AND excluded.outcome <> 'queued'";
pub(crate) const PLANNED: &str =
    "UPDATE schedule SET planned_ms = $2 WHERE id = $1 AND planned_ms < $2";
pub(crate) const DUE_TIMES: &str = "SELECT schedule, due_ms, outcome, run FROM fire \
     WHERE schedule = $1 ORDER BY due_ms DESC LIMIT $2";
pub(crate) const QUEUED_DUE_TIMES: &str = "SELECT schedule, due_ms, outcome, run FROM fire \
     WHERE outcome = 'queued' ORDER BY schedule, due_ms";
pub(crate) type DueTimeRow = (String, i64, String, Option<String>);

pub(crate) fn due_time((schedule, due_ms, outcome, run): DueTimeRow) -> Option<DueTime> {
    let outcome = DueOutcome::named(&outcome)?;
    Some(DueTime { schedule, due_ms, outcome, run: run.map(|run| RunId(run.into())) })
}

pub(crate) const ADD_DELIVERY: &str = "INSERT INTO delivery (hook, event_id, body, attempts, \
     next_ms, error) VALUES ($1, $2, $3, 0, $4, '') ON CONFLICT (hook, event_id) DO NOTHING";
pub(crate) const DUE_DELIVERIES: &str = "SELECT number, hook, event_id, body, attempts, \
     next_ms, done_ms, error FROM delivery WHERE hook = $1 AND done_ms IS NULL AND next_ms <= $2 \
     ORDER BY next_ms, number LIMIT $3";
pub(crate) const DELIVERIES: &str = "SELECT number, hook, event_id, body, attempts, next_ms, \
     done_ms, error FROM delivery WHERE hook = $1 ORDER BY number DESC LIMIT $2";
pub(crate) const FORGET_BEFORE: [&str; 2] = [
    "DELETE FROM fire WHERE due_ms < $1 AND outcome <> 'queued'",
    "DELETE FROM delivery WHERE COALESCE(done_ms, next_ms) < $1",
];
pub(crate) type DeliveryRow = (i64, String, String, String, i64, i64, Option<i64>, String);

pub(crate) fn delivery(row: DeliveryRow) -> Option<Delivery> {
    let (number, hook, event_id, body, attempts, next_ms, done_ms, error) = row;
    let attempts = u32::try_from(attempts).ok()?;
    Some(Delivery { number, hook, event_id, body, attempts, next_ms, done_ms, error })
}

pub(crate) const DELIVERY_DONE: &str =
    "UPDATE delivery SET done_ms = $2 WHERE number = $1 AND done_ms IS NULL";
pub(crate) const DELIVERY_FAILED: &str = "UPDATE delivery SET attempts = attempts + 1, \
     error = $2, next_ms = $3 WHERE number = $1 AND done_ms IS NULL";

/// Statements in the dialect of `SQLite`.
pub(crate) mod sqlite {
    /// `LIKE` takes letters of ASCII in upper and lower case for the same.
    pub(crate) const NAMED: &str = "name LIKE ? ESCAPE '\\'";
    /// Needs no lock: nobody else writes during a transaction.
    pub(crate) const LOCK_RUN: &str = "SELECT number, finished_ms FROM run WHERE id = $1";
    pub(crate) const WORKER_NAMES: &str =
        "SELECT id, name FROM worker WHERE id IN (SELECT value FROM json_each($1))";
    pub(crate) const WORKERS_SEEN: &str = "UPDATE worker SET seen_ms = s.value ->> 1 \
         FROM json_each($1) AS s WHERE worker.id = s.value ->> 0 AND seen_ms < s.value ->> 1";
    pub(crate) const UPLOADED_BY: &str = "SELECT digest FROM upload \
         WHERE account = $1 AND digest IN (SELECT value FROM json_each($2)) ORDER BY digest";
}

/// Statements in the dialect of Postgres.
pub(crate) mod postgres {
    /// In a query of its own, so that it is computed once and not for each run.
    pub(crate) const NAMED: &str = "sought LIKE (SELECT lower(?))";
    pub(crate) const LOCK_RUN: &str =
        "SELECT number, finished_ms FROM run WHERE id = $1 FOR UPDATE";
    pub(crate) const WORKER_NAMES: &str = "SELECT id, name FROM worker \
         WHERE id IN (SELECT value::text::bigint FROM json_array_elements($1::json))";
    pub(crate) const WORKERS_SEEN: &str = "UPDATE worker SET seen_ms = (s.value ->> 1)::bigint \
         FROM json_array_elements($1::json) AS s (value) \
         WHERE id = (s.value ->> 0)::bigint AND seen_ms < (s.value ->> 1)::bigint";
    pub(crate) const UPLOADED_BY: &str = "SELECT digest FROM upload WHERE account = $1 \
         AND digest IN (SELECT json_array_elements_text($2::json)) ORDER BY digest";
}
