//! What can be said on the command line to a server.

use crate::blenders::BlenderArgs;
use clap::{Args, Subcommand};
use pictor_api::{Service, TokenRole};
use pictor_server::schedule::{CatchUp, Overlap};
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// One of the words that the server knows.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// What is submitted, and what happens then.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct SubmitArgs {
    /// The job file.
    pub(crate) job: PathBuf,
    /// Changes a value of the job file: `--set render.samples=16`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Waits for the end and shows how it goes; the exit status is that of the run.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Fetches results into this folder as they come.
    #[arg(long, value_name = "DIR", requires = "wait")]
    pub(crate) out: Option<PathBuf>,
    /// Replaces files in that folder that are not of this run; never one that was sent for it.
    #[arg(long, requires = "out")]
    pub(crate) overwrite: bool,
    /// Runs of higher priority go first, -100 to 100.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    pub(crate) priority: Option<i32>,
    /// Checks everything, sends and starts nothing.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Submits although textures, libraries or caches are not there.
    #[arg(long)]
    pub(crate) allow_missing: bool,
    /// What is asked which files the scenes need.
    #[command(flatten)]
    pub(crate) blender: BlenderArgs,
}

/// Which results are fetched.
#[derive(Args, Debug)]
pub(crate) struct DownloadArgs {
    /// The run, or the beginning of its id.
    pub(crate) run: String,
    /// Only files that fit, as in `*.png` or `frames/*`.
    pub(crate) pattern: Option<String>,
    /// Where they land [default: out/RUN].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replaces files that are there and are not of this run; never one that was sent for it from here.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// A change of a worker.
#[derive(Args, Debug)]
pub(crate) struct WorkersArgs {
    /// Only this worker, in detail.
    pub(crate) worker: Option<u32>,
    /// Whether it gets tasks: `enabled`, `disabled` (it hands back what it has) or `draining` (it
    /// finishes what it has).
    #[arg(long, value_name = "STATE", requires = "worker", value_parser = word::<Service>)]
    pub(crate) set: Option<Service>,
}

/// Verbs about schedules.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Submits a job again and again, at times given like cron's.
    Add(ScheduleArgs),
    /// Lists schedules and when each is due next.
    List,
    /// Shows a schedule: its next times and its last runs.
    Show {
        /// Its name.
        name: String,
    },
    /// Starts no more runs until `resume`.
    Pause {
        /// Its name.
        name: String,
    },
    /// Starts runs again.
    Resume {
        /// Its name.
        name: String,
    },
    /// Removes a schedule. Its runs stay.
    Remove {
        /// Its name.
        name: String,
    },
    /// Starts a run of it now.
    Trigger {
        /// Its name.
        name: String,
    },
}

/// A schedule.
#[derive(Args, Debug)]
pub(crate) struct ScheduleArgs {
    /// Its name.
    pub(crate) name: String,
    /// The job file.
    pub(crate) job: PathBuf,
    /// When: five fields (minute, hour, day, month, day of the week), or six with seconds first.
    #[arg(long, value_name = "FIELDS")]
    pub(crate) cron: String,
    /// The time zone in which these times are meant, as in `Europe/Berlin`.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub(crate) zone: String,
    /// What happens when the run before is not over.
    #[arg(long, default_value = "skip", value_name = "skip|queue|replace", value_parser = word::<Overlap>)]
    pub(crate) overlap: Overlap,
    /// Which runs are caught up with when no server was there in time.
    #[arg(long, default_value = "none", value_name = "none|one|all", value_parser = word::<CatchUp>)]
    pub(crate) catch_up: CatchUp,
    /// Starts up to so much later, so that not everything starts at once: `5m`.
    #[arg(long, value_name = "TIME")]
    pub(crate) jitter: Option<pictor_tasks::units::Millis>,
    /// Changes a value of the job file.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Submits although textures, libraries or caches are not there.
    #[arg(long)]
    pub(crate) allow_missing: bool,
    /// What is asked which files the scenes need.
    #[command(flatten)]
    pub(crate) blender: BlenderArgs,
}

/// Verbs about tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token and prints it. It is shown this once.
    Add {
        /// For people: who or what has it.
        name: String,
        /// What it may do: `admin`, `operator`, `submitter`, `viewer` or `worker`.
        #[arg(long, value_parser = word::<TokenRole>)]
        role: TokenRole,
        /// The account whose runs and workers it makes [default: the name].
        #[arg(long)]
        account: Option<String>,
    },
    /// Lists tokens.
    List,
    /// Makes a token worthless at once.
    Revoke {
        /// Its id.
        id: String,
    },
}
