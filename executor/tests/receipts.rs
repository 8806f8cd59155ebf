//! When an assignment need not be delivered again: a lease accounts for its tasks, or everything was reported.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod farm;

use async_trait::async_trait;
use farm::{LIMIT, WORKER, first_try, key, noop};
use pictor_executor::{Agent, Artifacts, Config, Handle};
use pictor_queue::{
    Delivery, Incoming, Outbox, OwnerPort, OwnerQueue, Publication, Receipt, SendError, Sender,
    ToOwner, ToWorker, WorkerPort, WorkerQueue, in_process,
};
use pictor_tasks::message::{Assignment, Cancel, Input, Outcome, StepKey, Try, What};
use pictor_tasks::worker::Inventory;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// The in-process queue, with receipts that can be observed.
struct Recorded {
    port: WorkerPort,
    settled: mpsc::Sender<u64>,
}

#[async_trait]
impl WorkerQueue for Recorded {
    async fn receive(&mut self) -> Option<Delivery> {
        let Delivery { message, is_kept, .. } = self.port.receive().await?;
        let id = match &message {
            ToWorker::Assign(assignment) => assignment.id,
            ToWorker::Cancel(_) => 0,
        };
        let settled = self.settled.clone();
        let receipt = Receipt::new(move || settled.try_send(id).unwrap());
        Some(Delivery { message, receipt, is_kept })
    }
}

/// Lets reports through one by one, like a broker that is slow to confirm them.
#[derive(Debug)]
struct Slow {
    sender: Sender,
    confirms: Arc<Semaphore>,
}

#[async_trait]
impl Outbox for Slow {
    async fn send(&self, message: ToOwner) -> Result<(), SendError> {
        let report = matches!(message, ToOwner::Report(_));
        self.sender.send(message).await?;
        if report {
            self.confirms.acquire().await.unwrap().forget();
        }
        Ok(())
    }

    async fn inputs(&self, key: StepKey, task: Try) -> Option<Vec<Input>> {
        self.sender.inputs(key, task).await
    }
}

struct Bench {
    owner: OwnerPort,
    settled: mpsc::Receiver<u64>,
    confirms: Arc<Semaphore>,
    _agent: Handle,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn start(edit: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (owner, mut ports) = in_process(&[WORKER]);
        let (sender, settled) = mpsc::channel(16);
        let port = ports.remove(0);
        let confirms = Arc::new(Semaphore::new(0));
        let outbox = Slow { sender: port.sender(), confirms: confirms.clone() };
        let queue = Recorded { port, settled: sender };
        let mut config = Config::new(folder.path().join("data"), Inventory::default());
        config.heartbeat = Duration::from_millis(20);
        edit(&mut config);
        let artifacts = Artifacts::in_folder(&config.artifacts()).unwrap();
        let agent = Agent::start(Box::new(queue), Arc::new(outbox), WORKER, config, artifacts);
        Self { owner, settled, confirms, _agent: agent.unwrap(), _folder: folder }
    }

    fn assign(&mut self, id: u64, duration_ms: Option<u64>, tasks: &[u32]) {
        let brief = Arc::new(noop(duration_ms, 10));
        let tasks = tasks.iter().copied().map(first_try).collect();
        let message = ToWorker::Assign(Assignment { key: key(), id, brief, tasks });
        assert_eq!(self.owner.publish(WORKER, message), Publication::Confirmed);
    }

    fn cancel(&mut self, tasks: &[u32]) {
        let tasks = tasks.iter().copied().map(first_try).collect();
        let message = ToWorker::Cancel(Cancel { key: key(), tasks });
        assert_eq!(self.owner.publish(WORKER, message), Publication::Confirmed);
    }

    async fn message(&mut self) -> ToOwner {
        let mut batch = Vec::new();
        timeout(LIMIT, self.owner.receive(&mut batch, 1)).await.expect("a message in time");
        match batch.remove(0) {
            Incoming::Message(message) => message,
            other => panic!("in the process there are only messages: {other:?}"),
        }
    }

