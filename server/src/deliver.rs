//! Delivery: a run's results are copied to its output folder. It can be repeated: a file that is there with the right
//! content is left alone, so whatever was missed is made up for later. It never replaces a file that the run reads, or
//! one that the run did not make ([`Destination`]).

mod destination;
#[cfg(test)]
mod tests;

pub(crate) use destination::resolve;
pub use destination::{Destination, InTheWay, Sources, in_the_way, sentences};

use crate::handle::Error;
use destination::{Found, made};
use pictor_artifacts::Artifacts;
use pictor_engine::plan::Step;
use pictor_engine::{Plan, Run, TaskState};
use pictor_storage::Store;
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{Outcome, Output, TaskId};
use pictor_tasks::output::{check_name, in_folder};
use pictor_tasks::space::Space;
use pictor_tasks::template::Template;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of a delivery.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Files that are in place now.
    pub files: Vec<PathBuf>,
    /// Why other files could not be delivered.
    pub failures: Vec<String>,
    /// Results that were not delivered because another task's result has the same path.
    pub clashes: Vec<String>,
    /// Files that were left alone although a result belongs at their path.
    pub in_the_way: Vec<InTheWay>,
}

struct Item {
    task: TaskId,
    key: String,
    digest: String,
    path: PathBuf,
}

/// Delivers every result that the run has so far. A file that it delivered before may be replaced.
pub async fn deliver_all(
    run: &Run,
    store: &dyn Store,
    artifacts: &Artifacts,
    destination: &Destination,
) -> Result<Delivered, Error> {
    let mut items = Vec::new();
    for (step, plan) in (0u16..).zip(&run.plan().steps) {
        let Some(space) = run.space(step).filter(|_| !plan.deliver.is_empty()) else { continue };
        for at in run.tasks_in(step, TaskState::Succeeded) {
            let outputs = run.outputs(at).map_or(&[] as &[_], |(_, outputs)| outputs);
            items.extend(items_of(run.plan(), at, space, outputs, &destination.folder));
        }
    }
    let clashes = take_clashes(run, &mut items);
    let mut delivered = Delivered { clashes, ..Delivered::default() };
    let left = copy(items, artifacts, destination, &HashSet::new(), &mut delivered).await;
    if !left.is_empty() {
        // History is only read if other files are in the way.
        let made = made(store, run.id()).await?;
        delivered.in_the_way.clear();
        copy(left, artifacts, destination, &made, &mut delivered).await;
    }
    Ok(delivered)
}

/// A path belongs to the first task, in the order of the plan, that delivers there. Removes the results of later ones,
/// and reports those whose content differs.
fn take_clashes(run: &Run, items: &mut Vec<Item>) -> Vec<String> {
    let mut clashes = Vec::new();
    let mut taken: HashMap<PathBuf, (TaskId, String)> = HashMap::new();
    items.retain(|item| {
        let Some((first, digest)) = taken.get(&item.path) else {
            taken.insert(item.path.clone(), (item.task, item.digest.clone()));
            return true;
        };
        if *digest != item.digest {
            let [first, other] = [*first, item.task].map(|at| run.task_name(at));
            clashes.push(format!(
                "{}: {first} and {other} both deliver there, and only the first did; tell them apart \
                 with `{{DIMENSION}}` in the path of `deliver`",
                item.path.display()
            ));
        }
        false
    });
    clashes
}

/// Delivers the results in new rows, given the spaces of the plan's steps. Where another file is in the way, even one
/// of an earlier attempt, the result is left to [`deliver_all`].
pub async fn deliver_rows(
    plan: &Plan,
    rows: &[Row],
    spaces: &[Option<Arc<Space>>],
    artifacts: &Artifacts,
    destination: &Destination,
) -> Delivered {
    let mut items = Vec::new();
    for row in rows {
        let Fact::Ended(ended) = &row.fact else { continue };
        let Outcome::Succeeded(products) = &ended.outcome else { continue };
        if plan.steps[ended.task.step as usize].deliver.is_empty() {
            continue;
        }
        if let Some(space) = &spaces[ended.task.step as usize] {
            items.extend(items_of(
                plan,
                ended.task.id(),
                space,
                &products.outputs,
                &destination.folder,
            ));
        }
    }
    let mut delivered = Delivered::default();
    copy(items, artifacts, destination, &HashSet::new(), &mut delivered).await;
    delivered
}

