//! Handles due times, on the server that owns the farm. It sleeps until the next one.

use super::book::{Schedules, ready, rules, runs_of, timetable};
use super::decide::{Act, Earlier, decide};
use super::error::ScheduleError;
use super::name::{control_id, delay_ms};
use super::timetable::Timetable;
use crate::{Committed, OwnerHandle, ServerRole};
use pictor_storage::{Rejected, Schedule};
use pictor_tasks::history::{Control, Event};
use pictor_tasks::message::RunId;
use pictor_tasks::state::{DueOutcome, Overlap};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};

/// Time within which changes of schedules through another server are noticed, and changes of the clock.
const LOOK_MS: i64 = 10_000;
/// Pause after the database failed.
const RETRY_MS: i64 = 1_000;

/// What is left to be done after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// When the next run is to start, in milliseconds since 1970; `None` if, as things stand, there is no next one.
    pub wake_ms: Option<i64>,
    /// Whether a run waits for another one to end.
    pub waits: bool,
}

/// A schedule as it was last read.
#[derive(Default)]
struct Known {
    cron: String,
    zone: String,
    table: Option<Arc<Timetable>>,
    /// Every due time up to this one has been handled, in milliseconds since 1970.
    cursor_ms: Option<i64>,
}

/// Handles due times while this server owns the farm.
pub struct Runner {
    schedules: Schedules,
    owner: OwnerHandle,
    known: BTreeMap<String, Known>,
    /// Whether something failed and has to be repeated soon.
    unsettled: bool,
}

/// One schedule with due times or runs to be handled.
struct Open {
    schedule: Schedule,
    ready: Vec<i64>,
    start_ms: i64,
    waiting: Vec<i64>,
}

