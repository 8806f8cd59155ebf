//! The `pictor` command.

mod blenders;
mod client;
mod control;
mod doctor;
mod inspect;
mod models;
mod plan;
mod progress;
mod prune;
mod results;
mod sandbox;
mod serve;
mod session;
mod settings;
mod terminal;
mod work;

use anyhow::Context;
use blenders::{BlenderArgs, SetupArgs};
use clap::{Args, Parser, Subcommand};
use client::{
    Connection, DownloadArgs, ScheduleCommand, ServerArgs, SubmitArgs, TokenCommand, WorkersArgs,
};
use inspect::{Backend, RunsArgs, TasksArgs};
use models::ModelsCommand;
use pictor_api::RetryRequest;
use results::ResultArgs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox::SandboxArgs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code: the command succeeded.
const SUCCEEDED: u8 = 0;
/// Exit code: the run failed, or the command could not do what was requested.
const FAILED: u8 = 1;
/// Exit code: the job file has errors.
const INVALID: u8 = 2;
/// Exit code: interrupted by the user; the run can be resumed.
const INTERRUPTED: u8 = 130;

/// A workflow engine for GPU render farms.
#[derive(Parser)]
#[command(name = "pictor", version, max_term_width = 100)]
struct Cli {
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "Folder for history, artifacts and logs [default: $PICTOR_DATA, ~/.local/share/pictor]"
    )]
    data: Option<PathBuf>,
    /// Prints machine-readable output: JSON, one value a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a job on this machine, to the end.
    Run {
        /// The job file (YAML or JSON).
        job: PathBuf,
        /// Changes a value of the job file: `--set render.samples=16`.
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
        set: Vec<(String, String)>,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Continues a run that was interrupted, paused or killed. If it has ended, its missing results are delivered.
    Resume {
        /// The run's id, or the beginning of it.
        run: String,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Executes failed and cancelled tasks again, or the tasks or steps that are named.
    Retry {
        /// The run's id, or the beginning of it.
        run: String,
        /// Tasks such as `render[frame=7,tile=3]`, or whole steps such as `render`.
        tasks: Vec<String>,
        /// Changes a setting of the run first: `--set upscale.on_error=copy`. Also `retry.attempts`, `retry.backoff`,
        /// `timeout`, `stalled`, `on_failure`, `max_failures` and `priority`, which apply to all steps.
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
        set: Vec<(String, String)>,
        /// Does not ask for confirmation, even if results were removed and many tasks have to be executed again.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        local: LocalArgs,
    },
    /// Serves the HTTP API and executes submitted jobs: on this machine, or as a server of a farm.
    Serve(Box<settings::ServeArgs>),
    /// Makes this machine a worker of a farm: executes tasks until it is stopped.
    Work(Box<work::WorkArgs>),
    /// Submits a job to a server, with every file that its scenes need.
    Submit(SubmitArgs),
    /// Lists runs, newest first.
    Runs(RunsArgs),
    /// Shows a run: steps, counts, failures and their reasons.
    Show {
        /// The run's id, or the beginning of it.
        run: String,
        /// Shows it again after every change, until it ends.
        #[arg(long)]
        watch: bool,
    },
    /// Lists tasks of a run, with the reason why they are not running.
    Tasks(TasksArgs),
    /// Prints the log of a task's last attempt.
    Logs {
        /// The run's id, or the beginning of it.
        run: String,
        /// The task, such as `render[frame=7,tile=3]`.
        task: String,
        /// Number of the attempt, instead of the last one.
        #[arg(long)]
        attempt: Option<u32>,
        /// Continues while the log grows, until the attempt ends.
        #[arg(long)]
        follow: bool,
    },
    /// Pauses a run: no more tasks are assigned until `resume`.
    Pause {
        /// The run's id, or the beginning of it.
        run: String,
    },
    /// Cancels a run: its running tasks are stopped.
    Cancel {
        /// The run's id, or the beginning of it.
        run: String,
    },
    /// Changes a run's priority, from -100 to 100.
    Priority {
        /// The run's id, or the beginning of it.
        run: String,
        /// The new priority; higher ones come first.
        #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
        priority: i32,
    },
    /// Downloads a run's results from a server: files that are missing here, or differ.
    Download(DownloadArgs),
    /// Removes old runs with everything that belongs to them.
    Prune(Box<prune::PruneArgs>),
    /// Lists a server's workers, or shows or changes one of them.
    Workers(WorkersArgs),
    /// Manages jobs that a server submits at recurring times.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Manages the tokens that give access to a server.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Compiles a job and shows its steps, dimensions and task counts.
    Plan {
        /// The job file (YAML or JSON).
        job: PathBuf,
        /// Changes a value of the job file.
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
        set: Vec<(String, String)>,
        /// Prints the graph in the language of Graphviz.
        #[arg(long)]
        dot: bool,
    },
    /// Manages the networks of this machine, for `upscale`.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Prints the JSON Schema of the job file.
    Schema,
    /// Shows what is installed, what is missing and how to get it, and tests what each Blender can do.
    Doctor {
        #[command(flatten)]
        blender: BlenderArgs,
    },
    /// Installs a Blender that can use GPUs: the module `bpy` from `PyPI`, a download of about 350 MB.
    SetupBlender(SetupArgs),
}

/// Options of commands that work on a run in their own process: where results go, and how much of this machine is used.
#[derive(Args, Clone, Debug, Default)]
struct LocalArgs {
    #[command(flatten)]
    results: ResultArgs,
    /// Tasks to execute at a time [default: one for each GPU, or one that uses all processors].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: Option<u32>,
    /// How many tasks may hold a named limit at a time: `--limit houdini=2`.
    #[arg(long = "limit", value_name = "NAME=N", value_parser = limit)]
    limits: Vec<(String, u32)>,
    #[command(flatten)]
    sandbox: SandboxArgs,
    #[command(flatten)]
    blender: BlenderArgs,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn limit(text: &str) -> Result<(String, u32), String> {
    let (name, number) = key_value(text)?;
    let number = number.parse().ok().filter(|number| *number > 0);
    Ok((name, number.ok_or("expected NAME=NUMBER, at least 1")?))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A worker's changes of state are of interest to whoever started it. What lapin logs about a lost connection, the
    // queue reports itself.
    let level = match cli.command {
        Command::Work(_) => "warn,lapin=off,pictor_executor=info,pictor_queue=info",
        _ => "warn,lapin=off",
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PICTOR_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level)),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    // One thread for everything that waits: owner, queue and worker take turns anyway, and each further thread would
    // have to be woken for each message (measured: 0.05 ms a hop). Work on pixels has threads of its own.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::complain(&format!("start: {error}"));
            return FAILED.into();
        }
    };
    let code = runtime.block_on(Box::pin(dispatch(cli)));
    // Blocking work in progress (reading a terminal, a file) must not keep the process alive.
    runtime.shutdown_background();
    match code {
        Ok(code) => code.into(),
        Err(error) => {
            terminal::complain(&format!("{error:#}"));
            FAILED.into()
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let Cli { data, json, server, command } = cli;
    let (named, cli_data) = (data.is_some(), data.clone());
    let data = || -> anyhow::Result<PathBuf> {
        let data = data.clone().map_or_else(default_data, Ok)?;
        // Programs run in folders of their own and get paths in it, so it has to be absolute.
        std::path::absolute(&data).with_context(|| format!("the folder `{}`", data.display()))
    };
    let remote = || Connection::new(&server.required()?);
    let backend = || match server.target(named)? {
        Some(target) => Connection::new(&target).map(Backend::Server),
        None => data().map(Backend::Folder),
    };
    match command {
        Command::Run { job, set, local } => session::run(&data()?, &job, &set, &local, json).await,
        Command::Resume { run, local } => match backend()? {
            Backend::Folder(data) => session::resume(&data, &run, &local, json).await,
            server @ Backend::Server(_) => control::resume(&server, &run, json).await,
        },
        Command::Retry { run, tasks, set, yes, local } => {
            let set = set.into_iter().collect();
            let request = RetryRequest { tasks, set, dry_run: false };
            let backend = backend()?;
            if !yes && !control::is_meant(&backend, &run, &request).await? {
                return Ok(INTERRUPTED);
            }
            retry(backend, &run, request, &local, json).await
        }
        Command::Serve(args) => serve::serve(&data()?, &args).await,
        Command::Work(args) => {
            let default = data().map(|data| data.join("work"));
            work::work((cli_data, default), &server, &args).await
        }
        Command::Submit(args) => client::submit(&remote()?, &data()?, args, json).await,
        Command::Runs(args) => inspect::runs(&backend()?, args, json).await,
        Command::Show { run, watch: false } => inspect::show(&backend()?, &run, json).await,
        Command::Show { run, watch: true } => inspect::watch(&backend()?, &run, json).await,
        Command::Tasks(args) => inspect::tasks(&backend()?, args, json).await,
        Command::Logs { run, task, attempt, follow } => {
            inspect::logs(&backend()?, &run, &task, attempt, follow).await
        }
        Command::Pause { run } => control::pause(&backend()?, &run, json).await,
        Command::Cancel { run } => control::cancel(&backend()?, &run, json).await,
        Command::Priority { run, priority } => {
            control::priority(&backend()?, &run, priority, json).await
        }
        Command::Download(args) => client::fetch_all(&remote()?, &data()?, args, json).await,
        Command::Prune(args) => prune::prune(&data()?, &server, named, &args, json).await,
        Command::Workers(args) => client::workers(&remote()?, args, json).await,
        Command::Schedule(command) => client::schedule(&remote()?, &data()?, command, json).await,
        Command::Token(command) => client::token(&remote()?, command, json).await,
        Command::Plan { job, set, dot } => plan::plan(&job, &set, dot, json).await,
        Command::Models(command) => models::models(&data()?, command, json).await,
        Command::Schema => plan::schema(),
        Command::Doctor { blender } => doctor::doctor(&data()?, &blender, json).await,
        Command::SetupBlender(args) => blenders::setup(&data()?, args).await,
    }
}

/// Executes tasks again: in this process, or on a server.
async fn retry(
    backend: Backend,
    run: &str,
    request: RetryRequest,
    local: &LocalArgs,
    json: bool,
) -> anyhow::Result<u8> {
    match backend {
        Backend::Folder(data) => session::retry(&data, run, request, local, json).await,
        server @ Backend::Server(_) => control::retry(&server, run, request, json).await,
    }
}

/// The default data folder: `$PICTOR_DATA`, `$XDG_DATA_HOME/pictor`, or `~/.local/share/pictor`.
fn default_data() -> anyhow::Result<PathBuf> {
    if let Some(data) = std::env::var_os("PICTOR_DATA").filter(|data| !data.is_empty()) {
        return Ok(data.into());
    }
    of_the_user("XDG_DATA_HOME", ".local/share")
        .ok_or_else(|| anyhow::anyhow!("no home folder is known: say where with --data DIR"))
}

/// The folder for what can be recreated: `$XDG_CACHE_HOME/pictor` or `~/.cache/pictor`.
fn cache() -> Option<PathBuf> {
    of_the_user("XDG_CACHE_HOME", ".cache")
}

/// Pictor's folder inside the folder that the variable names, or inside `in_home` of the home folder.
fn of_the_user(variable: &str, in_home: &str) -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(in_home)));
    base.map(|base| base.join("pictor"))
}

/// Lets this process open as many files and connections as the system allows it.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
