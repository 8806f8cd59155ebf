//! Commands that change runs from outside: pause, resume, cancel, retry, priority.

use crate::SUCCEEDED;
use crate::inspect::{Farm, done, wrong};
use crate::session::random_id;
use crate::terminal::say;
use pictor_server::{Answer, Request, ResetSize};
use pictor_tasks::history::{Control, Event};
use std::io::IsTerminal as _;

async fn control(farm: &Farm, run: &str, event: Event, line: &str) -> anyhow::Result<u8> {
    let control = Control { id: random_id(), event };
    done(farm.ask(Request::Control { run: run.to_owned(), control }).await?, line)
}

/// `pictor resume`, for a run on a server.
pub(crate) async fn resume(farm: &Farm, run: &str) -> anyhow::Result<u8> {
    control(farm, run, Event::Resumed, &format!("{run} goes on")).await
}

/// `pictor retry`, for a run on a server.
pub(crate) async fn retry(
    farm: &Farm,
    run: &str,
    (tasks, set): (Vec<String>, Vec<(String, String)>),
) -> anyhow::Result<u8> {
    let (run_, id) = (run.to_owned(), random_id());
    let order = Request::Retry { run: run_, tasks, id, dry_run: false, set };
    say(&retried(&farm.ask(order).await?, run)?);
    Ok(SUCCEEDED)
}

/// A sentence about how much of a run is executed again.
pub(crate) fn retried(said: &Answer, run: &str) -> anyhow::Result<String> {
    let ResetSize { tasks, remade } = match said {
        Answer::Reset(size) => *size,
        other => return wrong(other.clone()),
    };
    let more = match remade {
        0 => String::new(),
        _ => format!(", {remade} of them because what they had left was read and removed"),
    };
    Ok(format!("{tasks} tasks of {run} are done again{more}"))
}

/// Asks the user for confirmation if a retry executes more tasks than are visible to them: tasks that had succeeded,
/// and whose results were removed. Returns whether to go ahead.
pub(crate) async fn is_meant(
    farm: &Farm,
    run: &str,
    (tasks, set): (&[String], &[(String, String)]),
) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    let (run, tasks, set) = (run.to_owned(), tasks.to_vec(), set.to_vec());
    let question = Request::Retry { run: run.clone(), tasks, id: 0, dry_run: true, set };
    let said = farm.ask(question).await?;
    if matches!(said, Answer::Reset(ResetSize { remade: 0, .. })) {
        return Ok(true);
    }
    let would = retried(&said, &run)?;
    let answer = tokio::task::spawn_blocking(move || crate::terminal::confirm(&would)).await?;
    Ok(answer)
}

/// `pictor pause`: no more tasks of the run are assigned.
pub(crate) async fn pause(farm: &Farm, run: &str) -> anyhow::Result<u8> {
    let line = format!("{run} is paused; go on with: pictor resume {run}");
    control(farm, run, Event::Paused, &line).await
}

/// `pictor cancel`: ends the run without finishing it.
pub(crate) async fn cancel(farm: &Farm, run: &str) -> anyhow::Result<u8> {
    control(farm, run, Event::Cancelled, &format!("{run} is cancelled")).await
}

/// `pictor priority`: changes the run's priority.
pub(crate) async fn priority(farm: &Farm, run: &str, priority: i32) -> anyhow::Result<u8> {
    let line = format!("{run} has priority {priority}");
    control(farm, run, Event::Priority(priority), &line).await
}
