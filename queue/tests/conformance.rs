//! What holds for every kind of queue: one suite over the in-process one and both types of RabbitMQ.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use pictor_queue::{Broker, Incoming, OwnerQueue, Publication, SendError, ToOwner};
use pictor_tasks::message::{Try, What, WorkerId};
use pictor_test_servers::{Queues, RabbitMq};
use support::{
    Worker, address, assign, assignment, cancel, ended, give, local, next, next_report, own, owner,
    tries, within, worker,
};

const ONE: WorkerId = WorkerId(1);
const TWO: WorkerId = WorkerId(2);
const NOBODY: WorkerId = WorkerId(3);

type TestFarm = (Box<dyn OwnerQueue>, Vec<Worker>);

/// Runs each of these over all kinds of queue, with an owner and two workers.
macro_rules! over_all {
    ($($name:ident),* $(,)?) => {
        mod in_process {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::local_farm().await).await;
            })*
        }
        mod classic {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::remote_farm(super::Queues::Classic).await).await;
            })*
        }
        mod quorum {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::remote_farm(super::Queues::Quorum).await).await;
            })*
        }
    };
}

over_all!(
    messages_arrive_in_the_order_in_which_they_were_sent,
    each_worker_gets_its_own_messages,
    a_batch_is_no_longer_than_asked_for,
    every_kind_of_report_arrives_as_it_was_sent,
    a_mark_comes_back_behind_everything_that_was_sent_before,
    a_worker_that_is_not_there_is_not_confirmed,
    what_was_begun_may_be_given_up_without_loss,
    workers_report_at_the_same_time,
);

async fn local_farm() -> TestFarm {
    let (mut owner, workers) = local(&[ONE, TWO]);
    own(&mut *owner, 1).await;
    (owner, workers)
}

async fn remote_farm(queues: Queues) -> TestFarm {
    let url = RabbitMq::start().vhost_of(queues).amqp_url;
    let broker = Broker::new(address(&url), None, None).unwrap();
    let mut workers = Vec::new();
    for id in [ONE, TWO] {
        workers.push(worker(&broker.add_worker(id, "").await.unwrap(), id));
    }
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    (owner, workers)
}

async fn messages_arrive_in_the_order_in_which_they_were_sent((mut owner, mut workers): TestFarm) {
    for id in 1..=100 {
        assert!(!matches!(owner.publish(ONE, assignment(id, [0])), Publication::Failed(_)));
        assert!(!matches!(owner.publish(ONE, cancel([0])), Publication::Failed(_)));
    }
    for id in 1..=100 {
        assert_eq!(workers[0].receive().await.message, assignment(id, [0]));
        assert_eq!(workers[0].receive().await.message, cancel([0]));
    }
    give(&mut *owner, &mut workers[1], 200, 0..200).await.settle();
    for index in 0..200 {
        workers[1].say(ended([index])).await;
    }
    for index in 0..200 {
        assert_eq!(next_report(&mut *owner).await.what, ended([index]));
    }
    owner.acknowledge();
}

async fn each_worker_gets_its_own_messages((mut owner, mut workers): TestFarm) {
    for (id, worker) in [(1, ONE), (2, TWO), (3, TWO), (4, ONE)] {
        assert!(assign(&mut *owner, worker, assignment(id, [0])).await);
    }
    for (worker, ids) in [(0, [1, 4]), (1, [2, 3])] {
        for id in ids {
            assert_eq!(workers[worker].receive().await.message, assignment(id, [0]));
        }
    }
}

async fn a_batch_is_no_longer_than_asked_for((mut owner, mut workers): TestFarm) {
    give(&mut *owner, &mut workers[0], 1, 0..10).await.settle();
    for index in 0..10 {
        workers[0].say(ended([index])).await;
    }
    let mut batch = Vec::new();
    let mut received = 0;
    while received < 10 {
        let before = batch.len();
        let count = within("a batch", owner.receive(&mut batch, 3)).await;
        assert!((1..=3).contains(&count) && batch.len() == before + count, "{batch:?}");
        received += batch[before..].iter().filter(|i| is_report(i)).count();
    }
    let before = batch.len();
    owner.try_receive(&mut batch, before);
    assert_eq!(batch.len(), before, "a full batch takes no more");
}

fn is_report(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Message(ToOwner::Report(_)))
}

async fn every_kind_of_report_arrives_as_it_was_sent((mut owner, mut workers): TestFarm) {
    give(&mut *owner, &mut workers[0], 1, 0..3).await.settle();
    let task = Try { index: 1, attempt: 1 };
    let all = [
        What::Claimed(tries(0..3)),
        What::Progress { task, fraction: 0.25, message: "sample 1/4 \u{1F3A8}".into() },
        ended([1]),
        What::Released(tries([0, 2])),
    ];
    for what in all {
        workers[0].say(what.clone()).await;
        let report = next_report(&mut *owner).await;
        assert_eq!((report.worker, report.key, report.what), (ONE, support::key(), what));
    }
}

