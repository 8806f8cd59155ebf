//! Which files a scene needs, as Blender reports them, and where each is placed in the packed scene: those with
//! relative paths as they are placed around the scene, those with absolute ones below `_abs/`. Pictures of a sequence
//! are placed side by side.

use crate::client::digests::Digest;
use anyhow::Context;
use pictor_artifacts::Artifacts;
use pictor_artifacts::{Stored, asset_key};
use pictor_executor::Confinement;
use pictor_executor::blender::keep_bytecode;
use pictor_executor::process::{Group, lines};
use pictor_server::{CommandFiles, CompiledJob, Sequence, files_of_commands};
use pictor_tasks::pack::{ABSOLUTE, PackManifest, PackedFile};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// The script that Blender runs to list the files.
const SCRIPT: &str = include_str!("pack.py");
/// Most lines of output of a Blender that failed to be shown.
const LAST_LINES: usize = 5;

/// The output of `pack.py`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct PackReport {
    /// Why the scene cannot be read.
    problem: Option<String>,
    /// External files that the scene and its libraries refer to.
    references: Vec<Reference>,
}

/// An external file that a data block in a .blend file uses.
#[derive(Debug, Default, Deserialize)]
struct Reference {
    /// Kind of the file: `image`, `library`, …
    kind: String,
    /// The data block that uses it, for messages: ``image `wood` of material `Oak` ``.
    user: String,
    /// Whether the path is relative to the .blend file that holds it.
    relative: bool,
    /// Absolute paths of the files that exist.
    files: Vec<String>,
    /// Paths of the files that are missing.
    missing: Vec<String>,
    /// A remark for the user; empty if there is none.
    note: String,
    /// The .blend files that contain the path; empty for the scene itself.
    owners: Vec<String>,
    /// Whether the picture is wrong without it.
    needed: bool,
}

/// By which kind of path a file is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Zone {
    /// Relative: it keeps its place relative to the scene.
    Beside,
    /// Absolute: it is placed below [`ABSOLUTE`], with its whole path.
    Absolute,
}

/// The layout of a packed scene.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Path of the scene in the packed scene.
    scene: String,
    /// Paths in the packed scene, and the files that belong there.
    files: BTreeMap<String, PathBuf>,
    /// Sentences about missing files that the picture needs.
    pub(crate) missing: Vec<String>,
    /// Other remarks for the user.
    pub(crate) notes: Vec<String>,
}

/// A packed scene, to be uploaded.
#[derive(Debug)]
pub(crate) struct Pack {
    /// The list of its files, as bytes.
    pub(crate) manifest: Vec<u8>,
    /// Digest of that list, which identifies the scene on the server.
    pub(crate) digest: String,
    /// Path and size of the files, by their digests.
    pub(crate) files: BTreeMap<String, (PathBuf, u64)>,
}

/// Asks Blender which files a scene needs, and lays them out.
pub(crate) async fn lay_out(
    scene: &Path,
    blender: &Path,
    cache: Option<&Path>,
) -> anyhow::Result<Layout> {
    let report = ask(scene, blender, cache).await?;
    if let Some(problem) = &report.problem {
        anyhow::bail!("{}: {problem}", scene.display());
    }
    layout(scene, &report).with_context(|| format!("pack {}", scene.display()))
}

/// A layout of only the scene itself.
pub(crate) fn alone(scene: &Path) -> anyhow::Result<Layout> {
    layout(scene, &PackReport::default())
}

/// The pictures of a sequence. The first one stands for all until others are requested.
pub(crate) fn pictures(sequence: &Sequence) -> Layout {
    let names = sequence.files.iter().map(|(name, _)| name);
    let files = names.map(|name| (name.clone(), sequence.folder.join(name)));
    let scene = sequence.files.first().map_or_else(String::new, |(name, _)| name.clone());
    Layout { scene, files: files.collect(), ..Layout::default() }
}

