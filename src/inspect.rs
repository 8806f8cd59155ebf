//! Commands that look at runs or change them from outside: through the process that works in the data
//! folder, or, when there is none, in the folder itself.

use crate::SUCCEEDED;
use crate::session::{mean, random_id};
use crate::terminal::{duration, say, table};
use anyhow::Context;
use pictor_engine::{Run, TaskState, TaskView};
use pictor_executor::log_path;
use pictor_server::{Answer, Request, RunLine, RunReport, TaskReport, answer, ask, now_ms};
use pictor_storage::Store;
use pictor_tasks::history::{Control, Event};
use pictor_tasks::message::{RunId, Try};
use std::path::Path;

/// Asks whoever can answer.
async fn request(data: &Path, request: Request) -> anyhow::Result<Answer> {
    if let Some(said) = ask(data, &request).await? {
        return Ok(said);
    }
    if !data.join("pictor.sqlite").exists() {
        anyhow::bail!("there are no runs in {}; choose another folder with --data", data.display());
    }
    let store = Store::open(data).await.with_context(|| format!("open {}", data.display()))?;
    Ok(answer(&store, None, request).await)
}

/// Says that something was done, or why not.
pub(crate) fn done(said: Answer, line: &str) -> anyhow::Result<u8> {
    match said {
        Answer::Done(0) => say(line),
        Answer::Done(count) => say(&format!("{count} {line}")),
        Answer::Failed(why) => anyhow::bail!("{why}"),
        _ => anyhow::bail!("the answer does not fit the question"),
    }
    Ok(SUCCEEDED)
}

fn wrong<T>(said: Answer) -> anyhow::Result<T> {
    match said {
        Answer::Failed(why) => anyhow::bail!("{why}"),
        _ => anyhow::bail!("the answer does not fit the question"),
    }
}

fn json_lines<T: serde::Serialize>(values: &[T]) -> anyhow::Result<u8> {
    for value in values {
        say(&serde_json::to_string(value)?);
    }
    Ok(SUCCEEDED)
}

/// `pictor runs`.
pub(crate) async fn runs(data: &Path, json: bool) -> anyhow::Result<u8> {
    let runs = match request(data, Request::Runs).await? {
        Answer::Runs(runs) => runs,
        other => return wrong(other),
    };
    if json {
        return json_lines(&runs);
    }
    let rows: Vec<Vec<String>> = runs
        .into_iter()
        .map(|run| {
            let age = duration((now_ms() - run.created_ms).unsigned_abs());
            let took = run.finished_ms.map(|end| duration((end - run.created_ms).unsigned_abs()));
            let state = state_of(&run);
            vec![
                run.id.to_string(),
                state,
                format!("{age} ago"),
                took.unwrap_or_default(),
                run.out_dir,
            ]
        })
        .collect();
    say(&table(&["RUN", "STATE", "SUBMITTED", "TOOK", "RESULTS"], &rows));
    Ok(SUCCEEDED)
}

/// A run that is not over and that nobody works on was interrupted.
fn state_of(run: &RunLine) -> String {
    if run.state == "running" && !run.active { "interrupted".into() } else { run.state.clone() }
}

/// `pictor show`.
pub(crate) async fn show(data: &Path, run: &str, json: bool) -> anyhow::Result<u8> {
    let report = match request(data, Request::Show { run: run.to_owned() }).await? {
        Answer::Run(report) => *report,
        other => return wrong(other),
    };
    if json {
        return json_lines(&[report]);
    }
    let RunReport { line, view, failures, waiting, notes } = report;
    say(&format!("{}  {}  priority {}", line.id, state_of(&line), view.priority));
    say(&format!("results: {}", line.out_dir));
    if let Some(eta) = view.eta_ms.filter(|_| line.active) {
        say(&format!("about {} to go", duration(eta)));
    }
    let rows: Vec<Vec<String>> = view
        .steps
        .iter()
        .map(|step| {
            let all = step.tasks.map_or_else(|| "?".into(), |n| n.to_string());
            let states = TaskState::ALL.into_iter().filter(|s| step.count(*s) > 0);
            let states = states.map(|s| format!("{} {}", step.count(s), s.name()));
            let states = states.collect::<Vec<_>>().join(", ");
            vec![step.name.clone(), step.over.join(" x "), all, mean(step.mean_ms), states]
        })
        .collect();
    say("");
    say(&table(&["STEP", "OVER", "TASKS", "EACH", "STATES"], &rows));
    for (title, tasks) in [("failed", failures), ("not running although ready", waiting)] {
        if !tasks.is_empty() {
            say(&format!("\n{title}:"));
            for task in tasks {
                say(&format!("  {}: {}", task.name, task.reason));
            }
        }
    }
    if !notes.is_empty() {
        say("\nnotes:");
        for note in notes {
            say(&format!("  {note}"));
        }
    }
    if line.state == "failed" {
        say(&format!(
            "\nsee why: pictor logs {} TASK   try again: pictor retry {}",
            line.id, line.id
        ));
    } else if !line.active && line.finished_ms.is_none() {
        say(&format!("\ngo on: pictor resume {}", line.id));
    }
    Ok(SUCCEEDED)
}

