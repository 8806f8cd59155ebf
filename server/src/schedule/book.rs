//! Managing schedules: add, list, pause, resume, remove, trigger. Works on every server; the one that owns the farm
//! handles the due times.

use super::decide::{Act, CATCH_UP_MAX, Earlier, Rules, decide};
use super::error::ScheduleError;
use super::name::{due_of, run_id};
use super::timetable::Timetable;
use crate::submit::{CompiledJob, Files, compile_job, uploaded};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pictor_api::{DueTimeView, NewSchedule, ScheduleDetail, ScheduleView, ScheduledJob, Triggered};
use pictor_artifacts::Artifacts;
use pictor_engine::{Run, RunLimits};
use pictor_storage::{DueTime, Registry, Schedule, Store};
use pictor_tasks::job::Source;
use pictor_tasks::message::RunId;
use pictor_tasks::pack::is_digest;
use pictor_tasks::state::{CatchUp, DueOutcome, Overlap};
use pictor_tasks::units::Millis;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// Most schedules of a farm.
const SCHEDULES_MAX: usize = 10_000;
/// Longest name of a schedule, in bytes.
const NAME_MAX: usize = 64;
/// How many upcoming due times are shown.
const NEXT: usize = 5;
/// How many past due times are shown.
const DUE_TIMES: u32 = 50;
/// Longest jitter: one day.
const JITTER_MAX_MS: u64 = 86_400_000;
/// Due times that are examined to see whether the jitter fits between them.
const LOOKED_AT: usize = 50;
const SECOND: i64 = 1_000;

/// The schedules of a farm. Clones share their state.
#[derive(Clone)]
pub struct Schedules {
    pub(super) store: Arc<dyn Store>,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) artifacts: Arc<Artifacts>,
    pub(super) changed: Arc<Notify>,
    pub(super) now_ms: fn() -> i64,
    run_limits: RunLimits,
}

impl Schedules {
    /// The schedules in a database, whose jobs use uploaded files. `now_ms` is the source of the time.
    pub fn new(
        store: Arc<dyn Store>,
        registry: Arc<dyn Registry>,
        artifacts: Arc<Artifacts>,
        now_ms: fn() -> i64,
    ) -> Self {
        let (changed, run_limits) = (Arc::default(), RunLimits::default());
        Self { store, registry, artifacts, changed, now_ms, run_limits }
    }

    /// Sets how large the runs may be.
    #[must_use]
    pub fn limited(self, run_limits: RunLimits) -> Self {
        Self { run_limits, ..self }
    }

    /// Adds a schedule for an account. Its name may begin with the account and a slash: then it is taken for this account
    /// only.
    pub async fn add(
        &self,
        new: &NewSchedule,
        account: &str,
    ) -> Result<ScheduleDetail, ScheduleError> {
        let known = self.registry.schedules().await?;
        if known.iter().any(|schedule| schedule.id == new.name) {
            return Err(ScheduleError::Taken(new.name.clone()));
        }
        if known.len() >= SCHEDULES_MAX {
            let text = format!("there are {SCHEDULES_MAX} schedules, and no more are possible");
            return Err(ScheduleError::Invalid(text));
        }
        self.put(new, account).await
    }

    /// Replaces a schedule, or adds it for an account. A replaced schedule keeps its account. Due times that have
    /// passed are not made up for.
    pub async fn replace(
        &self,
        new: &NewSchedule,
        account: &str,
    ) -> Result<ScheduleDetail, ScheduleError> {
        match self.registry.schedule(&new.name).await? {
            Some(known) => self.put(new, &known.account).await,
            None => self.add(new, account).await,
        }
    }

    async fn put(&self, new: &NewSchedule, account: &str) -> Result<ScheduleDetail, ScheduleError> {
        let now_ms = (self.now_ms)();
        let jitter_ms = check(new, account, now_ms)?;
        self.compile(&new.job).await?;
        let schedule = Schedule {
            id: new.name.clone(),
            account: account.to_owned(),
            cron: new.cron.clone(),
            zone: new.zone.clone(),
            overlap: new.overlap,
            catch_up: new.catch_up,
            jitter_ms,
            job: serde_json::to_string(&new.job).expect("a job is plain data"),
            source_name: new.job.source_name.clone(),
            out_dir: new.out_dir.clone(),
            paused: new.paused,
            created_ms: now_ms,
            planned_ms: now_ms,
        };
        if !self.registry.put_schedule(&schedule).await? {
            return Err(ScheduleError::Taken(schedule.id));
        }
        self.changed.notify_one();
        self.show(&new.name).await
    }

