//! `pictor work`: this machine as a worker of a farm. Options take precedence over environment variables, and these
//! over `[work]` of a TOML file.

use crate::blenders::{BlenderArgs, BlenderTable};
use crate::client::ServerArgs;
use crate::sandbox::{SandboxArgs, SandboxTable};
use crate::terminal::{complain, programs, say};
use crate::{FAILED, SUCCEEDED};
use anyhow::Context;
use clap::Args;
use pictor_executor::farm::{FarmError, Hours, Leave, Settings, Worker};
use pictor_executor::{CACHE_BYTES, Config, Programs, SandboxPolicy, inventory};
use pictor_tasks::units::{Bytes, Millis};
use pictor_tasks::worker::Inventory;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Default time that running tasks get to end when a worker is stopped.
const DRAIN: Duration = Duration::from_mins(10);
/// Longest name of a worker, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Options of `pictor work`. Servers and token are given as for every command: `--server URL` (several: `URL,URL`),
/// `--token-file FILE`.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct WorkArgs {
    /// A TOML file with the same settings under `[work]`.
    #[arg(long, value_name = "FILE", env = "PICTOR_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: WorkSettings,
    #[command(flatten)]
    blender: BlenderArgs,
    #[command(flatten)]
    sandbox: SandboxArgs,
}

/// `[work]` of the configuration file, and the options of the same names.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WorkSettings {
    #[arg(skip)]
    server: Option<String>,
    #[arg(skip)]
    token_file: Option<PathBuf>,
    #[arg(skip)]
    data: Option<PathBuf>,
    /// The worker's name [default: the machine's]. The same name means the same worker.
    #[arg(long, value_name = "NAME", env = "PICTOR_WORKER_NAME")]
    name: Option<String>,
    /// Tasks to execute at a time [default: one for each GPU, or one that uses all processors].
    #[arg(long, value_name = "N", env = "PICTOR_SLOTS", value_parser = clap::value_parser!(u32).range(1..=256))]
    slots: Option<u32>,
    /// A label that jobs can require with `requires: labels`; may be given several times.
    #[arg(long = "label", value_name = "WORD", env = "PICTOR_LABELS", value_delimiter = ',')]
    labels: Vec<String>,
    /// Executes `command` steps, that is any program that a job names.
    #[arg(long, env = "PICTOR_ALLOW_COMMANDS")]
    allow_commands: bool,
    /// Lets the programs of `command` steps connect to other machines: the internet, and whatever is in this network.
    #[arg(long, env = "PICTOR_ALLOW_NETWORK")]
    allow_network: bool,
    /// How long tasks may continue after SIGTERM, or at the end of the working hours, before they are handed back
    /// [default: 10m; 0: at once]. A second signal ends them at once.
    #[arg(long, value_name = "TIME", env = "PICTOR_DRAIN_TIMEOUT")]
    drain_timeout: Option<Millis>,
    /// Working hours by this machine's clock, such as `mon-fri 19:00-07:00; sat,sun`.
    #[arg(long, value_name = "HOURS", env = "PICTOR_SCHEDULE")]
    schedule: Option<String>,
    /// Works only if nobody has used this machine for this many minutes [default: 10]: no key or mouse button (as
    /// counted by the kernel for PS/2, I2C and USB devices), no input in a terminal, no desktop that logind reports as
    /// in use, and, before it starts, less than half of the processors busy.
    #[arg(long, value_name = "MINUTES", env = "PICTOR_WHEN_IDLE", num_args = 0..=1,
          require_equals = true, default_missing_value = "10",
          value_parser = clap::value_parser!(u32).range(1..=1440))]
    when_idle: Option<u32>,
    /// Certificates (PEM) that are trusted for servers and the broker, in addition to those of the system.
    #[arg(long, value_name = "FILE", env = "PICTOR_CA")]
    ca: Option<PathBuf>,
    /// Disk space for scenes and other files of jobs [default: 20GiB].
    #[arg(long, value_name = "SIZE", env = "PICTOR_CACHE_SIZE")]
    cache_size: Option<Bytes>,
}

/// The configuration file. Settings of other commands are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    work: WorkSettings,
    blender: BlenderTable,
    sandbox: SandboxTable,
    #[serde(rename = "server")]
    _server: IgnoredAny,
    #[serde(rename = "limits")]
    _limits: IgnoredAny,
    #[serde(rename = "quotas")]
    _quotas: IgnoredAny,
    #[serde(rename = "webhook")]
    _webhook: IgnoredAny,
    #[serde(rename = "prune")]
    _prune: IgnoredAny,
}

impl WorkSettings {
    /// Merges settings; those of `self` take precedence.
    fn or(self, other: Self) -> Self {
        Self {
            server: other.server,
            token_file: other.token_file,
            data: other.data,
            name: self.name.or(other.name),
            slots: self.slots.or(other.slots),
            labels: if self.labels.is_empty() { other.labels } else { self.labels },
            allow_commands: self.allow_commands || other.allow_commands,
            allow_network: self.allow_network || other.allow_network,
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
            schedule: self.schedule.or(other.schedule),
            when_idle: self.when_idle.or(other.when_idle),
            ca: self.ca.or(other.ca),
            cache_size: self.cache_size.or(other.cache_size),
        }
    }
}

