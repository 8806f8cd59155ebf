//! How the rest of a server speaks to the owner loop: orders, questions, and the news of every commit.

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
    /// Storage failed for good.
    #[error("keep history: {0}")]
    Store(#[from] pictor_storage::Error),
    /// A stored history cannot be folded.
    #[error("run {0}: {1}")]
    Fold(RunId, pictor_engine::FoldError),
    /// A stored plan cannot be read.
    #[error("run {run}: {why}")]
    Plan {
        /// The run.
        run: RunId,
        /// What is wrong with it.
        why: String,
    },
    /// The run does not exist.
    #[error("there is no run `{0}`; `pictor runs` lists them")]
    NoRun(String),
    /// The owner is not there any more.
    #[error("the engine has stopped")]
    Stopped,
    /// History cannot be written now, so the owner neither answers nor takes orders.
    #[error("history cannot be written now: {0}")]
    Stalled(Arc<str>),
}

/// How long history may not be written before nobody waits for the owner any more who is in a hurry.
const PATIENCE: Duration = Duration::from_secs(2);

/// History cannot be written.
#[derive(Clone, Debug)]
pub(crate) struct Stall {
    pub(crate) since: Instant,
    pub(crate) why: Arc<str>,
}

/// What one commit changed.
#[derive(Debug)]
pub struct Committed {
    /// The new history, by run.
    pub rows: BTreeMap<RunId, Vec<Row>>,
    /// Runs that changed their state.
    pub changed: BTreeMap<RunId, RunState>,
    /// For each run with new history the spaces of its steps, as they stand now.
    pub spaces: BTreeMap<RunId, Vec<Option<Arc<Space>>>>,
    /// Workers that were not heard of for the length of a lease.
    pub lost: Vec<WorkerId>,
}

/// Upper bounds of the time that a commit takes, in microseconds, by which commits are counted.
pub(crate) const COMMIT_BOUNDS_US: [u64; 10] =
    [500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000];

/// What the owner has done since it started, for those who watch over it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Messages that came late, twice or from the wrong worker, and changed nothing.
    pub stale: u64,
    /// Messages that could not be accepted at all.
    pub rejected: u64,
    /// Tasks sent to workers, counting each time.
    pub assigned: u64,
    /// Commits.
    pub commits: u64,
    /// Rows of history in them.
    pub rows: u64,
    /// Time spent on them, in microseconds.
    pub commit_us: u64,
    /// Commits by the time that they took: up to 0.5, 1, 2, 5, 10, 20, 50, 100,
    /// 250 and 1000 ms, and longer.
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
    Add { run: Box<Run>, owner: String, submitted_ms: i64 },
    Control { run: RunId, control: Control, reply: oneshot::Sender<bool> },
    Accepts { worker: WorkerId, accepts: bool },
    Tell(ToOwner),
    Ask(Query),
    Stop,
}

/// How other parts of the process speak to the owner.
#[derive(Clone)]
pub struct OwnerHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) news: broadcast::Sender<Arc<Committed>>,
    pub(crate) tally: Arc<Mutex<Tally>>,
    pub(crate) sealer: Option<Sealer>,
    pub(crate) config: Arc<Config>,
    pub(crate) stall: watch::Receiver<Option<Stall>>,
    /// Whoever asks by this handle does not wait until history can be written again.
    pub(crate) hurries: bool,
}

impl OwnerHandle {
    /// The same for one who wants an answer soon: [`Error::Stalled`] if history cannot be written for more than a
    /// moment. What was asked or ordered just before may be done all the same when it can.
    #[must_use]
    pub fn in_a_hurry(mut self) -> Self {
        self.hurries = true;
        self
    }

    /// Whether history could not be written for more than a moment.
    pub fn is_stalled(&self) -> bool {
        self.stall.borrow().as_ref().is_some_and(|stall| stall.since.elapsed() >= PATIENCE)
    }

    /// Waits as long as this handle waits.
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

    /// Hands a run over: a new one, or one whose history was folded.
    pub async fn add(&self, run: Run, owner: String, submitted_ms: i64) -> Result<(), Error> {
        let run = Box::new(run);
        self.soon(self.send(Command::Add { run, owner, submitted_ms })).await
    }

    /// Changes a run. Answers after the commit; `false`: this control was known, or there is no such
    /// run here.
    pub async fn control(&self, run: RunId, control: Control) -> Result<bool, Error> {
        let (reply, answer) = oneshot::channel();
        self.soon(async {
            self.send(Command::Control { run, control, reply }).await?;
            answer.await.map_err(|_| Error::Stopped)
        })
        .await
    }

    /// Passes a worker's message on that came by another way than the queue.
    pub async fn tell(&self, message: ToOwner) -> Result<(), Error> {
        self.soon(self.send(Command::Tell(message))).await
    }

    /// Takes a worker out of service or back into it.
    pub async fn set_accepts(&self, worker: WorkerId, accepts: bool) -> Result<(), Error> {
        self.soon(self.send(Command::Accepts { worker, accepts })).await
    }

    /// Whether the run is in the engine.
    pub async fn has_run(&self, run: &RunId) -> Result<bool, Error> {
        let run = run.clone();
        self.ask(move |engine| engine.run(&run).is_some()).await
    }

    /// The same, with what its tickets are made and checked with.
    #[must_use]
    pub fn with_sealer(mut self, sealer: Sealer) -> Self {
        self.sealer = Some(sealer);
        self
    }

    /// What the owner's tickets are checked with, if its queue has any.
    pub fn sealer(&self) -> Option<&Sealer> {
        self.sealer.as_ref()
    }

    /// What the engine assumes of its surroundings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the owner has done so far.
    pub fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    /// Asks the engine something.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        // The one who asked may have gone meanwhile.
        let ask = move |engine: &Engine| drop(reply.send(question(engine)));
        self.soon(async {
            self.send(Command::Ask(Box::new(ask))).await?;
            answer.await.map_err(|_| Error::Stopped)
        })
        .await
    }

    /// Everything that is committed from now on.
    pub fn news(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.news.subscribe()
    }

    /// Lets the owner end after what it has received so far.
    pub async fn stop(&self) {
        // It may have ended already.
        let _ = self.send(Command::Stop).await;
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Stopped)
    }
}

/// Resolves, with the reason, when history could not be written for more than a moment.
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
            // An owner that has ended answers nothing at all, and whoever asks learns of that.
            changed = stall.changed() => if changed.is_err() { std::future::pending().await },
        }
    }
}

/// Locks what only ever holds numbers.
pub(crate) fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