/// A file or folder for commands.
pub(crate) fn command_files(path: &Path) -> anyhow::Result<Layout> {
    let files = CommandFiles::find(path).map_err(anyhow::Error::msg)?.files;
    let scene = files.first().map_or_else(String::new, |(place, _)| place.clone());
    Ok(Layout { scene, files: files.into_iter().collect(), ..Layout::default() })
}

/// Stores the files of a job's commands as artifacts, so that tasks get them as they are now.
pub(crate) async fn keep_command_files(
    job: &mut CompiledJob,
    artifacts: &Artifacts,
) -> anyhow::Result<()> {
    let names: Vec<String> = files_of_commands(&job.plan).into_iter().map(str::to_owned).collect();
    for name in names {
        let Some(file) = job.plan.files.get_mut(&name) else { continue };
        let layout = command_files(Path::new(&file.path))?;
        let mut digests = BTreeMap::new();
        for source in layout.sources() {
            let stored = artifacts.put_asset(&source).await;
            let Stored { digest, size_bytes } =
                stored.with_context(|| format!("keep {} for the run", source.display()))?;
            digests.insert(source, Digest { digest, size_bytes });
        }
        let Pack { manifest, digest, .. } = layout.pack(&digests)?;
        file.size_bytes = manifest.len() as u64;
        artifacts.put(manifest, &asset_key(&digest)).await.context("keep a list of files")?;
        file.digest = digest;
    }
    Ok(())
}

async fn ask(scene: &Path, blender: &Path, cache: Option<&Path>) -> anyhow::Result<PackReport> {
    let folder = tempfile::tempdir().context("make a folder for temporary files")?;
    let (script, report) = (folder.path().join("pack.py"), folder.path().join("answer.json"));
    tokio::fs::write(&script, SCRIPT).await.context("write a script for Blender")?;
    let mut command = Command::new(blender);
    command.args(["-b", "--factory-startup", "-Y", "-noaudio", "--python-exit-code", "1", "-P"]);
    command.arg(&script).arg("--").arg(scene).arg(&report);
    keep_bytecode(&mut command, cache);
    // Linked scenes and textures may be anywhere. Whatever the scene makes Blender do, it only writes to this folder.
    let mut needs = Confinement::looking(scene).writes(folder.path());
    needs.read.extend(cache.map(Path::to_owned));
    let pipes = [Stdio::null(), Stdio::piped(), Stdio::piped()];
    let started = Group::spawn(&command, &needs, pipes);
    let mut group = started.with_context(|| format!("start {}", blender.display()))?;
    let (stdout, stderr) = (group.child().stdout.take(), group.child().stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
        let mut say = |line: &str| said.push(line.to_owned());
        let mut complain = |line: &str| complained.push(line.to_owned());
        tokio::join!(lines(stdout, &mut say), lines(stderr, &mut complain));
    }
    group.wait().await.with_context(|| format!("wait for {}", blender.display()))?;
    let Ok(text) = tokio::fs::read(&report).await else {
        let lines = [said, complained].concat();
        let lines: Vec<&str> =
            lines.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
        anyhow::bail!("Blender did not tell what {} needs:\n  {last}", scene.display());
    };
    serde_json::from_slice(&text).context("read what Blender answered")
}

