//! Tasks of a run: filtered pages, and one with its attempts.

use super::auth::Caller;
use super::extract::{Json, Path, Query};
use super::lookup::{from, next};
use super::paging::{Page, Place};
use super::problem::Problem;
use super::{Api, aside};
use axum::extract::State;
use pictor_engine::{Engine, Run, TaskQuery, TaskView};
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{Execution, Outcome, RunId, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use utoipa::ToSchema;

/// The most notes of one attempt that are shown.
const NOTES: usize = 100;

/// The state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It waits for other tasks.
    Pending,
    /// It may be assigned to a worker.
    Ready,
    /// A worker's queue holds it.
    Queued,
    /// A worker has claimed it and holds a lease.
    Running,
    /// Its success is committed.
    Succeeded,
    /// It failed and is not tried again.
    Failed,
    /// Something that it needs did not succeed; undone by a retry.
    Skipped,
    /// It was given up.
    Cancelled,
}

impl From<pictor_engine::TaskState> for TaskState {
    fn from(state: pictor_engine::TaskState) -> Self {
        use pictor_engine::TaskState as Engine;
        match state {
            Engine::Pending => Self::Pending,
            Engine::Ready => Self::Ready,
            Engine::Queued => Self::Queued,
            Engine::Running => Self::Running,
            Engine::Succeeded => Self::Succeeded,
            Engine::Failed => Self::Failed,
            Engine::Skipped => Self::Skipped,
            Engine::Cancelled => Self::Cancelled,
        }
    }
}

impl TaskState {
    /// As the engine knows it.
    pub fn engine(self) -> pictor_engine::TaskState {
        pictor_engine::TaskState::ALL[self as usize]
    }
}

/// One task.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// As in `render[frame=7,tile=3]`.
    pub name: String,
    /// Its step.
    pub step: String,
    /// Its index in the step.
    pub index: u32,
    /// Its state.
    pub state: TaskState,
    /// The present attempt, from 1.
    pub attempt: u32,
    /// Why it is not running, why it failed, or how far it is, for people.
    pub reason: String,
    /// The worker that has it, or had it when it ended.
    pub worker: Option<u32>,
    /// What that worker is called.
    #[serde(default)]
    pub worker_name: Option<String>,
    /// From 0 to 1, for a running task that says so.
    pub progress: Option<f32>,
}

impl From<TaskView> for Task {
    fn from(view: TaskView) -> Self {
        let TaskView { name, step, index, state, attempt, reason, worker_name, progress, .. } =
            view;
        let (state, worker) = (state.into(), view.worker.or(view.ended_by).map(|worker| worker.0));
        Self { name, step, index, state, attempt, reason, worker, worker_name, progress }
    }
}

impl Api {
    /// Tasks as they are sent: with the names of their workers.
    pub(super) async fn tasks(&self, views: Vec<TaskView>) -> Result<Vec<Task>, Problem> {
        let mut tasks: Vec<Task> = views.into_iter().map(Task::from).collect();
        self.name_workers(tasks.iter_mut().collect()).await?;
        Ok(tasks)
    }

    /// Puts the names of their workers to tasks.
    pub(super) async fn name_workers(&self, tasks: Vec<&mut Task>) -> Result<(), Problem> {
        if tasks.iter().all(|task| task.worker.is_none()) {
            return Ok(());
        }
        let records = self.registry.workers().await?;
        let names: HashMap<u32, String> = records.into_iter().map(|r| (r.id.0, r.name)).collect();
        for task in tasks {
            task.worker_name = task.worker.and_then(|worker| names.get(&worker).cloned());
        }
        Ok(())
    }
}

/// What an accepted attempt left.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Output {
    /// The output's name within its task; `image` for pictures.
    pub name: String,
    /// The artifact: `GET /v1/artifacts/{key}`.
    pub key: String,
    /// BLAKE3 of its bytes, in hex.
    pub digest: String,
    /// Its size.
    pub size_bytes: u64,
}

