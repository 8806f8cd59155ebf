//! A task's log: the raw lines that its programs print, written to a file while it runs.

use crate::ground::lock;
use crate::ground::progress::Activity;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, create_dir_all};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// The size limit of a log, in bytes: servers accept no more.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// The last line of a log that has reached the limit.
const FULL: &[u8] = b"pictor: the log is full; what follows is not kept\n";
/// Longer lines are cut into pieces of this many bytes.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;
/// The growth, in bytes, after which the sender of logs is notified at once.
const MUCH_BYTES: u64 = 64 << 10;
/// How many of the last lines a failure's message quotes, and how much of each.
const TAIL_LINES: usize = 20;
const TAIL_LINE_BYTES: usize = 400;

/// The path of a task's log, below the worker's data folder:
/// `logs/<run>/<step>/<index>/<attempt>-<execution>.log`.
pub fn log_path(
    data: &Path,
    run: &pictor_tasks::message::RunId,
    step: &str,
    task: pictor_tasks::message::Try,
    execution: pictor_tasks::message::Execution,
) -> PathBuf {
    let file = format!("{}-{:016x}.log", task.attempt, execution.0);
    data.join("logs").join(&*run.0).join(step).join(task.index.to_string()).join(file)
}

/// The logs that tasks are writing, for the one who sends them to the farm.
#[derive(Debug, Default)]
pub struct OpenLogs {
    /// The paths, and whether each log is complete.
    logs: Mutex<BTreeMap<PathBuf, bool>>,
    news: Notify,
}

impl OpenLogs {
    /// Waits until a log ends or has grown a lot.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// The logs that are new or have been completed since the last call.
    pub(crate) fn take(&self) -> BTreeMap<PathBuf, bool> {
        std::mem::take(&mut lock(&self.logs))
    }

    fn tell(&self, path: &Path, whole: bool) {
        lock(&self.logs).insert(path.to_owned(), whole);
        if whole {
            self.news.notify_one();
        }
    }
}

/// Appends lines to a task's log. Clones share one file, which is created with the first line.
#[derive(Clone, Debug)]
pub struct LogWriter {
    inner: Arc<Mutex<Inner>>,
    activity: Activity,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// The size at the last notification.
    told: u64,
    tail: VecDeque<String>,
    open: Option<Arc<OpenLogs>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let (Some(open), Some(_)) = (&self.open, &self.file) {
            open.tell(&self.path, true);
        }
    }
}

impl LogWriter {
    pub(crate) fn new(path: PathBuf, activity: Activity, open: Option<Arc<OpenLogs>>) -> Self {
        let inner = Inner { path, file: None, size: 0, told: 0, tail: VecDeque::new(), open };
        Self { inner: Arc::new(Mutex::new(inner)), activity }
    }

    /// Appends one line, without its line end. A log that cannot be written does not make a render fail: the lines are
    /// dropped, which is reported once in the agent's own log.
    pub fn line(&self, line: &str) {
        self.activity.touch();
        lock(&self.inner).line(line);
    }

    /// The last lines, for a failure's message. Empty if there are none.
    pub fn tail(&self) -> String {
        let inner = lock(&self.inner);
        inner.tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The path of the log, where there may be no file yet.
    pub fn path(&self) -> PathBuf {
        lock(&self.inner).path.clone()
    }
}

/// A text in a form that is safe to print: control characters that move the cursor or change colours are escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => plain.extend(c.escape_unicode()),
            c => plain.push(c),
        }
    }
    plain
}

impl Inner {
    fn line(&mut self, line: &str) {
        if !line.trim().is_empty() {
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(line[..line.floor_char_boundary(TAIL_LINE_BYTES)].to_owned());
        }
        if self.size >= LOG_BYTES_MAX {
            return;
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.size += bytes.len() as u64;
        if self.size + FULL.len() as u64 > LOG_BYTES_MAX {
            bytes = FULL.to_vec();
            self.size = LOG_BYTES_MAX;
        }
        if let Err(error) = self.open().and_then(|file| file.write_all(&bytes)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write a task's log");
            self.size = LOG_BYTES_MAX;
        }
        if let Some(open) = self.open.as_ref().filter(|_| self.size - self.told >= MUCH_BYTES) {
            self.told = self.size;
            open.news.notify_one();
        }
    }

    fn open(&mut self) -> std::io::Result<&mut File> {
        if self.file.is_none() {
            if let Some(folder) = self.path.parent() {
                create_dir_all(folder)?;
            }
            self.file = Some(File::options().create(true).append(true).open(&self.path)?);
            if let Some(open) = &self.open {
                open.tell(&self.path, false);
            }
        }
        Ok(self.file.as_mut().expect("just opened"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_made_at_its_first_line_and_stops_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/1.log");
        let log = LogWriter::new(path.clone(), Activity::new(), None);
        assert!(!path.exists());
        log.line("first");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\n");
        // The space that is left then is too small for the line that says it is full.
        let megabyte = "x".repeat((1 << 20) - 1);
        for _ in 0..63 {
            log.line(&megabyte);
        }
        log.line(&megabyte[20..]);
        log.line("last");
        assert!(std::fs::metadata(&path).unwrap().len() <= LOG_BYTES_MAX);
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("is not kept\n"));
        assert!(log.tail().ends_with("last"));
    }

    #[test]
    fn whoever_sends_logs_on_hears_of_new_and_of_whole_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (path, open) = (folder.path().join("1.log"), Arc::<OpenLogs>::default());
        let log = LogWriter::new(path.clone(), Activity::new(), Some(open.clone()));
        assert!(open.take().is_empty());
        log.line("first");
        assert_eq!(open.take(), BTreeMap::from([(path.clone(), false)]));
        assert!(open.take().is_empty());
        let clone = log.clone();
        drop(log);
        clone.line("last");
        assert!(open.take().is_empty());
        drop(clone);
        assert_eq!(open.take(), BTreeMap::from([(path, true)]));
    }
}