    async fn report(&mut self) -> What {
        loop {
            // The start of a task is reported whenever the task takes a while, even on a busy machine.
            let begun = |what: &What| matches!(what, What::Progress { fraction: 0.0, message, .. } if message.is_empty());
            if let ToOwner::Report(report) = self.message().await
                && !begun(&report.what)
            {
                return report.what;
            }
        }
    }

    /// Waits until a heartbeat lists exactly these tasks.
    async fn heartbeat(&mut self, tasks: &[u32]) {
        let wanted: Vec<Try> = tasks.iter().copied().map(first_try).collect();
        loop {
            if let ToOwner::Heartbeat(_, held) = self.message().await
                && held.into_iter().flat_map(|(_, tries)| tries).eq(wanted.iter().copied())
            {
                return;
            }
        }
    }

    fn confirm(&self) {
        self.confirms.add_permits(1);
    }

    async fn settled(&mut self) -> u64 {
        timeout(LIMIT, self.settled.recv()).await.expect("in time").unwrap()
    }

    fn nothing_is_settled(&mut self) -> bool {
        self.settled.try_recv().is_err()
    }
}

#[tokio::test]
async fn an_assignment_is_settled_when_its_last_report_is_confirmed_and_held_until_then() {
    for duration_ms in [None, Some(1)] {
        let mut bench = Bench::start(|_| {});
        bench.assign(1, duration_ms, &[0, 1]);
        assert!(matches!(bench.report().await, What::Ended(ends) if ends.len() == 2));
        // It is unknown whether the broker has it. Heartbeats keep the tasks alive.
        bench.heartbeat(&[0, 1]).await;
        assert!(bench.nothing_is_settled());
        bench.confirm();
        assert_eq!(bench.settled().await, 1);
        bench.heartbeat(&[]).await;
    }
}

#[tokio::test]
async fn a_claimed_assignment_is_settled_when_the_claim_is_confirmed() {
    let mut bench = Bench::start(|config| config.claim_after = Duration::from_millis(50));
    bench.assign(1, Some(600_000), &[0]);
    assert_eq!(bench.report().await, What::Claimed(vec![first_try(0)]));
    bench.heartbeat(&[0]).await;
    assert!(bench.nothing_is_settled());
    bench.confirm();
    assert_eq!(bench.settled().await, 1);
    // What is delivered again is settled at once, and not done again.
    bench.assign(2, Some(600_000), &[0]);
    assert_eq!(bench.settled().await, 2);
    bench.heartbeat(&[0]).await;
}

#[tokio::test]
async fn an_assignment_that_comes_again_while_it_is_young_is_settled_in_place_of_the_first() {
    let mut bench = Bench::start(|_| {});
    bench.assign(1, Some(600_000), &[0]);
    bench.heartbeat(&[0]).await;
    bench.assign(2, Some(600_000), &[0]);
    bench.cancel(&[0]);
    assert_eq!(bench.settled().await, 0, "a cancel is settled when it is heard");
    let What::Ended(ends) = bench.report().await else { panic!("it was cancelled") };
    assert_eq!(ends[0].outcome, Outcome::Cancelled);
    bench.confirm();
    assert_eq!(bench.settled().await, 2);
    assert!(bench.nothing_is_settled());
}

#[tokio::test]
async fn an_assignment_that_is_handed_back_unstarted_is_settled_when_that_is_confirmed() {
    let mut bench = Bench::start(|config| config.slots = 1);
    bench.assign(1, Some(600_000), &[0]);
    bench.assign(2, Some(600_000), &[1, 2]);
    bench.heartbeat(&[0, 1, 2]).await;
    bench.cancel(&[1, 2]);
    assert_eq!(bench.settled().await, 0);
    assert_eq!(bench.report().await, What::Released(vec![first_try(1), first_try(2)]));
    bench.heartbeat(&[0]).await;
    assert!(bench.nothing_is_settled());
    bench.confirm();
    assert_eq!(bench.settled().await, 2);
}
