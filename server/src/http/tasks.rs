//! Tasks of a run: filtered pages, and one task with its attempts.

use super::auth::Caller;
use super::extract::{Json, Path, Query};
use super::lookup::{from, next};
use super::paging::Place;
use super::refusal::Refusal;
use super::{Api, aside};
use crate::runs::shape;
use axum::extract::State;
use pictor_api::{Attempt, Page, Task, TaskDetail, TaskState};
use pictor_engine::{Engine, Run, TaskQuery, TaskView};
use pictor_tasks::history::Row;
use pictor_tasks::message::{Execution, RunId, TaskId};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

impl Api {
    /// Tasks as they are sent: with the names of their workers.
    pub(super) async fn tasks(&self, views: Vec<TaskView>) -> Result<Vec<Task>, Refusal> {
        let mut tasks: Vec<Task> = views.into_iter().map(shape::task).collect();
        self.name_workers(tasks.iter_mut().collect()).await?;
        Ok(tasks)
    }

    /// Puts the names of their workers to tasks.
    pub(super) async fn name_workers(&self, tasks: Vec<&mut Task>) -> Result<(), Refusal> {
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

/// Which tasks to list. Further parameters of the form `dim.NAME=VALUE` (`dim.frame=7`) take only tasks
/// with that value of that dimension.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TasksQuery {
    /// Only tasks of this step.
    step: Option<String>,
    /// Only tasks in this state.
    #[param(inline)]
    state: Option<TaskState>,
    /// Most tasks in the page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Cursor of the page: the `next` of the page before.
    #[param(inline, value_type = Option<Place>)]
    after: Option<Place>,
    #[serde(flatten)]
    #[param(ignore)]
    others: BTreeMap<String, String>,
}

/// Lists tasks of a run, in order of step and index.
///
/// Further parameters of the form `dim.NAME=VALUE` (`dim.frame=7`) select only tasks with that value of that dimension.
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
) -> Result<Json<Page<Task>>, Refusal> {
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
    /// Parsed by hand: the names of the other parameters come from the job.
    fn read(pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for (name, value) in pairs {
            let bad = |what: &str| Refusal::invalid(format!("`{name}` has to be {what}"));
            match &*name {
                "step" => query.step = Some(value),
                "state" => {
                    let state = TaskState::ALL.into_iter().find(|s| s.name() == value);
                    query.state = Some(state.ok_or_else(|| bad("the state of a task"))?);
                }
                "limit" => query.limit = Some(value.parse().map_err(|_| bad("a number"))?),
                "after" => query.after = Some(value.parse().map_err(Refusal::invalid)?),
                _ => {
                    let dim = name.strip_prefix("dim.").filter(|dim| !dim.is_empty());
                    let dim = dim.ok_or_else(|| {
                        Refusal::invalid(format!(
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
    fn resolve(&self, run: &Run) -> Result<TaskQuery, Refusal> {
        let step = self.step.as_ref().map(|name| {
            run.plan().step(name).ok_or_else(|| {
                let steps: Vec<&str> = run.plan().steps.iter().map(|s| &*s.name).collect();
                let steps = steps.join(", ");
                Refusal::not_found(format_args!("step `{name}` in the run; it has {steps}"))
            })
        });
        if let Some(dim) = self.others.keys().find(|dim| !run.has_dimension(dim)) {
            return Err(Refusal::not_found(format_args!("dimension `{dim}` in the run")));
        }
        Ok(TaskQuery {
            step: step.transpose()?,
            state: self.state,
            dims: self.others.clone().into_iter().collect(),
        })
    }
}

/// Shows one task: its state with the reason, its attempts, its outputs.
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
) -> Result<Json<TaskDetail>, Refusal> {
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
    let task = api.tasks(vec![view]).await?.remove(0);
    Ok(Json(TaskDetail { task, attempts, outputs }))
}

/// The run has no task of that name.
pub(super) fn no_task(name: &str) -> Refusal {
    Refusal::not_found(format_args!("task `{name}`"))
}

/// What history says about a task, read on a thread of its own: it can be long.
async fn attempts(api: &Api, run: &RunId, at: TaskId) -> Result<Vec<Attempt>, Refusal> {
    let (store, run) = (api.store.clone(), run.clone());
    let runtime = tokio::runtime::Handle::current();
    let read = aside(move || {
        let mut attempts: BTreeMap<(u32, u32, Execution), Attempt> = BTreeMap::new();
        let mut collect = |row: Row| {
            if let Some((key, attempt)) = shape::attempt(&row, at) {
                attempts.insert(key, attempt);
            }
        };
        runtime.block_on(store.load_history(&run, 1, &mut collect))?;
        Ok::<_, pictor_storage::Error>(attempts.into_values().collect())
    });
    Ok(read.await??)
}
