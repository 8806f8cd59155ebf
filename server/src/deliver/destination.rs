//! The output folder and what is in it already: no result replaces a file that its run reads, or one that the run did
//! not make itself.

use crate::handle::Error;
use crate::sequence::Sequence;
use pictor_artifacts::digest_file;
use pictor_engine::plan::Step;
use pictor_engine::{Plan, Run, TaskState};
use pictor_storage::Store;
use pictor_tasks::body::{Body, Probe};
use pictor_tasks::history::{Ended, Fact, Row, TaskRef};
use pictor_tasks::media::Media;
use pictor_tasks::message::{
    Binding, Bound, Execution, Outcome, Products, RunId, TaskId, Try, WorkerId,
};
use pictor_tasks::range::Ranges;
use pictor_tasks::space::{Space, Values};
use pictor_tasks::template::{Placeholder, Template, pad};
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Identifies a file whatever its path: device and inode number. Links, `..` and another spelling on a case-insensitive
/// disk lead to the same one.
type Identity = (u64, u64);

/// Files on this machine that a run reads.
#[derive(Clone, Debug, Default)]
pub struct Sources(HashSet<Identity>);

impl Sources {
    /// The sources among `paths`; paths without a file are ignored.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut sources = Self::default();
        sources.extend(paths);
        sources
    }

    /// Adds files; paths without a file are ignored.
    pub fn extend(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let identities = paths.into_iter().filter_map(|path| identity(&path));
        self.0.extend(identities);
    }

    /// The files on this machine that a job names, and the job file itself. The files that a scene links are missing:
    /// only Blender knows them.
    pub fn named(plan: &Plan, job_file: &Path) -> Self {
        let mut sources = Self::of([job_file.to_owned()]);
        for (name, file) in &plan.files {
            let path = Path::new(&file.path);
            match Media::of(name) {
                Some(Media::Sequence(_)) if !path.is_file() => {
                    // Missing pictures are reported elsewhere.
                    let found = Sequence::find(path).ok();
                    let files = found.iter().flat_map(|found| &found.files);
                    let folder = found.as_ref().map_or(path, |found| &found.folder);
                    sources.extend(files.map(|(name, _)| folder.join(name)));
                }
                _ => sources.extend([path.to_owned()]),
            }
        }
        for step in &plan.steps {
            sources.extend(paths_in(&step.body, &plan.folder));
        }
        sources
    }

    /// Whether a path leads to one of the sources.
    pub fn has(&self, path: &Path) -> bool {
        identity(path).is_some_and(|identity| self.0.contains(&identity))
    }
}

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| (m.dev(), m.ino()))
}

/// Absolute paths in the texts of a step: in arguments of a program and in properties of a scene.
fn paths_in(body: &Body, folder: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Body::Command(command) = body {
        let ends = |c: char| c.is_whitespace() || "'\"=,;:|<>()&".contains(c);
        for text in command.run.iter().chain(command.env.values()) {
            let text = text.replace("{job.dir}", folder);
            let words = text.split(ends).chain([&*text]).filter(|word| word.starts_with('/'));
            paths.extend(words.map(PathBuf::from));
        }
    }
    if let Some(scene) = body.scene() {
        let beside = Path::new(folder).join(&scene.scene);
        let beside = beside.parent().unwrap_or(Path::new(folder));
        for text in scene.set.values().filter_map(|value| value.as_str()) {
            // Blender's notation for a path relative to the scene.
            paths.push(match text.strip_prefix("//") {
                Some(inner) => beside.join(inner),
                None => PathBuf::from(text),
            });
        }
        paths.retain(|path| path.is_absolute());
    }
    paths
}

/// The folder that results are delivered to, and what must not be replaced there.
#[derive(Clone, Debug, Default)]
pub struct Destination {
    /// Path of the output folder.
    pub folder: PathBuf,
    /// Files that no result may replace.
    pub sources: Sources,
    /// Whether other files in it may be replaced.
    pub overwrite: bool,
}

/// An existing file at the path of a result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InTheWay {
    /// Whether the run reads the file. Otherwise it is one that the run did not make.
    pub is_source: bool,
    /// Path of the file, in the output folder.
    pub path: PathBuf,
}

/// What exists at the path of a result.
#[derive(Debug)]
pub(super) enum Found {
    /// There is no file at the path.
    Nothing,
    /// A file with the content of the result.
    Same,
    /// A file that the run reads.
    Source,
    /// Another file, with its digest, or something that is no readable file.
    Other(Option<String>),
}

impl Destination {
    /// Determines what exists at the path of a result with this digest.
    pub(super) async fn look(&self, path: &Path, digest: &str) -> Found {
        if path.symlink_metadata().is_err() {
            return Found::Nothing;
        }
        let there = digest_file(path).await.ok().map(|stored| stored.digest);
        if there.as_deref() == Some(digest) {
            Found::Same
        } else if self.sources.has(path) {
            Found::Source
        } else {
            Found::Other(there)
        }
    }
}

/// The digests of everything that a run has ever made. They include all that it has delivered, even if its process died
/// during a delivery.
pub(super) async fn made(store: &dyn Store, run: &RunId) -> Result<HashSet<String>, Error> {
    let mut made = HashSet::new();
    let each = &mut |row: Row| {
        if let Fact::Ended(Ended { outcome: Outcome::Succeeded(products), .. }) = row.fact {
            made.extend(products.outputs.into_iter().map(|output| output.digest));
        }
    };
    store.load_history(run, 1, each).await?;
    Ok(made)
}

