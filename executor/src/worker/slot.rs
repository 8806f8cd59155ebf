//! One slot: does one bundle after another, monitors each task, and reports its events.

use crate::files::artifacts::Artifacts;
use crate::ground::clock::now_ms;
use crate::ground::failure::{failure, storage_failure};
use crate::ground::log::{LogWriter, log_path, printable};
use crate::ground::progress::{Activity, Progress, StopReason, StopSignal, Stopper};
use crate::programs::Device;
use crate::programs::process::settle;
use crate::runners::{self, Warm};
use crate::task::{Config, TaskContext};
use crate::worker::bundle::Bundle;
use crate::worker::scratch::{Scratch, fills_disk, remove, scratch_root};
use pictor_queue::{Outbox, SendError, ToOwner};
use pictor_tasks::body::Body;
use pictor_tasks::message::{
    Execution, Failure, FailureKind, Input, Outcome, Products, Report, RunId, TaskEnd, Try, What,
    WorkerId,
};
use pictor_tasks::units::Millis;
use std::collections::BTreeSet;
use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until};

/// How long results wait to be sent together with others.
const RESULTS_EVERY: Duration = Duration::from_millis(250);
/// The shortest interval between two messages on the progress of a task.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// A task that takes longer than this is reported as started.
const BEGUN: Duration = Duration::from_millis(200);
/// A stopped runner that does not return within this time after the grace time is dropped.
const BEYOND_GRACE: Duration = Duration::from_millis(500);
/// The time limit of a task whose step sets no `timeout`.
const TIMEOUT: Duration = Duration::from_hours(24);
/// How often the disk of a running task is looked at.
const DISK_EVERY: Duration = Duration::from_secs(1);
/// How long a slot waits for killed processes that do not end.
const LEFTOVERS: Duration = Duration::from_secs(10);

pub(crate) struct Slot {
    pub(crate) index: u32,
    pub(crate) worker: WorkerId,
    pub(crate) device: Option<Device>,
    pub(crate) config: Arc<Config>,
    pub(crate) artifacts: Artifacts,
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) warm: Warm,
    /// The folders of the runs that it has done tasks of, as long as something warm uses them.
    pub(crate) places: BTreeSet<PathBuf>,
}

/// How one task ended for this worker.
enum Verdict {
    Ended(Outcome),
    /// It is no longer this worker's, so nothing is reported.
    Dropped,
    /// The worker is shutting down: another one may do it.
    HandedBack,
}

/// A message that is being sent to the owner.
type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send + 'a>>;

impl Slot {
    /// Does bundles until the channel closes, and reports after each that the slot is free.
    pub(crate) async fn run(
        mut self,
        mut bundles: mpsc::Receiver<Arc<Bundle>>,
        free: mpsc::Sender<(u32, Execution)>,
    ) {
        while let Some(bundle) = bundles.recv().await {
            if bundle.is_instant() {
                let ends = bundle.end_all(now_ms());
                self.say(&bundle, What::Ended(ends)).await;
                bundle.reported();
            } else {
                self.bundle(&bundle).await;
            }
            if let Some(receipt) = bundle.take_receipt() {
                receipt.settle();
            }
            if free.send((self.index, bundle.execution)).await.is_err() {
                return;
            }
        }
    }

    async fn bundle(&mut self, bundle: &Bundle) {
        let mut results_due = None;
        while let Some((task, stopper, signal)) = bundle.start_next() {
            let (started, started_ms) = (Instant::now(), now_ms());
            let watched = Watched { bundle, task, stopper, signal, started };
            let verdict = Box::pin(self.task(&watched, &mut results_due)).await;
            let took = started.elapsed();
            let took_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
            match verdict {
                Verdict::Ended(outcome) => {
                    // Whoever cancelled the task is waiting for its end.
                    let patience =
                        if outcome == Outcome::Cancelled { Duration::ZERO } else { RESULTS_EVERY };
                    let due = Instant::now() + patience;
                    results_due =
                        Some(results_due.map_or(due, |earlier: Instant| earlier.min(due)));
                    bundle.end(Some(TaskEnd { task, started_ms, took_ms, outcome }));
                }
                Verdict::Dropped => bundle.end(None),
                Verdict::HandedBack => {
                    bundle.end(None);
                    self.say(bundle, What::Released(vec![task])).await;
                }
            }
            if took >= RESULTS_EVERY || results_due.is_some_and(|due| due <= Instant::now()) {
                results_due = None;
                self.results(bundle).await;
            }
        }
        self.results(bundle).await;
    }

    async fn results(&self, bundle: &Bundle) {
        self.say(bundle, What::Ended(bundle.take_ended())).await;
        bundle.reported();
    }

    async fn say(&self, bundle: &Bundle, what: What) {
        if let Some(sending) = self.send(bundle, what) {
            // A lost owner is noticed by the agent.
            let _ = sending.await;
        }
    }

