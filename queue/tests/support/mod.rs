//! An owner and workers over one kind of queue, and the messages that tests exchange between them.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::allow_attributes,
    reason = "each test binary uses its part"
)]

use async_trait::async_trait;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use pictor_queue::{
    Address, Broker, Delivery, Incoming, Outbox, OwnerQueue, Publication, RabbitOwner,
    RabbitReports, RabbitWorker, SendError, Ticket, ToOwner, ToWorker, WorkerQueue, in_process,
};
use pictor_tasks::body::{Body, Noop};
use pictor_tasks::message::{
    Assignment, Brief, Cancel, Execution, Input, Outcome, Products, Report, RunId, StepKey,
    TaskEnd, Try, What, WorkerId,
};
use pictor_tasks::space::Space;
use pictor_test_servers::{Queues, RabbitMq, Vhost};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A test that waits longer than this for anything has failed.
const LIMIT: Duration = Duration::from_mins(1);
pub(crate) const KEY: [u8; 32] = [7; 32];
pub(crate) const ONE: WorkerId = WorkerId(1);
pub(crate) const TWO: WorkerId = WorkerId(2);
pub(crate) const REPORTS: (&str, &str) = ("pictor.reports", "pictor.reports");

/// Runs each of these tests over both types of queue that RabbitMQ has.
macro_rules! over_both_types {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod classic {
            $(#[tokio::test(flavor = "multi_thread")]
            $(#[$attribute])*
            async fn $name() {
                super::$name(pictor_test_servers::Queues::Classic).await;
            })*
        }
        mod quorum {
            $(#[tokio::test(flavor = "multi_thread")]
            $(#[$attribute])*
            async fn $name() {
                super::$name(pictor_test_servers::Queues::Quorum).await;
            })*
        }
    };
}
pub(crate) use over_both_types;

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// One worker's two halves.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) queue: Box<dyn WorkerQueue>,
    pub(crate) outbox: Arc<dyn Outbox>,
}

#[derive(Debug)]
struct Reports(RabbitReports);

#[async_trait]
impl Outbox for Reports {
    async fn send(&self, message: ToOwner) -> Result<(), SendError> {
        match message {
            ToOwner::Report(report) => self.0.send(report).await,
            other => panic!("only reports go over the broker: {other:?}"),
        }
    }

    async fn inputs(&self, _key: StepKey, _task: Try) -> Option<Vec<Input>> {
        None
    }
}

/// An owner of the first epoch and its workers, in one process.
pub(crate) fn local(ids: &[WorkerId]) -> (Box<dyn OwnerQueue>, Vec<Worker>) {
    let (owner, ports) = in_process(ids);
    let worker = |port: pictor_queue::WorkerPort| Worker {
        id: port.id,
        outbox: Arc::new(port.sender()),
        queue: Box::new(port),
    };
    (Box::new(owner), ports.into_iter().map(worker).collect())
}

/// An owner's end at a broker.
pub(crate) fn owner(url: &str) -> Box<dyn OwnerQueue> {
    Box::new(RabbitOwner::connect(address(url)))
}

/// A worker's ends at a broker. Its queue must exist.
pub(crate) fn worker(url: &str, id: WorkerId) -> Worker {
    let (queue, reports) = RabbitWorker::connect(address(url), id);
    Worker { id, queue: Box::new(queue), outbox: Arc::new(Reports(reports)) }
}

pub(crate) fn address(url: &str) -> Address {
    Address::new(url, None).unwrap()
}

impl Worker {
    pub(crate) async fn receive(&mut self) -> Delivery {
        within("a delivery", self.queue.receive()).await.expect("the owner is there")
    }

    /// The next assignment and its receipt.
    pub(crate) async fn assigned(&mut self) -> (Assignment, pictor_queue::Receipt) {
        let Delivery { message, receipt, .. } = self.receive().await;
        match message {
            ToWorker::Assign(assignment) => (assignment, receipt),
            ToWorker::Cancel(cancel) => panic!("an assignment was expected: {cancel:?}"),
        }
    }

    pub(crate) fn report(&self, what: What) -> ToOwner {
        ToOwner::Report(report(self.id, what))
    }

    pub(crate) async fn say(&self, what: What) {
        within("a confirm", self.outbox.send(self.report(what))).await.unwrap();
    }
}

pub(crate) fn report(worker: WorkerId, what: What) -> Report {
    Report { worker, key: key(), execution: Execution(1), what }
}

pub(crate) fn key() -> StepKey {
    StepKey { run: RunId("run-1".into()), step: 0, generation: 0 }
}

