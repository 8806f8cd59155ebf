//! Removes uploaded files that no run and no schedule uses any more.

use super::{Files, GRACE_MS, PAGE, Pruned, Pruner};
use crate::Error;
use crate::scenes::packed_files;
use pictor_api::ScheduledJob;
use pictor_artifacts::asset_key;
use pictor_engine::Plan;
use pictor_storage::RunFilter;
use pictor_tasks::message::RunId;
use std::collections::BTreeSet;

/// Accounts, each with the digest of a file that it uses.
type Used = BTreeSet<(String, String)>;

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
        let keys: BTreeSet<String> = used.iter().map(|(_, digest)| asset_key(digest)).collect();
        for found in old.iter().filter(|found| !keys.contains(&found.key)) {
            if !dry_run && let Err(why) = self.artifacts.remove(&found.key).await {
                pruned.failed(&found.key, why);
                continue;
            }
            pruned.assets.add(Files { files: 1, size_bytes: found.size_bytes });
        }
        if !dry_run {
            let mut unused = self.registry.uploads().await?;
            unused
                .retain(|upload| !used.contains(&(upload.account.clone(), upload.digest.clone())));
            self.registry.forget_uploads(&unused, now_ms - GRACE_MS).await?;
        }
        Ok(())
    }

    /// All assets in use. Returns `None` if they cannot be determined reliably: then nothing is removed.
    async fn used(&self, gone: &[&str], pruned: &mut Pruned) -> Result<Option<Used>, Error> {
        let gone: BTreeSet<&str> = gone.iter().copied().collect();
        let mut named = Used::new();
        let of = |account: &str, digest| (account.to_owned(), digest);
        for schedule in self.registry.schedules().await? {
            match serde_json::from_str::<ScheduledJob>(&schedule.job) {
                Ok(job) => {
                    let digests = job.assets.into_values();
                    named.extend(digests.map(|digest| of(&schedule.account, digest)));
                }
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
                    Ok(plan) => {
                        let digests = plan.files.into_values().map(|file| file.digest);
                        named.extend(digests.map(|digest| of(&record.account, digest)));
                    }
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
        let mut used = Used::new();
        for (account, digest) in named {
            match packed_files(&self.artifacts, &digest).await {
                Ok(files) => used.extend(files.into_iter().map(|file| of(&account, file.digest))),
                Err(why) => {
                    pruned.failed(format!("assets, since {digest} cannot be read"), why);
                    return Ok(None);
                }
            }
            used.insert((account, digest));
        }
        Ok(Some(used))
    }
}