/// `pictor tasks`.
pub(crate) async fn tasks(
    data: &Path,
    run: &str,
    (state, step): (Option<TaskState>, Option<String>),
    json: bool,
) -> anyhow::Result<u8> {
    let tasks = match request(data, Request::Tasks { run: run.to_owned(), state, step }).await? {
        Answer::Tasks(tasks) => tasks,
        other => return wrong(other),
    };
    if json {
        return json_lines(&tasks);
    }
    let row = |task: &TaskView| {
        let progress = task.progress.map_or_else(String::new, |p| format!("{:.0} % ", p * 100.0));
        let attempt = task.attempt.to_string();
        let reason = format!("{progress}{}", task.reason);
        vec![task.name.clone(), task.state.name().into(), attempt, reason]
    };
    let rows: Vec<Vec<String>> = tasks.iter().map(row).collect();
    say(&table(&["TASK", "STATE", "ATTEMPT", "REASON"], &rows));
    Ok(SUCCEEDED)
}

/// `pictor logs`.
pub(crate) async fn logs(
    data: &Path,
    run: &str,
    task: &str,
    attempt: Option<u32>,
) -> anyhow::Result<u8> {
    let order = Request::Task { run: run.to_owned(), task: task.to_owned() };
    let report = match request(data, order).await? {
        Answer::Task(report) => *report,
        other => return wrong(other),
    };
    let Some(lines) = request_run(data, run).await? else {
        anyhow::bail!("there is no run `{run}`")
    };
    let TaskReport { task, attempts, .. } = report;
    if attempts.is_empty() {
        say(&format!(
            "{} is {} and was not started yet: {}",
            task.name,
            task.state.name(),
            task.reason
        ));
        return Ok(SUCCEEDED);
    }
    let chosen = attempts.iter().rev().find(|a| attempt.is_none_or(|n| a.attempt == n));
    let Some(chosen) = chosen else {
        anyhow::bail!("{} has had no attempt {}", task.name, attempt.unwrap_or_default());
    };
    say(&format!(
        "{} attempt {}: {}, {}",
        task.name,
        chosen.attempt,
        chosen.outcome,
        duration(u64::from(chosen.took_ms))
    ));
    if !chosen.message.is_empty() {
        say(&chosen.message);
    }
    let tried = Try { index: task.index, attempt: chosen.attempt };
    let path = log_path(data, &lines, &task.step, tried, chosen.execution);
    match tokio::fs::read(&path).await {
        Ok(bytes) => say(String::from_utf8_lossy(&bytes).trim_end()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => say("(it printed nothing)"),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    }
    Ok(SUCCEEDED)
}

async fn request_run(data: &Path, run: &str) -> anyhow::Result<Option<RunId>> {
    match request(data, Request::Show { run: run.to_owned() }).await? {
        Answer::Run(report) => Ok(Some(report.line.id)),
        other => wrong(other),
    }
}

async fn control(data: &Path, run: &str, event: Event, line: &str) -> anyhow::Result<u8> {
    let control = Control { id: random_id(), event };
    done(request(data, Request::Control { run: run.to_owned(), control }).await?, line)
}

/// `pictor pause`.
pub(crate) async fn pause(data: &Path, run: &str) -> anyhow::Result<u8> {
    let line = format!("{run} is paused; go on with: pictor resume {run}");
    control(data, run, Event::Paused, &line).await
}

/// `pictor cancel`.
pub(crate) async fn cancel(data: &Path, run: &str) -> anyhow::Result<u8> {
    control(data, run, Event::Cancelled, &format!("{run} is cancelled")).await
}

/// `pictor priority`.
pub(crate) async fn priority(data: &Path, run: &str, priority: i32) -> anyhow::Result<u8> {
    let line = format!("{run} has priority {priority}");
    control(data, run, Event::Priority(priority), &line).await
}

/// The first failures of a run that is over, each with its reason and where its log is.
pub(crate) fn tell_failures(run: &Run) {
    const FEW: usize = 5;
    let steps = (0u16..).take(run.plan().steps.len());
    let mut failed = steps
        .flat_map(|step| run.tasks_in(step, TaskState::Failed).map(move |index| (step, index)));
    for (step, index) in failed.by_ref().take(FEW) {
        let name = run.task_name(step, index);
        say(&format!("  {name}: {}", run.failure(step, index)));
        say(&format!("    pictor logs {} '{name}'", run.id()));
    }
    let more = failed.count();
    if more > 0 {
        say(&format!("  and {more} more: pictor tasks {} --state failed", run.id()));
    }
}
