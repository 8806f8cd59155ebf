//! The owner loop: take a batch of messages → fold → commit in one transaction → publish → answer.
//! Messages are hints; the commit is the truth. Nothing is sent, shown or answered before it.

use crate::handle::{Command, Committed, Error, OwnerHandle, Query, Stall, Tally, lock};
use crate::sweep::Sweeper;
use pictor_engine::{Config, Effects, Engine, Run, RunState};
use pictor_queue::{Incoming, OwnerQueue, Publication, ToOwner, ToWorker};
use pictor_storage::{Artifacts, Rejected, RunRows, Store};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::worker::Inventory;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, warn};

/// Messages that are folded before a commit, at most.
const BATCH: usize = 256;
/// Rows after which a batch is large enough. Whoever asks waits for the commit of one.
const ROWS: usize = 512;
/// A write that takes longer does not come about: the database does not answer.
const SLOW: Duration = Duration::from_secs(1);
/// How often leases and deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Pause before a commit is tried again that storage could not do.
const COMMIT_RETRY: Duration = Duration::from_secs(1);
/// Batches that a listener may be behind before it has to look everything up again.
const NEWS: usize = 1024;
/// How long a run that is over stays in memory, so that questions about it are answered at once.
const KEEP_ENDED: Duration = Duration::from_mins(1);

/// The one who folds and commits.
pub struct Owner {
    engine: Engine,
    store: Arc<dyn Store>,
    queue: Box<dyn OwnerQueue>,
    commands: mpsc::Receiver<Command>,
    news: broadcast::Sender<Arc<Committed>>,
    tally: Arc<Mutex<Tally>>,
    /// Tells others since when history cannot be written, and why.
    stall: watch::Sender<Option<Stall>>,
    now_ms: fn() -> i64,
    /// Every worker is gone for good: nothing more will come.
    is_deserted: bool,
    /// Why nothing is assigned yet.
    hold: Hold,
    /// When leases were last looked at; nothing: never.
    ticked_ms: Option<i64>,
    /// When the loop turned last.
    turned_ms: i64,
    /// Workers that are known to be silent.
    silent: BTreeSet<WorkerId>,
    /// Runs that are over, in the order of their ends.
    ended: VecDeque<(Instant, RunId)>,
    /// Deletes what is removed, if this process can reach it.
    sweeper: Option<Sweeper>,
}

/// A new owner first hears what workers have to say.
#[derive(Clone, Copy, Debug)]
enum Hold {
    /// Until its mark has come through the queue; then it listens for so long.
    Mark(u64, Duration),
    /// Until then.
    Until(Instant),
    /// It assigns.
    Open,
}

/// What a turn of the loop has to do after its commit.
#[derive(Default)]
struct After {
    answers: Vec<(oneshot::Sender<bool>, bool)>,
    questions: Vec<Query>,
    rejected: Vec<Rejected>,
    received: bool,
    stop: bool,
}

impl Owner {
    /// An owner over a store and a queue, and a handle to it. `now_ms` is the clock.
    pub fn new(
        config: Config,
        store: Arc<dyn Store>,
        queue: Box<dyn OwnerQueue>,
        now_ms: fn() -> i64,
    ) -> (Self, OwnerHandle) {
        let (sender, commands) = mpsc::channel(BATCH);
        let (news, _) = broadcast::channel(NEWS);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let (stall, stalled) = watch::channel(None);
        let handle = OwnerHandle {
            commands: sender,
            news: news.clone(),
            tally: tally.clone(),
            sealer: None,
            config: Arc::new(config.clone()),
            stall: stalled,
            hurries: false,
        };
        let owner = Self {
            engine: Engine::new(config),
            store,
            queue,
            commands,
            news,
            tally,
            stall,
            now_ms,
            is_deserted: false,
            hold: Hold::Open,
            ticked_ms: None,
            turned_ms: i64::MIN,
            silent: BTreeSet::new(),
            ended: VecDeque::new(),
            sweeper: None,
        };
        (owner, handle)
    }

