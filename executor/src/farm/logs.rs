//! Sends logs of tasks to the server, every second or as soon as a lot has accumulated. What was sent of a log is
//! stored by one server only until the log is complete. So it is kept on this disk, across restarts but within a limit,
//! until a server confirms that all of it is stored where every server finds it; a server that has less of it than an
//! earlier one gets it from the beginning.

use super::api::{Api, ApiError};
use crate::ground::log::OpenLogs;
use pictor_api::Link;
use pictor_net::Backoff;
use pictor_tasks::message::WorkerId;
use reqwest::Method;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::{Duration, Instant, timeout};

/// The longest time before a line is sent.
const EVERY: Duration = Duration::from_secs(1);
/// The most bytes that are sent at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// The time limit for sending that many.
const SENDING: Duration = Duration::from_secs(30);
/// The most bytes of finished logs that wait. The oldest are dropped first.
const WAITING_BYTES_MAX: u64 = 1 << 30;
/// How often a server is asked whether it has what was sent of a log that does not grow: it may be a different server,
/// and a user may be following that log.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Sends logs to the farm.
#[derive(Debug)]
pub(crate) struct LogPost {
    api: Arc<Api>,
    worker: WorkerId,
    /// The root folder of all logs.
    folder: PathBuf,
    open: Arc<OpenLogs>,
    logs: BTreeMap<PathBuf, Log>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Log {
    sent: u64,
    /// Nothing more will be written to it.
    whole: bool,
    /// The time when a server accepted a piece of it.
    taken: Option<Instant>,
    /// The farm has refused it.
    unwanted: bool,
}

impl LogPost {
    /// Takes over the logs below `data`, including those that an earlier process left there.
    pub(crate) fn new(api: Arc<Api>, worker: WorkerId, data: &Path, open: Arc<OpenLogs>) -> Self {
        let folder = data.join("logs");
        let logs = left_behind(&folder).into_iter();
        let logs = logs.map(|path| (path, Log { whole: true, ..Log::default() })).collect();
        Self { api, worker, folder, open, logs }
    }

    /// Sends logs until it is dropped.
    pub(crate) async fn run(&mut self) {
        let mut backoff = Backoff::default();
        loop {
            // After either outcome there may be something to send.
            let _ = timeout(EVERY, self.open.news()).await;
            match self.send_all().await {
                Ok(()) => backoff = Backoff::default(),
                Err(error) => {
                    tracing::debug!(%error, "logs wait");
                    backoff.wait().await;
                }
            }
        }
    }

    /// Sends everything that has been written.
    pub(crate) async fn send_all(&mut self) -> Result<(), ApiError> {
        for (path, whole) in self.open.take() {
            self.logs.entry(path).or_default().whole |= whole;
        }
        self.bound();
        let paths: Vec<PathBuf> = self.logs.keys().cloned().collect();
        for path in paths {
            self.send(&path).await?;
        }
        Ok(())
    }

    async fn send(&mut self, path: &Path) -> Result<(), ApiError> {
        let Some(mut log) = self.logs.get(path).copied() else { return Ok(()) };
        let sent = self.send_rest(path, &mut log).await;
        if matches!(sent, Ok(true)) || (log.unwanted && log.whole) {
            self.logs.remove(path);
            remove(path, &self.folder);
        } else {
            self.logs.insert(path.to_owned(), log);
        }
        sent.map(drop)
    }

    /// Sends what a server does not have. Returns `true` if this log is done with.
    async fn send_rest(&self, path: &Path, log: &mut Log) -> Result<bool, ApiError> {
        while !log.unwanted {
            let Ok((piece, is_end)) = read_piece(path, log.sent) else {
                // The file was removed, so nothing can be sent.
                return Ok(true);
            };
            let (length, whole) = (piece.len() as u64, log.whole && is_end);
            let is_due = log.taken.is_some_and(|taken| taken.elapsed() >= ASK_AGAIN);
            if length == 0 && !whole && !is_due {
                return Ok(false);
            }
            let link = Link::to(self.address(path, log.sent, whole));
            let request = self.api.to_link(Method::PUT, &link)?.body(piece).timeout(SENDING);
            match self.api.send(request, true).await {
                Ok(_) if whole => return Ok(true),
                Ok(_) => (log.sent, log.taken) = (log.sent + length, Some(Instant::now())),
                Err(error) if error.is_retryable() => return Err(error),
                // It has less than an earlier server had.
                Err(error) if error.status() == Some(409) && log.sent > 0 => log.sent = 0,
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "a log is not wanted");
                    log.unwanted = true;
                }
            }
        }
        Ok(false)
    }

    /// The URL path: `…/logs/run/step/index/attempt-execution?offset=N`.
    fn address(&self, path: &Path, offset: u64, whole: bool) -> String {
        let name = path.with_extension("");
        let name = name.strip_prefix(&self.folder).unwrap_or(&name).to_string_lossy().into_owned();
        let end = if whole { "&whole=true" } else { "" };
        format!("/v1/workers/{}/logs/{name}?offset={offset}{end}", self.worker.0)
    }

    /// Drops the oldest finished logs if they take too much space.
    fn bound(&mut self) {
        let waiting = self.logs.iter().filter(|(_, log)| log.whole);
        let mut waiting: Vec<_> = waiting
            .filter_map(|(path, _)| {
                let meta = std::fs::metadata(path).ok()?;
                Some((meta.modified().ok()?, meta.len(), path.clone()))
            })
            .collect();
        waiting.sort();
        let mut bytes: u64 = waiting.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in waiting {
            if bytes <= WAITING_BYTES_MAX {
                return;
            }
            tracing::warn!(path = %path.display(), "a log is given up: too much waits for the server");
            bytes -= size;
            self.logs.remove(&path);
            remove(&path, &self.folder);
        }
    }
}

/// The bytes from the offset `from`, and whether the file ends with them.
fn read_piece(path: &Path, from: u64) -> std::io::Result<(Vec<u8>, bool)> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut piece = Vec::new();
    if from < size {
        file.seek(SeekFrom::Start(from))?;
        file.take(PIECE_BYTES).read_to_end(&mut piece)?;
    }
    let is_end = from + piece.len() as u64 >= size;
    Ok((piece, is_end))
}

/// Finds the logs of an earlier process.
fn left_behind(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(left_behind(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found
}

/// Removes a log and its parent folders if they are empty.
fn remove(path: &Path, folder: &Path) {
    // If this fails, it is sent again at the next start.
    let _ = std::fs::remove_file(path);
    let parents = path.ancestors().skip(1).take_while(|parent| *parent != folder);
    for parent in parents {
        if std::fs::remove_dir(parent).is_err() {
            return;
        }
    }
}