    /// Sends a report, unless it is empty.
    fn send(&self, bundle: &Bundle, what: What) -> Option<Sending<'_>> {
        if matches!(&what, What::Ended(list) if list.is_empty()) {
            return None;
        }
        let (worker, key, execution) = (self.worker, bundle.key.clone(), bundle.execution);
        Some(self.outbox.send(ToOwner::Report(Report { worker, key, execution, what })))
    }

    async fn task(&mut self, watched: &Watched<'_>, results_due: &mut Option<Instant>) -> Verdict {
        let brief = &watched.bundle.brief;
        let mut inputs = Vec::new();
        let asks = brief.has_inputs || watched.bundle.is_kept;
        if asks && !matches!(brief.body, Body::Noop(_)) {
            let asked = self.outbox.inputs(watched.bundle.key.clone(), watched.task);
            inputs = tokio::select! {
                inputs = asked => match inputs {
                    Some(inputs) => inputs,
                    None => return Verdict::Dropped,
                },
                _ = watched.signal.stopped() => {
                    return watched.verdict(Err(watched.signal.failure()), None);
                }
            };
        }
        let (progress, updates) = Progress::new(Activity::new());
        let activity = progress.activity.clone();
        let ctx = self.context(watched, inputs, progress);
        let mut warm = std::mem::take(&mut self.warm);
        let result = {
            let work = pin!(caught(work(&ctx, &mut warm)));
            let signs = Signs { activity, updates, scratch: &ctx.scratch };
            self.watch(watched, work, signs, results_due).await
        };
        // A runner that was dropped or panicked may have left its resources in any state.
        if result.is_some() {
            self.warm = warm;
        } else {
            drop(warm);
        }
        // None of its processes may be on the GPU when the next one starts.
        settle(LEFTOVERS).await;
        let place = self.place(&watched.bundle.key.run);
        self.places.insert(place);
        let in_use = |place: &PathBuf| self.warm.blender.uses(place);
        self.places.retain(|place| in_use(place) || !remove(place));
        if let Some(result) = result {
            return watched.verdict(result, Some(&ctx));
        }
        let message = "The task's runner panicked or did not stop; the worker's own log says more.";
        watched.verdict(Err(failure(FailureKind::Failed, message)), Some(&ctx))
    }

    fn context(
        &self,
        watched: &Watched<'_>,
        inputs: Vec<Input>,
        progress: Progress,
    ) -> TaskContext {
        let (bundle, task) = (watched.bundle, watched.task);
        let (data, execution) = (&self.config.data, bundle.execution);
        let path = log_path(data, &bundle.key.run, &bundle.brief.step, task, execution);
        let folder = format!("{:016x}-{}-{}", execution.0, task.index, task.attempt);
        TaskContext {
            brief: bundle.brief.clone(),
            key: bundle.key.clone(),
            task,
            execution,
            slot: self.index,
            device: self.device.clone(),
            inputs,
            scratch: self.place(&bundle.key.run).join("made").join(&folder),
            fetched: self.place(&bundle.key.run).join("fetched").join(&folder),
            artifacts: self.artifacts.clone(),
            log: LogWriter::new(path, progress.activity.clone(), self.config.logs.clone()),
            progress,
            stop: watched.signal.clone(),
            config: self.config.clone(),
            brought: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// The folder for the tasks of a run. A Blender that stays loaded sees what is in it, so it is of one run alone.
    fn place(&self, run: &RunId) -> PathBuf {
        let of_slot = scratch_root(&self.config, self.worker).join(self.index.to_string());
        of_slot.join(&*run.0)
    }

    /// Waits for the runner while enforcing limits and sending messages. Returns `None` if it panicked or did not stop.
    async fn watch(
        &self,
        watched: &Watched<'_>,
        mut work: Pin<&mut impl Future<Output = Option<Result<Products, Failure>>>>,
        mut signs: Signs<'_>,
        results_due: &mut Option<Instant>,
    ) -> Option<Result<Products, Failure>> {
        let (bundle, brief) = (watched.bundle, &watched.bundle.brief);
        let timeout = brief.timeout.map_or(TIMEOUT, |limit| Duration::from_millis(limit.0));
        let mut full_disk_at = Instant::now() + DISK_EVERY;
        let stalled = brief.stalled.map(|limit| Duration::from_millis(limit.0));
        let (mut sending, mut progress_sent) = (None::<Sending<'_>>, None);
        // Users want to see what is running; a task that ends before then needs no message.
        let mut progress_due = Some(Instant::now() + BEGUN);
        let mut give_up = None;
        let result = loop {
            let limits = give_up.is_none();
            let timeout_at = limits.then(|| watched.started + timeout);
            let stalled_at = stalled.filter(|_| limits).map(|limit| signs.activity.last() + limit);
            let may_send = sending.is_none();
            tokio::select! {
                result = &mut work => break result,
                () = at(give_up) => break None,
                _ = watched.signal.stopped(), if limits => {
                    give_up = Some(Instant::now() + self.config.grace + BEYOND_GRACE);
                }
                () = at(timeout_at) => watched.stopper.stop(StopReason::TimedOut(timeout)),
                () = sleep_until(full_disk_at), if limits => {
                    full_disk_at = Instant::now() + DISK_EVERY;
                    let left = self.config.disk_left;
                    if let Some(used) = fills_disk(signs.scratch, left).await {
                        watched.stopper.stop(StopReason::DiskFull { used, left });
                    }
                }
                () = at(stalled_at) => {
                    if stalled.is_some_and(|limit| signs.activity.last().elapsed() >= limit) {
                        watched.stopper.stop(StopReason::Stalled(stalled?));
                    }
                }
                () = at(*results_due), if may_send => {
                    *results_due = None;
                    sending = self.send(bundle, What::Ended(bundle.take_ended()));
                }
                Ok(()) = signs.updates.changed(), if progress_due.is_none() => {
                    let next = progress_sent.map(|sent: Instant| sent + PROGRESS_EVERY);
                    progress_due = Some(next.unwrap_or_else(Instant::now));
                }
                () = at(progress_due), if may_send => {
                    (progress_due, progress_sent) = (None, Some(Instant::now()));
                    sending = self.send(bundle, signs.progress(watched.task));
                }
                () = sent(&mut sending) => {
                    sending = None;
                    bundle.reported();
                }
            }
        };
        if sending.is_some() {
            sent(&mut sending).await;
            bundle.reported();
        }
        result
    }
}

/// A runner's signs of life.
struct Signs<'a> {
    activity: Activity,
    /// The folder of its task.
    scratch: &'a Path,
    updates: watch::Receiver<Option<(f32, String)>>,
}

impl Signs<'_> {
    /// The latest progress, or 0 without a message if none was reported.
    fn progress(&mut self, task: Try) -> What {
        let (fraction, message) = self.updates.borrow_and_update().clone().unwrap_or_default();
        What::Progress { task, fraction, message }
    }
}

