//! Baselines: the speed of Postgres and RabbitMQ themselves, with the durability that the farm has.

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions};
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, PublisherConfirm,
};
use pictor_benches::floor;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// One-row commits to a Postgres table.
pub(crate) struct Commits(PgConnection);

impl Commits {
    pub(crate) async fn open(url: &str) -> Self {
        let mut on = PgConnection::connect(url).await.expect("the database answers");
        let table = "CREATE TABLE floor (number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, \
                     text text NOT NULL)";
        sqlx::query(table).execute(&mut on).await.expect("the database works");
        Self(on)
    }

    /// Commits one row; returns seconds.
    pub(crate) async fn commit(&mut self) -> f64 {
        let started = Instant::now();
        let insert = sqlx::query("INSERT INTO floor (text) VALUES ($1)").bind("x".repeat(60));
        insert.execute(&mut self.0).await.expect("the database works");
        started.elapsed().as_secs_f64()
    }
}

/// One end of a connection: it sends persistent messages to one durable queue and consumes another.
struct End {
    channel: Channel,
    to: &'static str,
    from: Consumer,
    // Closed when it is dropped.
    _connection: Connection,
}

impl End {
    async fn open(url: &str, to: &'static str, from: &'static str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker answers");
        let channel = connection.create_channel().await.expect("the broker works");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("the broker works");
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        for queue in [to, from] {
            let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
            declared.await.expect("the broker works");
        }
        let receiver = connection.create_channel().await.expect("the broker works");
        let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
        let from = receiver.basic_consume(from.into(), "".into(), options, table).await;
        Self { channel, to, from: from.expect("the broker works"), _connection: connection }
    }

    /// Hands a message to the broker. The confirm arrives later.
    async fn send(&self) -> PublisherConfirm {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(
            "".into(),
            self.to.into(),
            options,
            &[b'x'; 300],
            persistent,
        );
        sent.await.expect("the broker works")
    }

    async fn receive(&mut self) -> Delivery {
        self.from.next().await.expect("the broker works").expect("the broker works")
    }
}

async fn acknowledge(delivery: &Delivery) {
    delivery.ack(BasicAckOptions::default()).await.expect("the broker works");
}

/// Sends messages from one connection to another.
pub(crate) struct Trips {
    sender: End,
    receiver: End,
}

impl Trips {
    pub(crate) async fn open(url: &str) -> Self {
        let sender = End::open(url, "floor", "nothing").await;
        Self { sender, receiver: End::open(url, "nothing", "floor").await }
    }

    /// Sends one persistent message; returns the seconds from its publication to its arrival. After that it is
    /// confirmed and acknowledged, so that the next one can be sent.
    pub(crate) async fn trip(&mut self) -> f64 {
        let started = Instant::now();
        let confirm = self.sender.send().await;
        let delivery = self.receiver.receive().await;
        let arrived = started.elapsed().as_secs_f64();
        confirm.await.expect("the broker works");
        acknowledge(&delivery).await;
        arrived
    }
}

/// The hops of a chain without engine and worker: a message that arrives is committed and answered, as by an owner, and
/// an assignment is reported, as by a worker. Broker and database work at the same time, on the same disk and
/// processors, which commits and trips alone do not show.
pub(crate) struct Relay {
    owner: End,
    worker: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn open(url: &str) -> Self {
        let owner = End::open(url, "assignments", "reports").await;
        let mut end = End::open(url, "reports", "assignments").await;
        let worker = tokio::spawn(async move {
            loop {
                let assignment = end.receive().await;
                let confirm = end.send().await;
                confirm.await.expect("the broker works");
                acknowledge(&assignment).await;
            }
        });
        Self { owner, worker }
    }

    /// Makes `count` hops; returns seconds.
    pub(crate) async fn hops(&mut self, store: &mut floor::Commits, count: u32) -> f64 {
        let started = Instant::now();
        let mut confirm = self.owner.send().await;
        for hop in 1..=count {
            let report = self.owner.receive().await;
            store.commit(1).await;
            confirm.await.expect("the broker works");
            if hop == count {
                acknowledge(&report).await;
                break;
            }
            confirm = self.owner.send().await;
            acknowledge(&report).await;
        }
        started.elapsed().as_secs_f64()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.worker.abort();
    }
}