impl Schedules {
    /// Handles due times whenever this server owns the farm, until the sender of the role is dropped.
    pub async fn run(&self, mut role: watch::Receiver<ServerRole>) {
        loop {
            let owner = role.borrow_and_update().owner().cloned();
            let changed = match owner {
                Some(owner) => tokio::select! {
                    () = Runner::new(self.clone(), owner).run() => role.changed().await,
                    changed = role.changed() => changed,
                },
                None => role.changed().await,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

impl Runner {
    /// A runner that adds its runs to an owner.
    pub fn new(schedules: Schedules, owner: OwnerHandle) -> Self {
        Self { schedules, owner, known: BTreeMap::new(), unsettled: false }
    }

    /// Handles due times until the owner has ended.
    pub async fn run(mut self) {
        let mut news = self.owner.news();
        loop {
            let now_ms = (self.schedules.now_ms)();
            let Next { wake_ms, waits } = self.step(now_ms).await.unwrap_or_else(|failure| {
                warn!(error = %failure, "schedules cannot be looked after; trying again");
                Next { wake_ms: Some(now_ms + RETRY_MS), waits: false }
            });
            let pause = wake_ms.map_or(LOOK_MS, |wake| (wake - now_ms).clamp(1, LOOK_MS));
            tokio::select! {
                () = sleep(Duration::from_millis(pause.unsigned_abs())) => {}
                () = self.schedules.changed.notified() => {}
                there = ended(&mut news), if waits => if !there { return },
            }
        }
    }

    /// Handles everything that is due at `now_ms`. A failure of one schedule does not delay the others; an error means
    /// that the database or storage does not respond, and the step can be repeated.
    pub async fn step(&mut self, now_ms: i64) -> Result<Next, ScheduleError> {
        let schedules = self.schedules.registry.schedules().await?;
        let mut waiting: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for due in self.schedules.registry.queued_due_times().await? {
            waiting.entry(due.schedule).or_default().push(due.due_ms);
        }
        let names: BTreeSet<&str> = schedules.iter().map(|schedule| schedule.id.as_str()).collect();
        self.known.retain(|name, _| names.contains(name.as_str()));
        let mut next = Next { wake_ms: None, waits: !waiting.is_empty() };
        let mut open = Vec::new();
        for schedule in schedules {
            let waiting = waiting.remove(&schedule.id).unwrap_or_default();
            open.extend(self.look(schedule, waiting, now_ms, &mut next));
        }
        if !open.is_empty() {
            next.waits |= self.tend_all(open, now_ms).await?;
            if self.unsettled {
                let retry = now_ms + RETRY_MS;
                next.wake_ms = Some(next.wake_ms.map_or(retry, |wake| wake.min(retry)));
            }
        }
        Ok(next)
    }

    /// Checks whether a schedule has anything to be handled now, and when it next will.
    fn look(
        &mut self,
        schedule: Schedule,
        mut waiting: Vec<i64>,
        now_ms: i64,
        next: &mut Next,
    ) -> Option<Open> {
        let (table, cursor_ms) = self.know(&schedule, now_ms)?;
        let (mut due, mut start_ms) = (Vec::new(), now_ms);
        if schedule.paused {
            waiting.clear();
        } else {
            (due, start_ms) = ready(&schedule, &table, cursor_ms, now_ms);
            let upcoming = table.next_after(due.last().copied().unwrap_or(cursor_ms));
            let upcoming = upcoming.map(|d| d + delay_ms(&schedule.id, d, schedule.jitter_ms));
            next.wake_ms = [next.wake_ms, upcoming].into_iter().flatten().min();
        }
        // A run may be left that was to be cancelled: if its successor was triggered by hand, or after a crash.
        let replaces = rules(&schedule).overlap == Overlap::Replace;
        let is_open = !due.is_empty() || !waiting.is_empty() || replaces;
        is_open.then_some(Open { schedule, ready: due, start_ms, waiting })
    }

    /// The timetable of a schedule, and the time up to which it has been handled.
    fn know(&mut self, schedule: &Schedule, now_ms: i64) -> Option<(Arc<Timetable>, i64)> {
        let Schedule { id, cron, zone, planned_ms, .. } = schedule;
        let known = self.known.entry(id.clone()).or_default();
        if (&known.cron, &known.zone) != (cron, zone) {
            let table = timetable(schedule)
                .inspect_err(|e| error!(schedule = id, error = %e, "a schedule is never due"));
            let table = table.ok().map(Arc::new);
            *known = Known { cron: cron.clone(), zone: zone.clone(), table, cursor_ms: None };
        }
        // After the clock was set back, the schedule need not wait until it has caught up. Due times that recur are
        // found to be handled.
        let cursor_ms = if *planned_ms > now_ms {
            known.cursor_ms.map_or(now_ms, |cursor| cursor.min(now_ms))
        } else {
            *planned_ms
        };
        known.cursor_ms = Some(cursor_ms);
        Some((known.table.clone()?, cursor_ms))
    }

    /// Handles several schedules. Returns whether a run waits for another one to end.
    async fn tend_all(&mut self, open: Vec<Open>, now_ms: i64) -> Result<bool, ScheduleError> {
        let unfinished = self.unfinished().await?;
        self.unsettled = false;
        let (mut waits, mut away) = (false, None);
        for open in open {
            let going = runs_of(&open.schedule.id, &unfinished);
            match self.tend(&open, &going, now_ms).await {
                Ok(queued) => waits |= queued,
                Err(failure) => {
                    self.unsettled = true;
                    if failure.is_retryable() {
                        away = Some(failure);
                        continue;
                    }
                    let schedule = open.schedule.id;
                    error!(schedule, error = %failure, "a due time was not dealt with");
                }
            }
        }
        away.map_or(Ok(waits), Err)
    }

    async fn unfinished(&self) -> Result<Vec<RunId>, ScheduleError> {
        let unfinished = self.schedules.store.unfinished_runs(None).await?;
        Ok(unfinished.into_iter().map(|record| record.id).collect())
    }

    /// Handles one schedule, given its unfinished runs. Returns whether a run was queued.
    async fn tend(
        &mut self,
        open: &Open,
        going: &[(i64, RunId)],
        now_ms: i64,
    ) -> Result<bool, ScheduleError> {
        let Open { schedule, ready, start_ms, waiting } = open;
        let rules = rules(schedule);
        let mut queued = false;
        let earlier = Earlier { going: !going.is_empty(), waiting };
        for act in decide(rules, ready, *start_ms, now_ms, earlier) {
            let due_ms = match act {
                Act::Start(due_ms) => self.start(schedule, due_ms, DueOutcome::Started).await?,
                Act::Replace(due_ms) => self.start(schedule, due_ms, DueOutcome::Replaced).await?,
                Act::Queue(due_ms) => {
                    queued |= self.schedules.note(schedule, due_ms, DueOutcome::Queued).await?;
                    due_ms
                }
                Act::Skip(due_ms) => {
                    self.schedules.note(schedule, due_ms, DueOutcome::Skipped).await?;
                    due_ms
                }
            };
            if let Some(known) = self.known.get_mut(&schedule.id) {
                known.cursor_ms = known.cursor_ms.max(Some(due_ms));
            }
        }
        if rules.overlap == Overlap::Replace {
            self.settle(&schedule.id).await?;
        }
        Ok(queued)
    }

    /// Starts the run of a due time. If its job cannot be submitted, that is recorded.
    async fn start(
        &mut self,
        schedule: &Schedule,
        due_ms: i64,
        outcome: DueOutcome,
    ) -> Result<i64, ScheduleError> {
        match self.schedules.start(schedule, due_ms, outcome).await {
            Ok(Some(run)) => {
                info!(schedule = schedule.id, run = %run.id(), outcome = outcome.name(), "a schedule starts a run");
                let (account, now_ms) = (schedule.account.clone(), (self.schedules.now_ms)());
                // If the owner has just ended, the next one will read the run from the store.
                let _ = self.owner.add(run, account, now_ms).await;
            }
            Ok(None) => {}
            Err(failure) if failure.is_retryable() => return Err(failure),
            Err(failure) => {
                error!(schedule = schedule.id, error = %failure, "a schedule cannot start its run");
                self.schedules.note(schedule, due_ms, DueOutcome::Failed).await?;
                let reason = format!("schedule `{}`: {failure}", schedule.id);
                let raw = schedule.job.clone().into_bytes();
                let time_ms = (self.schedules.now_ms)();
                self.schedules.store.reject(&Rejected { time_ms, reason, raw }).await?;
                // Queued runs need not wait for this one.
                self.unsettled = true;
            }
        }
        Ok(due_ms)
    }

    /// Cancels every unfinished run of a schedule except the last, including those that a crash left over.
    async fn settle(&mut self, schedule: &str) -> Result<(), ScheduleError> {
        let going = runs_of(schedule, &self.unfinished().await?);
        let Some((_, replaced)) = going.split_last() else { return Ok(()) };
        for (_, run) in replaced {
            // It is stored, so the owner will get to know it.
            if !self.owner.has_run(run).await? {
                self.unsettled = true;
                continue;
            }
            let control = Control { id: control_id("replaced", run), event: Event::Cancelled };
            if self.owner.control(run.clone(), control).await? {
                info!(schedule, run = %run, "a run was cancelled: the next one takes its place");
            }
        }
        Ok(())
    }
}

/// Waits until a run has ended. Returns `false` if the owner has ended.
async fn ended(news: &mut Receiver<Arc<Committed>>) -> bool {
    loop {
        match news.recv().await {
            Ok(committed) if committed.changed.values().any(|state| state.is_terminal()) => {
                return true;
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}
