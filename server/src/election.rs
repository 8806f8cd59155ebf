//! Which of several servers owns the farm: standing by, taking over, stepping down. The broker elects, the epoch in the
//! database decides: a server that has been overtaken cannot commit any more.

use crate::handle::{Error, OwnerHandle, lock};
use crate::owner::Owner;
use crate::role::ServerRole;
use crate::runs::load_run;
use futures_util::StreamExt as _;
use pictor_artifacts::Artifacts;
use pictor_engine::{Config, Engine, Run, RunLimits};
use pictor_queue::{OwnerQueue, Sealer};
use pictor_storage::{Registry, RunRecord, Store};
use pictor_tasks::message::RunId;
use pictor_tasks::state::Service;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

/// How often the owner looks for runs that it was not told of and checks that it still is the owner, and how often a
/// standby looks up the owner.
const SCAN: Duration = Duration::from_secs(2);
/// Runs whose history is read at the same time.
const LOADS: usize = 8;
/// How much later than one of a higher number another server may store a run: longer than any statement takes.
const LATE: Duration = Duration::from_secs(30);
/// Pause before the next attempt after the database or the broker failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often the times at which workers were last heard from are stored.
const NOTE_WORKERS: Duration = Duration::from_secs(30);

/// One server's part in deciding which server owns the farm.
pub struct Election {
    /// Runs and their history.
    pub store: Arc<dyn Store>,
    /// Registered workers and their last known state.
    pub registry: Arc<dyn Registry>,
    /// Artifact storage, where outputs that are no longer needed are deleted.
    pub artifacts: Arc<Artifacts>,
    /// HTTP address at which other servers reach this one, such as `http://10.0.0.1:7420`.
    pub address: String,
    /// Settings of the engine, such as the length of a lease.
    pub config: Config,
    /// The heartbeat interval of workers in a small farm. Before it assigns anything, a new owner listens for one
    /// interval.
    pub heartbeat: Duration,
    /// Source of the time, in milliseconds since 1970.
    pub now_ms: fn() -> i64,
}

/// How a period of ownership ended.
enum Ended {
    /// This server was asked to stop.
    Stopped,
    /// Another server has taken over.
    Overtaken,
}

impl Election {
    /// Alternates between standing by and owning the farm until `stop` becomes true. `connect` makes a new end of the
    /// queue; `role` keeps the rest of the server informed.
    pub async fn lead(
        &self,
        connect: impl Fn() -> Box<dyn OwnerQueue>,
        role: &watch::Sender<ServerRole>,
        mut stop: watch::Receiver<bool>,
    ) {
        while !*stop.borrow() {
            let mut queue = connect();
            tokio::select! {
                () = self.stand_by(&mut *queue, role) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match self.own(queue, role, stop.clone()).await {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Overtaken) => info!("another server has taken over; standing by"),
                Err(failure) => {
                    error!(error = %failure, "the farm cannot be taken over; trying again");
                    sleep(RETRY).await;
                }
            }
            role.send_replace(ServerRole::Standby { owner: None });
        }
    }

    /// Returns when this server is elected to own the farm.
    async fn stand_by(&self, queue: &mut dyn OwnerQueue, role: &watch::Sender<ServerRole>) {
        let mut look = interval(SCAN);
        let mut elected = std::pin::pin!(queue.elected());
        loop {
            tokio::select! {
                () = &mut elected => return,
                _ = look.tick() => match self.store.owner().await {
                    Ok(owner) => {
                        // Our own address was stored by an earlier process.
                        let owner = owner.map(|o| o.address).filter(|a| *a != self.address);
                        role.send_replace(ServerRole::Standby { owner });
                    }
                    Err(failure) => warn!(error = %failure, "who owns the farm is not known"),
                },
            }
        }
    }