impl From<pictor_tasks::message::Output> for Output {
    fn from(output: pictor_tasks::message::Output) -> Self {
        let pictor_tasks::message::Output { name, key, digest, size_bytes } = output;
        Self { name, key, digest, size_bytes }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// It has not ended.
    Running,
    /// The work was done.
    Succeeded,
    /// It failed.
    Failed,
    /// The worker gave it up because it was told to.
    Cancelled,
    /// Nobody heard of it again.
    Lost,
}

impl AttemptState {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(_) => Self::Succeeded,
            Outcome::Failed(_) => Self::Failed,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Lost => Self::Lost,
        }
    }
}

/// One try at a task.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// Which carrying-out of it, in hex.
    pub execution: String,
    /// The worker.
    pub worker: u32,
    /// How it ended.
    pub state: AttemptState,
    /// When it started, milliseconds since 1970.
    pub started_ms: i64,
    /// How long it took, in milliseconds; null while it runs.
    pub took_ms: Option<u32>,
    /// Why it failed.
    pub message: Option<String>,
    /// What else the worker said.
    pub notes: Vec<String>,
}

/// One task with its attempts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskDetail {
    /// The task.
    pub task: Task,
    /// Its attempts so far, in order.
    pub attempts: Vec<Attempt>,
    /// Its accepted outputs.
    pub outputs: Vec<Output>,
}

/// Which tasks to list. Further parameters of the form `dim.NAME=VALUE` (`dim.frame=7`) take only tasks
/// with that value of that dimension.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TasksQuery {
    /// Only those of this step.
    step: Option<String>,
    /// Only those in this state.
    #[param(inline)]
    state: Option<TaskState>,
    /// How many at most: 1 to 1000, 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    #[param(inline, value_type = Option<Place>)]
    after: Option<Place>,
    #[serde(flatten)]
    #[param(ignore)]
    others: BTreeMap<String, String>,
}

