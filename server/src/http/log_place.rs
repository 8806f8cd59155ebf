//! Where the logs of tasks are stored. A log that is still growing is a file in the data folder of the server that owns
//! the farm: `logs/<run>/<step>/<index>/<attempt>-<execution>.log`. A complete log from another machine moves to
//! artifact storage, where every server finds it: `runs/<run>/_logs/<step>/…`. Logs of the worker in the server's own
//! process stay in its data folder, beside its history.
//!
//! **Invariant:** the sender of a log is told that it is stored only once all of it is in artifact storage. Until then
//! the sender keeps it, and sends it from the beginning to whichever server owns the farm.

use super::Api;
use super::refusal::Refusal;
use axum::body::Bytes;
use pictor_api::Code;
use pictor_artifacts::logs_folder;
use pictor_storage::Error;
use pictor_tasks::message::RunId;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

/// The task that the logs belong to.
#[derive(Clone, Debug)]
pub(super) struct LogPlace {
    pub(super) run: RunId,
    pub(super) step: String,
    pub(super) index: u32,
}

pub(super) struct Piece {
    /// Offset of its first byte in the log.
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
    /// Whether the log ends with this piece.
    pub(super) whole: bool,
}

/// Where the bytes of a log are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Found {
    /// In a file of this server, which may not have all of them yet.
    Here(PathBuf),
    /// In artifact storage, with this key and size.
    Stored(String, u64),
}

/// Locks under which pieces of a log are handled one at a time. Logs that share a lock wait for each other, which is
/// rare.
#[derive(Default)]
pub(super) struct LogLocks([Mutex<()>; 32]);

impl LogLocks {
    fn of(&self, key: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % 32).unwrap_or(0);
        &self.0[place]
    }
}

impl LogPlace {
    fn folder(&self, api: &Api) -> PathBuf {
        api.logs().join(&*self.run.0).join(&self.step).join(self.index.to_string())
    }

    fn key(&self) -> String {
        format!("{}/{}/{}", logs_folder(&self.run), self.step, self.index)
    }

    /// The log of the attempt, or of the last one; if it had several executions, the one written to last. Artifact
    /// storage is searched only with `everywhere`.
    pub(super) async fn newest(
        &self,
        api: &Api,
        attempt: Option<u32>,
        everywhere: bool,
    ) -> Result<Option<Found>, Error> {
        // In this order: a log that moves between the two look-ups is found by one of them.
        let here = self.here(api).await;
        let listed =
            if everywhere { api.artifacts.list(&self.key()).await } else { Ok(Vec::new()) };
        let stored = match listed {
            Err(error) if here.is_empty() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "stored logs cannot be looked up");
                Vec::new()
            }
            Ok(stored) => stored,
        };
        let name = |path: &str| path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned();
        let whole: BTreeSet<String> = stored.iter().map(|artifact| name(&artifact.key)).collect();
        let here = here.into_iter().filter_map(|(path, written)| {
            let name = path.file_name()?.to_str()?.to_owned();
            // The file of a server that lost the farm is the beginning of what another server has stored.
            (!whole.contains(&name)).then_some((name, written, Found::Here(path)))
        });
        let stored = stored.into_iter().map(|artifact| {
            let found = Found::Stored(artifact.key.clone(), artifact.size_bytes);
            (name(&artifact.key), artifact.modified_ms, found)
        });
        let of_attempt = |(name, written, found): (String, Option<i64>, Found)| {
            let (number, _) = name.strip_suffix(".log")?.split_once('-')?;
            let number = number.parse::<u32>().ok()?;
            attempt.is_none_or(|only| only == number).then_some((number, written, found))
        };
        let newest = here.chain(stored).filter_map(of_attempt).max();
        Ok(newest.map(|(_, _, found)| found))
    }

    /// The files on this server, with the time of their last change.
    async fn here(&self, api: &Api) -> Vec<(PathBuf, Option<i64>)> {
        let mut found = Vec::new();
        let Ok(mut entries) = tokio::fs::read_dir(self.folder(api)).await else { return found };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let written = entry.metadata().await.and_then(|meta| meta.modified()).ok();
            found.push((entry.path(), written.and_then(millis)));
        }
        found
    }

    /// Handles a piece of an attempt's log; for the last piece it returns when the whole log is in artifact storage.
    /// Once begun, this continues even if the client disconnects.
    pub(super) async fn take(
        &self,
        api: Arc<Api>,
        name: &str,
        piece: Piece,
    ) -> Result<(), Refusal> {
        let (path, key) = (self.folder(&api).join(name), format!("{}/{name}", self.key()));
        let work = async move {
            let _alone = api.log_locks.of(&key).lock().await;
            take(&api, &path, &key, piece).await
        };
        // The panic has been printed already.
        let panicked = |_| Refusal::new(Code::Internal, "the server's log says more");
        tokio::spawn(work).await.map_err(panicked)?
    }
}

async fn take(api: &Api, path: &Path, key: &str, piece: Piece) -> Result<(), Refusal> {
    let unwritable = |error: std::io::Error| {
        tracing::error!(%error, path = %path.display(), "a log cannot be written");
        Refusal::new(Code::Unavailable, "the log cannot be written").retry_after(5)
    };
    let have = match tokio::fs::metadata(path).await {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(unwritable(error)),
    };
    // It may be stored already: sent again because our response was lost, or sent late. A short log arrives in one
    // piece; storing it twice is cheaper than looking for it each time.
    let is_all = piece.offset == 0 && piece.whole;
    if !is_all
        && (have == 0 || have < piece.offset)
        && api.artifacts.exists(key).await.unwrap_or(false)
    {
        return forget(api, path).await.map_err(unwritable);
    }
    let Some(known) = have.checked_sub(piece.offset) else {
        let detail = format!("the log has {have} bytes: nothing can begin at {}", piece.offset);
        return Err(Refusal::new(Code::Conflict, detail));
    };
    let new = piece.bytes.get(usize::try_from(known).unwrap_or(usize::MAX)..).unwrap_or_default();
    let limit = api.limits.log_bytes;
    if have.saturating_add(new.len() as u64) > limit {
        let detail = format!("a log may have {limit} bytes");
        return Err(Refusal::new(Code::BodyTooLarge, detail));
    }
    append(path, new).await.map_err(unwritable)?;
    if piece.whole {
        api.artifacts.put_file(path, key).await?;
        forget(api, path).await.map_err(unwritable)?;
    }
    Ok(())
}

async fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let mut file = File::options().create(true).append(true).open(path).await?;
    file.write_all(bytes).await?;
    file.flush().await
}

/// Removes a log from the data folder, with the folders that this leaves empty.
async fn forget(api: &Api, path: &Path) -> std::io::Result<()> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let logs = api.logs();
    for parent in path.ancestors().skip(1).take_while(|parent| *parent != logs) {
        // The folder is not empty.
        if tokio::fs::remove_dir(parent).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn millis(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}
