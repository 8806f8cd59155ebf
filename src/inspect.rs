//! Commands that show runs from outside: through a server, through the process that works in the data folder, or, if
//! there is none, by reading the folder itself.

use crate::SUCCEEDED;
use crate::client::{Changes, Connection, follow_log, request_of};
use crate::session::{DRAW, mean};
use crate::terminal::{clear, duration, explain, pass_on, plain, say, table};
use anyhow::Context;
use pictor_api::{
    AttemptState, Note, Page, RunDetail, RunState, RunSummary, Step, Task, TaskDetail, TaskState,
};
use pictor_engine::Run;
use pictor_executor::log_path;
use pictor_server::{Request, Response, Runs, ask, now_ms};
use pictor_storage::SqliteStore;
use pictor_tasks::message::{Execution, RunId, Try};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most items of a list that are printed unless a limit is given, and page size of requests.
const LISTED: usize = 1000;

/// The place that a command looks for runs in.
#[derive(Debug)]
pub(crate) enum Backend {
    /// A data folder on this machine.
    Folder(PathBuf),
    /// A server, reached over HTTP.
    Server(Connection),
}

impl Backend {
    /// Sends a request to the process or server that is responsible.
    pub(crate) async fn ask(&self, request: Request) -> anyhow::Result<Response> {
        match self {
            Self::Folder(data) => in_folder(data, request).await,
            Self::Server(server) => request_of(server, request).await,
        }
    }

    /// Notifies when to fetch a run again.
    fn changes(&self, run: &str) -> Changes {
        match self {
            Self::Folder(_) => Changes::unknown(),
            Self::Server(server) => Changes::of(server.clone(), run.to_string()),
        }
    }

    /// The report of one run.
    async fn run(&self, run: &str) -> anyhow::Result<RunDetail> {
        match self.ask(Request::Show { run: run.to_owned() }).await? {
            Response::Run(detail) => Ok(*detail),
            other => wrong(other),
        }
    }
}

async fn in_folder(data: &Path, request: Request) -> anyhow::Result<Response> {
    if let Some(said) = ask(data, &request).await? {
        return Ok(said);
    }
    if !data.join("pictor.sqlite").exists() {
        anyhow::bail!("there are no runs in {}; choose another folder with --data", data.display());
    }
    let store =
        SqliteStore::open(data).await.with_context(|| format!("open {}", data.display()))?;
    Ok(Runs::of_folder(Arc::new(store)).answer(None, request).await)
}

/// Prints that a request was carried out, or fails with the reason why not.
pub(crate) fn done(said: Response, line: &str, json: bool) -> anyhow::Result<u8> {
    match said {
        Response::Changed(_) if !json => say(line),
        Response::Changed(run) => say(&serde_json::to_string(&run)?),
        Response::Failed(why) => anyhow::bail!("{why}"),
        _ => anyhow::bail!("the answer does not fit the question"),
    }
    Ok(SUCCEEDED)
}

pub(crate) fn wrong<T>(said: Response) -> anyhow::Result<T> {
    match said {
        Response::Failed(why) => anyhow::bail!("{why}"),
        _ => anyhow::bail!("the answer does not fit the question"),
    }
}

/// Prints each value as one line of JSON.
pub(crate) fn json_lines<T: serde::Serialize>(values: &[T]) -> anyhow::Result<u8> {
    for value in values {
        say(&serde_json::to_string(value)?);
    }
    Ok(SUCCEEDED)
}

/// Options of `pictor runs`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunsArgs {
    /// Only runs in this state: running, paused, succeeded, failed, cancelled.
    #[arg(long)]
    state: Option<String>,
    /// Only runs of this account.
    #[arg(long)]
    owner: Option<String>,
    /// Only runs whose name contains this text.
    #[arg(long)]
    name: Option<String>,
    /// Most runs to list [default: 1000, and with --json all].
    #[arg(long)]
    limit: Option<usize>,
}

/// Most items to list: by default all as JSON, else a thousand with a note if there are more.
fn listed(limit: Option<usize>, json: bool) -> usize {
    limit.unwrap_or(if json { usize::MAX } else { LISTED })
}

/// Cuts a list that has one item more than the limit, and notes that there are more.
fn tell_more<T>(items: &mut Vec<T>, limit: usize) {
    if items.len() > limit {
        items.truncate(limit);
        explain(&format!("only the first {limit}; more with --limit N, and all with --json"));
    }
}

