//! Runs: lists, one in detail, its graph.

use super::Api;
use super::auth::Caller;
use super::extract::{Json, Path, Query};
use super::lookup::effort;
use super::paging::Name;
use super::refusal::Refusal;
use crate::runs::shape;
use axum::extract::State;
use pictor_api::{Graph, Page, RunDetail, RunState, RunSummary};
use pictor_engine::{Effort, Engine, Found, Notes, Run, RunView, TaskQuery, TaskState, TaskView};
use pictor_storage::{RunFilter, RunRecord};
use pictor_tasks::message::{RunId, TaskId};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many failed and waiting tasks one run shows.
pub(super) const FEW: usize = 10;

/// Which runs to list, and how many.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// Only runs in this state.
    #[param(inline)]
    state: Option<RunState>,
    /// Only runs that this account submitted.
    owner: Option<String>,
    /// Only runs whose name contains this text, in upper or lower case.
    name: Option<String>,
    /// Most runs in the page: 1 to 1000, by default 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Cursor of the page: the `next` of the page before.
    #[param(value_type = Option<String>, min_length = 1)]
    after: Option<Name>,
}

impl RunsQuery {
    /// The requested number of runs.
    pub(super) fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// The filter for what the caller may see, and the run to start after. Returns `None` if there can be none.
    pub(super) fn filter(self, caller: &Caller) -> Option<(RunFilter, Option<RunId>)> {
        let own = (!caller.sees("")).then(|| caller.account.clone());
        if own.is_some() && self.owner.is_some() && own != self.owner {
            return None;
        }
        let filter = RunFilter {
            state: self.state,
            account: own.or(self.owner),
            name: self.name.filter(|name| !name.is_empty()),
        };
        Some((filter, self.after.map(|Name(after)| RunId(after.into()))))
    }
}

/// Lists runs, newest first.
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", params(RunsQuery),
    responses((status = 200, description = "Runs", body = Page<RunSummary>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<RunsQuery>,
) -> Result<Json<Page<RunSummary>>, Refusal> {
    let limit = api.limits.page(query.limit)?;
    let Some((filter, after)) = query.filter(&caller) else {
        return Ok(Json(Page { items: Vec::new(), next: None }));
    };
    if let Some(after) = &after
        && api.store.run(&after.0).await?.is_none_or(|run| run.id != *after)
    {
        return Err(Refusal::not_found(format_args!("run `{after}` to go on after")));
    }
    let count = u32::try_from(limit).unwrap_or(u32::MAX);
    let records = api.store.runs(&filter, count, after.as_ref()).await?;
    let next = (records.len() == limit).then(|| records.last().map(|run| run.id.to_string()));
    let ids: Vec<RunId> = records.iter().map(|run| run.id.clone()).collect();
    let views = api.owner()?.ask(move |engine| views(engine, &ids)).await?;
    let items = records.into_iter().map(|record| {
        let view = views.get(&record.id);
        shape::summary(record, view)
    });
    Ok(Json(Page { items: items.collect(), next: next.flatten() }))
}

fn views(engine: &Engine, ids: &[RunId]) -> BTreeMap<RunId, RunView> {
    let runs = ids.iter().filter_map(|id| engine.run(id));
    runs.map(|run| (run.id().clone(), engine.view(run))).collect()
}

/// Shows a run: its steps, counts and problems.
#[utoipa::path(
    get, path = "/v1/runs/{run}", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run", body = RunDetail)),
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<RunDetail>, Refusal> {
    let record = api.run(&caller, &run).await?;
    let now_ms = (api.now_ms)();
    let (failed, ready) = (in_state(TaskState::Failed, now_ms), in_state(TaskState::Ready, now_ms));
    let look = move |engine: &Engine, run: &Run| Detail::of(engine, run, effort(FEW), now_ms);
    let Detail { view, failures, waiting, notes } = api.ask(&record, look).await?;
    let failures = api.find(&record, (failures, FEW), failed).await?;
    let waiting = api.find(&record, (waiting, FEW), ready).await?;
    let mut detail = Detail { view, failures, waiting, notes }.of_run(record);
    api.name_workers(detail.failures.iter_mut().chain(&mut detail.waiting).collect()).await?;
    Ok(Json(detail))
}

/// What the engine knows about a run.
#[derive(Clone, Debug)]
pub(super) struct Detail {
    pub(super) view: RunView,
    failures: Found<TaskView>,
    waiting: Found<TaskView>,
    notes: Notes,
}

impl Detail {
    /// As far as it is found with this effort.
    pub(super) fn of(engine: &Engine, run: &Run, effort: Effort, now_ms: i64) -> Self {
        let few = |state| {
            let query = TaskQuery { state: Some(state), ..TaskQuery::default() };
            engine.find(run, &query, (TaskId::default(), effort), now_ms)
        };
        let (failures, waiting) = (few(TaskState::Failed), few(TaskState::Ready));
        Self { view: engine.view(run), failures, waiting, notes: engine.notes(run) }
    }
}

impl Detail {
    /// As it is told.
    pub(super) fn of_run(self, record: RunRecord) -> RunDetail {
        let Self { view, failures, waiting, notes } = self;
        let tasks = |found: Found<TaskView>| found.items.into_iter().map(shape::task).collect();
        shape::detail(record, view, (tasks(failures), tasks(waiting)), notes)
    }
}

type Looked = Result<Found<TaskView>, Refusal>;

/// A look for tasks in a state.
fn in_state(
    state: TaskState,
    now_ms: i64,
) -> impl Fn(&Engine, &Run, TaskId, Effort) -> Looked + Copy + Send + 'static {
    move |engine, run, from, effort| {
        let query = TaskQuery { state: Some(state), ..TaskQuery::default() };
        Ok(engine.find(run, &query, (from, effort), now_ms))
    }
}

/// Shows the graph of a run.
#[utoipa::path(
    get, path = "/v1/runs/{run}/graph", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The graph", body = Graph)),
)]
pub(super) async fn graph(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<Graph>, Refusal> {
    let record = api.run(&caller, &run).await?;
    let ask = |engine: &Engine, run: &Run| (run.plan().clone(), engine.view(run).steps);
    let (plan, steps) = api.ask(&record, ask).await?;
    Ok(Json(shape::graph(&plan, steps)))
}
