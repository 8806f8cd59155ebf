//! Converts what the engine and history know about runs, tasks and attempts to the API's types.

use pictor_api::{
    Attempt, AttemptState, Dimension, DimensionKind, Edge, Graph, Note, Offset, RunDetail,
    RunSummary, Step, Task, TaskCounts,
};
use pictor_engine::plan::{DimBound, DimValues};
use pictor_engine::{Notes, Plan, RunView, StepView, TaskView};
use pictor_storage::RunRecord;
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{Execution, Outcome, TaskId};

/// Most notes of one attempt that are shown.
const NOTES: usize = 100;

fn counts(steps: &[StepView]) -> TaskCounts {
    TaskCounts::of(|state| steps.iter().map(|step| u64::from(step.count(state))).sum())
}

/// A run in a list; `view` is what the engine knows about it.
pub(crate) fn summary(record: RunRecord, view: Option<&RunView>) -> RunSummary {
    RunSummary {
        state: view.map_or(record.state, |view| view.state),
        priority: view.map_or(record.priority, |view| view.priority),
        tasks: view.map(|view| counts(&view.steps)),
        id: record.id.to_string(),
        name: record.name,
        owner: record.account,
        created_ms: record.created_ms,
        finished_ms: record.finished_ms,
        interrupted: false,
        out_dir: None,
        set_aside: None,
    }
}

fn step(view: StepView) -> Step {
    let tasks = counts(std::slice::from_ref(&view));
    let StepView { name, kind, over, tasks: size, mean_ms, progress, left_out, .. } = view;
    Step { name, kind, over, size, tasks, mean_ms, progress, left_out }
}

/// The steps of a run in the API's type.
pub fn steps(views: Vec<StepView>) -> Vec<Step> {
    views.into_iter().map(step).collect()
}

/// The remarks of workers about a run, in the API's type.
pub fn notes(notes: Vec<pictor_engine::Note>) -> Vec<Note> {
    let note = |pictor_engine::Note { text, tasks, example }| Note { text, tasks, example };
    notes.into_iter().map(note).collect()
}

/// A task, without the name of its worker.
pub(crate) fn task(view: TaskView) -> Task {
    let TaskView { name, step, index, state, attempt, reason, worker_name, progress, .. } = view;
    let worker = view.worker.or(view.ended_by).map(|worker| worker.0);
    let reason = reason.to_string();
    Task { name, step, index, state, attempt, reason, worker, worker_name, progress }
}

/// One run in detail, with its first failed tasks and the first that wait.
pub(crate) fn detail(
    record: RunRecord,
    view: RunView,
    failures: Vec<Task>,
    waiting: Vec<Task>,
    notes: Notes,
) -> RunDetail {
    RunDetail {
        source_name: record.source_name.clone(),
        run: summary(record, Some(&view)),
        steps: steps(view.steps),
        eta_ms: view.eta_ms,
        failures,
        waiting,
        notes: self::notes(notes.notes),
        notes_left_out: notes.notes_left_out,
    }
}

/// A run of which nothing is known but that it cannot be loaded.
pub(crate) fn unreadable(record: RunRecord, why: String) -> RunDetail {
    RunDetail {
        source_name: record.source_name.clone(),
        run: RunSummary { set_aside: Some(why), ..summary(record, None) },
        steps: Vec::new(),
        eta_ms: None,
        failures: Vec::new(),
        waiting: Vec::new(),
        notes: Vec::new(),
        notes_left_out: 0,
    }
}

/// The state of an attempt that ended like this.
pub(crate) fn ended(outcome: &Outcome) -> AttemptState {
    match outcome {
        Outcome::Succeeded(_) => AttemptState::Succeeded,
        Outcome::Failed(_) => AttemptState::Failed,
        Outcome::Cancelled => AttemptState::Cancelled,
        Outcome::Lost => AttemptState::Lost,
    }
}

/// The attempt that a row is about, with a key that identifies it. Returns `None` if it is not one of this task.
pub(crate) fn attempt(row: &Row, at: TaskId) -> Option<((u32, u32, Execution), Attempt)> {
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
        view.state = self::ended(&ended.outcome);
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

/// The graph of a run: its dimensions, steps and dependencies.
pub(crate) fn graph(plan: &Plan, steps: Vec<StepView>) -> Graph {
    Graph { dimensions: dimensions(plan), steps: self::steps(steps), needs: edges(plan) }
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
