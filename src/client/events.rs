//! Notifies about changes of a run: by the server's events, taken as hints to fetch the run again. Without events (no
//! connection, a buffering proxy) it is fetched at intervals.

use crate::client::connection::{Call, Connection, Patience};
use reqwest::header::ACCEPT;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Shortest interval between two fetches; below, the longest with and without events.
const SOON: Duration = Duration::from_millis(200);
const WITH_EVENTS: Duration = Duration::from_secs(10);
const WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Longest line of an event that is kept, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Notifies when to fetch a run again.
#[derive(Debug)]
pub(crate) struct Changes {
    happened: Arc<Notify>,
    connected: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Changes {
    /// Without events: at fixed intervals.
    pub(crate) fn unknown() -> Self {
        Self { happened: Arc::default(), connected: Arc::default(), task: None }
    }

    /// By the events of a run on a server.
    pub(crate) fn of(server: Connection, run: String) -> Self {
        let (happened, connected) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let task = listen(server, run, happened.clone(), connected.clone());
        let task = Some(tokio::spawn(task));
        Self { happened, connected, task }
    }

    /// Waits until the run should be fetched again. Cancel safe.
    pub(crate) async fn next(&self) {
        tokio::time::sleep(SOON).await;
        let connected = self.connected.load(Ordering::Relaxed);
        let limit = if connected { WITH_EVENTS } else { WITHOUT_EVENTS };
        // A timeout counts like an event.
        let _ = tokio::time::timeout(limit, self.happened.notified()).await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn listen(
    server: Connection,
    run: String,
    happened: Arc<Notify>,
    connected: Arc<AtomicBool>,
) {
    let mut patience = Patience::default();
    let query = [("run", run)];
    let headers = [(ACCEPT, "text/event-stream".to_owned())];
    loop {
        let call = Call { query: &query, headers: &headers, ..Call::get(&["events"]) };
        let mut response = match server.start(&call).await {
            Ok(response) => response,
            // Retries have failed for a while; the next fetch will report what is wrong.
            Err(error) if error.is_retryable() => continue,
            Err(_) => return,
        };
        connected.store(true, Ordering::Relaxed);
        patience.reset();
        // Something may have changed before the stream began.
        happened.notify_one();
        let mut lines = Lines::default();
        let ended = loop {
            match response.chunk().await {
                Ok(Some(piece)) if lines.push(&piece) => happened.notify_one(),
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(server.unreachable(error)),
            }
        };
        connected.store(false, Ordering::Relaxed);
        if let Some(error) = ended
            && !patience.wait(&error).await
        {
            return;
        }
        tokio::time::sleep(SOON).await;
    }
}

/// Parses the lines of server-sent events.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Adds the next bytes. Returns whether an event with data was completed.
    fn push(&mut self, bytes: &[u8]) -> bool {
        let mut event = false;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.begun.len() < LINE_BYTES_MAX {
                self.begun.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                event |= self.begun.starts_with(b"data:");
                self.begun.clear();
            }
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_seen_however_they_are_cut() {
        let text = b"id: 7\nevent: run\ndata: {\"run\":\"r\"}\n\n: still here\n\ndata: x\n\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let seen = text.chunks(size).filter(|piece| lines.push(piece)).count();
            assert!((1..=2).contains(&seen), "{size}: {seen}");
        }
        assert!(!Lines::default().push(b": still here\n\nid: 3\nda"));
    }
}
