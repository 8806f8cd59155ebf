//! The queue over RabbitMQ. Reports of all workers go into one queue with a single active consumer, the owner; each
//! worker has a queue of its own. Everything is durable and confirmed.

mod broker;
mod connection;
mod owner;
mod tickets;
mod worker;

pub use broker::{Broker, BrokerError, Depth};
pub use connection::Address;
pub use owner::RabbitOwner;
pub use worker::{RabbitReports, RabbitWorker};

use crate::wire;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use pictor_tasks::message::WorkerId;

/// Name of the exchange, the queue and the routing key for reports of workers.
const REPORTS: &str = "pictor.reports";
/// Name of the exchange for messages to workers; the routing key is the worker's id.
const WORKERS: &str = "pictor.workers";

/// The name of a worker's queue.
fn worker_queue(worker: WorkerId) -> String {
    format!("pictor.worker.{}", worker.0)
}

/// The user name of a worker. Users are shared by all virtual hosts of a broker, workers are not.
fn user(vhost: &str, worker: WorkerId) -> String {
    let queue = worker_queue(worker);
    if vhost == "/" { queue } else { format!("{vhost}.{queue}") }
}

/// Declares everything that the owner needs. What exists is left unchanged.
async fn declare_reports(channel: &Channel) -> lapin::Result<()> {
    for exchange in [REPORTS, WORKERS] {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let arguments = FieldTable::default();
        channel.exchange_declare(exchange.into(), ExchangeKind::Direct, options, arguments).await?;
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    channel.queue_declare(REPORTS.into(), QueueDeclareOptions::durable(), arguments).await?;
    bind(channel, REPORTS, REPORTS, REPORTS).await
}

/// Declares a worker's queue. The exchange must exist.
async fn declare_worker(channel: &Channel, worker: WorkerId) -> lapin::Result<()> {
    let (queue, arguments) = (worker_queue(worker), FieldTable::default());
    let name = ShortString::from(queue.as_str());
    channel.queue_declare(name, QueueDeclareOptions::durable(), arguments).await?;
    bind(channel, &queue, WORKERS, &worker.0.to_string()).await
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await
}