fn items_of(plan: &Plan, task: TaskId, space: &Space, outputs: &[Output], out: &Path) -> Vec<Item> {
    let item = |(path, output): (String, &Output)| Item {
        task,
        key: output.key.clone(),
        digest: output.digest.clone(),
        path: out.join(path),
    };
    delivered_by(&plan.steps[task.step as usize], space, task.index, outputs).map(item).collect()
}

/// The files that a task delivers, each with its path in the output folder. If a folder is delivered, that is every
/// file in it: `files: some/folder` puts the output `files/REST` at `some/folder/REST`.
pub(crate) fn delivered_by<'a>(
    step: &Step,
    space: &Space,
    index: u32,
    outputs: &'a [Output],
) -> impl Iterator<Item = (String, &'a Output)> {
    let path = move |output: &Output| {
        let name = &*output.name;
        if let Some(template) = step.deliver.get(name) {
            return resolved(template, space, index);
        }
        let (folder, rest) = in_folder(name).filter(|_| check_name(name).is_ok())?;
        Some(format!("{}/{rest}", resolved(step.deliver.get(folder)?, space, index)?))
    };
    outputs.iter().filter_map(move |output| Some((path(output)?, output)))
}

fn resolved(template: &str, space: &Space, index: u32) -> Option<String> {
    resolve(&Template::parse(template).ok()?, space, index)
}

/// Copies the results that are not there yet. Returns those that another file is in the way of, unless the run made
/// that file.
async fn copy(
    items: Vec<Item>,
    artifacts: &Artifacts,
    destination: &Destination,
    made: &HashSet<String>,
    delivered: &mut Delivered,
) -> Vec<Item> {
    let mut left = Vec::new();
    for item in items {
        let replaces = match destination.look(&item.path, &item.digest).await {
            Found::Same => {
                delivered.files.push(item.path);
                continue;
            }
            Found::Nothing => false,
            Found::Other(there)
                if destination.overwrite || there.as_ref().is_some_and(|d| made.contains(d)) =>
            {
                true
            }
            found => {
                let is_source = matches!(found, Found::Source);
                delivered.in_the_way.push(InTheWay { is_source, path: item.path.clone() });
                left.push(item);
                continue;
            }
        };
        match copy_one(&item, replaces, artifacts).await {
            Ok(true) => delivered.files.push(item.path),
            Ok(false) => {
                delivered.in_the_way.push(InTheWay { is_source: false, path: item.path.clone() });
                left.push(item);
            }
            Err(why) => delivered.failures.push(format!("{}: {why}", item.path.display())),
        }
    }
    left
}

/// Copies one result next to its destination, and renames it when it is complete. Returns `false` if another file has
/// appeared there meanwhile.
async fn copy_one(item: &Item, replaces: bool, artifacts: &Artifacts) -> Result<bool, String> {
    let Item { key, digest, path, .. } = item;
    let folder = path.parent().unwrap_or(Path::new("."));
    tokio::fs::create_dir_all(folder).await.map_err(|error| error.to_string())?;
    // A name that nobody else uses; what a crash leaves of it is overwritten the next time.
    let part = folder.join(format!(".pictor-{}", &blake3::hash(key.as_bytes()).to_hex()[..16]));
    artifacts.fetch(key, &part, digest).await.map_err(|error| error.to_string())?;
    // Even after a power failure a file with the final name must be complete, or it would not be recognised as ours.
    let whole = tokio::fs::File::open(&part).await.map_err(|error| error.to_string())?;
    whole.sync_all().await.map_err(|error| error.to_string())?;
    let named = if replaces {
        std::fs::rename(&part, path)
    } else {
        match renameat_with(CWD, &part, CWD, path, RenameFlags::NOREPLACE) {
            // The file system cannot rename without replacing; a moment ago nothing was there.
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(&part, path),
            named => named.map_err(std::io::Error::from),
        }
    };
    let Err(error) = named else { return Ok(true) };
    // A leftover would only clutter the output folder.
    let _ = std::fs::remove_file(&part);
    if !replaces && error.kind() == std::io::ErrorKind::AlreadyExists {
        return Ok(false);
    }
    Err(error.to_string())
}
