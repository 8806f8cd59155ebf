//! Which of several servers owns the farm: standing by, taking over, stepping down. The broker elects, the epoch in the
//! database decides: a server that has been overtaken cannot commit any more.

use crate::handle::{Error, OwnerHandle};
use crate::owner::Owner;
use crate::role::ServerRole;
use crate::runs::load_run;
use pictor_artifacts::Artifacts;
use pictor_engine::{Config, Run};
use pictor_queue::{OwnerQueue, Sealer};
use pictor_storage::{Registry, Store};
use pictor_tasks::message::RunId;
use pictor_tasks::state::Service;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

/// How often the owner looks for runs that it was not told of and checks that it still is the owner, and how often a
/// standby looks up the owner.
const SCAN: Duration = Duration::from_secs(2);
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
    /// How long a new owner listens before it assigns anything: one heartbeat interval of the workers.
    pub listen: Duration,
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
        for worker in self.registry.workers().await?.into_iter().filter(|w| !w.has_left()) {
            let accepts = worker.state == Service::Enabled;
            owner.add_worker(worker.id, worker.inventory, worker.seen_ms, accepts);
        }
        load_runs(&*self.store, &mut owner).await?;
        owner.listen_first(pictor_net::random(), self.listen);
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
        let mut unreadable = BTreeSet::new();
        loop {
            tokio::select! {
                _ = scan.tick() => match self.scan(handle, epoch, &mut unreadable).await {
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
        unreadable: &mut BTreeSet<RunId>,
    ) -> Result<bool, Error> {
        if self.store.owner().await?.is_some_and(|owner| owner.epoch != epoch) {
            return Ok(false);
        }
        pick_up(&*self.store, handle, unreadable).await?;
        Ok(true)
    }

    async fn note_workers(&self, handle: &OwnerHandle) -> Result<(), Error> {
        let seen = handle.ask(|engine| engine.workers_seen().collect::<Vec<_>>()).await?;
        Ok(self.registry.workers_seen(&seen).await?)
    }
}

/// Adds every unfinished run to an owner before its loop starts, so that it knows the leases in them.
pub async fn load_runs(store: &dyn Store, owner: &mut Owner) -> Result<(), Error> {
    for record in store.unfinished_runs().await? {
        if let Some(run) = load(store, &record.id).await? {
            owner.add(run, record.account, record.created_ms);
        }
    }
    Ok(())
}

/// Adds runs that the engine was not told of, every few seconds, for ever: for an owner without rivals.
pub async fn look_for_runs(store: Arc<dyn Store>, handle: OwnerHandle) {
    let mut scan = interval(SCAN);
    scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unreadable = BTreeSet::new();
    loop {
        scan.tick().await;
        match pick_up(&*store, &handle, &mut unreadable).await {
            Ok(()) => {}
            Err(Error::Stopped) => return,
            Err(failure) => warn!(error = %failure, "runs cannot be looked up"),
        }
    }
}

/// Adds the unfinished runs that the engine was not told of.
async fn pick_up(
    store: &dyn Store,
    handle: &OwnerHandle,
    unreadable: &mut BTreeSet<RunId>,
) -> Result<(), Error> {
    for record in store.unfinished_runs().await? {
        let id = record.id.clone();
        if unreadable.contains(&id) || handle.has_run(&id).await? {
            continue;
        }
        match load(store, &id).await? {
            Some(run) => handle.add(run, record.account, record.created_ms).await?,
            None => drop(unreadable.insert(id)),
        }
    }
    Ok(())
}

/// Folds a run from its history. Returns `None` if another version of pictor wrote it, which has to finish it, or if it
/// is damaged: the others must not wait for it.
async fn load(store: &dyn Store, id: &RunId) -> Result<Option<Run>, Error> {
    use pictor_storage::Error::Corrupt;
    match load_run(store, id).await {
        Ok(run) => Ok(Some(run)),
        Err(failure @ (Error::Plan { .. } | Error::Fold(..) | Error::Store(Corrupt(_)))) => {
            error!(error = %failure, run = %id, "a run cannot be read and is left alone");
            Ok(None)
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
