//! What the bytes of a job's files tell: which Blender a scene needs, since the first ones say which release saved it and
//! steps that work on it are given to workers that have this release or a newer one; and which files are packed with it.

use crate::submit::Files;
use pictor_artifacts::Artifacts;
use pictor_artifacts::asset_key;
use pictor_engine::Plan;
use pictor_tasks::blend::{HEAD_BYTES, Release};
use pictor_tasks::message::FileRef;
use pictor_tasks::pack::{MANIFEST_BYTES_MAX, PackManifest, PackedFile};
use pictor_tasks::worker::BLENDER;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::AsyncReadExt as _;

/// Bytes of an asset that are read to see whether it is a list of files.
const BEGINNING: u64 = 64;

/// The release that saved each scene of a plan. Unreadable scenes are left out: opening them will fail.
async fn saved(plan: &Plan, files: Files<'_>) -> BTreeMap<String, Release> {
    let bodies = plan.steps.iter().filter_map(|step| step.body.scene());
    let names: BTreeSet<&str> = bodies.map(|scene| &*scene.scene).collect();
    let mut saved = BTreeMap::new();
    for name in names {
        let Some(file) = plan.files.get(name) else { continue };
        let head = match files {
            Files::Folder { .. } => head_of_file(file).await,
            Files::Uploaded(_, artifacts) => head_of_asset(file, artifacts).await,
        };
        saved.extend(head.and_then(|head| Some((name.to_owned(), Release::that_saved(&head)?))));
    }
    saved
}

/// Makes each step that works on a scene require a Blender that can read it.
pub(crate) async fn require_blenders(plan: &mut Plan, files: Files<'_>) {
    let saved = saved(plan, files).await;
    for step in &mut plan.steps {
        let release = step.body.scene().and_then(|scene| saved.get(&scene.scene));
        if let Some(release) = release {
            step.requires.also(BLENDER, &format!(">={release}"));
        }
    }
}

async fn head_of_file(file: &FileRef) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let opened = tokio::fs::File::open(&file.path).await.ok()?;
    opened.take(HEAD_BYTES).read_to_end(&mut head).await.ok()?;
    Some(head)
}

/// The first bytes of a scene. The asset is a scene itself, or the file list of a packed scene.
async fn head_of_asset(file: &FileRef, artifacts: &Artifacts) -> Option<Vec<u8>> {
    let head = beginning(artifacts, &file.digest, file.size_bytes).await?;
    if !PackManifest::is_one(&head) {
        return Some(head);
    }
    let whole = (file.size_bytes <= MANIFEST_BYTES_MAX).then(|| asset_key(&file.digest))?;
    let manifest = PackManifest::from_json(&artifacts.read(&whole).await.ok()?).ok()?;
    let scene = manifest.files.iter().find(|file| file.path == manifest.scene)?;
    beginning(artifacts, &scene.digest, scene.size_bytes).await
}

async fn beginning(artifacts: &Artifacts, digest: &str, size_bytes: u64) -> Option<Vec<u8>> {
    artifacts.range(&asset_key(digest), 0..size_bytes.min(HEAD_BYTES)).await.ok()
}

/// The files of a packed scene, or of a folder for commands; empty if the asset is no list of files or does not exist.
pub(crate) async fn packed_files(
    artifacts: &Artifacts,
    digest: &str,
) -> Result<Vec<PackedFile>, pictor_storage::Error> {
    let key = asset_key(digest);
    let size = match artifacts.size(&key).await {
        Ok(size) => size,
        Err(pictor_storage::Error::NotFound(_)) => return Ok(Vec::new()),
        Err(failure) => return Err(failure),
    };
    let beginning = artifacts.range(&key, 0..size.min(BEGINNING)).await?;
    if size > MANIFEST_BYTES_MAX || !PackManifest::is_one(&beginning) {
        return Ok(Vec::new());
    }
    let manifest = PackManifest::from_json(&artifacts.read(&key).await?);
    let manifest = manifest.map_err(|error| {
        pictor_storage::Error::Corrupt(format!("the packed scene `{key}`: {error}"))
    })?;
    Ok(manifest.files)
}
