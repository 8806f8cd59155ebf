//! Settings of `pictor serve`: the command line first, then the environment, then one TOML file.

use crate::blenders::{BlenderArgs, BlenderTable};
use crate::sandbox::{SandboxArgs, SandboxTable};
use anyhow::Context;
use clap::Args;
use pictor_server::http::Quotas;
use pictor_server::prune::Policy;
use pictor_server::webhook::HookConfig;
use pictor_tasks::units::{Bytes, Millis};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Default address of the API: reachable from this machine only.
const LISTEN: &str = "127.0.0.1:7420";

/// Options for the database and the artifact storage.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StorageArgs {
    /// The TOML file of the servers, with the same settings, limits and webhooks.
    #[arg(long, value_name = "FILE", env = "PICTOR_CONFIG")]
    config: Option<PathBuf>,
    /// The database, `postgres://…` [default: a file in the data folder].
    #[arg(long, value_name = "URL", env = "PICTOR_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// A file with the database's URL, which may contain a password.
    #[arg(long, value_name = "FILE", env = "PICTOR_DATABASE_FILE")]
    database_file: Option<PathBuf>,
    /// Where results and assets are stored: a folder, or `s3://bucket/prefix?endpoint=…&region=…` [default: a folder in
    /// the data folder].
    #[arg(long, value_name = "URL", env = "PICTOR_ARTIFACTS")]
    artifacts: Option<String>,
    /// The id of the access key for the object storage.
    #[arg(long, value_name = "ID", env = "PICTOR_S3_KEY_ID")]
    s3_key_id: Option<String>,
    /// The secret access key for the object storage. A file is safer.
    #[arg(long, value_name = "KEY", env = "PICTOR_S3_SECRET", hide_env_values = true)]
    s3_secret: Option<String>,
    /// A file with the secret access key for the object storage.
    #[arg(long, value_name = "FILE", env = "PICTOR_S3_SECRET_FILE")]
    s3_secret_file: Option<PathBuf>,
}

/// Options of `pictor serve`. Without any, it is a farm on one machine.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    settings: Settings,
    /// Tasks to execute at a time on this machine, if it is a farm by itself [default: one for each GPU, or one].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) slots: Option<u32>,
    #[command(flatten)]
    pub(crate) blender: BlenderArgs,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// Executes no tasks on this machine.
    #[arg(long)]
    pub(crate) no_worker: bool,
    /// Lets `command` steps run any program on this machine, in the sandbox.
    #[arg(long)]
    pub(crate) allow_commands: bool,
    /// Lets these programs connect to other machines, and to whatever listens on this one.
    #[arg(long)]
    pub(crate) allow_network: bool,
    /// How many tasks may hold a named limit at a time: `--limit houdini=2`.
    #[arg(long = "limit", value_name = "NAME=N", value_parser = crate::limit)]
    limits: Vec<(String, u32)>,
}

