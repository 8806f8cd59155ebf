//! Options of the commands that talk to a server.

use crate::blenders::BlenderArgs;
use clap::{Args, Subcommand};
use pictor_api::{CatchUp, Overlap};
use pictor_api::{Service, TokenRole};
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Parses one of the words that the server knows.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// Options of `pictor submit`.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct SubmitArgs {
    /// The job file (YAML or JSON).
    pub(crate) job: PathBuf,
    /// Changes a value of the job file: `--set render.samples=16`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Waits until the run ends and shows its progress; the exit code is that of the run.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Downloads results into this folder as they become available.
    #[arg(long, value_name = "DIR", requires = "wait")]
    pub(crate) out: Option<PathBuf>,
    /// Replaces files in that folder that are not from this run; but never one that was uploaded for it.
    #[arg(long, requires = "out")]
    pub(crate) overwrite: bool,
    /// The run's priority, -100 to 100: higher ones come first.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    pub(crate) priority: Option<i32>,
    /// Checks everything, but uploads and starts nothing.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
    /// Submits even if textures, libraries or caches are missing.
    #[arg(long)]
    pub(crate) allow_missing: bool,
    /// The Blender that determines which files the scenes need.
    #[command(flatten)]
    pub(crate) blender: BlenderArgs,
}

/// Options of `pictor download`.
#[derive(Args, Debug)]
pub(crate) struct DownloadArgs {
    /// The run's id, or the beginning of it.
    pub(crate) run: String,
    /// Only files that match a pattern such as `*.png` or `frames/*`.
    pub(crate) pattern: Option<String>,
    /// The folder for results [default: out/RUN].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replaces existing files that are not from this run; but never one that was uploaded for it from here.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Options of `pictor workers`.
#[derive(Args, Debug)]
pub(crate) struct WorkersArgs {
    /// Shows only this worker, in detail.
    pub(crate) worker: Option<u32>,
    /// Sets whether it gets tasks: `enabled`, `disabled` (it hands back its tasks) or `draining` (it finishes its
    /// tasks).
    #[arg(long, value_name = "STATE", requires = "worker", value_parser = word::<Service>)]
    pub(crate) set: Option<Service>,
}

/// Subcommands of `pictor schedule`.
#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Submits a job repeatedly, at times given like cron's.
    Add(ScheduleArgs),
    /// Lists schedules with their next due times.
    List,
    /// Shows a schedule: its next due times and its last runs.
    Show {
        /// Name of the schedule.
        name: String,
    },
    /// Pauses a schedule: it starts no runs until `resume`.
    Pause {
        /// Name of the schedule.
        name: String,
    },
    /// Resumes a paused schedule.
    Resume {
        /// Name of the schedule.
        name: String,
    },
    /// Removes a schedule, but not its runs.
    Remove {
        /// Name of the schedule.
        name: String,
    },
    /// Starts a run of a schedule now.
    Trigger {
        /// Name of the schedule.
        name: String,
    },
}

/// Options of `pictor schedule add`.
#[derive(Args, Debug)]
pub(crate) struct ScheduleArgs {
    /// Name of the schedule.
    pub(crate) name: String,
    /// The job file (YAML or JSON).
    pub(crate) job: PathBuf,
    /// Due times: five fields (minute, hour, day, month, day of the week), or six with seconds first.
    #[arg(long, value_name = "FIELDS")]
    pub(crate) cron: String,
    /// The time zone of the due times, such as `Europe/Berlin`.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub(crate) zone: String,
    /// What to do when the previous run has not ended.
    #[arg(long, default_value = "skip", value_name = "skip|queue|replace", value_parser = word::<Overlap>)]
    pub(crate) overlap: Overlap,
    /// Which runs to make up for after no server was running at their due time.
    #[arg(long, default_value = "none", value_name = "none|one|all", value_parser = word::<CatchUp>)]
    pub(crate) catch_up: CatchUp,
    /// Delays starts by up to this time, so that not everything starts at once: `5m`.
    #[arg(long, value_name = "TIME")]
    pub(crate) jitter: Option<pictor_tasks::units::Millis>,
    /// Changes a value of the job file.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Submits even if textures, libraries or caches are missing.
    #[arg(long)]
    pub(crate) allow_missing: bool,
    /// The Blender that determines which files the scenes need.
    #[command(flatten)]
    pub(crate) blender: BlenderArgs,
}

/// Subcommands of `pictor token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Creates a token and prints it. It is shown only once.
    Add {
        /// A label: who or what uses it.
        name: String,
        /// Its role: `admin`, `operator`, `submitter`, `viewer` or `worker`.
        #[arg(long, value_parser = word::<TokenRole>)]
        role: TokenRole,
        /// The account that its runs and workers belong to [default: the name].
        #[arg(long)]
        account: Option<String>,
    },
    /// Lists tokens, without their secrets.
    List,
    /// Revokes a token, which takes effect at once.
    Revoke {
        /// Public part of the token.
        id: String,
        /// Machines that enrolled with the token may go on; otherwise they are shut out with it.
        #[arg(long)]
        keep_machines: bool,
    },
}
