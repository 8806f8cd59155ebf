//! The owner loop: take a batch of messages → fold → commit in one transaction → publish → answer.
//! Messages are hints; the commit is the truth. Nothing is sent, shown or answered before it.

use pictor_engine::{Config, Effects, Engine, Run, RunState};
use pictor_queue::{OwnerPort, ToOwner, ToWorker};
use pictor_storage::RunRows;
use pictor_storage::Store;
use pictor_tasks::history::{Control, Row};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::space::Space;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

/// Messages that are folded before a commit, at most.
const BATCH: usize = 256;
/// How often leases and deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Pause before a commit is tried again that storage could not do.
const COMMIT_RETRY: Duration = Duration::from_secs(1);
/// Batches that a listener may be behind before it has to look everything up again.
const NEWS: usize = 1024;

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
}

type Query = Box<dyn FnOnce(&Engine) + Send>;

enum Command {
    Add { run: Box<Run>, owner: String, submitted_ms: i64 },
    Control { run: RunId, control: Control, reply: oneshot::Sender<bool> },
    Ask(Query),
    Stop,
}

/// How other parts of the process speak to the owner.
#[derive(Clone)]
pub struct OwnerHandle {
    commands: mpsc::Sender<Command>,
    news: broadcast::Sender<Arc<Committed>>,
}

impl OwnerHandle {
    /// Hands a run over: a new one, or one whose history was folded.
    pub async fn add(&self, run: Run, owner: String, submitted_ms: i64) -> Result<(), Error> {
        let run = Box::new(run);
        self.send(Command::Add { run, owner, submitted_ms }).await
    }

    /// Changes a run. Answers after the commit; `false`: this control was known, or there is no such
    /// run here.
    pub async fn control(&self, run: RunId, control: Control) -> Result<bool, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Control { run, control, reply }).await?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Asks the engine something.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        // The one who asked may have gone meanwhile.
        let ask = move |engine: &Engine| drop(reply.send(question(engine)));
        self.send(Command::Ask(Box::new(ask))).await?;
        answer.await.map_err(|_| Error::Stopped)
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

/// The one who folds and commits.
pub struct Owner {
    engine: Engine,
    store: Arc<Store>,
    port: OwnerPort,
    commands: mpsc::Receiver<Command>,
    news: broadcast::Sender<Arc<Committed>>,
    now_ms: fn() -> i64,
}

/// What a turn of the loop has to do after its commit.
#[derive(Default)]
struct After {
    answers: Vec<(oneshot::Sender<bool>, bool)>,
    questions: Vec<Query>,
    stop: bool,
}

impl Owner {
    /// An owner over a store and a queue, and a handle to it. `now_ms` is the clock.
    pub fn new(
        config: Config,
        store: Arc<Store>,
        port: OwnerPort,
        now_ms: fn() -> i64,
    ) -> (Self, OwnerHandle) {
        let (sender, commands) = mpsc::channel(BATCH);
        let (news, _) = broadcast::channel(NEWS);
        let handle = OwnerHandle { commands: sender, news: news.clone() };
        (Self { engine: Engine::new(config), store, port, commands, news, now_ms }, handle)
    }

    /// A worker of an earlier process that is certainly gone: what it held is free at once.
    pub async fn forget_worker(&mut self, id: WorkerId) -> Result<(), Error> {
        let mut fx = Effects::default();
        self.engine.leave(id, (self.now_ms)(), &mut fx);
        self.commit(&mut fx).await
    }

    /// Adds a run before the loop starts.
    pub fn add(&mut self, run: Run, owner: String, submitted_ms: i64) {
        self.engine.add_run(run, owner, submitted_ms, (self.now_ms)());
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut tick = Instant::now() + TICK;
        loop {
            let mut commands = Vec::new();
            let wake = self.wake(tick);
            tokio::select! {
                biased;
                command = self.commands.recv() => commands.extend(command),
                _ = self.port.receive(&mut batch, BATCH) => {}
                () = sleep_until(wake) => {}
            }
            self.port.try_receive(&mut batch, BATCH);
            while let Ok(command) = self.commands.try_recv() {
                commands.push(command);
            }
            let drained = batch.len() < BATCH;
            let (mut fx, mut after) = (Effects::default(), After::default());
            let now_ms = (self.now_ms)();
            for message in batch.drain(..) {
                self.message(message, now_ms, &mut fx);
            }
            for command in commands {
                self.command(command, now_ms, &mut fx, &mut after);
            }
            if drained && Instant::now() >= tick {
                self.engine.tick(now_ms, &mut fx);
                tick = Instant::now() + TICK;
            }
            self.engine.assign(now_ms, &mut fx);
            self.commit(&mut fx).await?;
            self.publish(fx);
            for (reply, new) in after.answers {
                // The one who asked may have gone meanwhile.
                let _ = reply.send(new);
            }
            for question in after.questions {
                question(&self.engine);
            }
            if after.stop {
                return Ok(());
            }
        }
    }