/// `pictor runs`: lists runs.
pub(crate) async fn runs(backend: &Backend, args: RunsArgs, json: bool) -> anyhow::Result<u8> {
    let RunsArgs { state, owner, name, limit } = args;
    let named = |name: &String| RunState::ALL.into_iter().find(|state| state.name() == name);
    let wanted = state.as_ref().map(|state| {
        let known = RunState::ALL.map(RunState::name).join(", ");
        named(state).with_context(|| format!("`{state}` is no state of a run: there are {known}"))
    });
    let state = wanted.transpose()?;
    let limit = listed(limit, json);
    let (mut runs, mut after): (Vec<RunSummary>, _) = (Vec::new(), None);
    loop {
        let wanted = (limit - runs.len()).saturating_add(1).min(LISTED);
        let (owner, name) = (owner.clone(), name.clone());
        match backend.ask(Request::Runs { state, owner, name, limit: wanted, after }).await? {
            Response::Runs(Page { items, next }) => {
                runs.extend(items);
                after = next;
            }
            other => return wrong(other),
        }
        if after.is_none() || runs.len() > limit {
            break;
        }
    }
    tell_more(&mut runs, limit);
    if json {
        return json_lines(&runs);
    }
    // Runs on a server have owners; runs on this machine have a folder for their results.
    let here = matches!(backend, Backend::Folder(_));
    let rows: Vec<Vec<String>> = runs
        .into_iter()
        .map(|run| {
            let age = duration((now_ms() - run.created_ms).unsigned_abs());
            let took = run.finished_ms.map(|end| duration((end - run.created_ms).unsigned_abs()));
            let state = state_of(&run).to_owned();
            let last = if here { run.out_dir.unwrap_or_default() } else { run.owner };
            vec![run.id, state, format!("{age} ago"), took.unwrap_or_default(), last]
        })
        .collect();
    let last = if here { "RESULTS" } else { "OWNER" };
    say(&table(&["RUN", "STATE", "SUBMITTED", "TOOK", last], &rows));
    Ok(SUCCEEDED)
}

/// A run that has not ended and that no process works on was interrupted, unless it cannot be loaded.
fn state_of(run: &RunSummary) -> &'static str {
    match run.state {
        RunState::Running if run.set_aside.is_some() => "set aside",
        RunState::Running if run.interrupted => "interrupted",
        state => state.name(),
    }
}

/// `pictor show`: shows one run.
pub(crate) async fn show(backend: &Backend, run: &str, json: bool) -> anyhow::Result<u8> {
    let report = backend.run(run).await?;
    if json {
        return json_lines(&[report]);
    }
    say(&shown(&report));
    Ok(SUCCEEDED)
}

/// `pictor show --watch`: shows the run after every change, until it ends.
pub(crate) async fn watch(backend: &Backend, run: &str, json: bool) -> anyhow::Result<u8> {
    let draws = !json && std::io::stdout().is_terminal();
    let mut report = backend.run(run).await?;
    let changes = backend.changes(&report.run.id);
    let mut last = String::new();
    loop {
        let text = if json { serde_json::to_string(&report)? } else { shown(&report) };
        if text != last {
            if draws {
                clear();
            }
            say(&format!("{text}{}", if draws || json { "" } else { "\n" }));
            last = text;
        }
        if report.run.state.is_terminal() {
            return Ok(SUCCEEDED);
        }
        changes.next().await;
        report = backend.run(&report.run.id).await?;
    }
}

/// The report of a run as text.
fn shown(detail: &RunDetail) -> String {
    let RunDetail { run, steps, eta_ms, failures, waiting, notes, notes_left_out, .. } = detail;
    let id = &run.id;
    let mut lines = vec![format!("{id}  {}  priority {}", state_of(run), run.priority)];
    lines.extend(run.out_dir.as_ref().map(|folder| format!("results: {folder}")));
    if let Some(why) = &run.set_aside {
        lines.push(format!("it cannot be loaded: {}\ngive it up: pictor cancel {id}", plain(why)));
        return lines.join("\n");
    }
    lines.extend(
        eta_ms.filter(|_| !run.interrupted).map(|eta| format!("about {} to go", duration(eta))),
    );
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let all = step.size.map_or_else(|| "?".into(), |n| n.to_string());
            let states = TaskState::ALL.into_iter().filter(|s| step.tasks.get(*s) > 0);
            let states = states.map(|s| format!("{} {}", step.tasks.get(s), s.name()));
            let states = states.collect::<Vec<_>>().join(", ");
            vec![step.name.clone(), step.over.join(" x "), all, mean(step.mean_ms), states]
        })
        .collect();
    lines.push(String::new());
    lines.push(table(&["STEP", "OVER", "TASKS", "EACH", "STATES"], &rows));
    for (title, tasks) in [("failed", failures), ("not running although ready", waiting)] {
        if !tasks.is_empty() {
            lines.push(format!("\n{title}:"));
            let line = |task: &Task| format!("  {}: {}", task.name, plain(&task.reason));
            lines.extend(tasks.iter().map(line));
        }
    }
    lines.extend(left_out(steps).into_iter().map(|line| format!("\n{line}")));
    let told = lines_of(notes, *notes_left_out, usize::MAX);
    if !told.is_empty() {
        lines.push(String::new());
        lines.extend(told);
    }
    if run.state == RunState::Failed {
        lines.push(format!("\nsee why: pictor logs {id} TASK   try again: pictor retry {id}"));
    } else if run.interrupted {
        lines.push(format!("\ngo on: pictor resume {id}"));
    }
    lines.join("\n")
}

