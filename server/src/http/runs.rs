//! Runs: lists, one in numbers, its graph.

use super::Api;
use super::auth::Caller;
use super::extract::{Json, Path, Query};
use super::lookup::effort;
use super::paging::{Name, Page};
use super::problem::Problem;
use super::tasks::Task;
use axum::extract::State;
use pictor_engine::plan::{DimBound, DimValues};
use pictor_engine::{
    Effort, Engine, Found, Notes, Plan, Run, RunView, StepView, TaskQuery, TaskState, TaskView,
};
use pictor_storage::{RunFilter, RunRecord};
use pictor_tasks::message::{RunId, TaskId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// How many failed and waiting tasks one run shows.
pub(super) const FEW: usize = 10;

/// How many tasks are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskCounts {
    /// They wait for other tasks.
    pub pending: u64,
    /// They may be assigned to a worker.
    pub ready: u64,
    /// A worker's queue holds them.
    pub queued: u64,
    /// A worker has claimed them.
    pub running: u64,
    /// Their success is committed.
    pub succeeded: u64,
    /// They failed and are not tried again.
    pub failed: u64,
    /// Something that they need did not succeed.
    pub skipped: u64,
    /// They were given up.
    pub cancelled: u64,
}

impl TaskCounts {
    fn of(steps: &[StepView]) -> Self {
        let count = |state| steps.iter().map(|step| u64::from(step.count(state))).sum();
        Self {
            pending: count(TaskState::Pending),
            ready: count(TaskState::Ready),
            queued: count(TaskState::Queued),
            running: count(TaskState::Running),
            succeeded: count(TaskState::Succeeded),
            failed: count(TaskState::Failed),
            skipped: count(TaskState::Skipped),
            cancelled: count(TaskState::Cancelled),
        }
    }
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Tasks are or will be assigned.
    Running,
    /// No task is assigned until it is resumed.
    Paused,
    /// Every task is over and no failure was left unabsorbed.
    Succeeded,
    /// Every task is over and some failure was not absorbed.
    Failed,
    /// It was given up.
    Cancelled,
}

impl From<pictor_engine::RunState> for RunState {
    fn from(state: pictor_engine::RunState) -> Self {
        use pictor_engine::RunState as Engine;
        match state {
            Engine::Running => Self::Running,
            Engine::Paused => Self::Paused,
            Engine::Succeeded => Self::Succeeded,
            Engine::Failed => Self::Failed,
            Engine::Cancelled => Self::Cancelled,
        }
    }
}

impl RunState {
    fn named(name: &str) -> Self {
        let states = pictor_engine::RunState::ALL;
        let state = states.into_iter().find(|state| state.name() == name);
        state.map_or(Self::Running, Self::from)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let states = pictor_engine::RunState::ALL;
        states.into_iter().find(|state| Self::from(*state) == self).map_or("", |s| s.name())
    }
}

/// A run in a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunSummary {
    /// Its id.
    pub id: String,
    /// The job's name.
    pub name: String,
    /// Its state.
    pub state: RunState,
    /// The account that submitted it.
    pub owner: String,
    /// Its priority: now if `tasks` are known, else when it was submitted.
    pub priority: i32,
    /// When it was submitted, milliseconds since 1970.
    pub created_ms: i64,
    /// When it ended, milliseconds since 1970.
    pub finished_ms: Option<i64>,
    /// Its tasks by state. A list has them while a run is not over, and for a moment after.
    pub tasks: Option<TaskCounts>,
}

impl RunSummary {
    pub(super) fn new(record: RunRecord, view: Option<&RunView>) -> Self {
        Self {
            state: view.map_or_else(|| RunState::named(&record.state), |view| view.state.into()),
            priority: view.map_or(record.priority, |view| view.priority),
            tasks: view.map(|view| TaskCounts::of(&view.steps)),
            id: record.id.to_string(),
            name: record.name,
            owner: record.owner,
            created_ms: record.created_ms,
            finished_ms: record.finished_ms,
        }
    }
}

/// One step of a run, in numbers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The kind of work.
    pub kind: String,
    /// The dimensions that it runs over.
    pub over: Vec<String>,
    /// How many tasks it has; null while a dimension of it is not known yet.
    pub size: Option<u32>,
    /// Its tasks by state.
    pub tasks: TaskCounts,
    /// The mean duration of its successes so far, in milliseconds.
    pub mean_ms: Option<f64>,
    /// How much of its running tasks is done, in tasks: 1.5 is one and a half; null if none of them says.
    #[serde(default)]
    pub progress: Option<f32>,
    /// Tasks that succeeded and left nothing, although the step's results are delivered: pictures that were left
    /// out, for instance.
    #[serde(default)]
    pub left_out: u32,
}

