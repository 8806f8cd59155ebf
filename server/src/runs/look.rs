//! Requests that read: lists of runs, one run, lists of its tasks, one task.

use super::shape;
use super::{Runs, TaskCursor, effort, from, load_plan, next};
use crate::handle::{Error, OwnerHandle};
use pictor_api::{Attempt, Code, Page, RunDetail, RunSummary, Task, TaskDetail, TaskState};
use pictor_engine::{Effort, Engine, Found, Notes, Run, RunView, TaskQuery, TaskView};
use pictor_storage::{RunFilter, RunRecord};
use pictor_tasks::message::{Execution, RunId, TaskId, WorkerId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most failed tasks, and most waiting tasks, in the description of one run.
pub(crate) const FEW: usize = 10;

/// The engine's part of a run's description.
#[derive(Clone, Debug)]
pub(crate) struct Detail {
    pub(crate) view: RunView,
    failures: Found<TaskView>,
    waiting: Found<TaskView>,
    notes: Notes,
}

impl Detail {
    /// Collects it from the engine, within the limits of `effort`.
    pub(crate) fn of(engine: &Engine, run: &Run, effort: Effort, now_ms: i64) -> Self {
        let few = |state| {
            let query = TaskQuery { state: Some(state), ..TaskQuery::default() };
            engine.find(run, &query, (TaskId::default(), effort), now_ms)
        };
        let (failures, waiting) = (few(TaskState::Failed), few(TaskState::Ready));
        Self { view: engine.view(run), failures, waiting, notes: engine.notes(run) }
    }

    /// Converts it to the API's type.
    pub(crate) fn of_run(self, record: RunRecord) -> RunDetail {
        let Self { view, failures, waiting, notes } = self;
        let tasks = |found: Found<TaskView>| found.items.into_iter().map(shape::task).collect();
        shape::detail(record, view, tasks(failures), tasks(waiting), notes)
    }
}

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskFilter {
    /// Only tasks of this step.
    pub(crate) step: Option<String>,
    /// Only tasks in this state.
    pub(crate) state: Option<TaskState>,
    /// Only tasks with these values of dimensions.
    pub(crate) dims: Vec<(String, String)>,
}

impl TaskFilter {
    /// Rejects steps and dimensions that the run does not have. A value that a dimension does not have finds nothing.
    fn resolve(&self, run: &Run) -> Result<TaskQuery, Error> {
        let id = run.id();
        let missing =
            |what: String| Error::Refused(Code::NotFound, format!("run {id} has no {what}"));
        let step = self.step.as_ref().map(|name| {
            run.plan().step(name).ok_or_else(|| {
                let steps: Vec<&str> = run.plan().steps.iter().map(|s| &*s.name).collect();
                missing(format!("step `{name}`; it has {}", steps.join(", ")))
            })
        });
        if let Some((dim, _)) = self.dims.iter().find(|(dim, _)| !run.has_dimension(dim)) {
            return Err(missing(format!("dimension `{dim}`")));
        }
        Ok(TaskQuery { step: step.transpose()?, state: self.state, dims: self.dims.clone() })
    }
}

impl Runs {
    /// A page of runs, newest first, that begins after this run.
    pub(crate) async fn list(
        &self,
        owner: Option<&OwnerHandle>,
        filter: &RunFilter,
        limit: usize,
        after: Option<&RunId>,
    ) -> Result<Page<RunSummary>, Error> {
        if let Some(after) = after
            && self
                .store
                .run_of(filter.account.as_deref(), &after.0)
                .await?
                .is_none_or(|run| run.id != *after)
        {
            let text = format!("there is no run `{after}` to go on after");
            return Err(Error::Refused(Code::NotFound, text));
        }
        let count = u32::try_from(limit).unwrap_or(u32::MAX);
        let records = self.store.runs(filter, count, after).await?;
        let next = (records.len() == limit).then(|| records.last().map(|run| run.id.to_string()));
        let views = self.views(owner, records.iter().map(|run| run.id.clone()).collect()).await?;
        let items = records.into_iter().map(|record| {
            let view = views.as_ref().and_then(|views| views.get(&record.id));
            let mut run = shape::summary(record.clone(), view);
            run.set_aside = owner.and_then(|owner| owner.why_set_aside(&record.id));
            self.complete(&mut run, record, views.as_ref());
            run
        });
        Ok(Page { items: items.collect(), next: next.flatten() })
    }

    /// The owner's views of these runs. Returns `None` if it cannot answer now.
    async fn views(
        &self,
        owner: Option<&OwnerHandle>,
        ids: Vec<RunId>,
    ) -> Result<Option<BTreeMap<RunId, RunView>>, Error> {
        let Some(owner) = owner else { return Ok(Some(BTreeMap::new())) };
        if self.registry.is_none() && owner.is_stalled() {
            return Ok(None);
        }
        let views = move |engine: &Engine| {
            let runs = ids.iter().filter_map(|id| engine.run(id));
            runs.map(|run| (run.id().clone(), engine.view(run))).collect()
        };
        owner.ask(views).await.map(Some)
    }

    /// Adds what only a run in a data folder has: the folder for its results, and whether a process works on it.
    fn complete(
        &self,
        run: &mut RunSummary,
        record: RunRecord,
        views: Option<&BTreeMap<RunId, RunView>>,
    ) {
        if self.registry.is_none() {
            let is_absent = |views: &BTreeMap<RunId, RunView>| {
                views.get(&record.id).is_none_or(|view| view.state.is_terminal())
            };
            run.interrupted = run.finished_ms.is_none() && views.is_some_and(is_absent);
            run.out_dir = Some(record.out_dir);
        }
    }

    /// Describes one run: its steps, counts and problems.
    pub(crate) async fn detail(
        &self,
        owner: Option<&OwnerHandle>,
        record: RunRecord,
    ) -> Result<RunDetail, Error> {
        let now_ms = (self.now_ms)();
        let look = move |engine: &Engine, run: &Run| Detail::of(engine, run, effort(FEW), now_ms);
        let Detail { view, failures, waiting, notes } = match self.ask(owner, &record, look).await {
            Err(error) if error.is_of_the_run() => {
                return Ok(shape::unreadable(record, error.to_string()));
            }
            looked => looked?,
        };
        let in_state = |state| {
            let query = TaskQuery { state: Some(state), ..TaskQuery::default() };
            move |engine: &Engine, run: &Run, from, effort| {
                Ok(engine.find(run, &query, (from, effort), now_ms))
            }
        };
        let failed = in_state(TaskState::Failed);
        let failures = self.search(owner, &record, (failures, FEW), failed).await?;
        let ready = in_state(TaskState::Ready);
        let waiting = self.search(owner, &record, (waiting, FEW), ready).await?;
        let mut detail = Detail { view, failures, waiting, notes }.of_run(record.clone());
        if self.registry.is_none() {
            let views = self.views(owner, vec![record.id.clone()]).await?;
            self.complete(&mut detail.run, record, views.as_ref());
        }
        self.name_workers(detail.failures.iter_mut().chain(&mut detail.waiting).collect()).await?;
        Ok(detail)
    }

    /// A page of a run's tasks, in order of step and index.
    pub(crate) async fn tasks(
        &self,
        owner: Option<&OwnerHandle>,
        record: &RunRecord,
        filter: TaskFilter,
        (limit, after): (usize, Option<TaskCursor>),
    ) -> Result<Page<Task>, Error> {
        let now_ms = (self.now_ms)();
        let look = move |engine: &Engine, run: &Run, cursor, effort| {
            Ok(engine.find(run, &filter.resolve(run)?, (cursor, effort), now_ms))
        };
        let found = self.search(owner, record, (from(after), limit), look).await?;
        let next = next(&found);
        let mut items: Vec<Task> = found.items.into_iter().map(shape::task).collect();
        self.name_workers(items.iter_mut().collect()).await?;
        Ok(Page { items, next })
    }

    /// Describes one task: its state with the reason, its attempts, its outputs.
    pub(crate) async fn task(
        &self,
        owner: Option<&OwnerHandle>,
        record: &RunRecord,
        name: &str,
    ) -> Result<TaskDetail, Error> {
        let (now_ms, asked) = ((self.now_ms)(), name.to_owned());
        let ask = move |engine: &Engine, run: &Run| {
            let at = run.find_task(&asked)?;
            let outputs = run.outputs(at).map_or_else(Vec::new, |(_, o)| o.to_vec());
            Some((at, run.rows_of(at), engine.task(run, at, now_ms)?, outputs))
        };
        let found = self.ask(owner, record, ask).await?;
        let (at, rows, view, outputs) = found.ok_or_else(|| no_task(&record.id, name))?;
        let mut attempts: BTreeMap<(u32, u32, Execution), Attempt> = BTreeMap::new();
        let rows = self.store.rows(&record.id, &rows).await?;
        attempts.extend(rows.iter().filter_map(|row| shape::attempt(row, at)));
        let attempts = attempts.into_values().collect();
        let mut task = shape::task(view);
        self.name_workers(vec![&mut task]).await?;
        Ok(TaskDetail { task, attempts, outputs })
    }

    /// The step and index of a task, and the name of its step. If the plan says it, no history has to be folded.
    pub(crate) async fn find_task(
        &self,
        owner: Option<&OwnerHandle>,
        record: &RunRecord,
        name: &str,
    ) -> Result<(TaskId, String), Error> {
        let plan = load_plan(&*self.store, &record.id).await?;
        let at = if let Some(at) = plan.find_task(name) {
            Some(at)
        } else {
            let name = name.to_owned();
            self.ask(owner, record, move |_, run| run.find_task(&name)).await?
        };
        let at = at.ok_or_else(|| no_task(&record.id, name))?;
        Ok((at, plan.steps[at.step as usize].name.clone()))
    }

    /// Adds the names of their workers to tasks.
    async fn name_workers(&self, mut tasks: Vec<&mut Task>) -> Result<(), Error> {
        tasks.retain(|task| task.worker.is_some());
        if tasks.is_empty() {
            return Ok(());
        }
        let Some(registry) = &self.registry else {
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            for task in tasks {
                task.worker_name = Some(name.clone());
            }
            return Ok(());
        };
        let ids: BTreeSet<WorkerId> = tasks.iter().filter_map(|t| t.worker.map(WorkerId)).collect();
        let names = registry.worker_names(&ids.into_iter().collect::<Vec<_>>()).await?;
        let names: HashMap<u32, String> =
            names.into_iter().map(|(id, name)| (id.0, name)).collect();
        for task in tasks {
            task.worker_name = task.worker.and_then(|worker| names.get(&worker).cloned());
        }
        Ok(())
    }
}

/// The error for a name that no task of the run has.
fn no_task(run: &RunId, name: &str) -> Error {
    let text = format!("run {run} has no task `{name}`; `pictor tasks {run}` lists them");
    Error::Refused(Code::NotFound, text)
}
