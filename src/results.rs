//! The folder for the results of a run on this machine, and what they may replace in it.

use crate::LocalArgs;
use crate::terminal::complain;
use clap::Args;
use pictor_engine::{Plan, Run, TaskState};
use pictor_server::{Destination, Sources, files_of_commands, in_the_way, sentences};
use pictor_storage::{RunRecord, Store};
use std::path::{Path, PathBuf};

/// Options for the results of a run.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ResultArgs {
    /// The folder for results [default: out/RUN, or the folder of the run's earlier results].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replaces existing files that this run did not make; but never one that it reads.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

impl LocalArgs {
    /// The output folder, with the files that no result may replace.
    pub(crate) async fn destination(
        &self,
        plan: &Plan,
        job_file: &Path,
        folder: PathBuf,
        data: &Path,
    ) -> anyhow::Result<Destination> {
        if folder.symlink_metadata().is_ok() && !folder.is_dir() {
            anyhow::bail!("{} is not a folder: choose another with --out DIR", folder.display());
        }
        let mut sources = Sources::named(plan, job_file);
        for name in files_of_commands(plan) {
            let Some(file) = plan.files.get(name) else { continue };
            // A file that no longer exists cannot be replaced.
            if let Ok(layout) = crate::client::command_files(Path::new(&file.path)) {
                sources.extend(layout.sources());
            }
        }
        let has_files = std::fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_some());
        if self.results.overwrite && has_files {
            // Any other file that a scene reads could be among those to be replaced.
            for layout in crate::client::lay_out(plan, data, &self.blender).await?.values() {
                sources.extend(layout.sources());
            }
        }
        Ok(Destination { folder, sources, overwrite: self.results.overwrite })
    }

    /// The output folder of a stored run.
    pub(crate) async fn destination_of(
        &self,
        plan: &Plan,
        record: &RunRecord,
        data: &Path,
    ) -> anyhow::Result<Destination> {
        let named = Path::new(&record.source_name).file_name().unwrap_or_default();
        let folder = self.results.out.clone().unwrap_or_else(|| PathBuf::from(&record.out_dir));
        let folder = std::path::absolute(&folder)?;
        self.destination(plan, &Path::new(&plan.folder).join(named), folder, data).await
    }
}

/// Reports the files in the way of results of tasks that `will` be executed, by their state. Returns whether there are
/// none.
pub(crate) async fn is_free(
    run: &Run,
    will: fn(TaskState) -> bool,
    destination: &Destination,
    store: Option<&dyn Store>,
) -> anyhow::Result<bool> {
    let found = in_the_way(run, will, destination, store).await?;
    for sentence in sentences(&found) {
        complain(&sentence);
    }
    Ok(found.is_empty())
}
