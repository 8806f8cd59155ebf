//! Requests about runs to a server; its responses are converted to the types that describe runs on this machine, so
//! that the same code prints both.

use crate::client::connection::{Connection, as_json};
use pictor_api::{
    Attempt, Note as ApiNote, ResetAnswer, RetryRequest, RunDetail, RunPatch, RunSummary, Step,
    Task, TaskCounts, TaskDetail,
};
use pictor_engine::{Note, Notes, RunView, StepView, TaskState, TaskView};
use pictor_server::{Answer, AttemptView, Request, ResetSize, RunLine, RunReport, TaskReport};
use pictor_tasks::history::{Control, Event};
use pictor_tasks::message::{Execution, RunId, WorkerId};
use reqwest::Method;
use serde_json::Value as Json;

/// Sends a request to a server.
pub(crate) async fn request_of(server: &Connection, request: Request) -> anyhow::Result<Answer> {
    Ok(match request {
        Request::Runs { state, owner, name, limit, after } => {
            let mut query = Vec::new();
            query.extend(state.map(|state| ("state", state)));
            query.extend(owner.map(|owner| ("owner", owner)));
            query.extend(name.map(|name| ("name", name)));
            query.extend(after.map(|after| ("after", after.to_string())));
            let runs: Vec<RunSummary> = server.list(&["runs"], &query, limit).await?;
            Answer::Runs(runs.into_iter().map(line).collect())
        }
        Request::Show { run } => {
            let run: RunDetail = server.get(&["runs", &run], &[]).await?;
            Answer::Run(Box::new(report(run)))
        }
        Request::Tasks { run, state, step, dims, limit, .. } => {
            let dims: Vec<(String, String)> =
                dims.into_iter().map(|(dim, value)| (format!("dim.{dim}"), value)).collect();
            let mut query: Vec<(&str, String)> =
                dims.iter().map(|(dim, value)| (&**dim, value.clone())).collect();
            query.extend(state.map(|state| ("state", state.name().to_owned())));
            query.extend(step.map(|step| ("step", step)));
            let tasks: Vec<Task> = server.list(&["runs", &run, "tasks"], &query, limit).await?;
            Answer::Tasks(tasks.into_iter().map(view).collect(), None)
        }
        Request::Task { run, task } => {
            let task: TaskDetail = server.get(&["runs", &run, "tasks", &task], &[]).await?;
            let TaskDetail { task, attempts, outputs } = task;
            Answer::Task(Box::new(TaskReport {
                task: view(task),
                attempts: attempts.into_iter().map(attempt).collect(),
                outputs,
            }))
        }
        Request::Control { run, control } => control_run(server, &run, control).await?,
        Request::Retry { run, tasks, dry_run, set, .. } => {
            let body = as_json(&RetryRequest { tasks, set: set.into_iter().collect(), dry_run });
            let said: ResetAnswer =
                server.order_once(&["runs", &run, "retry"], Some(&body)).await?;
            Answer::Reset(ResetSize { tasks: said.count, remade: said.remade })
        }
    })
}

/// Changes a run. Repeating any of these changes has no further effect.
async fn control_run(server: &Connection, run: &str, control: Control) -> anyhow::Result<Answer> {
    let verb = match control.event {
        Event::Paused => "pause",
        Event::Resumed => "resume",
        Event::Cancelled => "cancel",
        Event::Priority(priority) => {
            let body = as_json(&RunPatch { priority });
            let _: Json = server.order(Method::PATCH, &["runs", run], Some(&body)).await?;
            return Ok(Answer::Done);
        }
        Event::Reset(_) | Event::Changed(_) => anyhow::bail!("tasks are reset by name on a server"),
        Event::Removed(_) => anyhow::bail!("only the engine removes what nobody reads any more"),
    };
    let _: Json = server.order(Method::POST, &["runs", run, verb], None).await?;
    Ok(Answer::Done)
}

fn line(run: RunSummary) -> RunLine {
    let state = run.state.name();
    RunLine {
        id: RunId(run.id.into()),
        name: run.name,
        state: state.to_owned(),
        active: matches!(state, "running" | "paused"),
        owner: run.owner,
        created_ms: run.created_ms,
        finished_ms: run.finished_ms,
        out_dir: String::new(),
    }
}

fn report(detail: RunDetail) -> RunReport {
    let RunDetail { run, steps, eta_ms, failures, waiting, notes, notes_left_out, .. } = detail;
    let note = |note: ApiNote| Note { text: note.text, tasks: note.tasks, example: note.example };
    let state = run.state;
    let steps = steps.into_iter().map(step).collect();
    RunReport {
        view: RunView { state, priority: run.priority, steps, eta_ms },
        line: line(run),
        failures: failures.into_iter().map(view).collect(),
        waiting: waiting.into_iter().map(view).collect(),
        notes: Notes { notes: notes.into_iter().map(note).collect(), notes_left_out },
    }
}

fn step(step: Step) -> StepView {
    let Step { name, kind, over, size: tasks, tasks: counts, mean_ms, progress, left_out } = step;
    let counts = TaskState::ALL.map(|state| count(&counts, state));
    StepView { name, kind, over, tasks, counts, mean_ms, progress, left_out }
}

fn count(counts: &TaskCounts, state: TaskState) -> u32 {
    u32::try_from(counts.get(state)).unwrap_or(u32::MAX)
}

fn view(task: Task) -> TaskView {
    let Task { name, step, index, state, attempt, reason, worker, worker_name, progress } = task;
    let (state, worker, ended_by) = (state, worker.map(WorkerId), None);
    let reason = reason.into();
    TaskView { name, step, index, state, attempt, reason, worker, ended_by, worker_name, progress }
}

fn attempt(attempt: Attempt) -> AttemptView {
    let outcome = serde_json::to_value(attempt.state).ok();
    AttemptView {
        attempt: attempt.attempt,
        execution: Execution(u64::from_str_radix(&attempt.execution, 16).unwrap_or_default()),
        started_ms: attempt.started_ms,
        took_ms: attempt.took_ms.unwrap_or_default(),
        outcome: outcome.and_then(|o| o.as_str().map(str::to_owned)).unwrap_or_default(),
        message: attempt.message.unwrap_or_default(),
        notes: attempt.notes,
    }
}
