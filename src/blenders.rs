//! The Blenders of this machine: those named on the command line, else those in the configuration, else `blender` in
//! PATH and those that `pictor setup-blender` installed.

use crate::terminal::{complain, say};
use crate::{INVALID, SUCCEEDED};
use anyhow::Context;
use clap::Args;
use pictor_executor::Programs;
use pictor_executor::blender::setup::{BUILDS, Build, SetupError, installed};
use pictor_executor::software::is_here;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Options that choose the Blenders of this machine.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct BlenderArgs {
    /// A Blender of this machine; may be given several times. A scene is rendered by the oldest one that can read it
    /// [default: `blender` in PATH, and those that `pictor setup-blender` installed].
    #[arg(long = "blender", value_name = "PATH", env = "PICTOR_BLENDER", value_delimiter = ':')]
    blenders: Vec<PathBuf>,
}

/// `[blender]` of a configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BlenderTable {
    /// Paths of the Blenders. Missing ones are ignored, because one file may serve several machines.
    #[serde(default)]
    paths: Vec<PathBuf>,
}

/// Options of `pictor setup-blender`.
#[derive(Args, Debug)]
pub(crate) struct SetupArgs {
    /// The version [default: the newest one that pictor has been tested with].
    version: Option<String>,
    /// The folder to install it into [default: `blenders/VERSION` in the data folder].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Lists the available versions, oldest first.
    #[arg(long, conflicts_with_all = ["version", "to"])]
    list: bool,
}

impl BlenderTable {
    /// Makes paths relative to the folder of the file that names them.
    pub(crate) fn beside(self, folder: &Path) -> Self {
        // A name without a folder is looked up in PATH.
        let place = |path: PathBuf| match path.components().count() {
            0 | 1 => path,
            _ => folder.join(path),
        };
        Self { paths: self.paths.into_iter().map(place).collect() }
    }
}

impl BlenderArgs {
    /// The programs of this machine. `table` is the command's own configuration; without one the user's applies. `data`
    /// is the data folder.
    pub(crate) fn programs(
        &self,
        table: Option<&BlenderTable>,
        data: &Path,
    ) -> anyhow::Result<Programs> {
        for path in &self.blenders {
            anyhow::ensure!(is_here(path), "there is no Blender at {}", path.display());
        }
        let absolute = |path: &PathBuf| match path.components().count() {
            0 | 1 => Ok(path.clone()),
            // Programs run in folders of their own, so paths have to be absolute.
            _ => std::path::absolute(path).context("the path of a Blender"),
        };
        let said = self.blenders.iter().map(absolute).collect::<anyhow::Result<Vec<_>>>()?;
        if !said.is_empty() {
            return Ok(Programs { blenders: said, ..Programs::default() });
        }
        let own = crate::client::blenders_of_user()?;
        let table = table.filter(|table| !table.paths.is_empty()).unwrap_or(&own);
        let blenders = if table.paths.is_empty() {
            found(data)
        } else {
            table.paths.iter().filter(|path| is_here(path)).cloned().collect()
        };
        Ok(Programs { blenders, ..Programs::default() })
    }
}

/// The Blenders that are used unless some are named.
fn found(data: &Path) -> Vec<PathBuf> {
    let in_path = PathBuf::from("blender");
    let mut blenders = installed(&folder(data));
    // Blenders are shared by all data folders of the user.
    if let Ok(home) = crate::default_data()
        && home != data
    {
        blenders.extend(installed(&folder(&home)));
    }
    if blenders.is_empty() || is_here(&in_path) {
        blenders.insert(0, in_path);
    }
    blenders
}

/// The folder that Blenders are installed into.
fn folder(data: &Path) -> PathBuf {
    data.join("blenders")
}

/// `pictor setup-blender`: installs a Blender, or lists the versions.
pub(crate) async fn setup(data: &Path, args: SetupArgs) -> anyhow::Result<u8> {
    if args.list {
        for Build { version, .. } in BUILDS {
            say(version);
        }
        return Ok(SUCCEEDED);
    }
    let build = match Build::named(args.version.as_deref()) {
        Ok(build) => build,
        Err(error) => {
            complain(&error.to_string());
            return Ok(INVALID);
        }
    };
    let own = folder(data).join(build.version);
    let to = args.to.map_or(Ok(own.clone()), std::path::absolute).context("the folder")?;
    let is_found = to == own;
    let python = Programs::default().python;
    let install = move || build.install(&python, &to, &say);
    let program = match tokio::task::spawn_blocking(install).await? {
        Err(error @ SetupError::Python { .. }) => {
            complain(&error.to_string());
            return Ok(INVALID);
        }
        program => program?,
    };
    say(&format!("Blender {}: {}", build.version, program.display()));
    if !is_found {
        say(&format!("name it with --blender {0} or PICTOR_BLENDER={0}", program.display()));
    }
    Ok(SUCCEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, may_run).unwrap();
    }

    #[test]
    fn the_command_line_goes_before_the_configuration_and_that_before_what_is_found() {
        let data = tempfile::tempdir().unwrap();
        let at = |name: &str| data.path().join(name);
        program(&at("blenders/5.0.1/blender"));
        program(&at("blenders/.4.5.15.part/blender"));
        program(&at("mine"));
        let nobody = BlenderArgs::default();
        let blenders = nobody.programs(None, data.path()).unwrap().blenders;
        assert!(blenders.contains(&at("blenders/5.0.1/blender")), "{blenders:?}");
        assert!(blenders.iter().all(|path| !path.display().to_string().contains(".part")));
        let table = BlenderTable { paths: vec!["./mine".into(), "./gone".into()] };
        let table = table.beside(data.path());
        let blenders = nobody.programs(Some(&table), data.path()).unwrap().blenders;
        assert_eq!(blenders, [data.path().join("./mine")]);
        let said = BlenderArgs { blenders: vec![at("blenders/5.0.1/blender")] };
        let blenders = said.programs(Some(&table), data.path()).unwrap().blenders;
        assert_eq!(blenders, said.blenders);
        let wrong = BlenderArgs { blenders: vec![at("gone")] };
        let error = wrong.programs(None, data.path()).unwrap_err().to_string();
        assert!(error.contains("there is no Blender at"), "{error}");
    }
}
