//! Who may do what at RabbitMQ: each worker has a user of its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use lapin::options::{
    BasicConsumeOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ExchangeKind};
use pictor_queue::{Incoming, RabbitWorker, Sealer, WorkerQueue};
use pictor_tasks::message::{Try, WorkerId};
use pictor_test_servers::Queues;
use support::{
    KEY, ONE, REPORTS, TWO, address, assign, assignment, connect, ended, give, key, managed, next,
    next_report, over_both_types, own, owner, report, send, send_with, wire, within, worker,
};

over_both_types!(
    a_worker_can_read_its_own_queue_and_write_reports_and_nothing_else,
    a_ticket_counts_only_if_its_worker_shows_it,
    a_worker_that_was_removed_is_let_in_no_more,
);

/// The reply code with which the broker refuses something.
fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

async fn forbidden<T: std::fmt::Debug>(
    connection: &Connection,
    attempt: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
) {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let error = attempt(channel).await.unwrap_err();
    assert_eq!(code(&error), Some(403), "{error}");
}

async fn a_worker_can_read_its_own_queue_and_write_reports_and_nothing_else(queues: Queues) {
    let (url, broker) = managed(queues);
    let one = broker.add_worker(ONE, "one's: p@ss/word").await.unwrap();
    broker.add_worker(TWO, "two").await.unwrap();
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    let mut worker = worker(&one, ONE);
    give(&mut *owner, &mut worker, 1, [0]).await.settle();
    worker.say(ended([0])).await;
    assert_eq!(next_report(&mut *owner).await.what, ended([0]));
    let (connection, _) = connect(&one).await.unwrap();
    let table = FieldTable::default;
    for queue in ["pictor.worker.2", "pictor.reports"] {
        forbidden(&connection, async |channel| {
            let options = BasicConsumeOptions::default();
            channel.basic_consume(queue.into(), "".into(), options, table()).await
        })
        .await;
    }
    for target in [("pictor.workers", "2"), ("", "pictor.worker.2"), ("amq.direct", "")] {
        forbidden(&connection, async |channel| send(&channel, target, b"{}").await).await;
    }
    forbidden(&connection, async |channel| {
        channel.queue_purge("pictor.worker.2".into(), QueuePurgeOptions::default()).await
    })
    .await;
    forbidden(&connection, async |channel| {
        channel.queue_delete("pictor.worker.2".into(), QueueDeleteOptions::default()).await
    })
    .await;
    forbidden(&connection, async |channel| {
        channel.queue_declare("mine".into(), QueueDeclareOptions::durable(), table()).await
    })
    .await;
    forbidden(&connection, async |channel| {
        let options = ExchangeDeclareOptions::default();
        channel.exchange_declare("mine".into(), ExchangeKind::Fanout, options, table()).await
    })
    .await;
    forbidden(&connection, async |channel| {
        let (queue, exchange) = ("pictor.worker.1".into(), "pictor.workers".into());
        let options = QueueBindOptions::default();
        channel.queue_bind(queue, exchange, "2".into(), options, table()).await
    })
    .await;
}

/// Whoever gets hold of another worker's ticket can do nothing with it: the broker says who has sent a message.
async fn a_ticket_counts_only_if_its_worker_shows_it(queues: Queues) {
    let (url, broker) = managed(queues);
    let vhost = url.rsplit('/').next().unwrap();
    let user = |id: WorkerId| format!("{vhost}.pictor.worker.{}", id.0);
    let mut honest = worker(&broker.add_worker(ONE, "one").await.unwrap(), ONE);
    let thief = broker.add_worker(TWO, "two").await.unwrap();
    let mut owner = broker.owner();
    own(&mut owner, 1).await;
    give(&mut owner, &mut honest, 1, [0]).await.settle();
    let ticket = Sealer::new(1, KEY).seal(&key(), Try { index: 0, attempt: 1 }, ONE);
    let stolen = wire(&report(ONE, ended([0])), &[ticket]);
    let (_connection, channel) = connect(&thief).await.unwrap();
    let named = BasicProperties::default().with_user_id(user(TWO).into());
    for properties in [named, BasicProperties::default()] {
        send_with(&channel, REPORTS, &stolen, properties).await.unwrap();
        match next(&mut owner).await {
            Incoming::Rejected { reason, .. } => {
                assert_eq!(reason, "worker 1 has not sent the message");
            }
            other => panic!("not refused: {other:?}"),
        }
    }
    let lie = BasicProperties::default().with_user_id(user(ONE).into());
    let refused = send_with(&channel, REPORTS, &stolen, lie).await.unwrap_err();
    assert_eq!(code(&refused), Some(406), "{refused}");
    honest.say(ended([0])).await;
    assert_eq!(next_report(&mut owner).await.what, ended([0]));
}

async fn a_worker_that_was_removed_is_let_in_no_more(queues: Queues) {
    let (url, broker) = managed(queues);
    let with_password = broker.add_worker(ONE, "first").await.unwrap();
    let (mut queue, reports) = RabbitWorker::connect(address(&with_password), ONE);
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    assert!(assign(&mut *owner, ONE, assignment(1, [0])).await);
    within("a delivery", queue.receive()).await.unwrap().receipt.settle();
    broker.remove_worker(ONE).await.unwrap();
    within("the refusal", async {
        tokio::select! {
            () = reports.refused() => {}
            _ = queue.receive() => panic!("nothing is received"),
        }
    })
    .await;
    assert_eq!(code(&connect(&with_password).await.unwrap_err()), Some(403));
    // It may register again, and gets another password.
    broker.remove_worker(ONE).await.unwrap();
    let again = broker.add_worker(ONE, "second").await.unwrap();
    assert_eq!(code(&connect(&with_password).await.unwrap_err()), Some(403));
    let mut worker = worker(&again, ONE);
    give(&mut *owner, &mut worker, 2, [0]).await.settle();
}
