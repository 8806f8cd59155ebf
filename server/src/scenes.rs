//! Which Blender the scenes of a job need: their first bytes tell which release saved them, and steps that work on them
//! are given to workers that have this release or a newer one.

use crate::submit::Files;
use pictor_artifacts::Artifacts;
use pictor_artifacts::asset_key;
use pictor_engine::Plan;
use pictor_tasks::blend::{HEAD_BYTES, Release};
use pictor_tasks::message::FileRef;
use pictor_tasks::pack::{MANIFEST_BYTES_MAX, PackManifest};
use pictor_tasks::worker::BLENDER;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::AsyncReadExt as _;

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