    /// Takes over the farm and owns it until it is asked to stop or is overtaken.
    async fn own(
        &self,
        mut queue: Box<dyn OwnerQueue>,
        role: &watch::Sender<ServerRole>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Ended, Error> {
        let ownership = self.store.take_ownership(&self.address, (self.now_ms)()).await?;
        queue.begin(ownership.epoch, ownership.ticket_key);
        // Only what is read after the epoch was raised is certain to be complete.
        let (mut owner, handle) =
            Owner::new(self.config.clone(), self.store.clone(), queue, self.now_ms);
        owner.sweeps(self.artifacts.clone());
        let handle = handle.with_sealer(Sealer::new(ownership.epoch, ownership.ticket_key));
        // Workers that have signed off are not missed.
        let mut workers = self.registry.workers().await?;
        workers.retain(|worker| !worker.has_left());
        let lease = Duration::from_millis(self.config.lease_ms.unsigned_abs());
        let listen = interval_of(self.heartbeat, lease, workers.len());
        for worker in workers {
            let accepts = worker.state == Service::Enabled;
            owner.add_worker(worker.id, worker.inventory, worker.seen_ms, accepts);
        }
        load_runs(&*self.store, &mut owner).await?;
        owner.listen_first(pictor_net::random(), listen);
        info!(epoch = ownership.epoch, "this server owns the farm");
        let mut owner = tokio::spawn(owner.run());
        role.send_replace(ServerRole::Owner(handle.clone()));
        let watch = self.watch(&handle, ownership.epoch);
        let overtaken = tokio::select! {
            ended = &mut owner => return finish(ended),
            overtaken = watch => overtaken,
            _ = stop.wait_for(|stop| *stop) => false,
        };
        role.send_replace(ServerRole::Standby { owner: None });
        handle.stop().await;
        let ended = finish(owner.await)?;
        Ok(if overtaken { Ended::Overtaken } else { ended })
    }

    /// Looks for runs that the engine was not told of (their submitter died after storing them) and stores when workers
    /// were last heard from. Returns `true` when another server has taken over.
    async fn watch(&self, handle: &OwnerHandle, epoch: u64) -> bool {
        let mut scan = interval(SCAN);
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut note = interval(NOTE_WORKERS);
        let mut scout = Scout::new(LATE);
        loop {
            tokio::select! {
                _ = scan.tick() => match self.scan(handle, epoch, &mut scout).await {
                    Ok(true) => {}
                    Ok(false) => return true,
                    Err(failure) => warn!(error = %failure, "runs cannot be looked up"),
                },
                _ = note.tick() => {
                    if let Err(failure) = self.note_workers(handle).await {
                        warn!(error = %failure, "it cannot be noted when workers were heard of");
                    }
                }
            }
        }
    }

    /// Returns `false` if another server owns the farm.
    async fn scan(
        &self,
        handle: &OwnerHandle,
        epoch: u64,
        scout: &mut Scout,
    ) -> Result<bool, Error> {
        if self.store.owner().await?.is_some_and(|owner| owner.epoch != epoch) {
            return Ok(false);
        }
        scout.pick_up(&*self.store, handle).await?;
        Ok(true)
    }

    async fn note_workers(&self, handle: &OwnerHandle) -> Result<(), Error> {
        let seen = handle.ask(|engine| engine.workers_seen().collect::<Vec<_>>()).await?;
        Ok(self.registry.workers_seen(&seen).await?)
    }
}

/// The interval of heartbeats in a farm of so many workers: in a large one it grows, up to a sixth of the lease, so that
/// together they send no more than five hundred a second.
pub(crate) fn interval_of(heartbeat: Duration, lease: Duration, workers: usize) -> Duration {
    let spread = Duration::from_millis(2 * workers as u64);
    spread.min(lease / 6).max(heartbeat)
}

/// Adds every unfinished run to an owner before its loop starts, so that it knows the leases in them.
pub async fn load_runs(store: &dyn Store, owner: &mut Owner) -> Result<(), Error> {
    let stored = store.unfinished_runs(None).await?;
    let limits = owner.run_limits();
    let loads =
        stored.into_iter().map(async |record| (load(store, &record.id, &limits).await, record));
    let mut loads = futures_util::stream::iter(loads).buffered(LOADS);
    while let Some((run, record)) = loads.next().await {
        match run? {
            Ok(run) => owner.add(run, record.account, record.created_ms),
            Err(why) => drop(lock(&owner.set_aside).insert(record.id, why)),
        }
    }
    Ok(())
}

/// Adds runs that the engine was not told of, every few seconds, for ever: for an owner without rivals.
pub async fn look_for_runs(store: Arc<dyn Store>, handle: OwnerHandle) {
    let mut scan = interval(SCAN);
    scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // This process stores the runs one after the other.
    let mut scout = Scout::new(Duration::ZERO);
    loop {
        scan.tick().await;
        match scout.pick_up(&*store, &handle).await {
            Ok(()) => {}
            Err(Error::Stopped) => return,
            Err(failure) => warn!(error = %failure, "runs cannot be looked up"),
        }
    }
}

/// Finds unfinished runs that an owner was not told of. It looks only at those that were stored lately, since however many
/// runs wait, looking at all of them every time would take more than anything else that the server does.
struct Scout {
    /// How much later than one of a higher number a run may become visible.
    late: Duration,
    /// The newest runs that earlier scans have seen, with the times of these scans.
    newest: VecDeque<(Instant, RunId)>,
    /// Every run that was stored before this one has been added.
    after: Option<RunId>,
}

impl Scout {
    fn new(late: Duration) -> Self {
        Self { late, newest: VecDeque::new(), after: None }
    }

