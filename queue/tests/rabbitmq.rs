//! What holds over RabbitMQ while it works: what is delivered again, which messages are accepted.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use lapin::Channel;
use lapin::options::{QueueDeleteOptions, QueuePurgeOptions};
use pictor_queue::{
    Broker, BrokerError, Incoming, OwnerQueue, Publication, RabbitWorker, Sealer, ToOwner,
    WorkerQueue,
};
use pictor_tasks::message::{Report, StepKey, Try, What};
use pictor_test_servers::{Queues, RabbitMq, Vhost};
use support::{
    KEY, ONE, REPORTS, TWO, Worker, address, assign, assignment, connect, ended, give, key,
    managed, next, next_report, over_both_types, own, owner, report, send, tries, wire, within,
    worker,
};
use tokio::task::JoinSet;

over_both_types!(
    what_was_not_settled_comes_again_when_the_worker_comes_again,
    the_next_owner_gets_the_messages_when_the_first_is_gone_and_what_it_did_not_acknowledge,
    an_owner_that_stands_for_election_again_gets_again_what_it_did_not_acknowledge,
    what_cannot_be_read_is_handed_over_as_it_is_and_does_not_come_again,
    lost_queues_are_made_again_and_nothing_waits_for_what_was_purged,
    the_broker_says_how_full_its_queues_are,
);

/// A virtual host with the queues of two workers, an owner, and the first worker.
async fn farm(queues: Queues) -> (String, Box<dyn OwnerQueue>, Worker) {
    let url = RabbitMq::start().vhost_of(queues).amqp_url;
    let broker = Broker::new(address(&url), None, None).unwrap();
    broker.add_worker(ONE, "").await.unwrap();
    broker.add_worker(TWO, "").await.unwrap();
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    let worker = worker(&url, ONE);
    (url, owner, worker)
}

async fn what_was_not_settled_comes_again_when_the_worker_comes_again(queues: Queues) {
    let (url, mut owner, worker) = farm(queues).await;
    drop(worker);
    let (mut queue, reports) = RabbitWorker::connect(address(&url), ONE);
    let mut receipts = Vec::new();
    for id in 1..=3 {
        assert!(assign(&mut *owner, ONE, assignment(id, [0])).await);
        receipts.push(within("a delivery", queue.receive()).await.unwrap().receipt);
    }
    receipts.remove(1).settle();
    drop(receipts);
    reports.close().await;
    assert!(queue.receive().await.is_none(), "a closed queue gives nothing any more");
    let mut again = support::worker(&url, ONE);
    for id in [1, 3] {
        assert_eq!(again.assigned().await.0.id, id);
    }
    assert!(assign(&mut *owner, ONE, assignment(4, [0])).await);
    assert_eq!(again.assigned().await.0.id, 4);
}

async fn the_next_owner_gets_the_messages_when_the_first_is_gone_and_what_it_did_not_acknowledge(
    queues: Queues,
) {
    let (url, mut first, mut worker) = farm(queues).await;
    give(&mut *first, &mut worker, 1, 0..5).await.settle();
    let mut second = owner(&url);
    let mut standing_by = tokio::spawn(async move {
        own(&mut *second, 2).await;
        second
    });
    // The second one's mark arrives at the first: it is connected, and not the owner.
    let mut batch = Vec::new();
    while !matches!(batch.as_slice(), [Incoming::Message(ToOwner::Barrier(_))]) {
        batch.clear();
        tokio::select! {
            _ = first.receive(&mut batch, 1) => first.acknowledge(),
            _ = &mut standing_by => panic!("there are two owners"),
        }
    }
    for index in 0..3 {
        worker.say(ended([index])).await;
    }
    assert_eq!(next_report(&mut *first).await.what, ended([0]));
    first.acknowledge();
    assert_eq!(next_report(&mut *first).await.what, ended([1]));
    assert_eq!(next_report(&mut *first).await.what, ended([2]));
    assert!(!standing_by.is_finished());
    drop(first);
    let mut second = standing_by.await.unwrap();
    assert_eq!(next_report(&mut *second).await.what, ended([1]));
    assert_eq!(next_report(&mut *second).await.what, ended([2]));
    second.acknowledge();
    // Tickets outlive a takeover.
    worker.say(ended([4])).await;
    assert_eq!(next_report(&mut *second).await.what, ended([4]));
}

