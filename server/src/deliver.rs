//! Delivery: results of a run are copied to where people look for them. It can be repeated: a file that
//! is there with the right content is left alone, so whatever was missed is caught up with later.

use pictor_engine::{Plan, Run, TaskState};
use pictor_storage::Artifacts;
use pictor_storage::artifacts::digest_file;
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::message::{Outcome, Output};
use pictor_tasks::space::Space;
use pictor_tasks::template::{Placeholder, Template, pad};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was delivered.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Files that are now there.
    pub files: Vec<PathBuf>,
    /// Why others are not.
    pub failures: Vec<String>,
}

struct Item {
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
    copy(items, artifacts).await
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
    (step, index): (u16, u32),
    space: &Space,
    outputs: &[Output],
    out: &Path,
) -> Vec<Item> {
    let deliver = &plan.steps[step as usize].deliver;
    let item = |output: &Output| {
        let path = out.join(resolve(deliver.get(&output.name)?, space, index)?);
        Some(Item { key: output.key.clone(), digest: output.digest.clone(), path })
    };
    outputs.iter().filter_map(item).collect()
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
    for Item { key, digest, path } in items {
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