    /// Outputs that nobody reads any more are deleted from here. Without it they stay until a prune.
    pub fn sweeps(&mut self, artifacts: Arc<Artifacts>) {
        self.sweeper = Some(Sweeper::start(artifacts));
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

    /// Adds a worker that was last heard of at `seen_ms`, before the loop starts.
    pub fn add_worker(&mut self, id: WorkerId, has: Inventory, seen_ms: i64, accepts: bool) {
        self.engine.remember(id, has, seen_ms, accepts);
    }

    /// Assigns nothing before everything that is in the queue now is folded, and then not for this long:
    /// an earlier owner's workers say first what they hold. `mark` is drawn at random.
    pub fn listen_first(&mut self, mark: u64, listen: Duration) {
        self.queue.barrier(mark);
        self.hold = Hold::Mark(mark, listen);
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut batch = Vec::new();
        let mut tick = Instant::now() + TICK;
        loop {
            let mut commands = Vec::new();
            let wake = self.wake(tick);
            tokio::select! {
                biased;
                // Without handles nobody can ask or stop it any more.
                command = self.commands.recv() => commands.push(command.unwrap_or(Command::Stop)),
                count = self.queue.receive(&mut batch, 1), if !self.is_deserted => {
                    self.is_deserted = count == 0;
                }
                () = sleep_until(wake) => {}
            }
            while let Ok(command) = self.commands.try_recv() {
                commands.push(command);
            }
            let commands = self.answer_first(commands);
            let (mut fx, mut after) = (Effects::default(), After::default());
            let now_ms = self.turn();
            let drained = self.fold(&mut batch, now_ms, &mut fx, &mut after);
            for command in commands {
                self.command(command, now_ms, &mut fx, &mut after);
            }
            let mut lost = Vec::new();
            if Instant::now() >= tick {
                if drained && matches!(self.hold, Hold::Open) {
                    lost = self.tick(now_ms, &mut fx);
                }
                self.forget_ended();
                tick = Instant::now() + TICK;
            }
            if self.may_assign() {
                self.engine.assign(now_ms, &mut fx);
            }
            self.commit(&mut fx).await?;
            self.tell(&mut fx, lost);
            self.publish(fx);
            if self.finish(after).await? {
                if let Some(sweeper) = self.sweeper {
                    sweeper.end().await;
                }
                return Ok(());
            }
        }
    }

    /// The time of a turn. A clock that was set back must keep nothing waiting for what it was set back by.
    fn turn(&mut self) -> i64 {
        let now_ms = (self.now_ms)();
        if now_ms < self.turned_ms {
            let seconds = (self.turned_ms - now_ms) / 1000;
            warn!(seconds, "the clock was set back");
            self.engine.set_back(now_ms);
            self.ticked_ms = self.ticked_ms.map(|ticked_ms| ticked_ms.min(now_ms));
        }
        self.turned_ms = now_ms;
        now_ms
    }

    /// Answers the questions that no order stands before: everything folded so far is committed, so they
    /// need not wait for the next commit. The others come after what they were asked after.
    fn answer_first(&self, commands: Vec<Command>) -> impl Iterator<Item = Command> + use<> {
        let mut commands = commands.into_iter().peekable();
        while let Some(Command::Ask(question)) =
            commands.next_if(|command| matches!(command, Command::Ask(_)))
        {
            question(&self.engine);
        }
        commands
    }

    /// What can be said and done only after the commit. `true`: the loop is to end.
    async fn finish(&mut self, after: After) -> Result<bool, Error> {
        for message in &after.rejected {
            warn!(reason = message.reason, "a message was rejected");
            self.keep(message).await?;
        }
        if after.received {
            self.queue.acknowledge();
        }
        for (reply, new) in after.answers {
            // The one who asked may have gone meanwhile.
            let _ = reply.send(new);
        }
        for question in after.questions {
            question(&self.engine);
        }
        Ok(after.stop)
    }

    /// Stores a rejected message, for as long as storage needs.
    async fn keep(&mut self, message: &Rejected) -> Result<(), Error> {
        lock(&self.tally).rejected += 1;
        write(&self.stall, || self.store.reject(message)).await
    }

    /// When the loop has to turn without a message.
    fn wake(&self, tick: Instant) -> Instant {
        let pause = self.engine.next_wake().map(|at| at.saturating_sub((self.now_ms)()).max(1));
        let pause = pause.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        pause.map_or(tick, |pause| tick.min(Instant::now() + pause))
    }

    fn may_assign(&mut self) -> bool {
        if let Hold::Until(then) = self.hold
            && Instant::now() >= then
        {
            self.hold = Hold::Open;
        }
        matches!(self.hold, Hold::Open)
    }

    /// Ends leases that have run out, and says which workers have fallen silent. Whatever time we could
    /// not listen or write is added to all of them.
    fn tick(&mut self, now_ms: i64, fx: &mut Effects) -> Vec<WorkerId> {
        let usual = i64::try_from(TICK.as_millis()).unwrap_or(i64::MAX);
        let outage = self.ticked_ms.map_or(0, |last| now_ms - last - usual);
        if outage > usual {
            self.engine.extend_leases(outage, now_ms);
        }
        self.ticked_ms = Some(now_ms);
        self.engine.tick(now_ms, fx);
        let silent: BTreeSet<WorkerId> = self.engine.silent_workers(now_ms).collect();
        let lost = silent.difference(&self.silent).copied().collect();
        self.silent = silent;
        lost
    }

    /// Lets go of runs that have been over for a while; history has them.
    fn forget_ended(&mut self) {
        while let Some((since, _)) = self.ended.front()
            && since.elapsed() >= KEEP_ENDED
            && let Some((_, id)) = self.ended.pop_front()
        {
            if self.engine.run(&id).is_some_and(|run| run.state().is_terminal()) {
                self.engine.remove_run(&id);
            }
        }
    }

    /// Folds what has been received and what is there, up to a batch. `true`: nothing more is there.
    fn fold(
        &mut self,
        batch: &mut Vec<Incoming>,
        now_ms: i64,
        fx: &mut Effects,
        after: &mut After,
    ) -> bool {
        for _ in 0..BATCH {
            self.queue.try_receive(batch, 1);
            let Some(incoming) = batch.pop() else { return self.queue.is_drained() };
            self.incoming(incoming, now_ms, fx, after);
            if fx.rows.values().map(Vec::len).sum::<usize>() >= ROWS {
                break;
            }
        }
        false
    }

    fn incoming(&mut self, incoming: Incoming, now_ms: i64, fx: &mut Effects, after: &mut After) {
        after.received = true;
        match incoming {
            Incoming::Message(message) => self.message(message, now_ms, fx),
            Incoming::Published { id, confirmed } => self.engine.published(id, confirmed, fx),
            Incoming::Rejected { reason, raw } => {
                after.rejected.push(Rejected { time_ms: now_ms, reason, raw });
            }
        }
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
                if let Some(inputs) = self.engine.inputs(&key, task, None) {
                    // The worker may have given the task up meanwhile.
                    let _ = reply.send(inputs);
                }
            }
            ToOwner::Barrier(mark) => {
                if let Hold::Mark(ours, listen) = self.hold
                    && ours == mark
                {
                    self.hold = Hold::Until(Instant::now() + listen);
                }
            }
        }
    }

    fn command(&mut self, command: Command, now_ms: i64, fx: &mut Effects, after: &mut After) {
        match command {
            Command::Add { run, owner, submitted_ms } => {
                // Whoever found it in the store may come after whoever submitted it.
                if self.engine.run(run.id()).is_none() {
                    self.engine.add_run(*run, owner, submitted_ms, now_ms);
                }
            }
            Command::Control { run, control, reply } => {
                let new = self.engine.control(&run, control, now_ms, fx);
                after.answers.push((reply, new));
            }
            Command::Accepts { worker, accepts } => self.engine.set_accepts(worker, accepts),
            Command::Tell(message) => self.message(message, now_ms, fx),
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
        let started = Instant::now();
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
        write(&self.stall, || self.store.commit(&rows)).await?;
        let count: usize = rows.iter().map(|run| run.rows.len()).sum();
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        lock(&self.tally).committed(took, count as u64);
        Ok(())
    }

    /// Tells listeners what was committed.
    fn tell(&mut self, fx: &mut Effects, lost: Vec<WorkerId>) {
        let over = fx.changed.iter().filter(|(_, state)| state.is_terminal());
        self.ended.extend(over.map(|(run, _)| (Instant::now(), run.clone())));
        let news = !(fx.rows.is_empty() && fx.changed.is_empty() && lost.is_empty());
        if !news || self.news.receiver_count() == 0 {
            return;
        }
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
        let _ = self.news.send(Arc::new(Committed { rows, changed, spaces, lost }));
    }

    fn publish(&mut self, fx: Effects) {
        let mut tally = *lock(&self.tally);
        tally.stale += fx.stale;
        for (worker, cancel) in fx.cancel {
            if let Publication::Failed(failure) =
                self.queue.publish(worker, ToWorker::Cancel(cancel))
            {
                // Its next heartbeat lists the task, and it is told again.
                debug!(worker = worker.0, error = %failure, "a cancel was not sent");
            }
        }
        let mut done = Effects::default();
        for (worker, assignment) in fx.assign {
            let id = assignment.id;
            tally.assigned += assignment.tasks.len() as u64;
            match self.queue.publish(worker, ToWorker::Assign(assignment)) {
                Publication::Confirmed => self.engine.published(id, true, &mut done),
                Publication::Pending => {}
                Publication::Failed(failure) => {
                    warn!(worker = worker.0, error = %failure, "an assignment was not sent");
                    self.engine.published(id, false, &mut done);
                }
            }
        }
        *lock(&self.tally) = tally;
        if let Some(sweeper) = &self.sweeper {
            fx.remove.into_iter().for_each(|(run, keys)| sweeper.order(run, keys));
        }
        debug_assert!(done.rows.is_empty(), "a publication is not history");
    }
}

/// Writes, for as long as storage needs, and says meanwhile that it cannot be written.
async fn write<F>(stall: &watch::Sender<Option<Stall>>, write: impl Fn() -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), pictor_storage::Error>>,
{
    let (since, mut told) = (Instant::now(), false);
    let stalls = |why: String| stall.send_replace(Some(Stall { since, why: why.into() }));
    loop {
        let mut written = std::pin::pin!(write());
        let done = if let Ok(done) = timeout(SLOW, &mut written).await {
            done
        } else {
            stalls("the database does not answer".to_owned());
            written.await
        };
        let Err(failure) = done else { break };
        if !failure.is_retryable() {
            error!(error = %failure, "history cannot be written");
            return Err(failure.into());
        }
        if !std::mem::replace(&mut told, true) {
            warn!(error = %failure, "history cannot be written; trying again");
        }
        stalls(failure.to_string());
        tokio::time::sleep(COMMIT_RETRY).await;
    }
    if stall.send_if_modified(|stalled| stalled.take().is_some()) {
        warn!(seconds = since.elapsed().as_secs(), "history can be written again");
    }
    Ok(())
}
