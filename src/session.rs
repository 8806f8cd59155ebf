//! One machine as a whole farm: the owner, the in-process queue and one worker in this process, until the run has
//! ended.

use crate::client::keep_command_files;
use crate::control::{retried, sentence};
use crate::progress::Progress;
use crate::results::is_free;
use crate::terminal::{complain, duration, explain, say};
use crate::{FAILED, INTERRUPTED, INVALID, LocalArgs, SUCCEEDED};
use anyhow::Context;
use pictor_api::RetryRequest;
use pictor_artifacts::Artifacts;
use pictor_engine::{Config, Engine, Run, RunLimits, RunState, TaskState, undefined_limits};
use pictor_executor::Agent;
use pictor_executor::SandboxPolicy;
use pictor_net::random;
use pictor_queue::in_process;
use pictor_server::{
    Committed, Delivered, Destination, Owner, OwnerHandle, Request, Response, Runs, SubmitError,
    ask, deliver_all, deliver_rows, listen, load_run, now_ms, read_job, sentences, shape,
    stored_run, sweep_again,
};
use pictor_storage::{RunRecord, RunRows};
use pictor_storage::{SqliteStore, Store};
use pictor_tasks::history::{Control, Event};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::worker::Inventory;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

/// Time limit for a clean shutdown: a worker that takes longer will not stop, and a disk that takes longer will not
/// store what is left.
const STOP: Duration = Duration::from_secs(5);
/// Id of the worker in this process.
const HERE: WorkerId = WorkerId(1);

/// `pictor run`: stores a run of a job file and works on it in this process.
pub(crate) async fn run(
    data: &Path,
    file: &Path,
    set: &[(String, String)],
    local: &LocalArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let mut job = match read_job(file, set, true, &RunLimits::default()).await {
        Ok(job) => job,
        Err(SubmitError::Invalid(mistakes)) => {
            explain(mistakes.text.trim_end());
            return Ok(INVALID);
        }
        Err(error) => {
            complain(&error.to_string());
            return Ok(INVALID);
        }
    };
    let store = open(data).await?;
    let artifacts = Artifacts::folder(&data.join("artifacts")).context("open the artifacts")?;
    keep_command_files(&mut job, &artifacts).await?;
    drop(artifacts);
    let mut new = job.new_run(Path::new(""), now_ms(), random());
    let out = local.results.out.clone().unwrap_or_else(|| Path::new("out").join(&*new.id.0));
    let out = std::path::absolute(&out).context("the output folder")?;
    new.out_dir = out.display().to_string();
    let destination = local.destination(&job.plan, file, out, data).await?;
    let run = Run::new(new.id.clone(), Arc::new(job.plan));
    if !is_free(&run, |_| true, &destination, None).await? {
        return Ok(FAILED);
    }
    store.create_run(&new, None).await.context("store the run")?;
    let record = stored_run(&*store, &new.id.0).await?;
    work(data, store, Opened { run, record, destination }, local, json).await
}

/// `pictor resume`, for a run in a data folder.
pub(crate) async fn resume(
    data: &Path,
    run: &str,
    local: &LocalArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let control = |event| Control { id: random(), event };
    let order = Request::Control { run: run.to_owned(), control: control(Event::Resumed) };
    if works_on(data, run).await?
        && let Some(said) = ask(data, &order).await?
    {
        return crate::inspect::done(
            said,
            &format!("{run} continues, in the process that runs it"),
            json,
        );
    }
    let store = open(data).await?;
    let record = stored_run(&*store, run).await?;
    let mut run = load_run(&*store, &record.id, &RunLimits::default()).await?;
    let destination = local.destination_of(run.plan(), &record, data).await?;
    if !is_free(&run, |state| !state.is_terminal(), &destination, Some(&*store)).await? {
        return Ok(FAILED);
    }
    if run.state() == RunState::Paused {
        done(&Runs::of_folder(store.clone()).answer(None, order).await)?;
        run = load_run(&*store, &record.id, &RunLimits::default()).await?;
    }
    work(data, store, Opened { run, record, destination }, local, json).await
}