/// `pictor work`: runs a worker until it is stopped. `data` is the folder named on the command line, and the default
/// one.
pub(crate) async fn work(
    data: (Option<PathBuf>, anyhow::Result<PathBuf>),
    server: &ServerArgs,
    args: &WorkArgs,
) -> anyhow::Result<u8> {
    crate::raise_descriptor_limit();
    let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
    let File { work, blender, sandbox, .. } = file;
    let said = args.settings.clone().or(work);
    args.sandbox.choose(&sandbox, SandboxPolicy::Required)?;
    let (servers, enrolment) = farm(server, &said)?;
    let (data, models) = if let Some(data) = data.0.or_else(|| said.data.clone()) {
        let data = std::path::absolute(data).context("the data folder")?;
        (data.clone(), data)
    } else {
        // Networks are shared with the other commands of this user.
        let data = data.1?;
        (data.clone(), data.parent().map_or(data.clone(), Path::to_path_buf))
    };
    let programs = args.blender.programs(Some(&blender), &models)?;
    let place = (data, crate::models::folder(&models));
    let settings = settings(said, (servers, enrolment), place, programs).await?;
    let mut leave = listen_for_signals()?;
    loop {
        let enrolled = tokio::select! {
            enrolled = Worker::enrol(settings.clone()) => enrolled,
            _ = leave.wait_for(|leave| *leave != Leave::No) => return Ok(SUCCEEDED),
        };
        let ended = match enrolled {
            Ok(worker) => {
                introduce(&settings, &worker);
                worker.work(leave.clone()).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => {
                say("left the farm");
                return Ok(SUCCEEDED);
            }
            Err(error @ FarmError::Unknown(_)) if settings.enrolment.is_some() => {
                complain(&format!("{error}; enrolling anew"));
                Worker::forget(&settings)?;
            }
            Err(error) => {
                complain(&error.to_string());
                return Ok(FAILED);
            }
        }
    }
}

/// The servers, and the token to enrol with.
fn farm(server: &ServerArgs, said: &WorkSettings) -> anyhow::Result<(Vec<String>, Option<String>)> {
    let (named, token, token_file) = server.said();
    let servers = named.map(str::to_owned).or_else(|| said.server.clone()).unwrap_or_default();
    let servers = servers.split(',').map(str::trim).filter(|server| !server.is_empty());
    let servers = servers
        .map(|server| {
            let scheme = server.starts_with("http://") || server.starts_with("https://");
            let whole = if scheme { server.to_owned() } else { format!("http://{server}") };
            let fits = reqwest::Url::parse(&whole).is_ok_and(|url| url.has_host());
            anyhow::ensure!(fits, "`{server}` is not an address: expected http://… or https://…");
            Ok(whole.trim_end_matches('/').to_owned())
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    anyhow::ensure!(
        !servers.is_empty(),
        "which farm? Say it with --server URL, PICTOR_SERVER or `server` in the configuration"
    );
    let read = |file: &Path| {
        let text = std::fs::read_to_string(file);
        text.with_context(|| format!("read the token in {}", file.display()))
    };
    // As for every other command, a file takes precedence over a token, which may stay in the environment for ever.
    let enrolment = match (token_file, token, &said.token_file) {
        (Some(file), ..) => Some(read(file)?),
        (None, Some(token), _) => Some(token.to_owned()),
        (None, None, file) => file.as_deref().map(read).transpose()?,
    };
    let enrolment = enrolment.map(|token| token.trim().to_owned()).filter(|t| !t.is_empty());
    Ok((servers, enrolment))
}

/// Examines the machine and assembles the worker's settings; the folders are those of the data and of the networks.
async fn settings(
    said: WorkSettings,
    (servers, enrolment): (Vec<String>, Option<String>),
    (data, models): (PathBuf, PathBuf),
    programs: Programs,
) -> anyhow::Result<Settings> {
    let hours = said.schedule.as_deref().map(str::parse::<Hours>).transpose()?;
    let wanted = BTreeSet::from(["blender", "ffmpeg", "ffprobe", "python3"]);
    let cache = crate::cache();
    let found = inventory::find(&data, &programs, &wanted, &models, cache.as_deref()).await;
    let labels = said.labels.into_iter().map(|label| label.trim().to_owned());
    let inventory =
        Inventory { labels: labels.filter(|label| !label.is_empty()).collect(), ..found };
    let name = said.name.unwrap_or_else(|| plain_name(&inventory.name));
    anyhow::ensure!(
        name == plain_name(&name),
        "`{name}` cannot be a worker's name: expected 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` \
         and `-`"
    );
    let mut config = Config::new(data.join("worker"), inventory);
    config.slots = said.slots.unwrap_or(config.slots);
    (config.allow_commands, config.allow_network) = (said.allow_commands, said.allow_network);
    config.programs = programs;
    (config.models, config.cache) = (models, cache);
    Ok(Settings {
        servers,
        enrolment,
        name,
        ca: said.ca,
        data,
        config,
        cache_bytes: said.cache_size.map_or(CACHE_BYTES, |size| size.0),
        hours,
        idle_for: said.when_idle.map(|minutes| Duration::from_mins(minutes.into())),
        drain: said.drain_timeout.map_or(DRAIN, |time| Duration::from_millis(time.0)),
    })
}

/// The part of a machine's name that a worker's name may have.
fn plain_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let plain: String =
        name.chars().map(|c| if fits(c) { c } else { '-' }).take(NAME_BYTES_MAX).collect();
    if plain.is_empty() { "worker".into() } else { plain }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("read the configuration {}", path.display()))?;
    let mut file: File =
        toml::from_str(&text).with_context(|| format!("the configuration {}", path.display()))?;
    // Paths are relative to the file that names them.
    let beside = path.parent().unwrap_or(path);
    file.blender = file.blender.beside(beside);
    for path in [&mut file.work.token_file, &mut file.work.data, &mut file.work.ca] {
        *path = path.take().map(|path| beside.join(path));
    }
    Ok(file)
}

/// Logs the worker's name, servers and resources.
fn introduce(settings: &Settings, worker: &Worker) {
    let (config, has) = (&settings.config, &settings.config.inventory);
    let gib = |bytes: u64| format!("{} GiB", bytes >> 30);
    say(&format!(
        "worker `{}` (number {}) of {}, broker {}",
        settings.name,
        worker.id().0,
        settings.servers.join(", "),
        worker.broker()
    ));
    say(&format!(
        "{} at a time, {} processors, {} of memory, {} of free disk in {}",
        if config.slots == 1 { "one task".into() } else { format!("{} tasks", config.slots) },
        has.cpus,
        gib(has.memory_bytes),
        gib(has.disk_bytes),
        settings.data.display()
    ));
    for gpu in &has.gpus {
        say(&format!("GPU {}: {}, driver {}", gpu.name, gib(gpu.vram_bytes), gpu.driver));
    }
    for note in has.blenders.iter().flat_map(|blender| &blender.notes) {
        say(note);
    }
    let blenders = has.blenders.iter().map(|b| (&*b.version, &b.devices));
    let mut parts = programs(&has.software, blenders);
    parts.extend(has.labels.iter().map(|label| format!("label `{label}`")));
    parts.push(match (config.allow_commands, config.allow_network) {
        (false, _) => "runs no commands".into(),
        (true, false) => "runs commands, without network".into(),
        (true, true) => "runs commands, with network".into(),
    });
    say(&parts.join(", "));
}

/// The first signal asks to drain, the second to end at once.
fn listen_for_signals() -> anyhow::Result<watch::Receiver<Leave>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (leave, asked) = watch::channel(Leave::No);
    tokio::spawn(async move {
        for urgency in [Leave::Drain, Leave::Now] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
            leave.send_replace(urgency);
        }
        // The receiver still has to see the last value.
        leave.closed().await;
    });
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_before_the_file_and_paths_lie_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pictor.toml");
        let text = "[server]\nlisten = \"x\"\n[[webhook]]\nurl = \"x\"\n[work]\n\
                    server = \"https://a, https://b/\"\ntoken_file = \"token\"\nname = \"file\"\n\
                    slots = 3\nlabels = [\"a\"]\ndrain_timeout = \"5m\"\nwhen_idle = 20\n";
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("token"), "pictor_a_b\n").unwrap();
        let args = WorkSettings { name: Some("said".into()), ..WorkSettings::default() };
        let said = args.or(read(&path).unwrap().work);
        assert_eq!((said.name.as_deref(), said.slots), (Some("said"), Some(3)));
        assert_eq!((said.drain_timeout, said.when_idle), (Some(Millis(300_000)), Some(20)));
        let (servers, enrolment) = farm(&ServerArgs::default(), &said).unwrap();
        assert_eq!(servers, ["https://a", "https://b"]);
        assert_eq!(enrolment.as_deref(), Some("pictor_a_b"));
        std::fs::write(&path, "[work]\nslot = 3\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("slot"));
    }

    #[test]
    fn a_farm_has_an_address() {
        let said =
            |server: &str| WorkSettings { server: Some(server.into()), ..WorkSettings::default() };
        assert_eq!(
            farm(&ServerArgs::default(), &said("farm:7420")).unwrap().0,
            ["http://farm:7420"]
        );
        for (bad, word) in [("", "which farm?"), ("http://", "not an address")] {
            let error = farm(&ServerArgs::default(), &said(bad)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn names_of_machines_become_names_of_workers() {
        assert_eq!(plain_name("gpu-1.farm.example"), "gpu-1.farm.example");
        assert_eq!(plain_name("Anna's Mac"), "Anna-s-Mac");
        assert_eq!(plain_name(""), "worker");
        assert_eq!(plain_name(&"x".repeat(100)).len(), 64);
    }
}
