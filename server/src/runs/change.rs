//! Changes of runs: pausing, cancelling, priorities, retries. Every method returns after its commit.

use super::shape;
use super::{Runs, load_run};
use crate::handle::{Error, OwnerHandle, lock};
use pictor_api::{Code, ResetAnswer, RetryRequest, RunSummary};
use pictor_engine::{Config, Effects, Engine, Run, RunLimits, RunState, TaskState};
use pictor_storage::{RunRecord, RunRows};
use pictor_tasks::history::{Changes, Control, Event, ResetTasks};
use pictor_tasks::job::changes;
use pictor_tasks::job::spec::PRIORITIES;
use std::collections::BTreeMap;

/// Number of tasks of a reset, and of those among them that had succeeded but whose outputs have been removed.
type Size = (u64, u64);

impl Runs {
    /// Pauses, resumes or cancels a run, or changes its priority. Fails if the run has ended.
    pub(crate) async fn change(
        &self,
        owner: Option<&OwnerHandle>,
        record: RunRecord,
        control: Control,
    ) -> Result<RunSummary, Error> {
        let event = control.event.clone();
        match self.ask(owner, &record, move |_, run| fits(run, &event)).await {
            Err(error) if error.is_of_the_run() && control.event == Event::Cancelled => {
                self.give_up(owner, record).await
            }
            asked => {
                asked??;
                self.commit(owner, record, control).await
            }
        }
    }

    /// Cancels a run whose history cannot be folded, so that it is over for everybody and can be pruned.
    async fn give_up(
        &self,
        owner: Option<&OwnerHandle>,
        record: RunRecord,
    ) -> Result<RunSummary, Error> {
        if record.finished_ms.is_none() {
            let state = Some((RunState::Cancelled, Some((self.now_ms)())));
            self.store.commit(&[RunRows { run: &record.id, rows: &[], state }]).await?;
        }
        if let Some(owner) = owner {
            lock(&owner.set_aside).remove(&record.id);
        }
        let record = self.store.run(&record.id.0).await?.unwrap_or(record);
        Ok(shape::summary(record, None))
    }

    /// Retries tasks of a run: those that are named, or all that failed or were cancelled. A retry of one id
    /// is made once.
    pub(crate) async fn retry(
        &self,
        owner: Option<&OwnerHandle>,
        record: RunRecord,
        id: u64,
        request: RetryRequest,
    ) -> Result<ResetAnswer, Error> {
        let RetryRequest { tasks, set, dry_run } = request;
        let code = if tasks.is_empty() { Code::Conflict } else { Code::NotFound };
        let set: Vec<(String, String)> = set.into_iter().collect();
        changes(&set).map_err(|why| Error::Refused(Code::InvalidRequest, why))?;
        let asked = self.ask(owner, &record, move |_, run| to_retry(run, &tasks, &set)).await?;
        let (event, (count, remade)) = asked.map_err(|why| Error::Refused(code, why))?;
        let run = if dry_run {
            None
        } else {
            Some(self.commit(owner, record, Control { id, event }).await?)
        };
        Ok(ResetAnswer { count, remade, run })
    }

    /// Makes a change and waits until it is in history.
    async fn commit(
        &self,
        owner: Option<&OwnerHandle>,
        record: RunRecord,
        control: Control,
    ) -> Result<RunSummary, Error> {
        let Some(owner) = owner else { return self.commit_here(record, control).await };
        // The engine drops runs that have ended: that can happen between any two of these.
        for _ in 0..3 {
            if owner.control(record.id.clone(), control.clone()).await? {
                let asked = record.id.clone();
                let view = owner.ask(move |engine| engine.run(&asked).map(|run| engine.view(run)));
                let view = view.await?;
                let record = self.store.run(&record.id.0).await?.unwrap_or(record);
                return Ok(shape::summary(record, view.as_ref()));
            }
            if self.registry.is_none() {
                // No process works on this run: it is changed where it is stored, and nothing of it is started.
                return self.commit_here(record, control).await;
            }
            let run = self.fold(Some(owner), &record.id).await?;
            owner.add(run, record.account.clone(), record.created_ms).await?;
        }
        Err(Error::Refused(Code::Unavailable, "the run is being put away".to_owned()))
    }