/// `pictor retry`, for a run in a data folder.
pub(crate) async fn retry(
    data: &Path,
    run: &str,
    request: RetryRequest,
    local: &LocalArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let order = Request::Retry { run: run.to_owned(), id: random(), request };
    if works_on(data, run).await?
        && let Some(said) = ask(data, &order).await?
    {
        let said = retried(said)?;
        let line = format!("{}, in the process that runs it", sentence(&said, run));
        say(&if json { serde_json::to_string(&said)? } else { line });
        return Ok(SUCCEEDED);
    }
    let store = open(data).await?;
    let record = stored_run(&*store, run).await?;
    let loaded = load_run(&*store, &record.id, &RunLimits::default()).await?;
    let destination = local.destination_of(loaded.plan(), &record, data).await?;
    let again = |state| state != TaskState::Succeeded;
    if !is_free(&loaded, again, &destination, Some(&*store)).await? {
        return Ok(FAILED);
    }
    let runs = Runs::of_folder(store.clone());
    let line = sentence(&retried(runs.answer(None, order).await)?, &record.id.0);
    let mut loaded = load_run(&*store, &record.id, &RunLimits::default()).await?;
    if loaded.state() == RunState::Paused {
        let control = Control { id: random(), event: Event::Resumed };
        done(&runs.answer(None, Request::Control { run: run.to_owned(), control }).await)?;
        loaded = load_run(&*store, &record.id, &RunLimits::default()).await?;
    }
    say_unless(json, &line);
    work(data, store, Opened { run: loaded, record, destination }, local, json).await
}

fn done(said: &Response) -> anyhow::Result<()> {
    match said {
        Response::Changed(_) => Ok(()),
        Response::Failed(why) => anyhow::bail!("{why}"),
        _ => anyhow::bail!("the answer does not fit the question"),
    }
}

/// Whether another process is working on the run.
async fn works_on(data: &Path, run: &str) -> anyhow::Result<bool> {
    let said = ask(data, &Request::Show { run: run.to_owned() }).await?;
    Ok(matches!(said, Some(Response::Run(detail))
        if !detail.run.interrupted && !detail.run.state.is_terminal()))
}

/// Opens a data folder for this process alone.
async fn open(data: &Path) -> anyhow::Result<Arc<dyn Store>> {
    match SqliteStore::open(data).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(pictor_storage::Error::Locked { pid }) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            anyhow::bail!(
                "another pictor{pid} is working in {}; wait until it is done, or work in another \
                 folder with --data DIR",
                data.display()
            )
        }
        Err(error) => Err(error).with_context(|| format!("open {}", data.display())),
    }
}

/// The worker's configuration: what this machine has of the programs that the run needs.
async fn machine(
    data: &Path,
    run: &Run,
    local: &LocalArgs,
) -> anyhow::Result<pictor_executor::Config> {
    local.sandbox.choose(&crate::client::sandbox_of_user()?, SandboxPolicy::Preferred)?;
    let programs = local.blender.programs(None, data)?;
    let wanted: BTreeSet<&str> = run
        .plan()
        .steps
        .iter()
        .flat_map(|step| step.requires.software.keys().map(String::as_str))
        .collect();
    let (models, cache) = (crate::models::folder(data), crate::cache());
    let mut inventory: Inventory =
        pictor_executor::inventory::find(data, &programs, &wanted, &models, cache.as_deref()).await;
    for note in inventory.blenders.iter().flat_map(|blender| &blender.notes) {
        explain(&format!("note: {note}"));
    }
    // The user has started the job on their own machine.
    inventory.allows_commands = true;
    inventory.slots = local.slots.unwrap_or(inventory.slots);
    let mut config = pictor_executor::Config::new(data.to_path_buf(), inventory.clone());
    config.slots = inventory.slots;
    (config.allow_commands, config.allow_network) = (true, true);
    (config.models, config.cache, config.programs) = (models, cache, programs);
    Ok(config)
}

/// A run that is to be worked on, and where its results go.
struct Opened {
    run: Run,
    record: RunRecord,
    destination: Destination,
}

