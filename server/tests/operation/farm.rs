//! A farm without the outside world: a real database, real artifacts, the owner loop, a clock that the test sets, and a
//! worker that takes no time.

use pictor_api::{NewSchedule, ScheduledJob};
use pictor_artifacts::{Artifacts, ExecutionKey};
use pictor_engine::{Config, Engine};
use pictor_queue::{Outbox, Sender, ToOwner, ToWorker, WorkerPort, WorkerQueue, in_process};
use pictor_server::schedule::{Runner, Schedules};
use pictor_server::{Owner, OwnerHandle, load_runs};
use pictor_storage::{Registry, RunFilter, RunRecord, Store};
use pictor_tasks::history::{Control, Event};
use pictor_tasks::message::{
    Assignment, Execution, Outcome, Output, Products, Report, RunId, TaskEnd, What, WorkerId,
};
use pictor_tasks::worker::Inventory;
use pictor_test_servers::Postgres;
use std::cell::Cell;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// The time on the test's clock.
pub(crate) fn now() -> i64 {
    NOW.get()
}

/// Sets the test's clock.
pub(crate) fn set(now_ms: i64) {
    NOW.set(now_ms);
}

/// Parses a time such as `2026-03-29T02:30:00+01:00` to milliseconds since 1970.
pub(crate) fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Time limit, after which a test counts as hung.
const LIMIT: Duration = Duration::from_mins(2);

/// Fails a test that hangs.
pub(crate) async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(LIMIT, Box::pin(test)).await.expect("the test hangs");
}

/// A database, a folder of artifacts and a folder of logs.
pub(crate) struct Base {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) artifacts: Arc<Artifacts>,
    /// The database: a URL or a folder.
    pub(crate) place: String,
    pub(crate) folder: Arc<TempDir>,
    /// Owners work as long as a handle to them exists.
    owners: Mutex<Vec<OwnerHandle>>,
}

impl Base {
    pub(crate) async fn sqlite() -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let place = folder.path().join("data").display().to_string();
        Self::open(place, folder).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::open(Postgres::start().database(), Arc::new(TempDir::new().unwrap())).await
    }

    /// Opens the database of this place, with the artifacts in a folder.
    pub(crate) async fn open(place: String, folder: Arc<TempDir>) -> Self {
        let (store, registry) = pictor_storage::open(&place).await.unwrap();
        store.take_ownership("here", 1).await.unwrap();
        let artifacts = Arc::new(Artifacts::folder(&folder.path().join("artifacts")).unwrap());
        Self { store, registry, artifacts, place, folder, owners: Mutex::default() }
    }

    pub(crate) fn is_postgres(&self) -> bool {
        self.place.starts_with("postgres")
    }

    /// The same farm as another server sees it: with connections of its own where several servers are possible, with
    /// the same ones in an embedded farm. The first one stays the owner.
    pub(crate) async fn other(&self) -> Self {
        let (store, registry) = if self.is_postgres() {
            pictor_storage::open(&self.place).await.unwrap()
        } else {
            (self.store.clone(), self.registry.clone())
        };
        let (artifacts, place) = (self.artifacts.clone(), self.place.clone());
        let (folder, owners) = (self.folder.clone(), Mutex::default());
        Self { store, registry, artifacts, place, folder, owners }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn schedules(&self) -> Schedules {
        Schedules::new(self.store.clone(), self.registry.clone(), self.artifacts.clone(), now)
    }

    /// An owner with every unfinished run, and no workers.
    pub(crate) async fn owner(&self) -> OwnerHandle {
        self.owner_with(&[]).await.0
    }

    /// An owner and the ends of its workers.
    pub(crate) async fn owner_with(&self, ids: &[WorkerId]) -> (OwnerHandle, Vec<WorkerPort>) {
        self.owner_that(true, ids).await
    }

    /// An owner that deletes artifacts that are no longer needed, or one that always dies before it does.
    pub(crate) async fn owner_that(
        &self,
        sweeps: bool,
        ids: &[WorkerId],
    ) -> (OwnerHandle, Vec<WorkerPort>) {
        let (port, workers) = in_process(ids);
        let config = Config::default();
        let (mut owner, handle) = Owner::new(config, self.store.clone(), Box::new(port), now);
        if sweeps {
            owner.sweeps(self.artifacts.clone());
        }
        load_runs(&*self.store, &mut owner).await.unwrap();
        tokio::spawn(owner.run());
        self.owners.lock().unwrap().push(handle.clone());
        (handle, workers)
    }

    /// A runner of schedules and its owner.
    pub(crate) async fn runner(&self) -> (Runner, OwnerHandle) {
        let owner = self.owner().await;
        (Runner::new(self.schedules(), owner.clone()), owner)
    }

    /// Every run, oldest first.
    pub(crate) async fn runs(&self) -> Vec<RunRecord> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.runs(&RunFilter::default(), 1000, after.as_ref()).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            all.extend(page);
        }
        all.reverse();
        all
    }

    /// The ids of the unfinished runs, oldest first.
    pub(crate) async fn going(&self) -> Vec<RunId> {
        let runs = self.store.unfinished_runs(None).await.unwrap();
        runs.into_iter().map(|record| record.id).collect()
    }

    /// Cancels every run that the owner has.
    pub(crate) async fn end_all(&self, owner: &OwnerHandle) {
        for run in self.going().await {
            cancel(owner, &run).await;
        }
    }

    /// Submits a job and adds its run to the owner.
    pub(crate) async fn submit(&self, owner: &OwnerHandle, id: &str, job: &str) -> RunId {
        let source = pictor_tasks::job::Source { name: "job.yaml".into(), text: job.into() };
        let none = std::collections::BTreeMap::new();
        let files = pictor_server::Files::Uploaded(&none, &self.artifacts);
        let limits = pictor_engine::RunLimits::default();
        let job = pictor_server::compile_job(source, &[], files, &limits).await.unwrap();
        let mut new = job.run_of("ada", Path::new(""), now(), 1);
        new.id = RunId(id.into());
        self.store.create_run(&new, None).await.unwrap();
        let run = pictor_engine::Run::new(new.id.clone(), Arc::new(job.plan));
        owner.add(run, "ada".into(), now()).await.unwrap();
        new.id
    }
}