async fn an_owner_that_stands_for_election_again_gets_again_what_it_did_not_acknowledge(
    queues: Queues,
) {
    let (_url, mut owner, mut worker) = farm(queues).await;
    give(&mut *owner, &mut worker, 1, 0..2).await.settle();
    worker.say(ended([0])).await;
    assert_eq!(next_report(&mut *owner).await.what, ended([0]));
    own(&mut *owner, 2).await;
    assert_eq!(next_report(&mut *owner).await.what, ended([0]));
    owner.acknowledge();
    worker.say(ended([1])).await;
    own(&mut *owner, 3).await;
    assert_eq!(next_report(&mut *owner).await.what, ended([1]));
}

#[tokio::test]
async fn a_worker_drops_what_a_former_owner_sends() {
    let (_url, mut owner, mut worker) = farm(Queues::Classic).await;
    owner.begin(2, KEY);
    assert!(assign(&mut *owner, ONE, assignment(1, [0])).await);
    owner.begin(1, KEY);
    assert!(assign(&mut *owner, ONE, assignment(2, [0])).await);
    assert_eq!(owner.publish(ONE, support::cancel([0])), Publication::Pending);
    owner.begin(2, KEY);
    assert!(assign(&mut *owner, ONE, assignment(3, [0])).await);
    assert_eq!(worker.assigned().await.0.id, 1);
    assert_eq!(worker.assigned().await.0.id, 3);
}

async fn what_cannot_be_read_is_handed_over_as_it_is_and_does_not_come_again(queues: Queues) {
    let (url, mut first, mut worker) = farm(queues).await;
    let (_connection, channel) = connect(&url).await.unwrap();
    let garbage: [&[u8]; 4] = [b"", b"\xff\xfe", b"{\"report\":7}", b"{\"baRRier\":7}"];
    for bytes in garbage {
        send(&channel, REPORTS, bytes).await.unwrap();
        send(&channel, ("pictor.workers", "1"), bytes).await.unwrap();
    }
    for bytes in garbage {
        match next(&mut *first).await {
            Incoming::Rejected { raw, reason } => {
                assert_eq!(raw, bytes);
                assert!(reason.starts_with("the message cannot be read: "), "{reason}");
            }
            other => panic!("not rejected: {other:?}"),
        }
    }
    give(&mut *first, &mut worker, 1, [0]).await.settle();
    first.acknowledge();
    drop(first);
    worker.say(ended([0])).await;
    let mut second = owner(&url);
    own(&mut *second, 2).await;
    assert_eq!(next_report(&mut *second).await.what, ended([0]));
}

#[tokio::test]
async fn a_report_without_the_right_tickets_is_refused_whatever_it_says() {
    let (url, mut owner, _worker) = farm(Queues::Classic).await;
    let (_connection, channel) = connect(&url).await.unwrap();
    let (old, now, next_epoch) = (Sealer::new(1, KEY), Sealer::new(2, KEY), Sealer::new(3, KEY));
    own(&mut *owner, 2).await;
    let task = Try { index: 1, attempt: 1 };
    let all = [
        What::Claimed(vec![task]),
        What::Progress { task, fraction: 0.5, message: String::new() },
        ended([1]),
        What::Released(vec![task]),
    ];
    for what in all {
        let said = report(ONE, what);
        for sealer in [&old, &now] {
            let ticket = sealer.seal(&key(), task, ONE);
            send(&channel, REPORTS, &wire(&said, &[ticket])).await.unwrap();
            assert_eq!(next_report(&mut *owner).await, said);
        }
        let other_run = StepKey { step: 1, ..key() };
        let forged = "the ticket is not valid for this task and this worker";
        let wrong = [
            (now.seal(&key(), Try { index: 2, attempt: 1 }, ONE), forged),
            (now.seal(&key(), Try { index: 1, attempt: 2 }, ONE), forged),
            (now.seal(&other_run, task, ONE), forged),
            (now.seal(&key(), task, TWO), forged),
            (Sealer::new(2, [8; 32]).seal(&key(), task, ONE), forged),
            (next_epoch.seal(&key(), task, ONE), "the ticket is from epoch 3, which has not begun"),
        ];
        for (ticket, why) in wrong {
            let reason = format!("task 1 (attempt 1): {why}");
            refused(&mut *owner, &channel, wire(&said, &[ticket]), &reason).await;
        }
        let right = now.seal(&key(), task, ONE);
        let none = wire(&said, &[]);
        refused(&mut *owner, &channel, none, "1 tasks came with 0 tickets").await;
        let two = wire(&said, &[right, right]);
        refused(&mut *owner, &channel, two, "1 tasks came with 2 tickets").await;
        // The ticket is valid, but for another worker than the sender.
        let stolen = wire(&Report { worker: TWO, ..said.clone() }, &[right]);
        let reason = format!("task 1 (attempt 1): {forged}");
        refused(&mut *owner, &channel, stolen, &reason).await;
    }
    let nothing = wire(&report(ONE, What::Claimed(Vec::new())), &[]);
    refused(&mut *owner, &channel, nothing, "the report names no task").await;
    let half = wire(&report(ONE, ended([1, 2])), &[now.seal(&key(), task, ONE); 2]);
    let reason = "task 2 (attempt 1): the ticket is not valid for this task and this worker";
    refused(&mut *owner, &channel, half, reason).await;
}

