//! Which sandbox the programs of this process run in, and what of this machine they see in addition.

use crate::terminal::explain;
use anyhow::Context;
use clap::Args;
use pictor_executor::{Sandbox, SandboxPolicy, Shared};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Options for the sandbox of programs that open files of jobs: Blender, ffmpeg, and those of `command` steps.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SandboxArgs {
    /// Whether programs that open files of jobs run in a sandbox: `required`, `preferred` (if this machine has one) or
    /// `off` [default: required if others submit the jobs, else preferred].
    #[arg(long, value_name = "POLICY", env = "PICTOR_SANDBOX")]
    sandbox: Option<SandboxPolicy>,
    /// A file or folder of this machine that these programs may read in addition, such as a shared disk; may be given
    /// several times.
    #[arg(long, value_name = "PATH", env = "PICTOR_SANDBOX_READ", value_delimiter = ':')]
    sandbox_read: Vec<PathBuf>,
    /// The same for what they may read and write. Jobs can then reach each other there.
    #[arg(long, value_name = "PATH", env = "PICTOR_SANDBOX_WRITE", value_delimiter = ':')]
    sandbox_write: Vec<PathBuf>,
}

/// `[sandbox]` of a configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SandboxTable {
    policy: Option<SandboxPolicy>,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

impl SandboxArgs {
    /// Chooses the sandbox of this process, and says so if there is none. Options take precedence over the
    /// configuration file.
    pub(crate) fn choose(
        &self,
        table: &SandboxTable,
        default: SandboxPolicy,
    ) -> anyhow::Result<()> {
        let policy = self.sandbox.or(table.policy).unwrap_or(default);
        let read = places(&self.sandbox_read, &table.read)?;
        let write = places(&self.sandbox_write, &table.write)?;
        let found = Sandbox::choose(policy, Shared { read, write }).map_err(anyhow::Error::msg)?;
        if found.is_missing() {
            explain(&format!("warning: {}", found.sentence()));
        }
        Ok(())
    }
}

fn places(said: &[PathBuf], configured: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let what = |path: &Path| format!("share {} with the programs of jobs", path.display());
    let mut real = Vec::new();
    for path in said {
        real.push(path.canonicalize().with_context(|| what(path))?);
    }
    if said.is_empty() {
        // Missing ones are ignored, because one file may serve several machines.
        real.extend(configured.iter().filter_map(|path| path.canonicalize().ok()));
    }
    for path in &real {
        anyhow::ensure!(path.parent().is_some(), "{}: name the folders they need", what(path));
    }
    Ok(real)
}
