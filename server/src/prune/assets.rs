//! Removes uploaded files that no run and no schedule uses any more.

use super::{Files, GRACE_MS, PAGE, Pruned, Pruner};
use crate::Error;
use pictor_api::ScheduledJob;
use pictor_artifacts::asset_key;
use pictor_engine::Plan;
use pictor_storage::RunFilter;
use pictor_tasks::message::RunId;
use pictor_tasks::pack::{MANIFEST_BYTES_MAX, PackManifest};
use std::collections::BTreeSet;

/// Bytes of an asset that are read to see whether it is a packed scene.
const BEGINNING: u64 = 64;

impl Pruner {
    /// Removes unused assets that are older than the grace period. `gone` are runs that no longer count. The assets are
    /// listed before their use is looked up, so that a run that is submitted meanwhile keeps its files.
    pub(super) async fn assets(
        &self,
        gone: &[&str],
        pruned: &mut Pruned,
        dry_run: bool,
        now_ms: i64,
    ) -> Result<(), Error> {
        let listed = self.artifacts.list("assets").await?;
        let is_old = |at: Option<i64>| at.is_some_and(|at| at < now_ms - GRACE_MS);
        let old: Vec<_> = listed.into_iter().filter(|found| is_old(found.modified_ms)).collect();
        if old.is_empty() {
            return Ok(());
        }
        let Some(used) = self.used(gone, pruned).await? else { return Ok(()) };
        for found in old.iter().filter(|found| !used.contains(&found.key)) {
            if !dry_run && let Err(why) = self.artifacts.remove(&found.key).await {
                pruned.failed(&found.key, why);
                continue;
            }
            pruned.assets.add(Files { files: 1, size_bytes: found.size_bytes });
        }
        Ok(())
    }

    /// The keys of all assets in use. Returns `None` if they cannot be determined reliably: then nothing is removed.
    async fn used(
        &self,
        gone: &[&str],
        pruned: &mut Pruned,
    ) -> Result<Option<BTreeSet<String>>, Error> {
        let gone: BTreeSet<&str> = gone.iter().copied().collect();
        let mut named = BTreeSet::new();
        for schedule in self.registry.schedules().await? {
            match serde_json::from_str::<ScheduledJob>(&schedule.job) {
                Ok(job) => named.extend(job.assets.into_values()),
                Err(why) => {
                    let what = format!("assets, since schedule `{}` is unreadable", schedule.id);
                    pruned.failed(what, why);
                    return Ok(None);
                }
            }
        }
        let mut after: Option<RunId> = None;
        loop {
            let page = self.store.runs(&RunFilter::default(), PAGE, after.as_ref()).await?;
            for record in page.iter().filter(|record| !gone.contains(&*record.id.0)) {
                let Some(stored) = self.store.run_plan(&record.id).await? else { continue };
                match serde_json::from_str::<Plan>(&stored.plan) {
                    Ok(plan) => named.extend(plan.files.into_values().map(|file| file.digest)),
                    Err(why) => {
                        pruned
                            .failed(format!("assets, since run {} is unreadable", record.id), why);
                        return Ok(None);
                    }
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => after = Some(last.id.clone()),
                _ => break,
            }
        }
        let mut used = BTreeSet::new();
        for digest in named {
            match self.packed(&asset_key(&digest)).await {
                Ok(files) => used.extend(files.iter().map(|digest| asset_key(digest))),
                Err(why) => {
                    pruned.failed(format!("assets, since {digest} cannot be read"), why);
                    return Ok(None);
                }
            }
            used.insert(asset_key(&digest));
        }
        Ok(Some(used))
    }

    /// The digests of the files in a packed scene; empty if the asset is not a packed scene or does not exist.
    async fn packed(&self, key: &str) -> Result<Vec<String>, Error> {
        let size = match self.artifacts.size(key).await {
            Ok(size) => size,
            Err(pictor_storage::Error::NotFound(_)) => return Ok(Vec::new()),
            Err(failure) => return Err(failure.into()),
        };
        let beginning = self.artifacts.range(key, 0..size.min(BEGINNING)).await?;
        if size > MANIFEST_BYTES_MAX || !PackManifest::is_one(&beginning) {
            return Ok(Vec::new());
        }
        let manifest = PackManifest::from_json(&self.artifacts.read(key).await?);
        let manifest = manifest.map_err(|error| {
            pictor_storage::Error::Corrupt(format!("the packed scene `{key}`: {error}"))
        })?;
        Ok(manifest.files.into_iter().map(|file| file.digest).collect())
    }
}
