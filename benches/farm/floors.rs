//! What Postgres and RabbitMQ themselves allow, with the durability that the farm has.

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions};
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use sqlx::{Connection as _, PgConnection};
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

    /// One row, one commit; seconds.
    pub(crate) async fn commit(&mut self) -> f64 {
        let started = Instant::now();
        let insert = sqlx::query("INSERT INTO floor (text) VALUES ($1)").bind("x".repeat(60));
        insert.execute(&mut self.0).await.expect("the database works");
        started.elapsed().as_secs_f64()
    }
}

/// Messages from one connection to another over a durable queue.
pub(crate) struct Trips {
    from: Channel,
    to: Consumer,
    // Closed when they are dropped.
    _connections: [Connection; 2],
}

impl Trips {
    pub(crate) async fn open(url: &str) -> Self {
        let connect = || Connection::connect(url, ConnectionProperties::default());
        let sender = connect().await.expect("the broker answers");
        let receiver = connect().await.expect("the broker answers");
        let from = sender.create_channel().await.expect("the broker works");
        from.confirm_select(ConfirmSelectOptions::default()).await.expect("the broker works");
        let channel = receiver.create_channel().await.expect("the broker works");
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare("floor".into(), options, FieldTable::default()).await;
        declared.expect("the broker works");
        let options = BasicConsumeOptions::default();
        let to = channel.basic_consume("floor".into(), "".into(), options, FieldTable::default());
        let to = to.await.expect("the broker works");
        Self { from, to, _connections: [sender, receiver] }
    }

    /// From the publication of a persistent message to its arrival, in seconds. It is confirmed and
    /// acknowledged before the next one.
    pub(crate) async fn trip(&mut self) -> f64 {
        let started = Instant::now();
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let confirm = self
            .from
            .basic_publish("".into(), "floor".into(), options, &[b'x'; 300], persistent)
            .await
            .expect("the broker works");
        let delivery = self.to.next().await.expect("the broker works").expect("the broker works");
        let seconds = started.elapsed().as_secs_f64();
        confirm.await.expect("the broker works");
        delivery.ack(BasicAckOptions::default()).await.expect("the broker works");
        seconds
    }
}
