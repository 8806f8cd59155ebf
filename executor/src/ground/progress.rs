//! The progress of a task, its signs of life, and the signal to stop.

use super::failure::failure;
use super::lock;
use super::log::printable;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::units::Bytes;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

/// The longest progress message, in bytes.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// Why a task was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The engine has cancelled it.
    Cancelled,
    /// The worker is shutting down.
    Shutdown,
    /// It exceeded its `timeout`.
    TimedOut(Duration),
    /// It showed no sign of life for as long as its `stalled` setting.
    Stalled(Duration),
    /// It had written `used`, and less than `left` is left on the worker's disk.
    DiskFull {
        /// What it had written.
        used: Bytes,
        /// What has to be left.
        left: Bytes,
    },
}

/// Tells a runner to stop.
#[derive(Clone, Debug)]
pub struct StopSignal {
    reason: watch::Receiver<Option<StopReason>>,
}

/// The slot's end of a [`StopSignal`].
#[derive(Clone, Debug)]
pub struct Stopper {
    reason: watch::Sender<Option<StopReason>>,
}

impl Stopper {
    /// A stopper and the signal that it triggers.
    pub fn new() -> (Self, StopSignal) {
        let (sender, receiver) = watch::channel(None);
        (Self { reason: sender }, StopSignal { reason: receiver })
    }

    /// Stops the task. Only the first reason counts.
    pub fn stop(&self, reason: StopReason) {
        self.reason.send_if_modified(|now| {
            let first = now.is_none();
            *now = now.or(Some(reason));
            first
        });
    }
}

impl StopSignal {
    /// Why the task was stopped, if it was.
    pub fn reason(&self) -> Option<StopReason> {
        *self.reason.borrow()
    }

    /// Resolves once the task has to stop. Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        let mut reason = self.reason.clone();
        match reason.wait_for(Option::is_some).await.map(|reason| *reason) {
            Ok(Some(reason)) => reason,
            // The stopper is gone, so nobody can stop the task.
            _ => std::future::pending().await,
        }
    }

    /// The failure that a stopped runner may return.
    pub fn failure(&self) -> Failure {
        failure(FailureKind::Failed, "The task was stopped.")
    }
}

/// The progress of a task, for users. Reporting is cheap: the slot sends the latest value at most twice per second.
#[derive(Clone, Debug)]
pub struct Progress {
    latest: watch::Sender<Option<(f32, String)>>,
    pub(crate) activity: Activity,
}

impl Progress {
    pub(crate) fn new(activity: Activity) -> (Self, watch::Receiver<Option<(f32, String)>>) {
        let (latest, receiver) = watch::channel(None);
        (Self { latest, activity }, receiver)
    }

    /// Reports progress from 0 to 1, with a message such as `sample 12/64`.
    pub fn report(&self, fraction: f32, message: &str) {
        let fraction = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
        self.latest.send_replace(Some((fraction, printable(&message[..end]))));
        self.activity.touch();
    }
}

/// The time when a task last showed a sign of life: progress or a line of output.
#[derive(Clone, Debug)]
pub struct Activity {
    last: Arc<Mutex<Instant>>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Records a sign of life.
    pub fn touch(&self) {
        *lock(&self.last) = Instant::now();
    }

    pub(crate) fn last(&self) -> Instant {
        *lock(&self.last)
    }
}
