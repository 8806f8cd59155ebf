//! What holds while the broker is killed, away, impatient, or reached over TLS. Each test has a broker of its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use pictor_queue::{
    Address, Broker, Check, Incoming, OwnerQueue, Publication, RabbitOwner, RabbitWorker, ToOwner,
    ToWorker, WorkerQueue,
};
use pictor_tasks::message::{Report, What, WorkerId};
use pictor_test_servers::{Queues, RabbitMq};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use support::{
    Worker, address, assign, assignment, ended, give, next, next_report, over_both_types, own,
    owner, report, tries, within, worker,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

const ONE: WorkerId = WorkerId(1);
const TWO: WorkerId = WorkerId(2);
/// So many that the broker dies half-way through them.
const MESSAGES: u32 = 3000;

over_both_types!(
    nothing_is_lost_when_the_broker_is_killed_while_everybody_speaks,
    while_the_broker_is_away_reports_wait_and_assignments_fail_afterwards,
    who_claims_and_then_settles_may_take_longer_than_the_broker_has_patience,
    reports_keep_their_order_however_long_their_checks_take,
    #[ignore = "long: `make soak` runs it; the chaos of the farm freezes brokers too"]
    a_broker_that_is_frozen_counts_as_away_and_everything_goes_on_when_it_wakes,
);

/// A broker, and a virtual host with the queues of two workers.
async fn broker(configuration: &str, queues: Queues) -> (RabbitMq, String) {
    let configuration = configuration.to_owned();
    let start = move || {
        let server = RabbitMq::private(&configuration);
        let url = server.vhost_of(queues).amqp_url;
        (server, url)
    };
    let (server, url) = tokio::task::spawn_blocking(start).await.unwrap();
    let broker = Broker::new(address(&url), None, None).unwrap();
    for worker in [ONE, TWO] {
        broker.add_worker(worker, "").await.unwrap();
    }
    if queues == Queues::Quorum {
        // RabbitMQ 3.10 can forget one that it created less than a second before it is killed.
        let again = server.clone();
        let in_order = move || {
            again.stop();
            again.start_again();
        };
        tokio::task::spawn_blocking(in_order).await.unwrap();
    }
    (server, url)
}

async fn reports_keep_their_order_however_long_their_checks_take(queues: Queues) {
    let (_server, url) = broker("", queues).await;
    let (begun, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (says, waits) = (begun.clone(), open.clone());
    let check = Check::new(move |mut report: Report| {
        says.add_permits(1);
        let waits = waits.clone();
        async move {
            if report.what == ended([0]) {
                waits.acquire().await.unwrap().forget();
                report.what = ended([7]);
            }
            report
        }
    });
    let checked = RabbitOwner::connect(address(&url)).checked(check);
    let mut owner: Box<dyn OwnerQueue> = Box::new(checked);
    own(&mut *owner, 1).await;
    let mut worker = worker(&url, ONE);
    give(&mut *owner, &mut worker, 1, 0..3).await.settle();
    for index in 0..3 {
        worker.say(ended([index])).await;
    }
    tokio::select! {
        report = next_report(&mut *owner) => panic!("it was not checked: {report:?}"),
        all = begun.acquire_many(3) => drop(all.unwrap()),
    }
    open.add_permits(1);
    for index in [7, 1, 2] {
        assert_eq!(next_report(&mut *owner).await.what, ended([index]));
    }
}

/// Kills the broker and starts it again.
fn kill(server: &RabbitMq) -> tokio::task::JoinHandle<()> {
    let server = server.clone();
    tokio::task::spawn_blocking(move || {
        server.kill9();
        server.start_again();
    })
}

async fn nothing_is_lost_when_the_broker_is_killed_while_everybody_speaks(queues: Queues) {
    let (server, url) = broker("", queues).await;
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    let (mut one, mut two) = (worker(&url, ONE), worker(&url, TWO));
    give(&mut *owner, &mut one, 1, 0..MESSAGES).await.settle();
    let senders = report_all(&one);
    let arriving = tokio::spawn(async move {
        let mut arrived = BTreeSet::new();
        loop {
            let (assignment, receipt) = two.assigned().await;
            receipt.settle();
            arrived.insert(assignment.id);
            if assignment.tasks.len() == 2 {
                return arrived;
            }
        }
    });
    let mut killed = None;
    let (mut reported, mut confirmed) = (BTreeSet::new(), BTreeSet::new());
    let (mut batch, mut published) = (Vec::new(), 2);
    while reported.len() < MESSAGES as usize || confirmed.len() < MESSAGES as usize {
        // One more for each that is confirmed, so that some are always in flight.
        while published < confirmed.len() as u64 + 50 && published < u64::from(MESSAGES) + 2 {
            let sent = owner.publish(TWO, assignment(published, [0]));
            assert_eq!(sent, Publication::Pending);
            published += 1;
        }
        within("a message", owner.receive(&mut batch, 100)).await;
        for incoming in batch.drain(..) {
            match incoming {
                Incoming::Message(ToOwner::Report(report)) => {
                    let What::Ended(ends) = report.what else { panic!("only ends were sent") };
                    reported.extend(ends.iter().map(|end| end.task.index));
                }
                Incoming::Published { id, confirmed: true } => drop(confirmed.insert(id)),
                Incoming::Published { id, confirmed: false } => {
                    owner.publish(TWO, assignment(id, [0]));
                }
                Incoming::Message(_) => {}
                Incoming::Rejected { reason, .. } => panic!("{reason}"),
            }
        }
        owner.acknowledge();
        if killed.is_none() && reported.len() > 100 && confirmed.len() > 100 {
            killed = Some(kill(&server));
        }
    }
    within("the broker", killed.unwrap()).await.unwrap();
    within("the confirms", senders.join_all()).await;
    assert!(assign(&mut *owner, TWO, assignment(1, [0, 1])).await);
    let arrived = within("the assignments", arriving).await.unwrap();
    assert!(confirmed.is_subset(&arrived), "what was confirmed has arrived");
}

/// Receives until the owner has noticed that the broker is away.
async fn lose(owner: &mut dyn OwnerQueue) {
    let mut batch = Vec::new();
    let noticed = async {
        while owner.is_drained() {
            // It receives nothing any more, and only advances while it is awaited.
            let _ = timeout(Duration::from_millis(10), owner.receive(&mut batch, 1)).await;
        }
    };
    within("the loss", noticed).await;
    assert!(batch.is_empty(), "{batch:?}");
}

/// Reports the end of every task, eight at a time.
fn report_all(worker: &Worker) -> JoinSet<()> {
    let mut senders = JoinSet::new();
    for sender in 0..8 {
        let (outbox, id) = (worker.outbox.clone(), worker.id);
        senders.spawn(async move {
            for index in (sender..MESSAGES).step_by(8) {
                outbox.send(ToOwner::Report(report(id, ended([index])))).await.unwrap();
            }
        });
    }
    senders
}

async fn while_the_broker_is_away_reports_wait_and_assignments_fail_afterwards(queues: Queues) {
    let (server, url) = broker("", queues).await;
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    let (mut queue, reports) = RabbitWorker::connect(address(&url), ONE);
    let mut receipts = Vec::new();
    for id in 1..=3 {
        assert!(assign(&mut *owner, ONE, assignment(id, [u32::try_from(id).unwrap()])).await);
        receipts.push(within("a delivery", queue.receive()).await.unwrap().receipt);
    }
    reports.send(report(ONE, What::Claimed(tries([1])))).await.unwrap();
    assert_eq!(next_report(&mut *owner).await.what, What::Claimed(tries([1])));
    assert!(owner.is_drained());
    server.kill9();
    let waits = reports.clone();
    let waits = tokio::spawn(async move { waits.send(report(ONE, ended([1]))).await });
    // What is committed and settled while the broker is away must not be acknowledged once it is back, where the same
    // delivery tags mean other messages.
    owner.acknowledge();
    receipts.remove(0).settle();
    lose(&mut *owner).await;
    assert_eq!(owner.publish(ONE, assignment(4, [4])), Publication::Pending);
    assert!(matches!(owner.publish(ONE, support::cancel([4])), Publication::Failed(_)));
    let mut batch = Vec::new();
    owner.try_receive(&mut batch, 10);
    assert!(batch.is_empty(), "nothing is known as long as the broker is away: {batch:?}");
    let again = server.clone();
    tokio::task::spawn_blocking(move || again.start_again()).await.unwrap();
    match next(&mut *owner).await {
        Incoming::Published { id: 4, confirmed: false } => {}
        other => panic!("the assignment failed: {other:?}"),
    }
    within("the report", waits).await.unwrap().unwrap();
    // The claim was received and not acknowledged in time: it is delivered again.
    assert_eq!(next_report(&mut *owner).await.what, What::Claimed(tries([1])));
    assert_eq!(next_report(&mut *owner).await.what, ended([1]));
    owner.acknowledge();
    // The settled one does not come back; the others are delivered again.
    for id in [2, 3] {
        match within("a delivery", queue.receive()).await.unwrap().message {
            ToWorker::Assign(assignment) => assert_eq!(assignment.id, id),
            ToWorker::Cancel(cancel) => panic!("nothing was cancelled: {cancel:?}"),
        }
    }
    assert!(assign(&mut *owner, ONE, assignment(5, [5])).await);
    let delivery = within("a delivery", queue.receive()).await.unwrap();
    assert_eq!(delivery.message, assignment(5, [5]));
    within("everything", async {
        while !owner.is_drained() {
            owner.receive(&mut batch, 1).await;
        }
    })
    .await;
}

async fn who_claims_and_then_settles_may_take_longer_than_the_broker_has_patience(queues: Queues) {
    let impatient = "consumer_timeout = 3000\n{channel_tick_interval, 1000}";
    let (_server, url) = broker(impatient, queues).await;
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    let (mut one, mut two) = (worker(&url, ONE), worker(&url, TWO));
    // The first one holds its delivery, the second one claims its task and settles.
    let held = give(&mut *owner, &mut one, 1, [1]).await;
    let settled = give(&mut *owner, &mut two, 2, [2]).await;
    two.say(What::Claimed(tries([2]))).await;
    settled.settle();
    assert_eq!(next_report(&mut *owner).await.what, What::Claimed(tries([2])));
    owner.acknowledge();
    // The broker loses patience with the first one, which then gets the same assignment again.
    let (again, receipt) = one.assigned().await;
    assert_eq!(again.id, 1);
    drop(held);
    receipt.settle();
    // The second one was left alone, and its task has ended.
    two.say(ended([2])).await;
    assert_eq!(next_report(&mut *owner).await.what, ended([2]));
    owner.acknowledge();
    for worker in [&mut one, &mut two] {
        give(&mut *owner, worker, 3, [3]).await.settle();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_broker_has_to_prove_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let (certificate_file, key_file) =
        (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate_file, &certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (certificate_file, key_file) = (certificate_file.display(), key_file.display());
    let configuration = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.certfile = {certificate_file}\n\
         ssl_options.cacertfile = {certificate_file}\nssl_options.keyfile = {key_file}"
    );
    let (server, url) = broker(&configuration, Queues::Classic).await;
    let url = url.replace("amqp:", "amqps:");
    let url = url.replace(&format!(":{}/", server.port()), &format!(":{port}/"));
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    for wrong in [None, Some(other.cert.pem())] {
        let stranger = Broker::new(Address::new(&url, wrong).unwrap(), None, None).unwrap();
        let error = stranger.add_worker(ONE, "").await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    let address = Address::new(&url, Some(certificate)).unwrap();
    let mut owner = RabbitOwner::connect(address.clone());
    support::own(&mut owner, 1).await;
    let (mut queue, reports) = RabbitWorker::connect(address, ONE);
    assert!(assign(&mut owner, ONE, assignment(1, [0])).await);
    within("a delivery", queue.receive()).await.unwrap().receipt.settle();
    reports.send(report(ONE, ended([0]))).await.unwrap();
    assert_eq!(next_report(&mut owner).await.what, ended([0]));
}

async fn a_broker_that_is_frozen_counts_as_away_and_everything_goes_on_when_it_wakes(
    queues: Queues,
) {
    let (server, url) = broker("", queues).await;
    let mut owner = owner(&url);
    own(&mut *owner, 1).await;
    let mut one = worker(&url, ONE);
    give(&mut *owner, &mut one, 1, [1, 2]).await.settle();
    one.say(What::Claimed(tries([1]))).await;
    assert_eq!(next_report(&mut *owner).await.what, What::Claimed(tries([1])));
    owner.acknowledge();
    assert!(owner.is_drained());
    server.freeze();
    let (outbox, said) = (one.outbox.clone(), one.report(ended([1])));
    let said = tokio::spawn(async move { outbox.send(said).await });
    assert_eq!(owner.publish(ONE, assignment(2, [3])), Publication::Pending);
    // Twice the time between heartbeats.
    lose(&mut *owner).await;
    server.thaw();
    match next(&mut *owner).await {
        Incoming::Published { id: 2, confirmed: false } => {}
        other => panic!("the assignment failed: {other:?}"),
    }
    within("the report", said).await.unwrap().unwrap();
    assert_eq!(next_report(&mut *owner).await.what, ended([1]));
}
