//! Delivery: results of a run are copied to where people look for them. It can be repeated: a file that
//! is there with the right content is left alone, so whatever was missed is caught up with later.

#[cfg(test)]
mod tests;

use pictor_engine::plan::Step;
use pictor_engine::{Plan, Run, TaskState};
use pictor_storage::Artifacts;
use pictor_storage::artifacts::digest_file;
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{Outcome, Output};
use pictor_tasks::output::{check_name, in_folder};
use pictor_tasks::space::Space;
use pictor_tasks::template::{Placeholder, Template, pad};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was delivered.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Files that are now there.
    pub files: Vec<PathBuf>,
    /// Why others are not.
    pub failures: Vec<String>,
    /// Those that are not, for another task's result has their place.
    pub clashes: Vec<String>,
}

struct Item {
    task: (u16, u32),
    key: String,
    digest: String,
    path: PathBuf,
}

/// Delivers every result that the run has so far.
pub async fn deliver_all(run: &Run, artifacts: &Artifacts, out: &Path) -> Delivered {
    let mut items = Vec::new();
    for (step, plan) in (0u16..).zip(&run.plan().steps) {
        let Some(space) = run.space(step).filter(|_| !plan.deliver.is_empty()) else { continue };
        for index in run.tasks_in(step, TaskState::Succeeded) {
            let outputs = run.outputs(step, index).map_or(&[] as &[_], |(_, outputs)| outputs);
            items.extend(items_of(run.plan(), (step, index), space, outputs, out));
        }
    }
    let clashes = take_clashes(run, &mut items);
    Delivered { clashes, ..copy(items, artifacts).await }
}

/// The first task, in the order of the plan, has a path for itself: what others would put there is taken
/// out, and told if it is something else.
fn take_clashes(run: &Run, items: &mut Vec<Item>) -> Vec<String> {
    let mut clashes = Vec::new();
    let mut taken: HashMap<PathBuf, ((u16, u32), String)> = HashMap::new();
    items.retain(|item| {
        let Some((first, digest)) = taken.get(&item.path) else {
            taken.insert(item.path.clone(), (item.task, item.digest.clone()));
            return true;
        };
        if *digest != item.digest {
            let [first, other] = [*first, item.task].map(|at| run.task_name(at.0, at.1));
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

/// Delivers the results in new rows, given the spaces of the plan's steps.
pub async fn deliver_rows(
    plan: &Plan,
    rows: &[Row],
    spaces: &[Option<Arc<Space>>],
    (artifacts, out): (&Artifacts, &Path),
) -> Delivered {
    let mut items = Vec::new();
    for row in rows {
        let Fact::Ended(ended) = &row.fact else { continue };
        let Outcome::Succeeded(products) = &ended.outcome else { continue };
        if plan.steps[ended.task.step as usize].deliver.is_empty() {
            continue;
        }
        if let Some(space) = &spaces[ended.task.step as usize] {
            let at = (ended.task.step, ended.task.task.index);
            items.extend(items_of(plan, at, space, &products.outputs, out));
        }
    }
    copy(items, artifacts).await
}

fn items_of(
    plan: &Plan,
    task: (u16, u32),
    space: &Space,
    outputs: &[Output],
    out: &Path,
) -> Vec<Item> {
    let item = |(path, output): (String, &Output)| Item {
        task,
        key: output.key.clone(),
        digest: output.digest.clone(),
        path: out.join(path),
    };
    delivered_by(&plan.steps[task.0 as usize], (space, task.1), outputs).map(item).collect()
}

/// The files that a task delivers: each with its path in the output folder. What is delivered as a
/// folder is everything in there: `files: some/folder` puts the output `files/REST` at `some/folder/REST`.
pub(crate) fn delivered_by<'a>(
    step: &Step,
    (space, index): (&Space, u32),
    outputs: &'a [Output],
) -> impl Iterator<Item = (String, &'a Output)> {
    let path = move |output: &Output| {
        let name = &*output.name;
        if let Some(template) = step.deliver.get(name) {
            return resolve(template, space, index);
        }
        let (folder, rest) = in_folder(name).filter(|_| check_name(name).is_ok())?;
        Some(format!("{}/{rest}", resolve(step.deliver.get(folder)?, space, index)?))
    };
    outputs.iter().filter_map(move |output| Some((path(output)?, output)))
}

pub(crate) fn resolve(template: &str, space: &Space, index: u32) -> Option<String> {
    let ends = |name: &str| {
        let axis = space.axes.iter().position(|a| a.name == name)?;
        space.axes[axis].values.ends(space.position(index, axis))
    };
    let value = |placeholder: &Placeholder| match placeholder {
        Placeholder::Value { name, width } => Some(pad(&space.value(index, name)?, *width)),
        Placeholder::First { name, width } => Some(pad(&ends(name)?.0, *width)),
        Placeholder::Last { name, width } => Some(pad(&ends(name)?.1, *width)),
        Placeholder::Index { width } => Some(format!("{index:0width$}", width = *width as usize)),
        _ => None,
    };
    let mut fill = |placeholder: &Placeholder| {
        value(placeholder).ok_or_else(|| "not a dimension of the step".to_owned())
    };
    Template::parse(template).ok()?.render(&mut fill).ok()
}

async fn copy(items: Vec<Item>, artifacts: &Artifacts) -> Delivered {
    let mut delivered = Delivered::default();
    for Item { key, digest, path, .. } in items {
        let there = path.exists() && digest_file(&path).await.is_ok_and(|s| s.digest == digest);
        let done = if there { Ok(()) } else { copy_one((&key, &digest), &path, artifacts).await };
        match done {
            Ok(()) => delivered.files.push(path),
            Err(why) => delivered.failures.push(format!("{}: {why}", path.display())),
        }
    }
    delivered
}

async fn copy_one(
    (key, digest): (&str, &str),
    path: &Path,
    artifacts: &Artifacts,
) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(|error| error.to_string())?;
    }
    artifacts.fetch(key, path, digest).await.map(|_| ()).map_err(|error| error.to_string())
}
