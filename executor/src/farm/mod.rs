//! A worker of a farm, on a machine of its own: it enrols with a server, receives tasks and reports results through the
//! broker, and uses HTTP for everything else.

mod api;
mod duty;
#[cfg(test)]
mod faults;
mod hours;
mod identity;
mod idle;
mod logs;
mod outbox;
mod store;

pub use hours::{Hours, HoursError};
pub(crate) use store::FarmStore;

use crate::files::artifacts::Artifacts;
use crate::files::cache::Cache;
use crate::ground::log::OpenLogs;
use crate::task::Config;
use crate::worker::agent::{Agent, Handle, Intake};
use crate::worker::inventory::Telemetry;
use api::Api;
use duty::{Duty, Standing};
use identity::Identity;
use logs::LogPost;
use outbox::FarmOutbox;
use pictor_api::Service;
use pictor_queue::{Address, RabbitReports, RabbitWorker, Ticket};
use pictor_tasks::message::{StepKey, Try, WorkerId};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep, timeout};

/// How often working hours and use of the machine are checked.
const LOOK: Duration = Duration::from_secs(5);
/// How long a worker that is done waits for an unreachable farm before it exits.
const GOODBYE: Duration = Duration::from_secs(15);
/// The same when a quick exit was requested.
const SHORT_GOODBYE: Duration = Duration::from_secs(3);
/// The time limit for sending the last lines of logs.
const LAST_LOGS: Duration = Duration::from_secs(5);

/// Why a worker cannot start or has to end.
#[derive(Debug, thiserror::Error)]
pub enum FarmError {
    /// The settings or arguments are wrong, and the user has to change them.
    #[error("{0}")]
    Settings(String),
    /// The farm refuses this worker; its operator has to act.
    #[error("the farm refuses this worker: {0}")]
    Refused(String),
    /// The farm does not know this worker any more.
    #[error("the farm does not know this worker any more: {0}")]
    Unknown(String),
    /// Its data folder cannot be used.
    #[error("use {}: {source}", path.display())]
    Data {
        /// The file or folder that cannot be used.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
}

/// The settings with which a worker is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The farm's servers, such as `https://farm.example`; at least one.
    pub servers: Vec<String>,
    /// The enrolment token. Not needed once the worker has enrolled.
    pub enrolment: Option<String>,
    /// The worker's name. Within an account, the same name means the same worker.
    pub name: String,
    /// Certificates (PEM) to trust in addition to the system's.
    pub ca: Option<PathBuf>,
    /// The folder for the worker's identity. No other worker may use it at the same time.
    pub data: PathBuf,
    /// The inventory of the machine and the folder for everything else, which belongs to this worker alone.
    pub config: Config,
    /// The size limit of the cache for scenes and artifacts, in bytes.
    pub cache_bytes: u64,
    /// The hours in which it accepts work; `None` for always.
    pub hours: Option<Hours>,
    /// It accepts work only after nobody has used the machine for that long.
    pub idle_for: Option<Duration>,
    /// The time within which running tasks may finish before they are handed back.
    pub drain: Duration,
}

/// How a worker is asked to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leave {
    /// It is not asked to leave.
    #[default]
    No,
    /// It finishes what it can within the drain time, and hands back the rest.
    Drain,
    /// It hands everything back at once.
    Now,
}

/// A worker that has enrolled in a farm.
#[derive(Debug)]
pub struct Worker {
    settings: Settings,
    client: reqwest::Client,
    identity: Identity,
    /// The name of this instance of it (`identity::instance`).
    instance: String,
    /// Held for as long as the worker exists.
    lock: File,
}

/// Finds the ticket that was sent along with a task.
#[derive(Clone)]
pub(crate) struct Tickets(Arc<FindTicket>);

type FindTicket = dyn Fn(&StepKey, Try) -> Option<Ticket> + Send + Sync;

