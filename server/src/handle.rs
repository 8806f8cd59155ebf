//! How the rest of a server talks to the owner loop: commands, queries, and the news of every commit.

use pictor_api::Code;
use pictor_engine::{Config, Engine, Run, RunState};
use pictor_queue::{Sealer, ToOwner};
use pictor_tasks::history::{Control, Row};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::space::Space;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

/// Why the owner stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Storage failed and a retry would not help.
    #[error("keep history: {0}")]
    Store(#[from] pictor_storage::Error),
    /// A stored history cannot be folded.
    #[error("run {0}: {1}")]
    Fold(RunId, pictor_engine::FoldError),
    /// A stored plan cannot be read.
    #[error("run {run}: {why}")]
    Plan {
        /// Id of the run whose plan it is.
        run: RunId,
        /// What is wrong with the plan.
        why: String,
    },
    /// The run does not exist.
    #[error("there is no run `{0}`; `pictor runs` lists them")]
    NoRun(String),
    /// A request about a run cannot be fulfilled: the code of the API, and the reason.
    #[error("{1}")]
    Refused(Code, String),
    /// The owner loop has ended.
    #[error("the engine has stopped")]
    Stopped,
    /// History cannot be written at the moment, so the owner neither answers queries nor takes commands.
    #[error("history cannot be written now: {0}")]
    Stalled(Arc<str>),
}

/// How long writes may fail before callers in a hurry stop waiting for the owner.
const PATIENCE: Duration = Duration::from_secs(2);

/// Since when history cannot be written, and why.
#[derive(Clone, Debug)]
pub(crate) struct Stall {
    pub(crate) since: Instant,
    pub(crate) why: Arc<str>,
}

/// The changes of one commit.
#[derive(Debug)]
pub struct Committed {
    /// The new history rows, by run.
    pub rows: BTreeMap<RunId, Vec<Row>>,
    /// Runs whose state changed, with the new state.
    pub changed: BTreeMap<RunId, RunState>,
    /// The spaces of the steps, as they are now, of each run with new rows.
    pub spaces: BTreeMap<RunId, Vec<Option<Arc<Space>>>>,
    /// Workers that were silent for the length of a lease.
    pub lost: Vec<WorkerId>,
}

/// Upper bounds of the buckets in which commits are counted by duration, in microseconds.
pub(crate) const COMMIT_BOUNDS_US: [u64; 10] =
    [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000];

/// The unfinished runs that the owner left alone, with the reasons: they cannot be read, or are too large.
pub(crate) type SetAside = Arc<Mutex<BTreeMap<RunId, String>>>;

/// Counters of the owner since it started, for monitoring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Messages that were late, duplicate or from the wrong worker, and changed nothing.
    pub stale: u64,
    /// Messages that could not be accepted at all.
    pub rejected: u64,
    /// Tasks sent to workers, counted each time.
    pub assigned: u64,
    /// Commits that were written to the database.
    pub commits: u64,
    /// History rows in these commits.
    pub rows: u64,
    /// Total duration of these commits, in microseconds.
    pub commit_us: u64,
    /// Commits by duration: up to 0.5, 1, 2, 5, 10, 20, 50, 100, 250 and 1000 ms, and longer.
    pub commit_buckets: [u64; 11],
}

impl Tally {
    /// Counts a commit that took this long.
    pub(crate) fn committed(&mut self, took_us: u64, rows: u64) {
        self.commits += 1;
        self.rows += rows;
        self.commit_us = self.commit_us.saturating_add(took_us);
        self.commit_buckets[COMMIT_BOUNDS_US.partition_point(|bound| *bound < took_us)] += 1;
    }
}

pub(crate) type Query = Box<dyn FnOnce(&Engine) + Send>;

pub(crate) enum Command {
    Add { run: Box<Run>, account: String, submitted_ms: i64 },
    Control { run: RunId, control: Control, reply: oneshot::Sender<bool> },
    Accepts { worker: WorkerId, accepts: bool },
    Tell(ToOwner),
    Ask(Query),
    Stop,
}

/// Handle by which other parts of the process talk to the owner.
#[derive(Clone)]
pub struct OwnerHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) news: broadcast::Sender<Arc<Committed>>,
    pub(crate) tally: Arc<Mutex<Tally>>,
    pub(crate) sealer: Option<Sealer>,
    pub(crate) config: Arc<Config>,
    pub(crate) stall: watch::Receiver<Option<Stall>>,
    pub(crate) set_aside: SetAside,
    /// Whether calls fail instead of waiting until history can be written again.
    pub(crate) hurries: bool,
}

