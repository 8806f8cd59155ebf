//! The owner loop: take a batch of messages → fold → commit in one transaction → publish → answer. Messages are hints;
//! the commit is the truth. Nothing is sent, shown or answered before it.

use crate::handle::{Command, Committed, Error, OwnerHandle, Query, SetAside, Stall, Tally, lock};
use crate::sweep::Sweeper;
use crate::verify::in_own_places;
use pictor_artifacts::Artifacts;
use pictor_engine::{Config, Effects, Engine, Run, RunLimits, RunState};
use pictor_queue::{Incoming, OwnerQueue, Publication, ToOwner, ToWorker};
use pictor_storage::{Rejected, RunRows, Store};
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::worker::Inventory;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::iter::Peekable;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::vec;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, warn};

/// Most messages that are folded before a commit.
const BATCH: usize = 256;
/// Rows after which a batch is large enough: queries wait for its commit.
const ROWS: usize = 512;
/// Time after which a write counts as stalled: the database does not respond.
const SLOW: Duration = Duration::from_secs(1);
/// How often leases and deadlines are checked.
const TICK: Duration = Duration::from_secs(1);
/// Pause before a failed commit is attempted again.
const COMMIT_RETRY: Duration = Duration::from_secs(1);
/// Batches that a listener may lag behind before it has to look everything up again.
const NEWS: usize = 1024;
/// How long a run that has ended stays in memory, so that queries about it are fast.
const KEEP_ENDED: Duration = Duration::from_mins(1);

/// The owner: folds messages and commits the new history.
pub struct Owner {
    engine: Engine,
    store: Arc<dyn Store>,
    queue: Box<dyn OwnerQueue>,
    commands: mpsc::Receiver<Command>,
    news: broadcast::Sender<Arc<Committed>>,
    tally: Arc<Mutex<Tally>>,
    /// Tells other parts of the server since when history cannot be written, and why.
    stall: watch::Sender<Option<Stall>>,
    now_ms: fn() -> i64,
    /// Whether every worker is gone for good, so that no more messages will come.
    is_deserted: bool,
    /// Whether tasks may be assigned yet.
    hold: Hold,
    /// When leases were last checked, in milliseconds since 1970; `None` before the first time.
    ticked_ms: Option<i64>,
    /// Time of the last turn of the loop, in milliseconds since 1970.
    turned_ms: i64,
    /// Workers whose silence has been reported.
    silent: BTreeSet<WorkerId>,
    /// Runs that have ended, in the order in which they did.
    ended: VecDeque<(Instant, RunId)>,
    /// Deletes artifacts that are no longer needed, if this process can reach their storage.
    sweeper: Option<Sweeper>,
    pub(crate) set_aside: SetAside,
}

/// Whether a new owner is still waiting for reports of the workers before it assigns tasks.
#[derive(Clone, Copy, Debug)]
enum Hold {
    /// Until this mark has come through the queue; then it keeps listening for this long.
    Mark(u64, Duration),
    /// Until this moment, then tasks are assigned.
    Until(Instant),
    /// There is nothing to wait for: tasks are assigned.
    Open,
}

/// Work of a turn of the loop that follows its commit.
#[derive(Default)]
struct After {
    answers: Vec<(oneshot::Sender<bool>, bool)>,
    questions: Vec<Query>,
    rejected: Vec<Rejected>,
    received: bool,
    stop: bool,
}