/// A running task.
struct Watched<'a> {
    bundle: &'a Bundle,
    task: Try,
    stopper: Stopper,
    signal: StopSignal,
    started: Instant,
}

impl Watched<'_> {
    fn verdict(&self, result: Result<Products, Failure>, ctx: Option<&TaskContext>) -> Verdict {
        let (what, limit, setting) = match (self.signal.reason(), result) {
            (Some(StopReason::Cancelled), _) => return Verdict::Ended(Outcome::Cancelled),
            (_, Ok(products)) => return Verdict::Ended(Outcome::Succeeded(products)),
            (None, Err(Failure { kind, message })) => {
                return Verdict::Ended(Outcome::Failed(failure(kind, printable(&message))));
            }
            (Some(StopReason::Shutdown), Err(_)) => return Verdict::HandedBack,
            (Some(StopReason::DiskFull { used, left }), Err(_)) => {
                let name = ctx.map_or_else(|| self.bundle.brief.step.clone(), TaskContext::name);
                let message = format!(
                    "{name} was stopped because it had written {used} and left less than {left} on the worker's disk."
                );
                return Verdict::Ended(Outcome::Failed(failure(FailureKind::Storage, message)));
            }
            (Some(StopReason::TimedOut(limit)), Err(_)) => ("ran longer than", limit, "timeout"),
            (Some(StopReason::Stalled(limit)), Err(_)) => {
                ("showed no sign of life for", limit, "stalled")
            }
        };
        let tail = ctx.map(|ctx| ctx.log.tail()).filter(|tail| !tail.is_empty());
        let tail = tail.map(|tail| format!(" Its last lines:\n{tail}")).unwrap_or_default();
        let name = ctx.map_or_else(|| self.bundle.brief.step.clone(), TaskContext::name);
        let limit = Millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let message = format!("{name} {what} its `{setting}` of {limit} and was stopped.{tail}");
        Verdict::Ended(Outcome::Failed(failure(FailureKind::TimedOut, printable(&message))))
    }
}

/// Does a task, in a scratch folder that is removed afterwards.
async fn work(ctx: &TaskContext, warm: &mut Warm) -> Result<Products, Failure> {
    if let Body::Noop(noop) = &ctx.brief.body {
        let duration = Duration::from_millis(noop.duration.map_or(0, |duration| duration.0));
        return tokio::select! {
            () = tokio::time::sleep(duration) => Ok(Products::default()),
            _ = ctx.stop.stopped() => Err(ctx.stop.failure()),
        };
    }
    let unusable = |error: std::io::Error| {
        storage_failure(
            &format!("The scratch folder {} cannot be made", ctx.scratch.display()),
            &error,
        )
    };
    let scratch = Scratch(ctx);
    for folder in [&ctx.scratch, &ctx.fetched] {
        tokio::fs::create_dir_all(folder).await.map_err(unusable)?;
    }
    let result = runners::run(ctx, warm).await;
    drop(scratch);
    result
}

/// Returns `None` if the future panicked: one faulty runner must not end its slot.
async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = Box::pin(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Resolves at that time, or never.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

async fn sent(sending: &mut Option<Sending<'_>>) {
    match sending {
        // A lost owner is noticed by the agent.
        Some(sending) => drop(sending.await),
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_one_task_and_not_its_slot() {
        let broken = async {
            tokio::task::yield_now().await;
            assert!(now_ms() < 0, "the runner is broken");
        };
        assert_eq!(caught(broken).await, None);
        assert_eq!(caught(async { 1 }).await, Some(1));
    }
}