    /// When the loop has to turn without a message.
    fn wake(&self, tick: Instant) -> Instant {
        let pause = self.engine.next_wake().map(|at| at.saturating_sub((self.now_ms)()).max(1));
        let pause = pause.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        pause.map_or(tick, |pause| tick.min(Instant::now() + pause))
    }

    fn message(&mut self, message: ToOwner, now_ms: i64, fx: &mut Effects) {
        match message {
            ToOwner::Joined(id, inventory) => self.engine.join(id, inventory, now_ms),
            ToOwner::Left(id) => self.engine.leave(id, now_ms, fx),
            ToOwner::Heartbeat(id, holding) => {
                self.engine.heartbeat(id, &holding, now_ms, fx);
            }
            ToOwner::Report(report) => self.engine.report(report, now_ms, fx),
            ToOwner::Inputs { key, task, reply } => {
                if let Some(inputs) = self.engine.inputs(&key, task) {
                    // The worker may have given the task up meanwhile.
                    let _ = reply.send(inputs);
                }
            }
        }
    }

    fn command(&mut self, command: Command, now_ms: i64, fx: &mut Effects, after: &mut After) {
        match command {
            Command::Add { run, owner, submitted_ms } => {
                self.engine.add_run(*run, owner, submitted_ms, now_ms);
            }
            Command::Control { run, control, reply } => {
                let new = self.engine.control(&run, control, now_ms, fx);
                after.answers.push((reply, new));
            }
            Command::Ask(question) => after.questions.push(question),
            Command::Stop => after.stop = true,
        }
    }

    /// Writes the new rows, for as long as storage needs. Until then nothing else happens: workers go
    /// on with what they have and their reports wait.
    async fn commit(&mut self, fx: &mut Effects) -> Result<(), Error> {
        if fx.rows.is_empty() {
            return Ok(());
        }
        let states: BTreeMap<&RunId, RunState> =
            fx.changed.iter().map(|(run, state)| (run, *state)).collect();
        let rows: Vec<RunRows<'_>> = fx
            .rows
            .iter()
            .map(|(run, rows)| {
                let ended = rows.last().map(|row| row.time_ms);
                let state = states
                    .get(run)
                    .map(|state| (state.name(), ended.filter(|_| state.is_terminal())));
                RunRows { run, rows, state }
            })
            .collect();
        let mut told = false;
        while let Err(failure) = self.store.commit(&rows).await {
            if !failure.is_retryable() {
                error!(error = %failure, "history cannot be written");
                return Err(failure.into());
            }
            if !std::mem::replace(&mut told, true) {
                warn!(error = %failure, "history cannot be written; trying again");
            }
            tokio::time::sleep(COMMIT_RETRY).await;
        }
        if self.news.receiver_count() > 0 {
            let changed = fx.changed.clone();
            let rows = std::mem::take(&mut fx.rows);
            let spaces = rows
                .keys()
                .filter_map(|id| self.engine.run(id))
                .map(|run| {
                    let steps = (0u16..).take(run.plan().steps.len());
                    (run.id().clone(), steps.map(|step| run.space(step).cloned()).collect())
                })
                .collect();
            // Listeners may have gone meanwhile.
            let _ = self.news.send(Arc::new(Committed { rows, changed, spaces }));
        }
        Ok(())
    }

    fn publish(&mut self, fx: Effects) {
        for (worker, cancel) in fx.cancel {
            if let Err(failure) = self.port.publish(worker, ToWorker::Cancel(cancel)) {
                // Its next heartbeat lists the task, and it is told again.
                debug!(worker = worker.0, error = %failure, "a cancel was not sent");
            }
        }
        let mut done = Effects::default();
        for (worker, assignment) in fx.assign {
            let id = assignment.id;
            let sent = self.port.publish(worker, ToWorker::Assign(assignment));
            if let Err(failure) = &sent {
                warn!(worker = worker.0, error = %failure, "an assignment was not sent");
            }
            self.engine.published(id, sent.is_ok(), &mut done);
        }
        debug_assert!(done.rows.is_empty(), "a publication is not history");
    }
}
