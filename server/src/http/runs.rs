//! Runs: lists, one in detail, its graph.

use super::Api;
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use super::paging::Name;
use super::refusal::Refusal;
use crate::handle::{Error, OwnerHandle};
use crate::runs::shape;
use axum::extract::State;
use pictor_api::{Graph, Page, RunDetail, RunState, RunSummary};
use pictor_engine::{Engine, Run};
use pictor_storage::{RunFilter, RunRecord};
use pictor_tasks::message::RunId;
use serde::Deserialize;
use std::sync::Arc;

impl Api {
    /// The owner, if it is this server. Its handle does not keep requests waiting while history cannot be written.
    pub(super) fn owner(&self) -> Result<OwnerHandle, Refusal> {
        let owner = self.role.borrow().owner().cloned().map(OwnerHandle::in_a_hurry);
        owner.ok_or_else(Refusal::no_owner)
    }

    /// The run of this id, or of an unambiguous beginning of it, if the caller may see it.
    pub(super) async fn run(&self, caller: &Caller, name: &str) -> Result<RunRecord, Refusal> {
        match self.runs.find(caller.only(), name).await {
            Err(Error::NoRun(_)) => Err(Refusal::not_found(format_args!("run `{name}`"))),
            found => Ok(found?),
        }
    }

    /// Runs a query about a run, as [`Runs::ask`](crate::Runs) does.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        record: &RunRecord,
        question: impl FnOnce(&Engine, &Run) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        Ok(self.runs.ask(Some(&self.owner()?), record, question).await?)
    }
}

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
        let own = caller.only().map(str::to_owned);
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
    let owner = api.owner()?;
    Ok(Json(api.runs.list(Some(&owner), &filter, limit, after.as_ref()).await?))
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
    Ok(Json(api.runs.detail(Some(&api.owner()?), record).await?))
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
