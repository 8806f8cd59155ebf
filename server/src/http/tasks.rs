//! Tasks of a run: filtered pages, and one task with its attempts.

use super::Api;
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use super::refusal::Refusal;
use crate::runs::{TaskCursor, TaskFilter};
use axum::extract::State;
use pictor_api::{Page, Task, TaskDetail, TaskState};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which tasks to list. Further parameters of the form `dim.NAME=VALUE` (`dim.frame=7`) select only tasks
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
    #[param(inline, value_type = Option<TaskCursor>)]
    after: Option<TaskCursor>,
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
    let TasksQuery { step, state, others, .. } = asked;
    let filter = TaskFilter { step, state, dims: others.into_iter().collect() };
    Ok(Json(api.runs.tasks(Some(&api.owner()?), &record, filter, (limit, first)).await?))
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
    Ok(Json(api.runs.task(Some(&api.owner()?), &record, &task).await?))
}