/// Cancels a run; when this returns, it has ended.
pub(crate) async fn cancel(owner: &OwnerHandle, run: &RunId) {
    let control = Control { id: 1, event: Event::Cancelled };
    assert!(owner.control(run.clone(), control).await.unwrap(), "{run} is in the engine");
}

/// A job of one task that would succeed at once; but there is no worker.
pub(crate) const JOB: &str = "pictor: v1\nname: still\nsteps: [{ name: one, noop: {} }]\n";

/// A schedule of that job.
pub(crate) fn schedule(name: &str, cron: &str, zone: &str) -> NewSchedule {
    let new = serde_json::json!({
        "name": name, "cron": cron, "zone": zone, "job": { "text": JOB },
    });
    serde_json::from_value(new).unwrap()
}

/// The schedule with other rules, such as `("overlap", "queue")`.
pub(crate) fn with(new: &NewSchedule, rules: &[(&str, &str)]) -> NewSchedule {
    let mut value = serde_json::to_value(new).unwrap();
    for (rule, word) in rules {
        value[*rule] = (*word).into();
    }
    serde_json::from_value(value).unwrap()
}

/// A job with uploaded files.
pub(crate) fn job_with(assets: &[(&str, &str)]) -> ScheduledJob {
    let assets = assets.iter().map(|(name, digest)| ((*name).into(), (*digest).into())).collect();
    ScheduledJob { text: JOB.into(), assets, ..ScheduledJob::default() }
}

/// The outcomes of a schedule's due times, earliest first: minutes past `from` and the outcome.
pub(crate) async fn due_times(base: &Base, name: &str, from: i64) -> Vec<(i64, String)> {
    let mut due_times = base.registry.due_times(name, 1000).await.unwrap();
    due_times.reverse();
    due_times
        .into_iter()
        .map(|due| ((due.due_ms - from) / 60_000, due.outcome.name().to_owned()))
        .collect()
}

/// Polls work this many times and then drops it, as a crash would. Returns its result if it has completed.
pub(crate) async fn crash_after<T>(polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut left = polls;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// A worker that executes every task at once and leaves one artifact for each: its own name, repeated. It stops when
/// the owner has ended, or when it has executed `limit` tasks.
pub(crate) fn work(mut port: WorkerPort, base: &Base, limit: usize) -> JoinHandle<usize> {
    let (outbox, id, artifacts) = (port.sender(), port.id, base.artifacts.clone());
    tokio::spawn(async move {
        let has = Inventory { cpus: 1, slots: 1, allows_commands: true, ..Inventory::default() };
        outbox.send(ToOwner::Joined(id, has)).await.unwrap();
        let mut done = 0;
        while done < limit
            && let Some(delivery) = port.receive().await
        {
            if let ToWorker::Assign(assignment) = delivery.message {
                for task in &assignment.tasks {
                    if done < limit {
                        one(&artifacts, &outbox, (id, &assignment), *task).await;
                        done += 1;
                    }
                }
            }
            delivery.receipt.settle();
        }
        // Tasks that it holds and has not executed go to others. The owner may be gone.
        let _ = outbox.send(ToOwner::Left(id)).await;
        done
    })
}

async fn one(
    artifacts: &Artifacts,
    outbox: &Sender,
    (worker, assignment): (WorkerId, &Assignment),
    task: pictor_tasks::message::Try,
) {
    let Assignment { key, brief, .. } = assignment;
    let execution = Execution(worker.0.into());
    let place = ExecutionKey { key, step: &brief.step, task, execution }.file("image");
    let bytes = format!("{} {}\n", brief.step, task.index).repeat(100).into_bytes();
    let stored = artifacts.put(bytes, &place).await.unwrap();
    let (digest, size_bytes) = (stored.digest, stored.size_bytes);
    let output = Output { name: "image".into(), key: place, digest, size_bytes };
    let products = Products { outputs: vec![output], ..Products::default() };
    let end =
        TaskEnd { task, started_ms: now(), took_ms: 1, outcome: Outcome::Succeeded(products) };
    let report = Report { worker, key: key.clone(), execution, what: What::Ended(vec![end]) };
    outbox.send(ToOwner::Report(report)).await.unwrap();
}

/// Waits until a query of the engine returns true; repeats it after each commit.
pub(crate) async fn until(
    owner: &OwnerHandle,
    question: impl Fn(&Engine) -> bool + Clone + Send + 'static,
) {
    let mut news = owner.news();
    while !owner.ask(question.clone()).await.unwrap() {
        news.recv().await.unwrap();
    }
}