async fn refused(owner: &mut dyn OwnerQueue, channel: &Channel, bytes: Vec<u8>, why: &str) {
    send(channel, REPORTS, &bytes).await.unwrap();
    match next(owner).await {
        Incoming::Rejected { raw, reason } => assert_eq!((raw, &*reason), (bytes, why)),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn tickets_come_with_the_tasks_and_go_with_the_last_report() {
    let (url, mut owner, worker) = farm(Queues::Classic).await;
    drop(worker);
    let (mut queue, reports) = RabbitWorker::connect(address(&url), ONE);
    assert!(assign(&mut *owner, ONE, assignment(1, [0, 1, 2])).await);
    within("a delivery", queue.receive()).await.unwrap().receipt.settle();
    let task = |index| Try { index, attempt: 1 };
    let sealer = Sealer::new(1, KEY);
    for index in 0..3 {
        let ticket = reports.ticket(&key(), task(index)).unwrap();
        assert_eq!(sealer.verify(&ticket, &key(), task(index), ONE), Ok(()));
    }
    reports.send(report(ONE, What::Claimed(tries(0..3)))).await.unwrap();
    reports.send(report(ONE, ended([0]))).await.unwrap();
    reports.send(report(ONE, What::Released(tries([1])))).await.unwrap();
    // Without its ticket nobody would accept it: it is not sent at all.
    reports.send(report(ONE, ended([0]))).await.unwrap();
    reports.send(report(ONE, ended([2]))).await.unwrap();
    for what in [What::Claimed(tries(0..3)), ended([0]), What::Released(tries([1])), ended([2])] {
        assert_eq!(next_report(&mut *owner).await.what, what);
    }
    assert!((0..3).all(|index| reports.ticket(&key(), task(index)).is_none()));
}

async fn lost_queues_are_made_again_and_nothing_waits_for_what_was_purged(queues: Queues) {
    let (url, broker) = managed(queues);
    let mut worker = worker(&broker.add_worker(ONE, "one").await.unwrap(), ONE);
    let mut first = owner(&url);
    own(&mut *first, 1).await;
    give(&mut *first, &mut worker, 1, 0..4).await.settle();
    drop(first);
    worker.say(ended([0])).await;
    let (_connection, channel) = connect(&url).await.unwrap();
    channel.queue_purge("pictor.reports".into(), QueuePurgeOptions::default()).await.unwrap();
    let mut owner = owner(&url);
    own(&mut *owner, 2).await;
    worker.say(ended([1])).await;
    assert_eq!(next_report(&mut *owner).await.what, ended([1]));
    owner.acknowledge();

    for queue in ["pictor.reports", "pictor.worker.1"] {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }
    // Sent while there may be no queue: it is not lost.
    let (outbox, said) = (worker.outbox.clone(), worker.report(ended([2])));
    let said = tokio::spawn(async move { outbox.send(said).await });
    let (mut id, mut reported, mut confirmed) = (10, false, false);
    assert_eq!(owner.publish(ONE, assignment(id, [5])), Publication::Pending);
    while !(reported && confirmed) {
        match next(&mut *owner).await {
            Incoming::Published { confirmed: false, .. } => {
                id += 1;
                owner.publish(ONE, assignment(id, [5]));
            }
            Incoming::Published { confirmed: true, .. } => confirmed = true,
            Incoming::Message(ToOwner::Report(report)) => reported |= report.what == ended([2]),
            other => panic!("what is this: {other:?}"),
        }
    }
    said.await.unwrap().unwrap();
    worker.assigned().await.1.settle();
    owner.barrier(5);
    let mut batch = Vec::new();
    while !batch.drain(..).any(|i| matches!(i, Incoming::Message(ToOwner::Barrier(5)))) {
        within("the mark", owner.receive(&mut batch, 10)).await;
    }
    assert!(owner.is_drained());
}

async fn the_broker_says_how_full_its_queues_are(queues: Queues) {
    let Vhost { amqp_url: url, management_url, .. } = RabbitMq::start().vhost_of(queues);
    for management in [None, Some(management_url)] {
        let broker = Broker::new(address(&url), management.as_deref(), None).unwrap();
        broker.add_worker(ONE, "one").await.unwrap();
        let (_connection, channel) = connect(&url).await.unwrap();
        send(&channel, REPORTS, b"{}").await.unwrap();
        let reports = within("the depth", async {
            loop {
                // The service updates its counts every few seconds.
                let depths = broker.depths().await.unwrap();
                let reports = depths.into_iter().find(|depth| depth.queue == "pictor.reports");
                match reports {
                    Some(depth) if depth.ready > 0 => return depth,
                    _ => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        assert_eq!((reports.ready, reports.unacknowledged), (1, 0));
        channel.queue_purge("pictor.reports".into(), QueuePurgeOptions::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_messages_may_be_under_way_at_once() {
    const MESSAGES: u32 = 5000;
    let (_url, mut owner, mut worker) = farm(Queues::Classic).await;
    for index in 0..MESSAGES {
        let message = assignment(index.into(), [index]);
        assert_eq!(owner.publish(ONE, message), Publication::Pending);
    }
    let mut batch = Vec::new();
    let mut confirmed = 0;
    while confirmed < MESSAGES as usize {
        within("a confirm", owner.receive(&mut batch, 256)).await;
        confirmed += batch.drain(..).filter(is_confirm).count();
    }
    for index in 0..MESSAGES {
        let (assignment, receipt) = worker.assigned().await;
        assert_eq!(assignment.id, u64::from(index));
        receipt.settle();
    }
    let (outbox, id) = (worker.outbox.clone(), worker.id);
    let senders: JoinSet<_> = (0..MESSAGES)
        .map(|index| {
            let (outbox, said) = (outbox.clone(), ToOwner::Report(report(id, ended([index]))));
            async move { outbox.send(said).await.unwrap() }
        })
        .collect();
    for _ in 0..MESSAGES {
        next_report(&mut *owner).await;
        owner.acknowledge();
    }
    within("the confirms", senders.join_all()).await;
}

fn is_confirm(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Published { confirmed: true, .. })
}

#[test]
fn wrong_addresses_are_named_without_their_passwords() {
    let wrong = pictor_queue::Address::new("http://user:secret@host/x", None).unwrap_err();
    assert!(
        matches!(wrong, BrokerError::Invalid(_)) && !wrong.to_string().contains("secret"),
        "{wrong}"
    );
    let right = address("amqps://user:secret@host:5671/farm");
    assert_eq!(format!("{right:?}"), "amqps://host:5671/farm");
    for wrong in ["no address", "mailto:user:secret@host"] {
        let error = Broker::new(right.clone(), Some(wrong), None).unwrap_err();
        assert!(
            matches!(error, BrokerError::Invalid(_)) && !error.to_string().contains("secret"),
            "{error}"
        );
    }
    let broker = Broker::new(right, Some("http://admin:secret@host:15672"), None).unwrap();
    assert!(!format!("{broker:?}").contains("secret"), "{broker:?}");
}