/// Works on a run until it ends or is interrupted. While it is paused, waits until it is resumed.
#[expect(clippy::too_many_lines, reason = "the order in which parts start and end is one story")]
async fn work(
    data: &Path,
    store: Arc<dyn Store>,
    Opened { run, mut record, destination }: Opened,
    local: &LocalArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let id = record.id.clone();
    record.out_dir = destination.folder.display().to_string();
    let artifacts = Artifacts::folder(&data.join("artifacts")).context("open the artifacts")?;
    let artifacts = Arc::new(artifacts);
    if run.state().is_terminal() {
        if record.finished_ms.is_none() {
            // A run without any task has ended before it begins.
            let state = Some((run.state(), Some(now_ms())));
            store.commit(&[RunRows { run: &id, rows: &[], state }]).await?;
        }
        return conclude(&run, (&*store, &artifacts), &destination, (data, json)).await;
    }
    let config = machine(data, &run, local).await?;
    let (port, mut workers) = in_process(&[HERE]);
    let engine = Config {
        workers_are_final: true,
        limits: local.limits.iter().cloned().collect(),
        ..Config::default()
    };
    for note in undefined_limits(run.plan(), &engine.limits) {
        explain(&format!("warning: step `{}`: {}", note.example, note.text));
    }
    let (mut owner, handle) = Owner::new(engine, store.clone(), Box::new(port), now_ms);
    owner.sweeps(artifacts.clone());
    owner.add(run, record.account.clone(), record.created_ms);
    // The tasks of an earlier process died with it: this one has the folder's lock.
    owner.forget_worker(HERE).await?;
    let socket = listen(data, store.clone(), handle.clone());
    if let Err(error) = &socket {
        tracing::warn!(%error, "other commands cannot reach this run: no socket in the data folder");
    }
    let news = handle.news();
    let interrupted = interruption()?;
    let progress = Progress::start(&record, handle.clone(), json);
    let mut owner = tokio::spawn(owner.run());
    let worker = workers.remove(0);
    let outbox = Arc::new(worker.sender());
    let worker_artifacts = pictor_executor::Artifacts::in_folder(&config.artifacts())
        .map_err(|failure| anyhow::anyhow!(failure.message))?;
    let agent = Agent::start(Box::new(worker), outbox, HERE, config, worker_artifacts)
        .context("start the worker")?;
    let delivery =
        tokio::spawn(deliver(handle.clone(), news, id.clone(), data.into(), destination.clone()));
    let ended = tokio::select! {
        state = until_over(&handle, &id) => state,
        stopped = &mut owner => {
            stopped.context("the engine")??;
            anyhow::bail!("the engine stopped");
        }
        () = interrupted => None,
    };
    if !stop(agent, progress, &handle, owner).await? {
        complain(&format!(
            "history cannot be written to {}: what was not written is done again. Make room, then: \
             pictor resume {id}",
            data.display()
        ));
        return Ok(if ended.is_some() { FAILED } else { INTERRUPTED });
    }
    if let Ok(socket) = socket {
        socket.abort();
    }
    // Missing results are delivered below, or by the next `resume`.
    delivery.abort();
    // The socket would lead other commands to a process that is gone.
    let _ = std::fs::remove_file(pictor_server::socket_path(data));
    let run = load_run(&*store, &id, &RunLimits::default()).await?;
    if ended.is_some() {
        return conclude(&run, (&*store, &artifacts), &destination, (data, json)).await;
    }
    say_unless(json, &format!("interrupted; go on with: pictor resume {id}"));
    Ok(INTERRUPTED)
}

/// Shuts all parts down in order. Returns `false` if history cannot be written.
async fn stop(
    agent: pictor_executor::Handle,
    progress: Progress,
    handle: &OwnerHandle,
    owner: JoinHandle<Result<(), pictor_server::Error>>,
) -> anyhow::Result<bool> {
    if tokio::time::timeout(STOP, agent.shutdown()).await.is_err() {
        tracing::warn!("a task does not stop; it ends with this process");
    }
    let owner = async {
        progress.finish().await;
        handle.stop().await;
        owner.await
    };
    let Ok(ended) = tokio::time::timeout(STOP, owner).await else { return Ok(false) };
    ended.context("the engine")??;
    Ok(true)
}

fn say_unless(json: bool, line: &str) {
    if !json {
        say(line);
    }
}

/// Catches signals that ask this process to end, from now on; the returned future resolves on the first of them. Has to
/// be called before any output that may make the user interrupt it.
pub(crate) fn interruption() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        tokio::spawn(async move {
            // A second interrupt ends the process at once.
            interrupt.recv().await;
            std::process::exit(i32::from(INTERRUPTED));
        });
    })
}

