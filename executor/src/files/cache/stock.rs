//! The content of the cache, its users, and what is removed when space is needed.

use super::{Cache, Hold, Kept, Part};
use crate::ground::lock;
use pictor_artifacts::Stored;
use std::collections::HashMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A full cache is emptied down to this share of its limit, so that it is not full again at once.
const EMPTIED_PERCENT: u64 = 90;

#[derive(Debug, Default)]
pub(super) struct Stock {
    /// Increased by every use.
    pub(super) clock: u64,
    pub(super) bytes: u64,
    pub(super) files: HashMap<String, File>,
    pub(super) trees: HashMap<String, Tree>,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) size_bytes: u64,
    pub(super) used: u64,
    /// The number of tasks and trees that use it.
    pub(super) holds: u32,
    /// Whether this process has verified its content.
    pub(super) checked: bool,
}

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) scene: String,
    /// The digests of the files that it holds, including that of its list.
    pub(super) files: Vec<String>,
    pub(super) used: u64,
    pub(super) holds: u32,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    File(String),
    Tree(String),
}

impl Cache {
    pub(super) fn path(&self, digest: &str) -> PathBuf {
        self.0.folder.join(digest)
    }

    pub(super) fn tree_folder(&self, digest: &str) -> PathBuf {
        self.0.folder.join("trees").join(digest)
    }

    pub(super) fn part(&self) -> Part {
        let number = self.0.parts.fetch_add(1, Ordering::Relaxed);
        Part(self.0.folder.join("parts").join(number.to_string()))
    }

    /// Does work while no other caller does any under the same key.
    pub(super) async fn in_turn<T>(&self, key: &str, work: impl Future<Output = T>) -> T {
        let turn = lock(&self.0.turns).entry(key.to_owned()).or_default().clone();
        let guard = turn.lock().await;
        let done = work.await;
        drop(guard);
        drop(turn);
        let mut turns = lock(&self.0.turns);
        if turns.get(key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(key);
        }
        done
    }

    /// The file, protected from removal, and whether its content has been verified.
    pub(super) fn held(&self, digest: &str) -> Option<(Kept, bool)> {
        let mut stock = lock(&self.0.stock);
        stock.clock += 1;
        let now = stock.clock;
        let file = stock.files.get_mut(digest)?;
        file.holds += 1;
        file.used = now;
        let checked = file.checked;
        drop(stock);
        Some((self.kept(digest), checked))
    }

    /// The handle of a file that the caller holds already.
    pub(super) fn kept(&self, digest: &str) -> Kept {
        let hold = Hold { cache: self.clone(), what: What::File(digest.to_owned()), armed: true };
        Kept { path: self.path(digest), tree: None, hold }
    }

    pub(super) fn tree(&self, digest: &str) -> Option<Kept> {
        let mut stock = lock(&self.0.stock);
        stock.clock += 1;
        let now = stock.clock;
        let tree = stock.trees.get_mut(digest)?;
        tree.holds += 1;
        tree.used = now;
        let folder = self.tree_folder(digest);
        let path = folder.join(&tree.scene);
        let hold = Hold { cache: self.clone(), what: What::Tree(digest.to_owned()), armed: true };
        Some(Kept { path, tree: Some(folder), hold })
    }

    pub(super) fn mark_checked(&self, digest: &str) {
        if let Some(file) = lock(&self.0.stock).files.get_mut(digest) {
            file.checked = true;
        }
    }

    /// Moves a complete file to its final path.
    pub(super) fn keep(&self, part: &Part, fetched: &Stored, holds: u32) -> io::Result<()> {
        // Those who use it must not change it.
        std::fs::set_permissions(&part.0, Permissions::from_mode(0o444))?;
        let mut stock = lock(&self.0.stock);
        stock.clock += 1;
        let used = stock.clock;
        if let Some(file) = stock.files.get_mut(&fetched.digest) {
            file.holds += holds;
            file.used = used;
            return Ok(());
        }
        std::fs::rename(&part.0, self.path(&fetched.digest))?;
        let size_bytes = fetched.size_bytes;
        stock.bytes += size_bytes;
        let file = File { size_bytes, used, holds, checked: true };
        stock.files.insert(fetched.digest.clone(), file);
        Ok(())
    }

    /// Removes a file, although somebody may have it open.
    pub(super) fn forget(&self, digest: &str) {
        let mut stock = lock(&self.0.stock);
        stock.remove(digest, &self.path(digest));
    }

    /// Removes the least recently used files until `size_bytes` fit in, or nothing else can be removed.
    pub(super) fn make_room(&self, size_bytes: u64) -> io::Result<()> {
        let mut stock = lock(&self.0.stock);
        let limit = self.0.limit_bytes;
        if stock.bytes.saturating_add(size_bytes) <= limit {
            return Ok(());
        }
        let goal = (limit / 100 * EMPTIED_PERCENT).saturating_sub(size_bytes);
        let mut old_trees = Vec::new();
        'again: loop {
            for what in stock.idle() {
                match what {
                    _ if stock.bytes <= goal => break 'again,
                    What::File(digest) => stock.remove(&digest, &self.path(&digest)),
                    What::Tree(digest) => {
                        // The tree is gone at once; its content is deleted below, without the lock.
                        let part = self.part();
                        std::fs::rename(self.tree_folder(&digest), &part.0)?;
                        old_trees.push(part);
                        stock.release(&digest);
                        continue 'again;
                    }
                }
            }
            break;
        }
        drop(stock);
        drop(old_trees);
        Ok(())
    }
}

impl Stock {
    /// What is not in use, ordered from the least recently used.
    pub(super) fn idle(&self) -> Vec<What> {
        let files = self.files.iter().filter(|(_, file)| file.holds == 0);
        let files = files.map(|(digest, file)| (file.used, What::File(digest.clone())));
        let trees = self.trees.iter().filter(|(_, tree)| tree.holds == 0);
        let trees = trees.map(|(digest, tree)| (tree.used, What::Tree(digest.clone())));
        let mut idle: Vec<_> = files.chain(trees).collect();
        idle.sort_unstable_by_key(|(used, _)| *used);
        idle.into_iter().map(|(_, what)| what).collect()
    }

    /// Drops a tree, which releases its files.
    pub(super) fn release(&mut self, tree: &str) {
        let Some(tree) = self.trees.remove(tree) else { return };
        for file in tree.files {
            if let Some(file) = self.files.get_mut(&file) {
                file.holds = file.holds.saturating_sub(1);
                file.used = file.used.max(tree.used);
            }
        }
    }

    pub(super) fn remove(&mut self, digest: &str, path: &Path) {
        if let Some(file) = self.files.remove(digest) {
            self.bytes = self.bytes.saturating_sub(file.size_bytes);
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a file of the cache stays behind");
            }
        }
    }
}