pub(crate) fn tries(indices: impl IntoIterator<Item = u32>) -> Vec<Try> {
    indices.into_iter().map(|index| Try { index, attempt: 1 }).collect()
}

pub(crate) fn ended(indices: impl IntoIterator<Item = u32>) -> What {
    let end = |task| {
        let outcome = Outcome::Succeeded(Products::default());
        TaskEnd { task, started_ms: 1, took_ms: 2, outcome }
    };
    What::Ended(tries(indices).into_iter().map(end).collect())
}

pub(crate) fn assignment(id: u64, indices: impl IntoIterator<Item = u32>) -> ToWorker {
    let brief = Brief {
        step: "step".into(),
        space: Space::default(),
        body: Body::Noop(Noop::default()),
        timeout: None,
        stalled: None,
        files: BTreeMap::new(),
        folder: String::new(),
        has_inputs: false,
        binds: Vec::new(),
        blender: None,
    };
    let (key, brief) = (key(), Arc::new(brief));
    ToWorker::Assign(Assignment { key, id, brief, tasks: tries(indices) })
}

pub(crate) fn cancel(indices: impl IntoIterator<Item = u32>) -> ToWorker {
    ToWorker::Cancel(Cancel { key: key(), tasks: tries(indices) })
}

/// Becomes the owner of an epoch.
pub(crate) async fn own(owner: &mut dyn OwnerQueue, epoch: u64) {
    within("the election", owner.elected()).await;
    owner.begin(epoch, KEY);
}

/// The next message or answer that is not a mark. Acknowledges nothing.
pub(crate) async fn next(owner: &mut dyn OwnerQueue) -> Incoming {
    let mut batch = Vec::new();
    loop {
        let received = within("a message for the owner", owner.receive(&mut batch, 1)).await;
        assert_eq!(received, 1, "the workers are there");
        match batch.remove(0) {
            Incoming::Message(ToOwner::Barrier(_)) => {}
            incoming => return incoming,
        }
    }
}

/// The next message of the owner, which has to be a report.
pub(crate) async fn next_report(owner: &mut dyn OwnerQueue) -> Report {
    loop {
        match next(owner).await {
            Incoming::Message(ToOwner::Report(report)) => return report,
            Incoming::Published { .. } => {}
            other => panic!("a report was expected: {other:?}"),
        }
    }
}

/// Publishes an assignment and waits for its confirm.
pub(crate) async fn assign(
    owner: &mut dyn OwnerQueue,
    worker: WorkerId,
    message: ToWorker,
) -> bool {
    let ToWorker::Assign(Assignment { id: this, .. }) = message else { panic!("not a cancel") };
    match owner.publish(worker, message) {
        Publication::Confirmed => true,
        Publication::Failed(_) => false,
        Publication::Pending => loop {
            match next(owner).await {
                Incoming::Published { id, confirmed } if id == this => return confirmed,
                Incoming::Published { .. } => {}
                other => panic!("a confirm was expected: {other:?}"),
            }
        },
    }
}

/// Gives the worker these tasks, so that it holds tickets for them.
pub(crate) async fn give(
    owner: &mut dyn OwnerQueue,
    worker: &mut Worker,
    id: u64,
    indices: impl IntoIterator<Item = u32>,
) -> pictor_queue::Receipt {
    assert!(assign(owner, worker.id, assignment(id, indices)).await, "the worker has a queue");
    let (assignment, receipt) = worker.assigned().await;
    assert_eq!(assignment.id, id);
    receipt
}

/// A virtual host, and a broker with its management service.
pub(crate) fn managed(queues: Queues) -> (String, Broker) {
    let Vhost { amqp_url, management_url, .. } = RabbitMq::start().vhost_of(queues);
    let broker = Broker::new(address(&amqp_url), Some(&management_url), None).unwrap();
    (amqp_url, broker)
}

pub(crate) async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

/// Sends raw bytes, as a client with these permissions but without our program could.
pub(crate) async fn send(
    channel: &Channel,
    target: (&str, &str),
    bytes: &[u8],
) -> lapin::Result<()> {
    send_with(channel, target, bytes, BasicProperties::default()).await
}

pub(crate) async fn send_with(
    channel: &Channel,
    (exchange, key): (&str, &str),
    bytes: &[u8],
    properties: BasicProperties,
) -> lapin::Result<()> {
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), options, bytes, properties);
    sent.await?.await.map(drop)
}

/// A report as the broker holds it.
pub(crate) fn wire(report: &Report, tickets: &[Ticket]) -> Vec<u8> {
    serde_json::to_vec(&json!({ "report": { "message": report, "tickets": tickets } })).unwrap()
}