/// Lists tasks of a run, in order of step and index.
///
/// Further parameters of the form `dim.NAME=VALUE` (`dim.frame=7`) take only tasks with that value of
/// that dimension.
#[utoipa::path(
    get, path = "/v1/runs/{run}/tasks", tag = "tasks",
    params(
        ("run" = String, Path, description = "The run's id, or enough of the beginning of it"),
        TasksQuery,
    ),
    responses((status = 200, description = "Tasks", body = Page<Task>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Json<Page<Task>>, Problem> {
    let asked = TasksQuery::read(pairs)?;
    let (limit, first) = (api.limits.page(asked.limit)?, asked.after);
    let record = api.run(&caller, &run).await?;
    let now_ms = (api.now_ms)();
    let look = move |engine: &Engine, run: &Run, place, effort| {
        Ok(engine.find(run, &asked.resolve(run)?, (place, effort), now_ms))
    };
    let found = api.find(&record, (from(first), limit), look).await?;
    let next = next(&found);
    let items = api.tasks(found.items).await?;
    Ok(Json(Page { items, next }))
}

impl TasksQuery {
    /// By hand: what else is asked for is named by the job.
    fn read(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut query = Self::default();
        for (name, value) in pairs {
            let bad = |what: &str| Problem::invalid(format!("`{name}` has to be {what}"));
            match &*name {
                "step" => query.step = Some(value),
                "state" => {
                    let state =
                        pictor_engine::TaskState::ALL.into_iter().find(|s| s.name() == value);
                    query.state = Some(state.ok_or_else(|| bad("the state of a task"))?.into());
                }
                "limit" => query.limit = Some(value.parse().map_err(|_| bad("a number"))?),
                "after" => query.after = Some(value.parse().map_err(Problem::invalid)?),
                _ => {
                    let dim = name.strip_prefix("dim.").filter(|dim| !dim.is_empty());
                    let dim = dim.ok_or_else(|| {
                        Problem::invalid(format!(
                            "there is no parameter `{name}`; there are step, state, limit, after and \
                             dim.NAME"
                        ))
                    })?;
                    query.others.insert(dim.to_owned(), value);
                }
            }
        }
        Ok(query)
    }

    /// Names that the run does not have are refused; values that a dimension does not have are not.
    fn resolve(&self, run: &Run) -> Result<TaskQuery, Problem> {
        let step = self.step.as_ref().map(|name| {
            run.plan().step(name).ok_or_else(|| {
                let steps: Vec<&str> = run.plan().steps.iter().map(|s| &*s.name).collect();
                let steps = steps.join(", ");
                Problem::not_found(format_args!("step `{name}` in the run; it has {steps}"))
            })
        });
        if let Some(dim) = self.others.keys().find(|dim| !run.has_dimension(dim)) {
            return Err(Problem::not_found(format_args!("dimension `{dim}` in the run")));
        }
        let state = self.state.map(TaskState::engine);
        Ok(TaskQuery {
            step: step.transpose()?,
            state,
            dims: self.others.clone().into_iter().collect(),
        })
    }
}

/// Shows one task: its state and why it is in it, its attempts, its outputs.
#[utoipa::path(
    get, path = "/v1/runs/{run}/tasks/{task}", tag = "tasks",
    params(
        ("run" = String, Path, description = "The run's id, or enough of the beginning of it"),
        ("task" = String, Path, description = "As in `render[frame=7,tile=3]`, URL-encoded"),
    ),
    responses((status = 200, description = "The task", body = TaskDetail)),
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path((run, task)): Path<(String, String)>,
) -> Result<Json<TaskDetail>, Problem> {
    let record = api.run(&caller, &run).await?;
    let (now_ms, name) = ((api.now_ms)(), task.clone());
    let ask = move |engine: &Engine, run: &Run| {
        let at = run.find_task(&name)?;
        let outputs = run.outputs(at).map_or_else(Vec::new, |(_, o)| o.to_vec());
        Some((at, engine.task(run, at, now_ms)?, outputs))
    };
    let found = api.ask(&record, ask).await?;
    let (at, view, outputs) = found.ok_or_else(|| no_task(&task))?;
    let attempts = attempts(&api, &record.id, at).await?;
    let outputs = outputs.into_iter().map(Output::from).collect();
    let task = api.tasks(vec![view]).await?.remove(0);
    Ok(Json(TaskDetail { task, attempts, outputs }))
}

/// The run has no task of that name.
pub(super) fn no_task(name: &str) -> Problem {
    Problem::not_found(format_args!("task `{name}`"))
}

/// What history says about a task, read on a thread of its own: it can be long.
async fn attempts(api: &Api, run: &RunId, at: TaskId) -> Result<Vec<Attempt>, Problem> {
    let (store, run) = (api.store.clone(), run.clone());
    let runtime = tokio::runtime::Handle::current();
    let read = aside(move || {
        let mut attempts: BTreeMap<(u32, u32, Execution), Attempt> = BTreeMap::new();
        let mut collect = |row: Row| {
            if let Some((key, attempt)) = attempt(&row, at) {
                attempts.insert(key, attempt);
            }
        };
        runtime.block_on(store.load_history(&run, 1, &mut collect))?;
        Ok::<_, pictor_storage::Error>(attempts.into_values().collect())
    });
    Ok(read.await??)
}

/// The attempt that a row is about, if it is one of this task.
fn attempt(row: &Row, at: TaskId) -> Option<((u32, u32, Execution), Attempt)> {
    let (task, execution, worker) = match &row.fact {
        Fact::Claim(claim) => (claim.task, claim.execution, claim.worker),
        Fact::Ended(ended) => (ended.task, ended.execution, ended.worker),
        Fact::Event(_) => return None,
    };
    if task.id() != at {
        return None;
    }
    let attempt = task.task.attempt;
    let mut view = Attempt {
        attempt,
        execution: format!("{:016x}", execution.0),
        worker: worker.0,
        state: AttemptState::Running,
        started_ms: row.time_ms,
        took_ms: None,
        message: None,
        notes: Vec::new(),
    };
    if let Fact::Ended(ended) = &row.fact {
        view.state = AttemptState::of(&ended.outcome);
        (view.started_ms, view.took_ms) = (ended.started_ms, Some(ended.took_ms));
        match &ended.outcome {
            Outcome::Succeeded(done) => {
                view.notes = done.notes.iter().take(NOTES).cloned().collect();
            }
            Outcome::Failed(failure) => view.message = Some(failure.message.clone()),
            Outcome::Cancelled | Outcome::Lost => {}
        }
    }
    Some(((task.generation, attempt, execution), view))
}