    /// Every schedule, in order of name.
    pub async fn list(&self) -> Result<Vec<ScheduleView>, ScheduleError> {
        let mut views = Vec::new();
        for schedule in self.registry.schedules().await? {
            let last = self.registry.due_times(&schedule.id, 1).await?.pop();
            views.push(self.view(schedule, last.map(shown)));
        }
        Ok(views)
    }

    /// One schedule with its job and the outcomes of its last due times.
    pub async fn show(&self, name: &str) -> Result<ScheduleDetail, ScheduleError> {
        let schedule = self.stored(name).await?;
        let due_times = self.registry.due_times(name, DUE_TIMES).await?;
        let due_times: Vec<_> = due_times.into_iter().map(shown).collect();
        let job = job_of(&schedule);
        Ok(ScheduleDetail {
            schedule: self.view(schedule, due_times.first().cloned()),
            job,
            due_times,
        })
    }

    /// Pauses a schedule. Runs that it started continue.
    pub async fn pause(&self, name: &str) -> Result<ScheduleDetail, ScheduleError> {
        if !self.registry.pause_schedule(name, true).await? {
            return Err(ScheduleError::NoSchedule(name.to_owned()));
        }
        self.changed.notify_one();
        self.show(name).await
    }

    /// Resumes a schedule. Times that were due while it was paused are skipped, whatever the catch-up rule says: they
    /// were skipped on purpose.
    pub async fn resume(&self, name: &str) -> Result<ScheduleDetail, ScheduleError> {
        let schedule = self.stored(name).await?;
        if schedule.paused {
            let passed = timetable(&schedule)?.latest(schedule.planned_ms, (self.now_ms)(), 1);
            for due_ms in passed {
                self.note(&schedule, due_ms, DueOutcome::Skipped).await?;
            }
            self.registry.pause_schedule(name, false).await?;
            self.changed.notify_one();
        }
        self.show(name).await
    }