/// `[server]` of the configuration file, and the options of the same names.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// The address to listen on [default: 127.0.0.1:7420]. Port 0 chooses a free one.
    #[arg(long, value_name = "ADDRESS:PORT", env = "PICTOR_LISTEN")]
    pub(crate) listen: Option<String>,
    /// The address at which other servers and workers reach this one [default: http:// and the listen address].
    #[arg(long, value_name = "URL", env = "PICTOR_PUBLIC_URL")]
    pub(crate) public_url: Option<String>,
    /// As in [`StorageArgs`].
    #[arg(skip)]
    pub(crate) database: Option<String>,
    #[arg(skip)]
    database_file: Option<PathBuf>,
    /// The message broker, `amqp://…` or `amqps://…` [default: none, this machine executes the tasks].
    #[arg(long, value_name = "URL", env = "PICTOR_BROKER", hide_env_values = true)]
    pub(crate) broker: Option<String>,
    /// A file with the broker's URL.
    #[arg(long, value_name = "FILE", env = "PICTOR_BROKER_FILE")]
    broker_file: Option<PathBuf>,
    /// Certificates (PEM) that are trusted for the broker, in addition to those of the system.
    #[arg(long, value_name = "FILE", env = "PICTOR_BROKER_CA")]
    pub(crate) broker_ca: Option<PathBuf>,
    /// The broker's management service, `http://user:password@host:15672`: with it each worker gets a user of its own,
    /// with only the permissions it needs.
    #[arg(long, value_name = "URL", env = "PICTOR_BROKER_MANAGEMENT", hide_env_values = true)]
    pub(crate) broker_management: Option<String>,
    /// A file with the management service's URL.
    #[arg(long, value_name = "FILE", env = "PICTOR_BROKER_MANAGEMENT_FILE")]
    broker_management_file: Option<PathBuf>,
    /// The broker's address for workers, if it differs.
    #[arg(long, value_name = "URL", env = "PICTOR_BROKER_FOR_WORKERS", hide_env_values = true)]
    pub(crate) broker_for_workers: Option<String>,
    /// As in [`StorageArgs`].
    #[arg(skip)]
    pub(crate) artifacts: Option<String>,
    #[arg(skip)]
    pub(crate) s3_key_id: Option<String>,
    #[arg(skip)]
    pub(crate) s3_secret: Option<String>,
    #[arg(skip)]
    s3_secret_file: Option<PathBuf>,
    /// How long a worker may be silent before its tasks are given to others [default: 60s].
    #[arg(long, value_name = "TIME", env = "PICTOR_LEASE")]
    pub(crate) lease: Option<Millis>,
    /// Serves `/metrics` only to those who show the token of an admin, operator or viewer.
    #[arg(long, env = "PICTOR_METRICS_NEED_TOKEN")]
    pub(crate) metrics_need_token: bool,
    /// The most tasks that a run may have in all its steps [default: 16777216].
    #[arg(long, value_name = "N", env = "PICTOR_RUN_TASKS")]
    pub(crate) run_tasks: Option<u64>,
    /// The most memory that the tasks of a run may take in this process [default: 1GiB].
    #[arg(long, value_name = "SIZE", env = "PICTOR_RUN_MEMORY")]
    pub(crate) run_memory: Option<Bytes>,
    /// How much of the data folder's disk stays free for the database: no file is taken beyond [default: 1GiB].
    #[arg(long, value_name = "SIZE", env = "PICTOR_DISK_FLOOR")]
    pub(crate) disk_floor: Option<Bytes>,
    /// After how long an entry of the audit log is removed [default: 400d].
    #[arg(long, value_name = "TIME", env = "PICTOR_AUDIT_AGE")]
    pub(crate) audit_age: Option<Millis>,
    /// How many entries of the audit log are kept [default: 1000000].
    #[arg(long, value_name = "N", env = "PICTOR_AUDIT_ENTRIES")]
    pub(crate) audit_entries: Option<u64>,
}

/// The configuration file of servers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    server: Settings,
    limits: BTreeMap<String, u32>,
    quotas: Quotas,
    webhook: Vec<HookConfig>,
    prune: Option<Policy>,
    blender: BlenderTable,
    sandbox: SandboxTable,
    /// Settings of `pictor work`, which a server ignores.
    #[serde(rename = "work")]
    _work: toml::Table,
}

/// The effective settings.
pub(crate) struct Configured {
    pub(crate) settings: Settings,
    pub(crate) listen: String,
    pub(crate) limits: BTreeMap<String, u32>,
    pub(crate) quotas: Quotas,
    pub(crate) webhooks: Vec<HookConfig>,
    pub(crate) prune: Option<Policy>,
    pub(crate) blenders: BlenderTable,
    pub(crate) sandbox: SandboxTable,
}

impl ServeArgs {
    /// Reads the configuration file and the secrets, and merges them with the options.
    pub(crate) fn configured(&self) -> anyhow::Result<Configured> {
        let mut configured = self.storage.configured(self.settings.clone())?;
        configured.limits.extend(self.limits.iter().cloned());
        Ok(configured)
    }
}

impl StorageArgs {
    /// The effective settings; these options take precedence over `other`.
    pub(crate) fn configured(&self, other: Settings) -> anyhow::Result<Configured> {
        let said = self.clone();
        let said = Settings {
            database: said.database,
            database_file: said.database_file,
            artifacts: said.artifacts,
            s3_key_id: said.s3_key_id,
            s3_secret: said.s3_secret,
            s3_secret_file: said.s3_secret_file,
            ..other
        };
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let mut settings = said.or(file.server);
        secret(&mut settings.database, settings.database_file.as_deref())?;
        secret(&mut settings.broker, settings.broker_file.as_deref())?;
        let management = settings.broker_management_file.clone();
        secret(&mut settings.broker_management, management.as_deref())?;
        secret(&mut settings.s3_secret, settings.s3_secret_file.as_deref())?;
        let listen = settings.listen.clone().unwrap_or_else(|| LISTEN.to_owned());
        let File { limits, quotas, webhook: webhooks, prune, blender: blenders, sandbox, .. } =
            file;
        Ok(Configured { settings, listen, limits, quotas, webhooks, prune, blenders, sandbox })
    }
}