/// Waits until the run has ended. Returns `None` if the owner ends first.
async fn until_over(handle: &OwnerHandle, id: &RunId) -> Option<RunState> {
    let mut news = handle.news();
    loop {
        let asked = id.clone();
        let state = handle.ask(move |engine| engine.run(&asked).map(Run::state)).await.ok()??;
        if state.is_terminal() {
            return Some(state);
        }
        loop {
            match news.recv().await {
                Ok(committed) if committed.changed.contains_key(id) => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// Copies results to the output folder as tasks succeed.
async fn deliver(
    handle: OwnerHandle,
    mut news: tokio::sync::broadcast::Receiver<Arc<Committed>>,
    id: RunId,
    data: PathBuf,
    destination: Destination,
) {
    let Ok(artifacts) = Artifacts::folder(&data.join("artifacts")) else { return };
    let asked = id.clone();
    let Ok(Some(plan)) =
        handle.ask(move |engine| engine.run(&asked).map(|run| run.plan().clone())).await
    else {
        return;
    };
    drop(handle);
    if plan.steps.iter().all(|step| step.deliver.is_empty()) {
        return;
    }
    loop {
        match news.recv().await {
            Ok(committed) => {
                let Some(rows) = committed.rows.get(&id) else { continue };
                // What cannot be delivered now is retried at the end, and reported then.
                deliver_rows(&plan, rows, &committed.spaces[&id], &artifacts, &destination).await;
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Ends a command for a run: delivers everything that is missing, and prints a summary.
async fn conclude(
    run: &Run,
    (store, artifacts): (&dyn Store, &Artifacts),
    destination: &Destination,
    (data, json): (&Path, bool),
) -> anyhow::Result<u8> {
    let delivered = deliver_all(run, store, artifacts, destination).await?;
    let (in_the_way, out) = (sentences(&delivered.in_the_way), &destination.folder);
    sweep_again(run, artifacts).await;
    let (state, told) = (run.state(), run.notes());
    let (notes, notes_left_out) = (shape::notes(told.notes), told.notes_left_out);
    let steps = shape::steps(Engine::new(Config::default()).view(run).steps);
    if json {
        let undelivered =
            [&delivered.failures[..], &delivered.clashes[..], &in_the_way[..]].concat();
        say(&serde_json::json!({
            "event": "end", "run": run.id(), "state": state,
            "files": delivered.files,
            "undelivered": undelivered,
            "notes": notes, "notes_left_out": notes_left_out,
        })
        .to_string());
    } else {
        say(&crate::inspect::outcome(&run.id().0, state, &steps));
        crate::inspect::tell_failures(run);
        for line in crate::inspect::left_out(&steps) {
            say(&line);
        }
        crate::inspect::tell_notes(&run.id().0, &notes, notes_left_out);
        if !delivered.files.is_empty() {
            say(&format!("{} files in {}", delivered.files.len(), out.display()));
        }
    }
    tell_undelivered(run, &delivered, out, data);
    let whole =
        delivered.failures.is_empty() && delivered.clashes.is_empty() && in_the_way.is_empty();
    Ok(if whole && state == RunState::Succeeded { SUCCEEDED } else { FAILED })
}

/// Reports which results are not in the output folder, and what to do about that.
fn tell_undelivered(run: &Run, delivered: &Delivered, out: &Path, data: &Path) {
    for clash in delivered.clashes.iter().take(5) {
        complain(&format!("deliver {clash}"));
    }
    for sentence in sentences(&delivered.in_the_way) {
        complain(&sentence);
    }
    if !delivered.in_the_way.is_empty() {
        complain(&format!(
            "{} results are not in {}; they are safe in {}: pictor resume {} --out DIR",
            delivered.in_the_way.len(),
            out.display(),
            data.display(),
            run.id()
        ));
    }
    if !delivered.failures.is_empty() {
        for failure in delivered.failures.iter().take(5) {
            complain(&format!("deliver {failure}"));
        }
        complain(&format!(
            "{} results are not in {}; they are safe in {}. Make room, then: pictor resume {}",
            delivered.failures.len(),
            out.display(),
            data.display(),
            run.id()
        ));
    }
}

/// Interval between updates of a terminal.
pub(crate) const DRAW: Duration = Duration::from_millis(200);

/// The mean duration of a step's tasks as text.
pub(crate) fn mean(mean_ms: Option<f64>) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration")]
    mean_ms.map_or_else(String::new, |ms| duration(ms as u64))
}