/// Options of `pictor tasks`.
#[derive(Debug, clap::Args)]
pub(crate) struct TasksArgs {
    /// The run's id, or the beginning of it.
    run: String,
    /// Only tasks in this state.
    #[arg(long, value_parser = task_state)]
    state: Option<TaskState>,
    /// Only tasks of this step.
    #[arg(long)]
    step: Option<String>,
    /// Only tasks with this value of a dimension: `--dim frame=7`.
    #[arg(long = "dim", value_name = "NAME=VALUE", value_parser = crate::key_value)]
    dims: Vec<(String, String)>,
    /// Most tasks to list [default: 1000, and with --json all].
    #[arg(long)]
    limit: Option<usize>,
}

fn task_state(text: &str) -> Result<TaskState, String> {
    TaskState::ALL.into_iter().find(|state| state.name() == text).ok_or_else(|| {
        let names = TaskState::ALL.map(TaskState::name);
        format!("expected one of {}", names.join(", "))
    })
}

/// `pictor tasks`: lists tasks of a run.
pub(crate) async fn tasks(backend: &Backend, args: TasksArgs, json: bool) -> anyhow::Result<u8> {
    let TasksArgs { run, state, step, dims, limit } = args;
    let limit = listed(limit, json);
    let (mut tasks, mut after) = (Vec::new(), None);
    loop {
        let (run, step, dims) = (run.clone(), step.clone(), dims.clone());
        let wanted = (limit - tasks.len()).saturating_add(1).min(LISTED);
        match backend.ask(Request::Tasks { run, state, step, dims, limit: wanted, after }).await? {
            Response::Tasks(Page { items, next }) => {
                tasks.extend(items);
                after = next;
            }
            other => return wrong(other),
        }
        if after.is_none() || tasks.len() > limit {
            break;
        }
    }
    tell_more(&mut tasks, limit);
    if json {
        return json_lines(&tasks);
    }
    let row = |task: &Task| {
        let progress = task.progress.map_or_else(String::new, |p| format!("{:.0} % ", p * 100.0));
        let attempt = task.attempt.to_string();
        let reason = format!("{progress}{}", plain(&task.reason));
        let number = || task.worker.map(|worker| worker.to_string());
        let worker = task.worker_name.clone().or_else(number).unwrap_or_default();
        vec![task.name.clone(), task.state.name().into(), attempt, worker, reason]
    };
    let rows: Vec<Vec<String>> = tasks.iter().map(row).collect();
    say(&table(&["TASK", "STATE", "ATTEMPT", "WORKER", "REASON"], &rows));
    Ok(SUCCEEDED)
}

/// `pictor logs`: prints the log of a task's attempt.
pub(crate) async fn logs(
    backend: &Backend,
    run: &str,
    task: &str,
    attempt: Option<u32>,
    follow: bool,
) -> anyhow::Result<u8> {
    let run = backend.run(run).await?.run.id;
    let mut report = one_task(backend, &run, task).await?;
    if report.attempts.is_empty() {
        let Task { name, state, reason, .. } = &report.task;
        say(&format!("{name} is {} and was not started yet: {reason}", state.name()));
        if !follow {
            return Ok(SUCCEEDED);
        }
        let changes = backend.changes(&run);
        while report.attempts.is_empty() && !report.task.state.is_terminal() {
            changes.next().await;
            report = one_task(backend, &run, task).await?;
        }
    }
    let name = &report.task.name;
    let chosen = report.attempts.iter().rev().find(|a| attempt.is_none_or(|n| a.attempt == n));
    let Some(chosen) = chosen else {
        anyhow::bail!("{name} has had no attempt {}", attempt.unwrap_or(1));
    };
    let running = chosen.state == AttemptState::Running;
    let took = if running {
        String::new()
    } else {
        format!(", {}", duration(chosen.took_ms.unwrap_or_default().into()))
    };
    say(&format!("{name} attempt {}: {}{took}", chosen.attempt, chosen.state.name()));
    chosen.message.iter().for_each(|message| say(&plain(message)));
    chosen.notes.iter().for_each(|note| say(&format!("note: {}", plain(note))));
    let printed = match backend {
        Backend::Folder(data) => {
            let tried = Try { index: report.task.index, attempt: chosen.attempt };
            let execution = u64::from_str_radix(&chosen.execution, 16).context("the execution")?;
            let (run, execution) = (RunId(run.as_str().into()), Execution(execution));
            let path = log_path(data, &run, &report.task.step, tried, execution);
            let mut file = LogFile { path, printed: 0 };
            while follow && running_still(backend, &run.0, task, chosen.attempt).await? {
                file.print().await?;
                tokio::time::sleep(DRAW).await;
            }
            file.print().await?;
            file.printed
        }
        Backend::Server(server) => follow_log(server, &run, task, chosen.attempt, follow).await?,
    };
    if printed == 0 {
        say("(it printed nothing)");
    }
    Ok(SUCCEEDED)
}