impl Error {
    /// Whether the run is damaged, too large, or from another version of pictor, so that it will not be readable later
    /// either.
    pub(crate) fn is_of_the_run(&self) -> bool {
        use pictor_storage::Error::Corrupt;
        matches!(self, Self::Plan { .. } | Self::Fold(..) | Self::Store(Corrupt(_)))
    }
}

impl OwnerHandle {
    /// A handle for callers in a hurry: calls fail with [`Error::Stalled`] if history cannot be written for more than a
    /// moment. A query or command sent just before may still be executed later.
    #[must_use]
    pub fn in_a_hurry(mut self) -> Self {
        self.hurries = true;
        self
    }

    /// Whether history could not be written for more than a moment.
    pub fn is_stalled(&self) -> bool {
        self.stall.borrow().as_ref().is_some_and(|stall| stall.since.elapsed() >= PATIENCE)
    }

    /// Waits for `work` as long as this handle is willing to.
    async fn soon<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if !self.hurries {
            return work.await;
        }
        let mut stall = self.stall.clone();
        let stalled = stalled(&mut stall);
        tokio::select! {
            biased;
            why = stalled => Err(Error::Stalled(why)),
            done = work => done,
        }
    }

    /// Adds a run: a new one, or one whose history was folded.
    pub async fn add(&self, run: Run, account: String, submitted_ms: i64) -> Result<(), Error> {
        let run = Box::new(run);
        self.soon(self.send(Command::Add { run, account, submitted_ms })).await
    }

    /// Changes a run. Returns after the commit; `false` if this control is already known, or the engine does not have
    /// the run.
    pub async fn control(&self, run: RunId, control: Control) -> Result<bool, Error> {
        let (reply, answer) = oneshot::channel();
        self.soon(async {
            self.send(Command::Control { run, control, reply }).await?;
            answer.await.map_err(|_| Error::Stopped)
        })
        .await
    }

    /// Passes on a worker's message that came by another way than the queue.
    pub async fn tell(&self, message: ToOwner) -> Result<(), Error> {
        self.soon(self.send(Command::Tell(message))).await
    }

    /// Sets whether a worker accepts new tasks.
    pub async fn set_accepts(&self, worker: WorkerId, accepts: bool) -> Result<(), Error> {
        self.soon(self.send(Command::Accepts { worker, accepts })).await
    }

    /// Whether the engine has the run.
    pub async fn has_run(&self, run: &RunId) -> Result<bool, Error> {
        let run = run.clone();
        self.ask(move |engine| engine.run(&run).is_some()).await
    }

    /// Leaves a run alone that cannot be loaded, for this reason.
    pub(crate) fn set_aside(&self, run: RunId, why: String) {
        lock(&self.set_aside).insert(run, why);
    }

    /// Why the owner leaves a run alone; `None` if it does not.
    pub(crate) fn why_set_aside(&self, run: &RunId) -> Option<String> {
        lock(&self.set_aside).get(run).cloned()
    }

    /// Attaches the sealer of the owner's tickets.
    #[must_use]
    pub fn with_sealer(mut self, sealer: Sealer) -> Self {
        self.sealer = Some(sealer);
        self
    }

    /// The sealer that checks the owner's tickets, if its queue uses tickets.
    pub fn sealer(&self) -> Option<&Sealer> {
        self.sealer.as_ref()
    }

    /// The settings of the engine.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The counters of the owner so far.
    pub fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    /// Runs a query on the engine and returns its result.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        // The caller may have gone meanwhile.
        let ask = move |engine: &Engine| drop(reply.send(question(engine)));
        self.soon(async {
            self.send(Command::Ask(Box::new(ask))).await?;
            answer.await.map_err(|_| Error::Stopped)
        })
        .await
    }

    /// Subscribes to everything that is committed from now on.
    pub fn news(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.news.subscribe()
    }

    /// Asks the owner to end after what it has received so far.
    pub async fn stop(&self) {
        // It may have ended already.
        let _ = self.send(Command::Stop).await;
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Stopped)
    }
}

/// Resolves, with the reason, once history could not be written for more than a moment.
async fn stalled(stall: &mut watch::Receiver<Option<Stall>>) -> Arc<str> {
    loop {
        let now = stall.borrow_and_update().clone();
        let lasts = async {
            match now {
                Some(Stall { since, why }) => {
                    sleep_until(since + PATIENCE).await;
                    why
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = lasts => return why,
            // An owner that has ended answers nothing, and the caller notices that.
            changed = stall.changed() => if changed.is_err() { std::future::pending().await },
        }
    }
}

/// Locks what holds only numbers and texts: a poisoned lock does no harm.
pub(crate) fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
