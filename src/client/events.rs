//! That something happened to a run: the server's events, used as a hint to look again. Without them
//! (no connection, a proxy that holds them back) somebody looks again after a while.

use crate::client::connection::{Call, Connection, Patience};
use reqwest::header::ACCEPT;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The shortest time between two looks, and the longest, with events and without.
const SOON: Duration = Duration::from_millis(200);
const WITH_EVENTS: Duration = Duration::from_secs(10);
const WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// The longest line of an event that is kept.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Tells when to look again.
#[derive(Debug)]
pub(crate) struct Changes {
    happened: Arc<Notify>,
    connected: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Changes {
    /// Nobody tells: it is looked again and again.
    pub(crate) fn unknown() -> Self {
        Self { happened: Arc::default(), connected: Arc::default(), task: None }
    }

    /// The changes of a run of a server.
    pub(crate) fn of(server: Connection, run: String) -> Self {
        let (happened, connected) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
        let task = listen(server, run, happened.clone(), connected.clone());
        let task = Some(tokio::spawn(task));
        Self { happened, connected, task }
    }

    /// Waits until it is time to look again. Cancel safe.
    pub(crate) async fn next(&self) {
        tokio::time::sleep(SOON).await;
        let connected = self.connected.load(Ordering::Relaxed);
        let limit = if connected { WITH_EVENTS } else { WITHOUT_EVENTS };
        // Without an event it is time after a while.
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
            // It was tried for a while; whoever looks will tell what is wrong.
            Err(error) if error.is_retryable() => continue,
            Err(_) => return,
        };
        connected.store(true, Ordering::Relaxed);
        patience.reset();
        // Something may have happened before somebody listened.
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

/// The lines of server-sent events.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes. `true`: an event was completed that carries data.
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