    /// Changes a run that no engine has, in the store.
    async fn commit_here(&self, record: RunRecord, control: Control) -> Result<RunSummary, Error> {
        let loaded = load_run(&*self.store, &record.id, &RunLimits::default()).await?;
        let mut engine = Engine::new(Config::default());
        let now_ms = (self.now_ms)();
        engine.add_run(loaded, record.account.clone(), record.created_ms, now_ms);
        let mut fx = Effects::default();
        engine.control(&record.id, control, now_ms, &mut fx);
        for (run, rows) in &fx.rows {
            let state = engine.run(run).map(Run::state);
            let ended = rows.last().map(|row| row.time_ms);
            let state = state.map(|s| (s, ended.filter(|_| s.is_terminal())));
            self.store.commit(&[RunRows { run, rows, state }]).await?;
        }
        let view = engine.run(&record.id).map(|run| engine.view(run));
        let record = self.store.run(&record.id.0).await?.unwrap_or(record);
        Ok(shape::summary(record, view.as_ref()))
    }
}

/// Fails if the run has ended, or if the event is not a change of a whole run.
fn fits(run: &Run, event: &Event) -> Result<(), Error> {
    let change = match event {
        Event::Paused => "paused",
        Event::Resumed => "resumed",
        Event::Cancelled => "cancelled",
        Event::Priority(_) => "given another priority",
        Event::Reset(_) | Event::Changed(_) | Event::Removed(_) => {
            let text = "this is no change of a whole run";
            return Err(Error::Refused(Code::InvalidRequest, text.to_owned()));
        }
    };
    if let Event::Priority(priority) = event
        && !PRIORITIES.contains(priority)
    {
        let text = "a priority is a number from -100 to 100";
        return Err(Error::Refused(Code::InvalidRequest, text.to_owned()));
    }
    let (id, state) = (run.id(), run.state());
    if state.is_terminal() {
        let hint = format!("`pictor retry {id}` does tasks of it again");
        let text = format!("run {id} is over ({}) and cannot be {change}; {hint}", state.name());
        return Err(Error::Refused(Code::RunIsOver, text));
    }
    Ok(())
}

fn size(run: &Run, reset: &[ResetTasks]) -> Size {
    let closure = run.reset_closure(reset);
    let remade = closure.iter().filter(|at| run.is_removed(**at)).count();
    (closure.len() as u64, remade as u64)
}

/// The changes that a retry makes, and its size: new settings, and tasks to execute again. Settings alone may be
/// changed even if no task has failed.
fn to_retry(
    run: &Run,
    names: &[String],
    set: &[(String, String)],
) -> Result<(Event, Size), String> {
    if set.is_empty() {
        let reset = to_reset(run, names)?;
        let size = size(run, &reset);
        return Ok((Event::Reset(reset), size));
    }
    let changes = changes(set)?;
    if let Some(problem) = run.lacks_settings(&changes) {
        return Err(problem);
    }
    let reset = match to_reset(run, names) {
        Err(_) if names.is_empty() => Vec::new(),
        reset => reset?,
    };
    let size = size(run, &reset);
    Ok((Event::Changed(Changes { reset, ..changes }), size))
}

/// The tasks that a retry executes again.
fn to_reset(run: &Run, names: &[String]) -> Result<Vec<ResetTasks>, String> {
    let mut chosen: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for name in names {
        if let Some(at) = run.find_task(name) {
            chosen.entry(at.step).or_default().push(at.index);
        } else if let Some(step) = run.plan().step(name) {
            let all = TaskState::ALL.into_iter().flat_map(|state| run.tasks_in(step, state));
            chosen.entry(step).or_default().extend(all.map(|at| at.index));
        } else {
            return Err(format!("there is no task `{name}`"));
        }
    }
    if names.is_empty() {
        for step in (0u16..).take(run.plan().steps.len()) {
            let bad = [TaskState::Failed, TaskState::Cancelled];
            let tasks = bad.into_iter().flat_map(|state| run.tasks_in(step, state));
            let tasks: Vec<u32> = tasks.map(|at| at.index).collect();
            if !tasks.is_empty() {
                chosen.insert(step, tasks);
            }
        }
    }
    if chosen.values().all(Vec::is_empty) {
        return Err("nothing failed and nothing was cancelled, so there is nothing to retry".into());
    }
    Ok(chosen.into_iter().map(|(step, tasks)| ResetTasks { step, tasks }).collect())
}