impl From<StepView> for Step {
    fn from(view: StepView) -> Self {
        let tasks = TaskCounts::of(std::slice::from_ref(&view));
        let StepView { name, kind, over, tasks: size, mean_ms, progress, left_out, .. } = view;
        Self { name, kind, over, size, tasks, mean_ms, progress, left_out }
    }
}

/// One run in detail.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunDetail {
    /// What lists of runs say about it.
    #[serde(flatten)]
    pub run: RunSummary,
    /// The job file's name.
    pub source_name: String,
    /// Its steps, in the order of the job.
    pub steps: Vec<Step>,
    /// The estimated time to the end, in milliseconds; null while too little is known.
    pub eta_ms: Option<u64>,
    /// The first failed tasks.
    pub failures: Vec<Task>,
    /// The first tasks that could be assigned and are not, with the reason.
    pub waiting: Vec<Task>,
    /// What is odd and no failure: limits that nobody defines, and what workers said of tasks that have
    /// succeeded, each sentence once; the first hundred.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// How often something else was said.
    #[serde(default)]
    pub notes_left_out: u32,
}

/// What workers said of tasks that have succeeded: a scene's scripts were blocked, files are missing.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Note {
    /// The sentence.
    pub text: String,
    /// How many tasks said it; 0 if it is about a step.
    pub tasks: u32,
    /// The first of them, or the step.
    pub example: String,
}

impl From<pictor_engine::Note> for Note {
    fn from(note: pictor_engine::Note) -> Self {
        let pictor_engine::Note { text, tasks, example } = note;
        Self { text, tasks, example }
    }
}

/// Which runs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// Only those in this state.
    #[param(inline)]
    state: Option<RunState>,
    /// Only those of this account.
    owner: Option<String>,
    /// Only those with this in their name, in small or capital letters.
    name: Option<String>,
    /// How many at most: 1 to 1000, 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    #[param(value_type = Option<String>, min_length = 1)]
    after: Option<Name>,
}

impl RunsQuery {
    /// How many are asked for.
    pub(super) fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// Which runs the caller is told of, and after which. Nothing: none.
    pub(super) fn filter(self, caller: &Caller) -> Option<(RunFilter, Option<RunId>)> {
        let own = (!caller.sees("")).then(|| caller.account.clone());
        if own.is_some() && self.owner.is_some() && own != self.owner {
            return None;
        }
        let filter = RunFilter {
            state: self.state.map(|state| state.name().to_owned()),
            owner: own.or(self.owner),
            name: self.name.filter(|name| !name.is_empty()),
        };
        Some((filter, self.after.map(|Name(after)| RunId(after.into()))))
    }
}

/// Lists runs, the newest first.
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", params(RunsQuery),
    responses((status = 200, description = "Runs", body = Page<RunSummary>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<RunsQuery>,
) -> Result<Json<Page<RunSummary>>, Problem> {
    let limit = api.limits.page(query.limit)?;
    let Some((filter, after)) = query.filter(&caller) else {
        return Ok(Json(Page { items: Vec::new(), next: None }));
    };
    if let Some(after) = &after
        && api.store.run(&after.0).await?.is_none_or(|run| run.id != *after)
    {
        return Err(Problem::not_found(format_args!("run `{after}` to go on after")));
    }
    let count = u32::try_from(limit).unwrap_or(u32::MAX);
    let records = api.store.runs(&filter, count, after.as_ref()).await?;
    let next = (records.len() == limit).then(|| records.last().map(|run| run.id.to_string()));
    let ids: Vec<RunId> = records.iter().map(|run| run.id.clone()).collect();
    let views = api.owner()?.ask(move |engine| views(engine, &ids)).await?;
    let items = records.into_iter().map(|record| {
        let view = views.get(&record.id);
        RunSummary::new(record, view)
    });
    Ok(Json(Page { items: items.collect(), next: next.flatten() }))
}

fn views(engine: &Engine, ids: &[RunId]) -> BTreeMap<RunId, RunView> {
    let runs = ids.iter().filter_map(|id| engine.run(id));
    runs.map(|run| (run.id().clone(), engine.view(run))).collect()
}

/// Shows a run: its steps, counts, and what is wrong with it.
#[utoipa::path(
    get, path = "/v1/runs/{run}", tag = "runs",
    params(("run" = String, Path, description = "Its id, or enough of the beginning of it")),
    responses((status = 200, description = "The run", body = RunDetail)),
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(run): Path<String>,
) -> Result<Json<RunDetail>, Problem> {
    let record = api.run(&caller, &run).await?;
    let now_ms = (api.now_ms)();
    let (failed, ready) = (in_state(TaskState::Failed, now_ms), in_state(TaskState::Ready, now_ms));
    let look = move |engine: &Engine, run: &Run| Detail::of(engine, run, effort(FEW), now_ms);
    let Detail { view, failures, waiting, notes } = api.ask(&record, look).await?;
    let failures = api.find(&record, (failures, FEW), failed).await?;
    let waiting = api.find(&record, (waiting, FEW), ready).await?;
    let mut detail = RunDetail::new(record, Detail { view, failures, waiting, notes });
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

impl RunDetail {
    pub(super) fn new(record: RunRecord, detail: Detail) -> Self {
        let Detail { view, failures, waiting, notes } = detail;
        let tasks = |found: Found<TaskView>| found.items.into_iter().map(Task::from).collect();
        Self {
            source_name: record.source_name.clone(),
            run: RunSummary::new(record, Some(&view)),
            steps: view.steps.into_iter().map(Step::from).collect(),
            eta_ms: view.eta_ms,
            failures: tasks(failures),
            waiting: tasks(waiting),
            notes: notes.notes.into_iter().map(Note::from).collect(),
            notes_left_out: notes.notes_left_out,
        }
    }
}

type Looked = Result<Found<TaskView>, Problem>;

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

/// Where the values of a dimension come from.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DimensionKind {
    /// The job file.
    Fixed,
    /// A step's result.
    Late,
    /// Another dimension, cut into blocks.
    Blocks,
}

