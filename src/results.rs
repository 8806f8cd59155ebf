//! Where the results of a run of this machine land, and what they may replace there.

use crate::blenders::BlenderArgs;
use crate::terminal::complain;
use clap::Args;
use pictor_engine::{Plan, Run, TaskState};
use pictor_server::{Place, Sources, files_of_commands, in_the_way, sentences};
use pictor_storage::{RunRecord, Store};
use std::path::{Path, PathBuf};

/// Where results land.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ResultArgs {
    /// Where results land [default: out/RUN, or where they landed before].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replaces files that are there and were not made by this run; never one that it reads.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

impl ResultArgs {
    /// The folder, with what no result may replace there.
    pub(crate) async fn place(
        &self,
        (plan, job_file): (&Plan, &Path),
        folder: PathBuf,
        (data, blender): (&Path, &BlenderArgs),
    ) -> anyhow::Result<Place> {
        let mut sources = Sources::named(plan, job_file);
        for name in files_of_commands(plan) {
            let Some(file) = plan.files.get(name) else { continue };
            // One that is gone since cannot be replaced.
            if let Ok(layout) = crate::client::command_files(Path::new(&file.path)) {
                sources.extend(layout.sources());
            }
        }
        let has_files = std::fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_some());
        if self.overwrite && has_files {
            // Whatever else a scene reads could be among what is replaced.
            for layout in crate::client::lay_out(plan, data, blender).await?.values() {
                sources.extend(layout.sources());
            }
        }
        Ok(Place { folder, sources, overwrite: self.overwrite })
    }

    /// The same for a run that is stored.
    pub(crate) async fn place_of(
        &self,
        (plan, record): (&Plan, &RunRecord),
        machine: (&Path, &BlenderArgs),
    ) -> anyhow::Result<Place> {
        let named = Path::new(&record.source_name).file_name().unwrap_or_default();
        let folder = self.out.clone().unwrap_or_else(|| PathBuf::from(&record.out_dir));
        let folder = std::path::absolute(&folder)?;
        self.place((plan, &Path::new(&plan.folder).join(named)), folder, machine).await
    }
}

/// Says what stands in the way of results of tasks that `will` be done, by their state. `true`: nothing does.
pub(crate) async fn is_free(
    tasks: (&Run, fn(TaskState) -> bool),
    place: &Place,
    store: Option<&dyn Store>,
) -> anyhow::Result<bool> {
    let found = in_the_way(tasks, place, store).await?;
    for sentence in sentences(&found) {
        complain(&sentence);
    }
    Ok(found.is_empty())
}