impl Owner {
    /// Creates an owner over a store and a queue, and a handle to it. `now_ms` is the source of the time.
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
        let set_aside = SetAside::default();
        let handle = OwnerHandle {
            commands: sender,
            news: news.clone(),
            tally: tally.clone(),
            sealer: None,
            config: Arc::new(config.clone()),
            stall: stalled,
            set_aside: set_aside.clone(),
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
            turned_ms: now_ms(),
            silent: BTreeSet::new(),
            ended: VecDeque::new(),
            sweeper: None,
            set_aside,
        };
        (owner, handle)
    }

    /// Makes the owner delete artifacts that are no longer needed. Without this they stay until a prune.
    pub fn sweeps(&mut self, artifacts: Arc<Artifacts>) {
        self.sweeper = Some(Sweeper::start(artifacts));
    }

    /// Signs off a worker of an earlier process that is certainly gone: its tasks are free at once.
    pub async fn forget_worker(&mut self, id: WorkerId) -> Result<(), Error> {
        let mut fx = Effects::default();
        self.engine.leave(id, (self.now_ms)(), &mut fx);
        self.commit(&mut fx).await
    }

    /// Adds a run before the loop starts.
    pub fn add(&mut self, run: Run, account: String, submitted_ms: i64) {
        self.engine.add_run(run, account, submitted_ms, (self.now_ms)());
    }

    /// How large runs may be.
    pub(crate) fn run_limits(&self) -> RunLimits {
        self.engine.config().run_limits
    }

    /// Adds a worker that was last heard from at `seen_ms`, before the loop starts. A time that has not come yet, by the
    /// clock of another server, counts as now.
    pub fn add_worker(&mut self, id: WorkerId, has: Inventory, seen_ms: i64, accepts: bool) {
        self.engine.remember(id, has, seen_ms.min((self.now_ms)()), accepts);
    }

    /// Delays assignments until everything that is in the queue now has been folded, and for `listen` after that:
    /// workers of an earlier owner get to report first what they hold. `mark` should be random.
    pub fn listen_first(&mut self, mark: u64, listen: Duration) {
        self.queue.barrier(mark);
        self.hold = Hold::Mark(mark, listen);
    }

    /// Runs the loop until it is stopped.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut batch = Vec::new();
        let mut tick = Instant::now() + TICK;
        let mut wake = self.wake(tick);
        loop {
            let mut commands = Vec::new();
            tokio::select! {
                biased;
                // Without handles nobody can query or stop it any more.
                command = self.commands.recv() => commands.push(command.unwrap_or(Command::Stop)),
                count = self.queue.receive(&mut batch, 1), if !self.is_deserted => {
                    self.is_deserted = count == 0;
                }
                () = sleep_until(wake) => {}
            }
            while let Ok(command) = self.commands.try_recv() {
                commands.push(command);
            }
            let mut commands = self.answer_first(commands);
            self.queue.try_receive(&mut batch, 1);
            if commands.peek().is_none() && batch.is_empty() && Instant::now() < wake {
                // Nothing has changed, so nothing follows.
                continue;
            }
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
            wake = self.wake(tick);
        }
    }

    /// The time of a turn. After the clock was set back, nothing may wait longer because of that.
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

    /// Answers the queries that come before any command: everything folded so far is committed, so they need not wait
    /// for the next commit. Later ones have to see the effect of the commands before them.
    fn answer_first(&self, commands: Vec<Command>) -> Peekable<vec::IntoIter<Command>> {
        let mut commands = commands.into_iter().peekable();
        while let Some(Command::Ask(question)) =
            commands.next_if(|command| matches!(command, Command::Ask(_)))
        {
            question(&self.engine);
        }
        commands
    }

    /// Does what has to follow the commit. Returns whether the loop has to end.
    async fn finish(&mut self, after: After) -> Result<bool, Error> {
        for message in &after.rejected {
            warn!(reason = message.reason, "a message was rejected");
            self.keep(message).await?;
        }
        if after.received {
            self.queue.acknowledge();
        }
        for (reply, new) in after.answers {
            // The caller may have gone meanwhile.
            let _ = reply.send(new);
        }
        for question in after.questions {
            question(&self.engine);
        }
        Ok(after.stop)
    }

    /// Stores a rejected message; repeats this until it succeeds.
    async fn keep(&mut self, message: &Rejected) -> Result<(), Error> {
        lock(&self.tally).rejected += 1;
        write(&self.stall, || self.store.reject(message)).await
    }

    /// When the loop has to turn even without a message.
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

    /// Ends expired leases, and returns the workers that have fallen silent. Time during which the owner could not
    /// receive or write is added to every lease.
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

    /// Drops runs that ended a while ago; they can be loaded from history.
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

    /// Folds messages that have arrived, up to a batch. Returns whether all of them are folded.
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
            ToOwner::Heartbeat(id, holding) => self.engine.heartbeat(id, &holding, now_ms, fx),
            ToOwner::Unproven(id, holding) => self.engine.unproven(id, &holding, now_ms, fx),
            ToOwner::Report(report) => {
                self.engine.report(in_own_places(&self.engine, report), now_ms, fx);
            }
            ToOwner::Inputs { key, task, reply } => {
                if let Some(inputs) = self.engine.inputs(&key, task, None) {
                    // The worker may have abandoned the task meanwhile.
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
            Command::Add { run, account, submitted_ms } => {
                // A run that was found in the store may be added again by its submitter.
                if self.engine.run(run.id()).is_none() {
                    self.engine.add_run(*run, account, submitted_ms, now_ms);
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

    /// Writes the new rows; repeats this until it succeeds. Nothing else happens until then: workers continue with the
    /// tasks they have, and their reports wait.
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
                let state =
                    states.get(run).map(|state| (*state, ended.filter(|_| state.is_terminal())));
                RunRows { run, rows, state }
            })
            .collect();
        write(&self.stall, || self.store.commit(&rows)).await?;
        let count: usize = rows.iter().map(|run| run.rows.len()).sum();
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        lock(&self.tally).committed(took, count as u64);
        Ok(())
    }

    /// Sends listeners what was committed.
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
                // The worker's next heartbeat lists the task, and the cancel is sent again.
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
            fx.remove.into_iter().for_each(|(run, keys)| sweeper.schedule(run, keys));
        }
        debug_assert!(done.rows.is_empty(), "a publication is not history");
    }
}

/// Repeats a write until it succeeds, and meanwhile publishes that history cannot be written.
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