    async fn pick_up(&mut self, store: &dyn Store, handle: &OwnerHandle) -> Result<(), Error> {
        let now = Instant::now();
        let mut stored = store.unfinished_runs(self.after.as_ref()).await?;
        let last = stored.last().map(|record| record.id.clone());
        stored.retain(|record| handle.why_set_aside(&record.id).is_none());
        let new = move |engine: &Engine| {
            stored.retain(|record| engine.run(&record.id).is_none());
            stored
        };
        for RunRecord { id, account, created_ms, .. } in handle.ask(new).await? {
            match load(store, &id, &handle.config().run_limits).await? {
                Ok(run) => handle.add(run, account, created_ms).await?,
                Err(why) => handle.set_aside(id, why),
            }
        }
        self.newest.extend(last.map(|id| (now, id)));
        while let Some((since, id)) = self.newest.front()
            && now.duration_since(*since) >= self.late
        {
            self.after = Some(id.clone());
            self.newest.pop_front();
        }
        Ok(())
    }
}

/// Folds a run from its history, or says why it has to be set aside: another version of pictor wrote it, which has to
/// finish it, or it is damaged or too large. The others must not wait for it.
async fn load(
    store: &dyn Store,
    id: &RunId,
    limits: &RunLimits,
) -> Result<Result<Run, String>, Error> {
    match load_run(store, id, limits).await {
        Ok(run) => Ok(Ok(run)),
        Err(failure) if failure.is_of_the_run() => {
            error!(error = %failure, run = %id, "a run cannot be loaded and is set aside");
            Ok(Err(failure.to_string()))
        }
        Err(failure) => Err(failure),
    }
}

fn finish(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<Ended, Error> {
    match ended {
        Ok(Ok(())) => Ok(Ended::Stopped),
        Ok(Err(Error::Store(pictor_storage::Error::Fenced))) => Ok(Ended::Overtaken),
        Ok(Err(failure)) => Err(failure),
        // The panic has been printed already.
        Err(_) => Err(Error::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_engine::compile;
    use pictor_queue::in_process;
    use pictor_storage::{NewRun, SqliteStore};
    use pictor_tasks::job::{Source, parse};
    use pictor_tasks::message::WorkerId;
    use pictor_tasks::worker::Inventory;

    const JOB: &str = "pictor: v1\nname: job\nsteps: [{ name: a, command: { run: [sh] } }]\n";

    /// Stores a run, of which nobody is told.
    async fn submit(store: &dyn Store, id: &str) -> RunId {
        let source = Source { name: "job.yaml".into(), text: JOB.into() };
        let plan = compile(&parse(&source, &[]).unwrap().spec).unwrap();
        let new = NewRun {
            id: RunId(id.into()),
            name: "job".into(),
            spec: JOB.into(),
            source_name: "job.yaml".into(),
            plan: serde_json::to_string(&plan).unwrap(),
            fold_version: plan.fold_version,
            account: String::new(),
            priority: 0,
            created_ms: 1,
            out_dir: String::new(),
        };
        store.create_run(&new, None).await.unwrap();
        new.id
    }

    #[tokio::test(start_paused = true)]
    async fn runs_that_wait_are_looked_at_only_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path()).await.unwrap());
        let (port, _workers) = in_process(&[]);
        let (owner, handle) = Owner::new(Config::default(), store.clone(), Box::new(port), || 1);
        tokio::spawn(owner.run());
        let mut scout = Scout::new(LATE);
        let (one, two) = (submit(&*store, "one").await, submit(&*store, "two").await);
        scout.pick_up(&*store, &handle).await.unwrap();
        assert!(handle.has_run(&one).await.unwrap() && handle.has_run(&two).await.unwrap());
        assert_eq!(scout.after, None, "another one may have a lower number");
        tokio::time::advance(LATE).await;
        scout.pick_up(&*store, &handle).await.unwrap();
        assert_eq!(scout.after, Some(two));
        let three = submit(&*store, "three").await;
        scout.pick_up(&*store, &handle).await.unwrap();
        assert!(handle.has_run(&three).await.unwrap());
        handle.stop().await;
    }

    #[tokio::test]
    async fn a_worker_that_was_heard_from_in_the_future_is_not_online_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path()).await.unwrap());
        let (port, _workers) = in_process(&[]);
        let (mut owner, handle) = Owner::new(Config::default(), store, Box::new(port), || 1_000);
        owner.add_worker(WorkerId(1), Inventory::default(), 3_600_000, true);
        tokio::spawn(owner.run());
        let seen = |engine: &Engine| engine.workers_seen().collect::<Vec<_>>();
        assert_eq!(handle.ask(seen).await.unwrap(), [(WorkerId(1), 1_000)]);
        handle.stop().await;
    }

    #[test]
    fn heartbeats_of_a_large_farm_are_rarer_but_six_in_a_lease() {
        let (heartbeat, lease) = (Duration::from_secs(5), Duration::from_mins(1));
        let interval = |workers| interval_of(heartbeat, lease, workers).as_millis();
        let expected = [5_000, 5_000, 8_000, 10_000, 10_000];
        assert_eq!([0, 2_500, 4_000, 5_000, 100_000].map(interval), expected);
        assert_eq!(interval_of(heartbeat, heartbeat, 100_000), heartbeat);
    }
}