/// One dimension of a run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Dimension {
    /// Its name.
    pub name: String,
    /// Where its values come from.
    pub kind: DimensionKind,
    /// How many values it has, where the job file says so.
    pub size: Option<u32>,
    /// The dimension that says how many positions of it exist.
    pub bounded_by: Option<String>,
}

/// How far a needed task is from the task that needs it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Offset {
    /// The dimension.
    pub dimension: String,
    /// Positions in its list of values.
    pub by: i32,
}

/// One need: tasks of `to` wait for the tasks of `from` that agree with them on the shared dimensions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Edge {
    /// The step that is needed.
    pub from: String,
    /// The step that needs it.
    pub to: String,
    /// The dimensions that both run over.
    pub shared: Vec<String>,
    /// How far away the needed task is.
    pub offsets: Vec<Offset>,
    /// Whether it is enough that the needed tasks are over.
    pub soft: bool,
}

/// The graph of a run: steps and needs, however many tasks there are.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Graph {
    /// The dimensions.
    pub dimensions: Vec<Dimension>,
    /// The steps, in the order of the job.
    pub steps: Vec<Step>,
    /// The needs.
    pub needs: Vec<Edge>,
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
) -> Result<Json<Graph>, Problem> {
    let record = api.run(&caller, &run).await?;
    let ask = |engine: &Engine, run: &Run| (run.plan().clone(), engine.view(run).steps);
    let (plan, steps) = api.ask(&record, ask).await?;
    let steps = steps.into_iter().map(Step::from).collect();
    Ok(Json(Graph { dimensions: dimensions(&plan), steps, needs: edges(&plan) }))
}

fn dimensions(plan: &Plan) -> Vec<Dimension> {
    let dimension = |dim: &pictor_engine::plan::Dim| {
        let (kind, size) = match &dim.values {
            DimValues::Fixed(values) => (DimensionKind::Fixed, Some(values.len())),
            DimValues::Late { .. } => (DimensionKind::Late, None),
            DimValues::Blocks { .. } => (DimensionKind::Blocks, None),
        };
        let bounded_by = |bound: &DimBound| plan.dims[bound.by].name.clone();
        let bounded_by = dim.bound.as_ref().map(bounded_by);
        Dimension { name: dim.name.clone(), kind, size, bounded_by }
    };
    plan.dims.iter().map(dimension).collect()
}

fn edges(plan: &Plan) -> Vec<Edge> {
    let name = |dim: usize| plan.dims[dim].name.clone();
    let edges = plan.steps.iter().flat_map(|step| {
        step.needs.iter().map(move |need| {
            let from = &plan.steps[need.step as usize];
            let offset = |(dim, by): &(usize, i32)| Offset { dimension: name(*dim), by: *by };
            Edge {
                from: from.name.clone(),
                to: step.name.clone(),
                shared: step
                    .over
                    .iter()
                    .filter(|d| from.over.contains(d))
                    .map(|d| name(*d))
                    .collect(),
                offsets: need.offsets.iter().map(offset).collect(),
                soft: need.soft,
            }
        })
    });
    edges.collect()
}