impl Configured {
    /// Fails if the settings contradict each other.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let s = &self.settings;
        let shared = s.database.as_deref().is_some_and(|url| url.starts_with("postgres"));
        anyhow::ensure!(
            shared || s.database.is_none(),
            "the database has to be `postgres://…`; leave it out for a file in the data folder"
        );
        anyhow::ensure!(
            s.broker.is_none() || shared,
            "a farm with a broker needs a Postgres that its servers share: set `database`"
        );
        anyhow::ensure!(
            !shared || s.broker.is_some(),
            "servers that share a Postgres need a broker to agree on who owns the farm: set `broker`"
        );
        Ok(())
    }
}

impl Settings {
    /// Merges settings; those of `self` take precedence.
    fn or(self, other: Self) -> Self {
        // A secret given here must not be paired with a file named there, or the other way round.
        let pair = |said: (Option<String>, Option<PathBuf>),
                    other: (Option<String>, Option<PathBuf>)| {
            if said.0.is_some() || said.1.is_some() { said } else { other }
        };
        let (database, database_file) =
            pair((self.database, self.database_file), (other.database, other.database_file));
        let (broker, broker_file) =
            pair((self.broker, self.broker_file), (other.broker, other.broker_file));
        let (broker_management, broker_management_file) = pair(
            (self.broker_management, self.broker_management_file),
            (other.broker_management, other.broker_management_file),
        );
        let (s3_secret, s3_secret_file) =
            pair((self.s3_secret, self.s3_secret_file), (other.s3_secret, other.s3_secret_file));
        Self {
            listen: self.listen.or(other.listen),
            public_url: self.public_url.or(other.public_url),
            database,
            database_file,
            broker,
            broker_file,
            broker_ca: self.broker_ca.or(other.broker_ca),
            broker_management,
            broker_management_file,
            broker_for_workers: self.broker_for_workers.or(other.broker_for_workers),
            artifacts: self.artifacts.or(other.artifacts),
            s3_key_id: self.s3_key_id.or(other.s3_key_id),
            s3_secret,
            s3_secret_file,
            lease: self.lease.or(other.lease),
            metrics_need_token: self.metrics_need_token || other.metrics_need_token,
            run_tasks: self.run_tasks.or(other.run_tasks),
            run_memory: self.run_memory.or(other.run_memory),
            disk_floor: self.disk_floor.or(other.disk_floor),
            audit_age: self.audit_age.or(other.audit_age),
            audit_entries: self.audit_entries.or(other.audit_entries),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("read the configuration {}", path.display()))?;
    let mut file: File =
        toml::from_str(&text).with_context(|| format!("the configuration {}", path.display()))?;
    file.blender = file.blender.beside(path.parent().unwrap_or(path));
    Ok(file)
}

/// Reads a secret from its file, if it is not given directly.
fn secret(said: &mut Option<String>, file: Option<&Path>) -> anyhow::Result<()> {
    if let (None, Some(file)) = (&said, file) {
        let text = std::fs::read_to_string(file);
        let text = text.with_context(|| format!("read the secret in {}", file.display()))?;
        *said = Some(text.trim().to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pictor.toml");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "amqp://secret\n").unwrap();
        let text = format!(
            "[server]\nlisten = \"0.0.0.0:1\"\ndatabase = \"postgres://file\"\n\
             broker_file = {secret:?}\n[limits]\nhoudini = 2\n\
             [quotas]\nruns = 5\nupload_bytes = \"3GiB\"\n[work]\nname = \"a\"\n"
        );
        std::fs::write(&path, text).unwrap();
        let database = Some("postgres://said".into());
        let storage = StorageArgs { config: Some(path), database, ..StorageArgs::default() };
        let limits = vec![("nuke".to_owned(), 3)];
        let args = ServeArgs { storage, limits, ..ServeArgs::default() };
        let configured = args.configured().unwrap();
        assert_eq!(configured.settings.database.as_deref(), Some("postgres://said"));
        assert_eq!(configured.settings.broker.as_deref(), Some("amqp://secret"));
        assert_eq!(configured.listen, "0.0.0.0:1");
        assert_eq!(configured.limits.len(), 2);
        let Quotas { runs, upload_bytes, streams, .. } = configured.quotas;
        assert_eq!((runs, upload_bytes, streams), (5, Bytes(3 << 30), 64));
    }

    #[test]
    fn what_cannot_work_together_is_told() {
        for (database, broker, word) in [
            (Some("mysql://x"), None, "postgres"),
            (None, Some("amqp://x"), "needs a Postgres"),
            (Some("postgres://x"), None, "need a broker"),
        ] {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let settings = Settings { broker: own(broker), ..Settings::default() };
            let storage = StorageArgs { database: own(database), ..StorageArgs::default() };
            let args = ServeArgs { storage, settings, ..ServeArgs::default() };
            let text = args.configured().unwrap().check().err().unwrap().to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
