//! Commands that change runs from outside: pause, resume, cancel, retry, priority.

use crate::SUCCEEDED;
use crate::inspect::{Backend, done, wrong};
use crate::terminal::say;
use pictor_api::{ResetAnswer, RetryRequest};
use pictor_net::random;
use pictor_server::{Request, Response};
use pictor_tasks::history::{Control, Event};
use std::io::IsTerminal as _;

async fn control(
    backend: &Backend,
    run: &str,
    event: Event,
    line: &str,
    json: bool,
) -> anyhow::Result<u8> {
    let control = Control { id: random(), event };
    done(backend.ask(Request::Control { run: run.to_owned(), control }).await?, line, json)
}

/// `pictor resume`, for a run on a server.
pub(crate) async fn resume(backend: &Backend, run: &str, json: bool) -> anyhow::Result<u8> {
    control(backend, run, Event::Resumed, &format!("{run} continues"), json).await
}

/// `pictor retry`, for a run on a server.
pub(crate) async fn retry(
    backend: &Backend,
    run: &str,
    request: RetryRequest,
    json: bool,
) -> anyhow::Result<u8> {
    let order = Request::Retry { run: run.to_owned(), id: random(), request };
    let said = retried(backend.ask(order).await?)?;
    say(&if json { serde_json::to_string(&said)? } else { sentence(&said, run) });
    Ok(SUCCEEDED)
}

/// The size of a retry, from the answer to it.
pub(crate) fn retried(said: Response) -> anyhow::Result<ResetAnswer> {
    match said {
        Response::Reset(answer) => Ok(*answer),
        other => wrong(other),
    }
}

/// A sentence about how much of a run is executed again.
pub(crate) fn sentence(said: &ResetAnswer, run: &str) -> String {
    let ResetAnswer { count, remade, .. } = said;
    let more = match remade {
        0 => String::new(),
        _ => format!(", {remade} of them because what they had left was read and removed"),
    };
    format!("{count} tasks of {run} are done again{more}")
}

/// Asks the user for confirmation if a retry executes more tasks than are visible to them: tasks that had succeeded,
/// and whose results were removed. Returns whether to go ahead.
pub(crate) async fn is_meant(
    backend: &Backend,
    run: &str,
    request: &RetryRequest,
) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    let request = RetryRequest { dry_run: true, ..request.clone() };
    let said = retried(backend.ask(Request::Retry { run: run.to_owned(), id: 0, request }).await?)?;
    if said.remade == 0 {
        return Ok(true);
    }
    let would = sentence(&said, run);
    let answer = tokio::task::spawn_blocking(move || crate::terminal::confirm(&would)).await?;
    Ok(answer)
}

/// `pictor pause`: no more tasks of the run are assigned.
pub(crate) async fn pause(backend: &Backend, run: &str, json: bool) -> anyhow::Result<u8> {
    let line = format!("{run} is paused; go on with: pictor resume {run}");
    control(backend, run, Event::Paused, &line, json).await
}

/// `pictor cancel`: ends the run without finishing it.
pub(crate) async fn cancel(backend: &Backend, run: &str, json: bool) -> anyhow::Result<u8> {
    control(backend, run, Event::Cancelled, &format!("{run} is cancelled"), json).await
}

/// `pictor priority`: changes the run's priority.
pub(crate) async fn priority(
    backend: &Backend,
    run: &str,
    priority: i32,
    json: bool,
) -> anyhow::Result<u8> {
    let line = format!("{run} has priority {priority}");
    control(backend, run, Event::Priority(priority), &line, json).await
}
