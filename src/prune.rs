//! `pictor prune`: removes runs that ended long ago, with their artifacts and logs, and artifacts that nothing refers
//! to any more.

use crate::client::ServerArgs;
use crate::serve::open_artifacts;
use crate::settings::{Settings, StorageArgs};
use crate::terminal::{complain, say};
use crate::{FAILED, SUCCEEDED};
use anyhow::Context;
use clap::Args;
use pictor_server::now_ms;
use pictor_server::prune::{Files, Policy, Pruned, Pruner};
use pictor_tasks::units::{Bytes, Millis};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of `pictor prune`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PruneArgs {
    /// Removes runs that ended longer ago than this.
    #[arg(long, value_name = "TIME", default_value = "30d")]
    older_than: Millis,
    /// Keeps failed runs for this long.
    #[arg(long, value_name = "TIME")]
    keep_failed: Option<Millis>,
    /// Archives each run as one file of JSON lines in this folder, without its artifacts.
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// Only shows what would be removed.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    farm: StorageArgs,
}

/// `pictor prune`: removes old runs from the store. It needs a data folder or a database; only a server is an error.
pub(crate) async fn prune(
    data: &Path,
    server: &ServerArgs,
    named: bool,
    args: &PruneArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let configured = args.farm.configured(Settings::default())?;
    if server.target(named)?.is_some() && configured.settings.database.is_none() {
        anyhow::bail!(
            "prune works on a data folder or a database, not through a server: leave out --server and \
             PICTOR_SERVER, or let the server do it (`[prune]` in its configuration)"
        );
    }
    let folder = data.display().to_string();
    let place = configured.settings.database.as_deref().unwrap_or(&folder);
    let (store, registry) = match pictor_storage::open(place).await {
        Err(pictor_storage::Error::Locked { pid }) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            anyhow::bail!(
                "a pictor{pid} is working in {folder}; stop it first, or let the server prune: \
                 `[prune]` in its configuration"
            )
        }
        opened => opened.with_context(|| format!("open {place}"))?,
    };
    let artifacts = Arc::new(open_artifacts(data, &configured)?);
    let archive = args.archive.as_deref().map(std::path::absolute).transpose();
    let policy = Policy {
        older_than: args.older_than,
        keep_failed: args.keep_failed,
        archive: archive.context("the archive's folder")?,
    };
    let pruner = Pruner { store: store.clone(), registry, artifacts, logs: data.join("logs") };
    let done = pruner.prune(&policy, args.dry_run, now_ms()).await?;
    store.close().await.context("close the database")?;
    if json {
        say(&serde_json::to_string(&done).context("print what was removed")?);
    } else {
        tell(&done, args.dry_run);
    }
    Ok(if done.failures.is_empty() { SUCCEEDED } else { FAILED })
}

fn tell(pruned: &Pruned, dry_run: bool) {
    let verb = if dry_run { "would remove" } else { "removed" };
    let files = |files: Files| format!("{} files, {}", files.files, Bytes(files.size_bytes));
    say(&format!("{verb} {} runs", pruned.runs));
    say(&format!("  artifacts:       {}", files(pruned.artifacts)));
    say(&format!("  logs:            {}", files(pruned.logs)));
    say(&format!("  without a run:   {}", files(pruned.orphans)));
    say(&format!("  unused uploads:  {}", files(pruned.assets)));
    for failure in &pruned.failures {
        complain(&format!("not removed: {failure}"));
    }
}
