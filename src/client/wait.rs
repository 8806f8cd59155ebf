//! Waits for a run on a server: shown like a run on this machine, with the results downloaded as they become available.
//! The run continues if the user stops waiting.

use crate::client::connection::Connection;
use crate::client::digests::Digests;
use crate::client::download::{Downloaded, Wanted, download};
use crate::client::ledger::Ledger;
use crate::client::{Changes, request_of};
use crate::progress::{Look, Progress, Views};
use crate::terminal::{complain, plain, say};
use crate::{FAILED, INTERRUPTED, SUCCEEDED};
use anyhow::Context;
use indicatif::ProgressBar;
use pictor_api::{RunDetail, RunState};
use pictor_server::{Destination, Request, Response};
use pictor_tasks::message::RunId;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often results are downloaded while the run continues.
const FETCH: Duration = Duration::from_secs(5);

/// Waits until a run ends; downloads its results if there is a folder for them.
pub(crate) async fn wait(
    server: &Connection,
    id: &RunId,
    destination: Option<&Destination>,
    data: &Path,
    json: bool,
) -> anyhow::Result<u8> {
    let first = look(server, id).await?;
    let (tell, latest) = watch::channel(Look::from(&first));
    let shown = destination
        .map_or_else(String::new, |destination| destination.folder.display().to_string());
    let interrupted = crate::session::interruption()?;
    let progress = Progress::of(id, &shown, Views::Server(latest), json);
    let followed = tokio::select! {
        followed = follow(server, first, &tell, destination, data) => followed,
        () = interrupted => {
            progress.finish().await;
            if !json {
                say(&format!("not waiting any more; {id} continues: pictor show {id} --watch"));
            }
            return Ok(INTERRUPTED);
        }
    };
    progress.finish().await;
    conclude(server, &followed?, destination, data, json).await
}

async fn look(server: &Connection, id: &RunId) -> anyhow::Result<RunDetail> {
    match request_of(server, Request::Show { run: id.to_string() }).await? {
        Response::Run(report) => Ok(*report),
        _ => anyhow::bail!("the answer does not fit the question"),
    }
}

async fn follow(
    server: &Connection,
    mut report: RunDetail,
    tell: &watch::Sender<Look>,
    destination: Option<&Destination>,
    data: &Path,
) -> anyhow::Result<RunDetail> {
    let id = RunId(report.run.id.as_str().into());
    let changes = Changes::of(server.clone(), id.to_string());
    let (mut known, mut ledger) = (Digests::open(data), Ledger::open(data, &id.0));
    let (mut fetched, mut fetched_at) = (0, Instant::now());
    while !report.run.state.is_terminal() {
        let done = succeeded(&report);
        if let Some(destination) =
            destination.filter(|_| done > fetched && fetched_at.elapsed() > FETCH)
        {
            let wanted = Wanted { run: &id.0, destination, pattern: None };
            // A failed download is retried at the end, and reported then.
            let hidden = ProgressBar::hidden();
            let _ = download(server, &wanted, &mut known, &mut ledger, &hidden).await;
            (fetched, fetched_at) = (done, Instant::now());
        }
        changes.next().await;
        report = look(server, &id).await?;
        tell.send_replace(Look::from(&report));
    }
    known.save();
    Ok(report)
}

fn succeeded(report: &RunDetail) -> u64 {
    report.steps.iter().map(|step| step.tasks.succeeded).sum()
}

/// Ends the wait: downloads the last results, and prints a summary.
async fn conclude(
    server: &Connection,
    report: &RunDetail,
    destination: Option<&Destination>,
    data: &Path,
    json: bool,
) -> anyhow::Result<u8> {
    let (id, state) = (&report.run.id, report.run.state);
    let mut downloaded = Downloaded::default();
    if let Some(destination) = destination {
        let (mut known, mut ledger) = (Digests::open(data), Ledger::open(data, id));
        let wanted = Wanted { run: id, destination, pattern: None };
        let bar = if json { ProgressBar::hidden() } else { super::bar::bytes("fetching", 0) };
        let fetched = download(server, &wanted, &mut known, &mut ledger, &bar).await;
        bar.finish_and_clear();
        known.save();
        downloaded = fetched.context("fetch the results")?;
    }
    let (files, failures) = (&downloaded.files, downloaded.undelivered());
    if json {
        let end = serde_json::json!({
            "event": "end", "run": id, "state": state, "files": files, "undelivered": failures,
            "notes": report.notes, "notes_left_out": report.notes_left_out,
        });
        say(&end.to_string());
    } else {
        say(&crate::inspect::outcome(id, state, &report.steps));
        for task in &report.failures {
            say(&format!("  {}: {}", task.name, plain(&task.reason)));
            say(&format!("    pictor logs {id} '{}'", task.name));
        }
        for line in crate::inspect::left_out(&report.steps) {
            say(&line);
        }
        crate::inspect::tell_notes(id, &report.notes, report.notes_left_out);
        if let Some(destination) = destination.filter(|_| !files.is_empty()) {
            say(&format!("{} files in {}", files.len(), destination.folder.display()));
        }
    }
    failures.iter().take(5).for_each(|failure| complain(&format!("fetch {failure}")));
    let whole = failures.is_empty() && state == RunState::Succeeded;
    Ok(if whole { SUCCEEDED } else { FAILED })
}