/// Lays out the files by the rules above. A pure function.
fn layout(scene: &Path, report: &PackReport) -> anyhow::Result<Layout> {
    let scene = plain(&std::path::absolute(scene)?);
    let zones = zones(&scene, &report.references);
    let nothing = BTreeSet::new();
    let mut placed = BTreeSet::from([(Zone::Beside, scene.clone())]);
    let mut layout = Layout::default();
    for reference in &report.references {
        for owner in &reference.owners {
            for zone in zones.get(&blend(&scene, owner)).unwrap_or(&nothing) {
                let zone = if reference.relative { *zone } else { Zone::Absolute };
                placed.extend(reference.files.iter().map(|file| (zone, plain(Path::new(file)))));
            }
        }
        let user = &reference.user;
        let lines = if reference.needed { &mut layout.missing } else { &mut layout.notes };
        lines.extend(reference.missing.iter().map(|path| format!("{user}: {path} is not there")));
        if !reference.note.is_empty() {
            layout.notes.push(format!("{user}: {}", reference.note));
        }
    }
    let beside = placed.iter().filter(|(zone, _)| *zone == Zone::Beside).map(|(_, path)| path);
    let root = root(&scene, &beside);
    for (zone, path) in placed {
        let name = match zone {
            Zone::Beside => text(path.strip_prefix(&root)?)?,
            Zone::Absolute => format!("{ABSOLUTE}{}", text(&path)?),
        };
        if zone == Zone::Beside && path == scene {
            layout.scene.clone_from(&name);
        }
        layout.files.insert(name, path);
    }
    for lines in [&mut layout.missing, &mut layout.notes] {
        lines.sort();
        lines.dedup();
    }
    Ok(layout)
}

/// The zones in which each .blend file is placed. A library that is linked by a relative path is placed beside the file
/// that links it, and the files that it refers to beside it in turn.
fn zones(scene: &Path, references: &[Reference]) -> BTreeMap<PathBuf, BTreeSet<Zone>> {
    let mut zones = BTreeMap::from([(scene.to_path_buf(), BTreeSet::from([Zone::Beside]))]);
    let libraries: Vec<_> = references.iter().filter(|r| r.kind == "library").collect();
    loop {
        let before: usize = zones.values().map(BTreeSet::len).sum();
        for library in &libraries {
            for owner in &library.owners {
                let of_owner = zones.get(&blend(scene, owner)).cloned().unwrap_or_default();
                for file in &library.files {
                    let zones = zones.entry(plain(Path::new(file))).or_default();
                    let of_file = |zone| if library.relative { zone } else { Zone::Absolute };
                    zones.extend(of_owner.iter().copied().map(of_file));
                }
            }
        }
        if zones.values().map(BTreeSet::len).sum::<usize>() == before {
            return zones;
        }
    }
}

fn blend(scene: &Path, owner: &str) -> PathBuf {
    if owner.is_empty() { scene.to_path_buf() } else { plain(Path::new(owner)) }
}

/// The folder that contains the scene and everything that is placed beside it.
fn root<'a>(scene: &Path, beside: &(impl Iterator<Item = &'a PathBuf> + Clone)) -> PathBuf {
    let mut root = scene.parent().unwrap_or(scene).to_path_buf();
    let fits = |root: &Path| {
        let reserved = root.join(ABSOLUTE);
        beside.clone().all(|path| path.starts_with(root) && !path.starts_with(&reserved))
    };
    while !fits(&root) && root.pop() {}
    root
}

/// A path without `.` and `..`, resolved without the file system, as Blender does it.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.with_context(|| format!("the name {} is not UTF-8", path.display()))
}

impl Layout {
    /// The files to be read, each once.
    pub(crate) fn sources(&self) -> BTreeSet<PathBuf> {
        self.files.values().cloned().collect()
    }

    /// The packed scene, once every file has a digest.
    pub(crate) fn pack(&self, digests: &BTreeMap<PathBuf, Digest>) -> anyhow::Result<Pack> {
        let mut sources = BTreeMap::new();
        let mut packed = Vec::with_capacity(self.files.len());
        for (path, source) in &self.files {
            let found = digests.get(source);
            let Digest { digest, size_bytes } =
                found.with_context(|| format!("{} has no digest", source.display()))?.clone();
            sources.insert(digest.clone(), (source.clone(), size_bytes));
            packed.push(PackedFile { path: path.clone(), digest, size_bytes });
        }
        let manifest = PackManifest::new(self.scene.clone(), packed)?.to_json();
        let digest = blake3::hash(&manifest).to_hex().to_string();
        Ok(Pack { manifest, digest, files: sources })
    }
}

#[cfg(test)]
mod tests;