async fn one_task(backend: &Backend, run: &str, task: &str) -> anyhow::Result<TaskDetail> {
    match backend.ask(Request::Task { run: run.to_string(), task: task.to_owned() }).await? {
        Response::Task(report) => Ok(*report),
        other => wrong(other),
    }
}

async fn running_still(
    backend: &Backend,
    run: &str,
    task: &str,
    attempt: u32,
) -> anyhow::Result<bool> {
    let report = one_task(backend, run, task).await?;
    Ok(report.attempts.iter().any(|a| a.attempt == attempt && a.state == AttemptState::Running))
}

/// A log file that may still grow.
struct LogFile {
    path: PathBuf,
    printed: u64,
}

impl LogFile {
    /// Prints what has been added since the last call.
    async fn print(&mut self) -> anyhow::Result<()> {
        use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
        let read = async {
            let mut file = tokio::fs::File::open(&self.path).await?;
            file.seek(std::io::SeekFrom::Start(self.printed)).await?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).await.map(|_| bytes)
        };
        match read.await {
            Ok(bytes) => {
                self.printed += bytes.len() as u64;
                pass_on(&bytes);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("read {}", self.path.display())),
        }
    }
}

/// Prints the first failures of a run that has ended, each with its reason and the command that shows its log.
pub(crate) fn tell_failures(run: &Run) {
    const FEW: usize = 5;
    let steps = (0u16..).take(run.plan().steps.len());
    let mut failed = steps.flat_map(|step| run.tasks_in(step, TaskState::Failed));
    for at in failed.by_ref().take(FEW) {
        let name = run.task_name(at);
        say(&format!("  {name}: {}", plain(run.failure(at))));
        say(&format!("    pictor logs {} '{name}'", run.id()));
    }
    let more = failed.count();
    if more > 0 {
        say(&format!("  and {more} more: pictor tasks {} --state failed", run.id()));
    }
}

/// How many results a run has left out, as one line for each step.
pub(crate) fn left_out(steps: &[Step]) -> Vec<String> {
    let steps = steps.iter().filter(|step| step.left_out > 0);
    let line = |step: &Step| {
        let all = step.tasks.succeeded;
        format!("{} of {all} results of {} were left out", step.left_out, step.name)
    };
    steps.map(line).collect()
}

/// How a run has ended, in one line.
pub(crate) fn outcome(id: &str, state: RunState, steps: &[Step]) -> String {
    let count = |state| steps.iter().map(|step| step.tasks.get(state)).sum::<u64>();
    let [succeeded, failed, skipped, cancelled] =
        [TaskState::Succeeded, TaskState::Failed, TaskState::Skipped, TaskState::Cancelled]
            .map(count);
    format!(
        "{id} {}: {succeeded} tasks succeeded, {failed} failed, {skipped} skipped, {cancelled} \
         cancelled",
        state.name()
    )
}

/// Prints the first notes of workers at the end of a run.
pub(crate) fn tell_notes(id: &str, notes: &[Note], left_out: u32) {
    const FEW: usize = 10;
    for line in lines_of(notes, left_out, FEW) {
        say(&line);
    }
    if notes.len() > FEW {
        say(&format!("    pictor show {id}"));
    }
}

/// Notes of workers as lines: up to `few`, each with the task it is from.
fn lines_of(notes: &[Note], left_out: u32, few: usize) -> Vec<String> {
    let line = |Note { text, tasks, example }: &Note| match tasks {
        0 | 1 => format!("  {} ({example})", plain(text)),
        tasks => format!("  {} ({tasks} tasks, such as {example})", plain(text)),
    };
    let title = (!notes.is_empty()).then(|| "notes:".to_owned());
    let mut lines: Vec<String> =
        title.into_iter().chain(notes.iter().take(few).map(line)).collect();
    let more = notes.len().saturating_sub(few) as u64 + u64::from(left_out);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}
