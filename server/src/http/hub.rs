//! Recent events, in a ring that every listener reads at its own pace.

use super::Api;
use super::refusal::Refusal;
use crate::handle::Committed;
use crate::role::ServerRole;
use pictor_engine::Plan;
use pictor_tasks::message::RunId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// Most history rows in the ring; below, most entries.
const ROWS: usize = 50_000;
const HAPPENED: usize = 4096;
/// Runs whose plans are cached.
const KNOWN_RUNS: usize = 256;

/// An entry of the ring.
#[derive(Clone, Debug)]
pub(super) enum Happened {
    /// The owner has committed new history.
    Commit(Arc<Committed>),
    /// A run was submitted by this account.
    Started(RunId, Arc<str>),
    /// The new state of a worker: registered, left, enabled, disabled, draining, lost.
    Worker(u32, &'static str),
}

impl Happened {
    fn rows(&self) -> usize {
        match self {
            Self::Commit(commit) => 1 + commit.rows.values().map(Vec::len).sum::<usize>(),
            Self::Started(..) | Self::Worker(..) => 1,
        }
    }
}

/// Properties of a run that its events depend on.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) plan: Arc<Plan>,
    pub(super) account: Arc<str>,
}

/// The ring, with a cache of the runs in it.
#[derive(Debug)]
pub(super) struct Hub {
    ring: Mutex<Ring>,
    /// Number of the latest entry.
    latest: watch::Sender<u64>,
    known: Mutex<HashMap<RunId, About>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// When this ring was started, in milliseconds since 1970. Changes whenever something may have been missed.
    life: i64,
    /// Number of the first entry that is still there.
    first: u64,
    entries: VecDeque<Happened>,
    rows: usize,
}

/// The entries after a given one.
#[derive(Debug)]
pub(super) enum After {
    /// These entries; the first has this number.
    Entries(u64, Vec<Happened>),
    /// There is no later entry yet.
    Nothing,
    /// Later entries have been dropped already.
    Gone,
}

impl Hub {
    pub(super) fn new(now_ms: i64) -> Self {
        let ring = Ring { life: now_ms, first: 1, ..Ring::default() };
        let (latest, _) = watch::channel(0);
        Self { ring: Mutex::new(ring), latest, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ring's life and the number of its latest entry.
    pub(super) fn place(&self) -> (i64, u64) {
        let ring = self.lock();
        (ring.life, ring.first + ring.entries.len() as u64 - 1)
    }

    /// Up to `limit` entries after the entry of this life and number.
    pub(super) fn after(&self, life: i64, number: u64, limit: usize) -> After {
        let ring = self.lock();
        let Some(skip) = (number + 1).checked_sub(ring.first).filter(|_| ring.life == life) else {
            return After::Gone;
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        match skip.cmp(&ring.entries.len()) {
            std::cmp::Ordering::Less => {
                let entries = ring.entries.iter().skip(skip).take(limit).cloned().collect();
                After::Entries(number + 1, entries)
            }
            std::cmp::Ordering::Equal => After::Nothing,
            std::cmp::Ordering::Greater => After::Gone,
        }
    }

    /// A receiver that is notified of new entries.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    fn push(&self, happened: Happened) {
        let mut ring = self.lock();
        ring.rows += happened.rows();
        ring.entries.push_back(happened);
        while ring.rows > ROWS && ring.entries.len() > 1 || ring.entries.len() > HAPPENED {
            if let Some(old) = ring.entries.pop_front() {
                ring.rows -= old.rows();
                ring.first += 1;
            }
        }
        let latest = ring.first + ring.entries.len() as u64 - 1;
        drop(ring);
        self.latest.send_replace(latest);
    }

    /// Starts a new ring after something was missed: every listener has to look everything up again.
    fn begin_anew(&self, now_ms: i64) {
        let mut ring = self.lock();
        let life = now_ms.max(ring.life + 1);
        *ring = Ring { life, first: 1, ..Ring::default() };
        drop(ring);
        self.latest.send_replace(0);
    }

    /// Adds that a run was submitted.
    pub(super) fn started(&self, run: &RunId, account: &str) {
        self.push(Happened::Started(run.clone(), account.into()));
    }

    /// Adds that a worker's state has changed.
    pub(super) fn worker(&self, worker: u32, state: &'static str) {
        self.push(Happened::Worker(worker, state));
    }
}

/// Fills the ring, whoever the owner is, until the sender of the role is dropped.
pub(super) async fn feed(api: std::sync::Weak<Api>, mut role: watch::Receiver<ServerRole>) {
    loop {
        let news = role.borrow_and_update().owner().map(crate::OwnerHandle::news);
        let Some(hub) = api.upgrade() else { return };
        hub.events.begin_anew((hub.now_ms)());
        drop(hub);
        let changed = match news {
            Some(news) => tokio::select! {
                () = copy(&api, news) => true,
                changed = role.changed() => changed.is_ok(),
            },
            None => role.changed().await.is_ok(),
        };
        if !changed {
            return;
        }
    }
}

/// Copies the owner's commits until it ends.
async fn copy(api: &std::sync::Weak<Api>, mut news: broadcast::Receiver<Arc<Committed>>) {
    loop {
        let next = news.recv().await;
        let Some(api) = api.upgrade() else { return };
        match next {
            Ok(commit) => {
                for worker in &commit.lost {
                    api.events.worker(worker.0, "lost");
                }
                api.events.push(Happened::Commit(commit));
            }
            Err(RecvError::Lagged(_)) => api.events.begin_anew((api.now_ms)()),
            Err(RecvError::Closed) => {
                // The owner has ended; the role will tell who succeeds it.
                drop(api);
                return std::future::pending().await;
            }
        }
    }
}

impl Api {
    /// Looks up the properties of a run that its events depend on.
    pub(super) async fn about(&self, run: &RunId) -> Result<About, Refusal> {
        let known = || self.events.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(about) = known().get(run) {
            return Ok(about.clone());
        }
        let record = self.store.run(&run.0).await?.filter(|record| record.id == *run);
        let record = record.ok_or_else(|| Refusal::not_found(format_args!("run `{run}`")))?;
        let plan = self.ask(&record, |_, run| run.plan().clone()).await?;
        let about = About { plan, account: record.account.into() };
        let mut known = known();
        if known.len() >= KNOWN_RUNS {
            known.clear();
        }
        known.insert(run.clone(), about.clone());
        Ok(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_gets_what_came_after_or_learns_that_it_is_gone() {
        let hub = Hub::new(7);
        assert!(matches!(hub.after(7, 0, 10), After::Nothing));
        for worker in 0..3 {
            hub.worker(worker, "left");
        }
        assert_eq!(hub.place(), (7, 3));
        assert!(matches!(hub.after(7, 1, 10), After::Entries(2, found) if found.len() == 2));
        assert!(matches!(hub.after(7, 0, 1), After::Entries(1, found) if found.len() == 1));
        assert!(matches!(hub.after(7, 4, 10), After::Gone));
        assert!(matches!(hub.after(6, 1, 10), After::Gone));
        for worker in 0..5000 {
            hub.worker(worker, "left");
        }
        assert!(matches!(hub.after(7, 3, 10), After::Gone));
        let (_, latest) = hub.place();
        assert_eq!(latest, 5003);
        assert!(matches!(hub.after(7, latest, 10), After::Nothing));
        hub.begin_anew(5);
        assert_eq!(hub.place(), (8, 0));
        assert!(matches!(hub.after(7, latest, 10), After::Gone));
    }
}