async fn a_mark_comes_back_behind_everything_that_was_sent_before(
    (mut owner, mut workers): TestFarm,
) {
    give(&mut *owner, &mut workers[0], 1, 0..6).await.settle();
    for index in 0..3 {
        workers[0].say(ended([index])).await;
    }
    owner.barrier(77);
    owner.barrier(78);
    let (mut reports, mut batch) = (0, Vec::new());
    let mut waiting = vec![78, 77];
    while let Some(mark) = waiting.last() {
        within("a mark", owner.receive(&mut batch, 1)).await;
        match batch.pop().unwrap() {
            Incoming::Message(ToOwner::Barrier(came)) if came == *mark => drop(waiting.pop()),
            Incoming::Message(ToOwner::Report(_)) => reports += 1,
            _ => {}
        }
    }
    assert_eq!(reports, 3);
    assert!(owner.is_drained());
    workers[0].say(ended([3])).await;
    assert_eq!(next_report(&mut *owner).await.what, ended([3]));
}

async fn a_worker_that_is_not_there_is_not_confirmed((mut owner, mut workers): TestFarm) {
    assert!(!assign(&mut *owner, NOBODY, assignment(1, [0])).await);
    let sent = owner.publish(NOBODY, cancel([0]));
    assert!(matches!(sent, Publication::Pending | Publication::Failed(SendError::Gone)));
    // The others are not delayed.
    give(&mut *owner, &mut workers[0], 2, [0]).await.settle();
}

/// The losing branches of a `select!` are dropped.
async fn what_was_begun_may_be_given_up_without_loss((mut owner, mut workers): TestFarm) {
    let worker = &mut workers[0];
    for id in 1..=50 {
        assert!(assign(&mut *owner, ONE, assignment(id, 0..50)).await);
    }
    for id in 1..=50 {
        let delivery = loop {
            tokio::select! {
                biased;
                delivery = worker.queue.receive() => break delivery.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(delivery.message, assignment(id, 0..50));
        delivery.receipt.settle();
    }
    let mut batch = Vec::new();
    for index in 0..50 {
        worker.say(ended([index])).await;
        while !batch.drain(..).any(|incoming| is_report(&incoming)) {
            tokio::select! {
                biased;
                _ = owner.receive(&mut batch, 8) => {}
                () = tokio::task::yield_now() => {}
            }
        }
    }
}

async fn workers_report_at_the_same_time((mut owner, mut workers): TestFarm) {
    for worker in &mut workers {
        give(&mut *owner, worker, 1, 0..100).await.settle();
    }
    let senders = workers.iter().flat_map(|worker| {
        (0..100).map(|index| {
            let (outbox, report) = (worker.outbox.clone(), worker.report(ended([index])));
            tokio::spawn(async move { outbox.send(report).await })
        })
    });
    let senders: Vec<_> = senders.collect();
    for _ in 0..200 {
        next_report(&mut *owner).await;
        owner.acknowledge();
    }
    for sender in senders {
        sender.await.unwrap().unwrap();
    }
    assert!(next_is_silence(&mut *owner), "everything came once");
}

fn next_is_silence(owner: &mut dyn OwnerQueue) -> bool {
    let mut batch = Vec::new();
    owner.try_receive(&mut batch, 100);
    !batch.iter().any(is_report)
}

#[tokio::test]
async fn what_is_full_fails_at_once() {
    let (mut owner, _workers) = local(&[ONE]);
    let mut id = 0;
    let failed = loop {
        id += 1;
        assert!(id < 10_000, "everything has a limit");
        if let Publication::Failed(why) = owner.publish(ONE, assignment(id, [0])) {
            break why;
        }
    };
    assert_eq!(failed, SendError::Full);
}

#[tokio::test]
async fn whoever_is_left_alone_hears_of_it() {
    let (owner, mut workers) = local(&[ONE]);
    drop(owner);
    assert!(workers[0].queue.receive().await.is_none());
    assert_eq!(workers[0].outbox.send(ToOwner::Left(ONE)).await, Err(SendError::Gone));
    let (mut owner, workers) = local(&[ONE]);
    workers[0].outbox.send(ToOwner::Left(ONE)).await.unwrap();
    drop(workers);
    assert!(matches!(next(&mut *owner).await, Incoming::Message(ToOwner::Left(ONE))));
    assert_eq!(owner.receive(&mut Vec::new(), 1).await, 0);
}