/// The files that are in the way of results whose names are known before any work is done, for tasks in a state in
/// which they `will` be executed. With a store, files that the run delivered earlier are left out.
pub async fn in_the_way(
    run: &Run,
    will: impl Fn(TaskState) -> bool,
    destination: &Destination,
    store: Option<&dyn Store>,
) -> Result<Vec<InTheWay>, Error> {
    let mut found = known_names(run, will, destination);
    let own = !destination.overwrite && found.iter().any(|found| !found.is_source);
    if let Some(store) = store.filter(|_| own) {
        let made = made(store, run.id()).await?;
        let mut kept = Vec::new();
        for way in found {
            let digest = digest_file(&way.path).await.ok().map(|stored| stored.digest);
            if way.is_source || !digest.is_some_and(|digest| made.contains(&digest)) {
                kept.push(way);
            }
        }
        found = kept;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn known_names(
    run: &Run,
    will: impl Fn(TaskState) -> bool,
    destination: &Destination,
) -> Vec<InTheWay> {
    let mut found = Vec::new();
    let mut shelves = Shelves::default();
    if shelves.names(&destination.folder).is_empty() {
        return found;
    }
    let bound = bind_sequences(run);
    let run = bound.as_ref().unwrap_or(run);
    for (number, step) in (0u16..).zip(&run.plan().steps) {
        let Some(space) = run.space(number) else { continue };
        for template in step.deliver.values().filter_map(|text| Template::parse(text).ok()) {
            for index in 0..space.len() {
                if !run.task_state(TaskId { step: number, index }).is_some_and(&will) {
                    continue;
                }
                let Some(name) = resolve(&template, space, index) else { continue };
                let path = destination.folder.join(name);
                if !shelves.may_have(&path) || path.is_dir() || path.symlink_metadata().is_err() {
                    continue;
                }
                let is_source = destination.sources.has(&path);
                if is_source || !destination.overwrite {
                    found.push(InTheWay { is_source, path });
                }
            }
        }
    }
    found
}

/// The names in folders, in lower case, so that a hundred thousand names are looked up without a disk access for each.
#[derive(Default)]
struct Shelves(HashMap<PathBuf, HashSet<String>>);

impl Shelves {
    fn names(&mut self, folder: &Path) -> &HashSet<String> {
        if !self.0.contains_key(folder) {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let name = |entry: std::fs::DirEntry| small(&entry.file_name());
            self.0.insert(folder.to_owned(), entries.map(name).collect());
        }
        &self.0[folder]
    }

    fn may_have(&mut self, path: &Path) -> bool {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return true };
        let name = small(name);
        self.names(folder).contains(&name)
    }
}

fn small(name: &std::ffi::OsStr) -> String {
    name.to_string_lossy().to_lowercase()
}

/// The same run with the frames of its sequences, where their files exist: their names tell what `probe` will find.
fn bind_sequences(run: &Run) -> Option<Run> {
    let mut bound: Option<Run> = None;
    for (number, step) in (0u16..).zip(&run.plan().steps) {
        let Body::Probe(probe) = &step.body else { continue };
        let at = TaskId { step: number, index: 0 };
        if run.task_state(at).is_none_or(TaskState::is_terminal) {
            continue;
        }
        let Some(products) = frames_of(run.plan(), number, step, probe) else { continue };
        let bound = bound.get_or_insert_with(|| run.clone());
        let task = Try { index: 0, attempt: run.attempt(at)? };
        let ended = Ended {
            task: TaskRef { step: number, generation: 0, task },
            execution: Execution(0),
            worker: WorkerId(0),
            started_ms: 0,
            took_ms: 0,
            outcome: Outcome::Succeeded(products),
        };
        let row = Row { seq: bound.seq() + 1, time_ms: i64::MAX, fact: Fact::Ended(ended) };
        bound.apply(&row).ok()?;
    }
    bound
}

fn frames_of(plan: &Plan, number: u16, step: &Step, probe: &Probe) -> Option<Products> {
    let dim = probe.frame.as_ref()?;
    matches!(Media::of(&probe.source), Some(Media::Sequence(_))).then_some(())?;
    let binds = plan.bound_by(number).any(|bound| plan.dims[bound].name == *dim);
    if !binds || !step.over.is_empty() {
        return None;
    }
    let found = Sequence::find(Path::new(&plan.files.get(&probe.source)?.path)).ok()?;
    let mut frames = found.frames();
    if let Some(chosen) = &probe.frames {
        frames.retain(|frame| chosen.position_of(*frame).is_some());
    }
    frames.sort_unstable();
    let values = Values::Ints(Ranges::from_values(&frames).ok()?);
    let binding = Binding { dim: dim.clone(), values: Bound::Values(values) };
    Some(Products { bindings: vec![binding], ..Products::default() })
}

/// Resolves a path of `deliver` for one task. Returns `None` if it has a placeholder that the task does not know.
pub(crate) fn resolve(template: &Template, space: &Space, index: u32) -> Option<String> {
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
    template.render(&mut fill).ok()
}

/// Sentences about the files in the way: one about files that the run reads, one about others.
pub fn sentences(found: &[InTheWay]) -> Vec<String> {
    let said = |is_source: bool| {
        let mut paths = found.iter().filter(|way| way.is_source == is_source);
        let first = paths.next()?.path.display();
        let more = match paths.count() {
            0 => String::new(),
            1 => " and another file".to_owned(),
            more => format!(" and {more} other files"),
        };
        Some(if is_source {
            format!(
                "{first}{more}: the run reads what is there, and a result would take its place; \
                 choose another folder with --out DIR, or another name in the job"
            )
        } else {
            format!(
                "{first}{more}: something else is there, which this run did not make; choose another \
                 folder with --out DIR, or replace it with --overwrite"
            )
        })
    };
    [true, false].into_iter().filter_map(said).collect()
}