impl Tickets {
    pub(crate) fn of(&self, key: &StepKey, task: Try) -> Option<Ticket> {
        (self.0)(key, task)
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl Worker {
    /// Enrols the worker, or takes up its stored identity. Waits until a server answers. Fails with
    /// [`FarmError::Refused`] if another machine runs as that worker.
    pub async fn enrol(settings: Settings) -> Result<Self, FarmError> {
        let client = api::client(settings.ca.as_deref())?;
        let lock = lock(&settings.data)?;
        let instance = identity::instance(&lock)
            .map_err(|source| FarmError::Data { path: settings.data.clone(), source })?;
        let identity = Identity::take(&settings, &client, &instance).await?;
        Ok(Self { settings, client, identity, instance, lock })
    }

    /// Deletes the stored identity, so that the worker can enrol again.
    pub fn forget(settings: &Settings) -> Result<(), FarmError> {
        Identity::forget(&settings.data)
    }

    /// The worker's id, which the farm assigned.
    pub fn id(&self) -> WorkerId {
        self.identity.id
    }

    /// The broker's address without user name and password, for messages.
    pub fn broker(&self) -> String {
        let url = &self.identity.amqp_url;
        match url.split_once("://").zip(url.rsplit_once('@')) {
            Some(((scheme, _), (_, host))) => format!("{scheme}://{host}"),
            None => url.clone(),
        }
    }

    /// Works until it is asked to leave, or the farm does not know it any more.
    pub async fn work(self, mut leave: watch::Receiver<Leave>) -> Result<(), FarmError> {
        let (mut shift, mut logs, _lock) = self.begin().await?;
        let ended = tokio::select! {
            ended = shift.run(&mut leave) => ended,
            () = logs.run() => unreachable!("logs are sent for ever"),
        };
        // What remains is sent at the next start.
        let _ = timeout(LAST_LOGS, logs.send_all()).await;
        shift.reports.close().await;
        ended
    }

    async fn begin(self) -> Result<(Shift, LogPost, File), FarmError> {
        let Self { settings, client, identity, instance, lock } = self;
        let Settings { servers, enrolment, ca, mut config, cache_bytes, .. } = settings;
        let (id, data) = (identity.id, config.data.clone());
        let unusable = |path: PathBuf| move |source| FarmError::Data { path, source };
        let certificates = match ca {
            Some(ca) => Some(std::fs::read_to_string(&ca).map_err(unusable(ca))?),
            None => None,
        };
        let broker = Address::new(&identity.amqp_url, certificates)
            .map_err(|error| FarmError::Settings(error.to_string()))?;
        let folder = data.join("cache");
        let opened = tokio::task::spawn_blocking({
            let folder = folder.clone();
            move || Ok((Cache::open(&folder, cache_bytes)?, Arc::new(Telemetry::new())))
        });
        let opened = opened.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let (cache, telemetry) = opened.map_err(unusable(folder))?;
        let mut duty = Duty::new(settings.hours, settings.idle_for, settings.drain);
        let (standing, stands) = watch::channel(duty.look(Service::Enabled, false).await);
        let (service, serves) = watch::channel(Service::Enabled);
        let (unknown, why_unknown) = watch::channel(None);
        let api = Arc::new(Api::new(client, servers, identity.token));
        let (queue, reports) = RabbitWorker::connect(broker, id);
        let tickets = reports.clone();
        let tickets = Tickets(Arc::new(move |key, task| tickets.ticket(key, task)));
        let store = Arc::new(FarmStore::new(api.clone(), id, tickets, cache));
        let open = Arc::<OpenLogs>::default();
        let logs = LogPost::new(api.clone(), id, &data, open.clone());
        config.logs = Some(open);
        config.heartbeat = Duration::from_millis(identity.heartbeat_ms.clamp(100, 60_000));
        let outbox = FarmOutbox {
            api,
            worker: id,
            instance,
            reports: reports.clone(),
            store: store.clone(),
            telemetry,
            data: data.clone(),
            inventory: Mutex::default(),
            standing: stands,
            looking: Mutex::default(),
            cut_off: Mutex::default(),
            heard: Mutex::default(),
            service,
            unknown,
        };
        let artifacts = Artifacts::of(Arc::new(store));
        let handle = Agent::start(Box::new(queue), Arc::new(outbox), id, config, artifacts)
            .map_err(unusable(data))?;
        handle.take(standing.borrow().intake);
        let can_enrol = enrolment.is_some();
        let drain = settings.drain;
        let shift =
            Shift { handle, duty, standing, serves, why_unknown, reports, drain, can_enrol };
        Ok((shift, logs, lock))
    }
}

/// Locks a worker's folder for this process.
fn lock(data: &Path) -> Result<File, FarmError> {
    let path = data.join("worker.lock");
    let unusable = |source| FarmError::Data { path: path.clone(), source };
    std::fs::create_dir_all(data).map_err(unusable)?;
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(unusable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(FarmError::Settings(format!(
            "another worker works in {}; give this one a folder of its own with --data DIR",
            data.display()
        ))),
        Err(error) => Err(unusable(error.into())),
    }
}

/// The parts of a running worker.
struct Shift {
    handle: Handle,
    duty: Duty,
    standing: watch::Sender<Standing>,
    serves: watch::Receiver<Service>,
    why_unknown: watch::Receiver<Option<String>>,
    reports: RabbitReports,
    drain: Duration,
    can_enrol: bool,
}

impl Shift {
    async fn run(&mut self, leave: &mut watch::Receiver<Leave>) -> Result<(), FarmError> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reports = self.reports.clone();
        let why = loop {
            let event = tokio::select! {
                () = self.handle.ended() => Event::Ended,
                why = unknown(&mut self.why_unknown) => Event::Unknown(why),
                () = reports.refused(), if self.can_enrol => {
                    Event::Unknown("the broker refuses its name or password".into())
                }
                () = asked(leave, Leave::Drain) => Event::Leave,
                _ = look.tick() => Event::Look,
                _ = self.serves.changed() => Event::Look,
            };
            match event {
                Event::Ended => return Ok(()),
                Event::Unknown(why) => break why,
                Event::Leave => {
                    self.leave(leave).await;
                    return Ok(());
                }
                Event::Look => self.look().await,
            }
        };
        self.handle.leave(Intake::HandBack);
        let _ = timeout(SHORT_GOODBYE, self.handle.ended()).await;
        Err(FarmError::Unknown(why))
    }

    /// Starts or stops accepting work, as the rules demand now.
    async fn look(&mut self) {
        let service = *self.serves.borrow_and_update();
        let now = self.duty.look(service, self.handle.holds() > 0).await;
        if *self.standing.borrow() == now {
            return;
        }
        match now.intake {
            Intake::Open => tracing::info!("this worker takes work"),
            Intake::Finish => tracing::info!("this worker takes no more work: {}", now.reason),
            Intake::HandBack => tracing::info!("this worker hands its work back: {}", now.reason),
        }
        let intake = now.intake;
        self.standing.send_replace(now);
        self.handle.take(intake);
    }

    /// Finishes what can be finished in time, hands back the rest, and says goodbye.
    async fn leave(&mut self, leave: &mut watch::Receiver<Leave>) {
        let hurry = *leave.borrow() == Leave::Now || self.drain.is_zero();
        let begin = if hurry { Intake::HandBack } else { Intake::Finish };
        self.standing.send_replace(Standing::closed(begin, "it is shutting down"));
        self.handle.leave(begin);
        let deadline = Instant::now() + self.drain;
        if !hurry {
            let count = self.handle.holds();
            tracing::info!("shutting down: waiting for {count} bundles of tasks");
            tokio::select! {
                () = self.handle.ended() => return,
                () = tokio::time::sleep_until(deadline) => {}
                () = asked(leave, Leave::Now) => {}
            }
            self.handle.leave(Intake::HandBack);
        }
        let patience = async {
            tokio::select! {
                () = sleep(GOODBYE) => {}
                () = asked(leave, Leave::Now) => sleep(SHORT_GOODBYE).await,
            }
        };
        tokio::select! {
            () = self.handle.ended() => {}
            () = patience => tracing::warn!(
                "the farm cannot be reached: what was not reported is done again by others"
            ),
        }
    }
}

/// An event that a shift has to handle.
enum Event {
    Ended,
    Unknown(String),
    Leave,
    Look,
}

/// Resolves when the worker is asked to leave with at least this urgency.
async fn asked(leave: &mut watch::Receiver<Leave>, urgency: Leave) {
    if leave.wait_for(|leave| *leave >= urgency).await.is_err() {
        // The sender is gone, so nobody can ask any more.
        std::future::pending::<()>().await;
    }
}

/// Resolves when the farm does not know the worker any more, with the reason.
async fn unknown(why: &mut watch::Receiver<Option<String>>) -> String {
    match why.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        // The sender is gone, so nothing more will be reported.
        Err(_) => std::future::pending().await,
    }
}