    /// Removes a schedule. Runs that it started continue.
    pub async fn remove(&self, name: &str) -> Result<(), ScheduleError> {
        if !self.registry.remove_schedule(name).await? {
            return Err(ScheduleError::NoSchedule(name.to_owned()));
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Starts a run of a schedule now, as if it were due, whether paused or not. The overlap rule applies. Several
    /// calls within one second start one run.
    pub async fn trigger(&self, name: &str) -> Result<Triggered, ScheduleError> {
        let schedule = self.stored(name).await?;
        let now_ms = (self.now_ms)();
        // A due time that is waiting for its jitter starts now; it would count as handled otherwise.
        let pending = timetable(&schedule)?.latest(schedule.planned_ms, now_ms, 1).pop();
        let due_ms = pending.unwrap_or(now_ms - now_ms.rem_euclid(SECOND));
        let going = self.going(&schedule).await?;
        let waiting = self.waiting(name).await?;
        let rules = Rules { catch_up: CatchUp::None, ..rules(&schedule) };
        let earlier = Earlier { going: !going.is_empty(), waiting: &waiting };
        let outcome = match decide(rules, &[due_ms], now_ms, now_ms, earlier).last() {
            Some(Act::Start(_)) => self
                .start(&schedule, due_ms, DueOutcome::Started)
                .await?
                .map(|_| DueOutcome::Started),
            Some(Act::Replace(_)) => self
                .start(&schedule, due_ms, DueOutcome::Replaced)
                .await?
                .map(|_| DueOutcome::Replaced),
            Some(Act::Queue(_)) => self
                .note(&schedule, due_ms, DueOutcome::Queued)
                .await?
                .then_some(DueOutcome::Queued),
            Some(Act::Skip(_)) | None => return Err(in_the_way(rules, &going, &waiting, name)),
        };
        self.changed.notify_one();
        let outcome = match outcome {
            Some(outcome) => outcome,
            // Another caller was faster.
            None => self.outcome_at(name, due_ms).await?,
        };
        let outcome = outcome.name().to_owned();
        Ok(Triggered { due_ms, outcome, run: run_id(name, due_ms).to_string() })
    }

    /// The outcome of a due time.
    async fn outcome_at(&self, name: &str, due_ms: i64) -> Result<DueOutcome, ScheduleError> {
        let due_times = self.registry.due_times(name, DUE_TIMES).await?;
        let due = due_times.into_iter().find(|due| due.due_ms == due_ms);
        due.map(|due| due.outcome).ok_or_else(|| ScheduleError::NoSchedule(name.to_owned()))
    }

    async fn stored(&self, name: &str) -> Result<Schedule, ScheduleError> {
        let found = self.registry.schedule(name).await?;
        found.ok_or_else(|| ScheduleError::NoSchedule(name.to_owned()))
    }

    /// The due times of a schedule whose runs are queued, in order.
    async fn waiting(&self, name: &str) -> Result<Vec<i64>, ScheduleError> {
        let due_times = self.registry.queued_due_times().await?.into_iter();
        Ok(due_times.filter(|due| due.schedule == name).map(|due| due.due_ms).collect())
    }

    /// The unfinished runs of a schedule with their due times, in order of these.
    async fn going(&self, schedule: &Schedule) -> Result<Vec<(i64, RunId)>, ScheduleError> {
        let unfinished = self.store.unfinished_runs(None).await?;
        let ids: Vec<RunId> = unfinished.into_iter().map(|record| record.id).collect();
        Ok(runs_of(&schedule.id, &ids))
    }

    /// Records the outcome of a due time that starts no run. Returns `false` if an outcome was recorded before.
    pub(super) async fn note(
        &self,
        schedule: &Schedule,
        due_ms: i64,
        outcome: DueOutcome,
    ) -> Result<bool, ScheduleError> {
        Ok(self.registry.record_due_time(&due_time(schedule, due_ms, outcome), None).await?)
    }

    /// Stores the run of a due time, in one transaction with the outcome. Returns `None` if an outcome was recorded
    /// before.
    pub(super) async fn start(
        &self,
        schedule: &Schedule,
        due_ms: i64,
        outcome: DueOutcome,
    ) -> Result<Option<Run>, ScheduleError> {
        let job = self.compile(&job_of(schedule)).await?;
        let id = run_id(&schedule.id, due_ms);
        let out = match schedule.out_dir.as_str() {
            "" => String::new(),
            folder => Path::new(folder).join(&*id.0).display().to_string(),
        };
        let mut new = job.run_of(&schedule.account, Path::new(&out), (self.now_ms)(), 0);
        new.id = id.clone();
        let fired =
            self.registry.record_due_time(&due_time(schedule, due_ms, outcome), Some(&new)).await?;
        Ok(fired.then(|| Run::new(id, Arc::new(job.plan))))
    }

    /// Compiles a job as a submission does.
    async fn compile(&self, job: &ScheduledJob) -> Result<CompiledJob, ScheduleError> {
        if let Some((name, _)) = job.assets.iter().find(|(_, digest)| !is_digest(digest)) {
            let text = format!("the digest of `{name}` has to be 64 hexadecimal digits");
            return Err(ScheduleError::Invalid(text));
        }
        let files = uploaded(&self.artifacts, &job.assets).await?;
        let name = if job.source_name.is_empty() { "job" } else { &job.source_name };
        let source = Source { name: name.to_owned(), text: job.text.clone() };
        let set: Vec<(String, String)> = job.set.clone().into_iter().collect();
        let files = Files::Uploaded(&files, &self.artifacts);
        Ok(compile_job(source, &set, files, &self.run_limits).await?)
    }

    fn view(&self, schedule: Schedule, last: Option<DueTimeView>) -> ScheduleView {
        let Rules { overlap, catch_up } = rules(&schedule);
        let next_ms: Vec<i64> = match timetable(&schedule) {
            Ok(table) if !schedule.paused => table.after((self.now_ms)()).take(NEXT).collect(),
            _ => Vec::new(),
        };
        let zone = TimeZone::get(&schedule.zone).unwrap_or(TimeZone::UTC);
        let text = |due: &i64| {
            let due = Timestamp::from_millisecond(*due).unwrap_or_default();
            due.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
        };
        ScheduleView {
            next: next_ms.iter().map(text).collect(),
            next_ms,
            name: schedule.id,
            account: schedule.account,
            cron: schedule.cron,
            zone: schedule.zone,
            overlap,
            catch_up,
            jitter_ms: schedule.jitter_ms,
            out_dir: schedule.out_dir,
            paused: schedule.paused,
            created_ms: schedule.created_ms,
            last,
        }
    }
}

fn shown(due: DueTime) -> DueTimeView {
    let run = due.run.map(|run| run.to_string());
    DueTimeView { due_ms: due.due_ms, outcome: due.outcome.name().to_owned(), run }
}

fn due_time(schedule: &Schedule, due_ms: i64, outcome: DueOutcome) -> DueTime {
    DueTime { schedule: schedule.id.clone(), due_ms, outcome, run: None }
}

/// Checks everything that can be checked without the job. Returns the jitter in milliseconds.
fn check(new: &NewSchedule, account: &str, now_ms: i64) -> Result<i64, ScheduleError> {
    let invalid = |text: String| Err(ScheduleError::Invalid(text));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let own = new.name.strip_prefix(account).and_then(|name| name.strip_prefix('/'));
    let name = own.unwrap_or(&new.name);
    if name.len() > NAME_MAX || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return invalid(format!(
            "`{}` cannot be a schedule's name: expected 1 to {NAME_MAX} characters, a letter or digit \
             first",
            name.chars().take(NAME_MAX).collect::<String>().escape_debug()
        ));
    }
    if let Some(bad) = name.chars().find(|c| !plain(*c)) {
        return invalid(format!(
            "a schedule's name may have letters, digits, `.`, `_` and `-`, not `{}`",
            bad.escape_debug()
        ));
    }
    let table = Timetable::parse(&new.cron, &new.zone)?;
    let due: Vec<i64> = table.after(now_ms).take(LOOKED_AT).collect();
    if due.is_empty() {
        return invalid(format!("`{}` is never due: there is no such date", new.cron));
    }
    let jitter = new.jitter.parse::<Millis>();
    let jitter = jitter.map_err(|e| ScheduleError::Invalid(format!("the jitter: {e}")))?;
    let jitter_ms = i64::try_from(jitter.0.min(JITTER_MAX_MS + 1)).expect("bounded");
    let gap = due.windows(2).map(|pair| pair[1] - pair[0]).min();
    if jitter.0 > JITTER_MAX_MS || gap.is_some_and(|gap| gap <= jitter_ms) {
        return invalid(format!(
            "a jitter of {jitter} is too long: expected less than the time between two due times{}, \
             and at most a day",
            gap.map_or_else(String::new, |gap| format!(" ({})", Millis(gap.unsigned_abs())))
        ));
    }
    Ok(jitter_ms)
}

/// The error that tells why a run does not start now.
fn in_the_way(rules: Rules, going: &[(i64, RunId)], waiting: &[i64], name: &str) -> ScheduleError {
    let waiting = || waiting.first().map(|due| run_id(name, *due));
    let run = going.last().map(|(_, run)| run.clone()).or_else(waiting);
    let run = run.unwrap_or_else(|| RunId(name.into()));
    if rules.overlap == Overlap::Queue {
        ScheduleError::Waits(run)
    } else {
        ScheduleError::Going(run)
    }
}

/// The runs among `runs` that a schedule started, with their due times, in order of these.
pub(super) fn runs_of(schedule: &str, runs: &[RunId]) -> Vec<(i64, RunId)> {
    let due = |run: &RunId| due_of(schedule, run).map(|due| (due, run.clone()));
    let mut found: Vec<_> = runs.iter().filter_map(due).collect();
    found.sort();
    found
}

/// The due times that are not handled yet and whose jitter has passed, in order; and when the run of the last of them
/// was to start.
pub(super) fn ready(
    schedule: &Schedule,
    table: &Timetable,
    after_ms: i64,
    now_ms: i64,
) -> (Vec<i64>, i64) {
    let start = |due: &i64| due + super::name::delay_ms(&schedule.id, *due, schedule.jitter_ms);
    let mut due = table.latest(after_ms, now_ms, CATCH_UP_MAX);
    let count = due.iter().take_while(|due| start(due) <= now_ms).count();
    due.truncate(count);
    let start_ms = due.last().map_or(now_ms, start);
    (due, start_ms)
}

pub(super) fn timetable(schedule: &Schedule) -> Result<Timetable, ScheduleError> {
    Ok(Timetable::parse(&schedule.cron, &schedule.zone)?)
}

/// The rules of a stored schedule.
pub(super) fn rules(schedule: &Schedule) -> Rules {
    Rules { overlap: schedule.overlap, catch_up: schedule.catch_up }
}

fn job_of(schedule: &Schedule) -> ScheduledJob {
    serde_json::from_str(&schedule.job).unwrap_or_else(|_| ScheduledJob {
        text: schedule.job.clone(),
        source_name: schedule.source_name.clone(),
        ..ScheduledJob::default()
    })
}
