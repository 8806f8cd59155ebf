//! Lists of runs and of a run's tasks, a page at a time.

use super::{Answer, Request, active, ask, line, stored_run};
use crate::handle::{Error, OwnerHandle};
use pictor_engine::{Effort, Engine, Run, TaskQuery, TaskState, TaskView};
use pictor_storage::{RunFilter, Store};
use pictor_tasks::message::TaskId;
use pictor_tasks::state::RunState;

/// The most runs or tasks in one answer.
const PAGE: u32 = 1000;

/// Answers [`Request::Runs`].
pub(super) async fn runs(
    store: &dyn Store,
    owner: Option<&OwnerHandle>,
    asked: Request,
) -> Result<Answer, Error> {
    let Request::Runs { state, owner: account, name, limit, after } = asked else {
        return Ok(Answer::Runs(Vec::new()));
    };
    let active = active(owner).await?;
    let state = match state.as_deref().map(|word| (word, RunState::named(word))) {
        Some((word, None)) => return Ok(Answer::Failed(format!("`{word}` is no state of a run"))),
        known => known.and_then(|(_, state)| state),
    };
    let filter = RunFilter { state, account, name };
    let count = u32::try_from(limit).unwrap_or(PAGE).min(PAGE);
    let records = store.runs(&filter, count, after.as_ref()).await?;
    let lines = records.into_iter().map(|record| {
        let active = active(&record);
        line(record, active)
    });
    Ok(Answer::Runs(lines.collect()))
}

/// The first tasks in a state.
pub(super) fn first_tasks(
    engine: &Engine,
    run: &Run,
    state: TaskState,
    few: usize,
) -> Vec<TaskView> {
    let query = TaskQuery { state: Some(state), ..TaskQuery::default() };
    let effort = Effort { limit: few, places: u32::MAX };
    here(engine.find(run, &query, (TaskId::default(), effort), crate::now_ms()).items)
}

/// Tasks of runs in a data folder were done on this machine.
fn here(mut tasks: Vec<TaskView>) -> Vec<TaskView> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for task in tasks.iter_mut().filter(|task| task.worker.or(task.ended_by).is_some()) {
        task.worker_name = Some(name.clone());
    }
    tasks
}

/// Answers [`Request::Tasks`].
pub(super) async fn tasks(
    store: &dyn Store,
    owner: Option<&OwnerHandle>,
    asked: Request,
) -> Result<Answer, Error> {
    let Request::Tasks { run, state, step, dims, limit, after } = asked else {
        return Ok(Answer::Tasks(Vec::new(), None));
    };
    let record = stored_run(store, &run).await?;
    let now_ms = crate::now_ms();
    let tasks = ask(store, owner, &record.id, move |engine, run| {
        let number = step.as_ref().and_then(|name| run.plan().step(name));
        if let Some(name) = step.filter(|_| number.is_none()) {
            let steps = run.plan().steps.iter().map(|step| step.name.as_str());
            let steps = steps.collect::<Vec<_>>().join(", ");
            return Err(format!("run {} has no step `{name}`; it has {steps}", run.id()));
        }
        if let Some((dim, _)) = dims.iter().find(|(dim, _)| !run.has_dimension(dim)) {
            return Err(format!("run {} has no dimension `{dim}`", run.id()));
        }
        let query = TaskQuery { step: number, state, dims };
        let effort = Effort { limit: limit.min(PAGE as usize), places: u32::MAX };
        Ok(engine.find(run, &query, (after.unwrap_or_default(), effort), now_ms))
    });
    let tasks = tasks.await?;
    Ok(tasks.map_or_else(Answer::Failed, |found| Answer::Tasks(here(found.items), found.next)))
}
