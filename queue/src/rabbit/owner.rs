//! The owner's end. It is a state machine beside the connection: `wait` advances it; everything else takes what has
//! arrived, or puts frames into lapin's queue, without waiting.

use super::connection::{Address, Deliveries, Endpoint, Link, Publishing, Session};
use super::{REPORTS, WORKERS, declare_worker, user, wire};
use crate::{Check, Incoming, OwnerQueue, Publication, Sealer, SendError, ToOwner, ToWorker};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use lapin::Confirmation;
use lapin::message::{BasicReturnMessage, Delivery};
use lapin::types::ShortString;
use pictor_tasks::message::{What, WorkerId};
use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

/// Publications that may wait for their confirm at once.
const UNCONFIRMED: usize = 16_384;
/// How often a server that is not the owner checks whether it has become the owner.
const LOOK: Duration = Duration::from_secs(1);
/// Time after which a mark that has not come back is sent again.
const LOST: Duration = Duration::from_secs(5);
/// Reports that are checked at the same time.
const CHECKS: usize = 64;
/// Time after which a check counts as held up: what it needs cannot be reached.
const HELD_UP: Duration = Duration::from_secs(5);
/// How long a worker's queue stays gone before it is created again. RabbitMQ notifies a consumer some 30 ms after the
/// end of a quorum queue, and never if there is a new one of that name by then.
const REMAKE: Duration = Duration::from_secs(1);

/// The owner's end of the queue.
#[derive(Debug)]
pub struct RabbitOwner {
    link: Link,
    session: Option<(Arc<Session>, Deliveries)>,
    last_session: u64,
    sealer: Option<Sealer>,
    /// The virtual host, if each worker has a user of its own there; `None` if all share one.
    vhost: Option<String>,
    /// Messages that have arrived and were not looked at yet.
    arrived: VecDeque<Delivery>,
    check: Option<Check>,
    /// Messages that are being checked, and after that those that can be handed out, each with its delivery tag.
    checking: FuturesOrdered<BoxFuture<'static, (u64, Incoming)>>,
    checked: VecDeque<(u64, Incoming)>,
    /// When a check began or ended last.
    progressed: Instant,
    /// The last delivery tag that was handed out and is not acknowledged.
    given_out: Option<u64>,
    /// Publications that wait for their confirm, oldest first; assignments with their id.
    unconfirmed: VecDeque<(Option<u64>, Confirming)>,
    /// Assignments that the broker returned before their confirm, because the worker has no queue.
    returned: HashMap<u64, WorkerId>,
    /// Assignments that wait until a worker's queue has been created again, and only then fail: otherwise they would be
    /// assigned and returned over and over.
    remaking: FuturesUnordered<BoxFuture<'static, u64>>,
    /// Assignments that were not sent, or may not have been. They fail when the broker is back: until then each retry
    /// would fail at once.
    failed: Vec<u64>,
    /// Results that were not handed out yet.
    answers: VecDeque<Incoming>,
    /// Marks that have not come back.
    marks: Vec<u64>,
    /// The mark that, once it comes back, shows that everything before it has been received.
    drained_by: Option<u64>,
    /// When the marks were last sent. They are sent again in case the queue was purged.
    marked: Instant,
}

struct Confirming(Publishing);

impl std::fmt::Debug for Confirming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Confirming")
    }
}

impl RabbitOwner {
    /// The owner's end of the queue at this broker, if all workers share one user; otherwise see
    /// [`Broker::owner`](crate::Broker::owner). The connection is made in the background and kept up for ever.
    pub fn connect(address: Address) -> Self {
        Self::new(address, None)
    }

    pub(super) fn new(address: Address, vhost: Option<String>) -> Self {
        Self {
            link: Link::start(address, Endpoint::Owner),
            session: None,
            last_session: 0,
            sealer: None,
            vhost,
            arrived: VecDeque::new(),
            check: None,
            checking: FuturesOrdered::new(),
            checked: VecDeque::new(),
            progressed: Instant::now(),
            given_out: None,
            unconfirmed: VecDeque::new(),
            returned: HashMap::new(),
            remaking: FuturesUnordered::new(),
            failed: Vec::new(),
            answers: VecDeque::new(),
            marks: Vec::new(),
            drained_by: None,
            marked: Instant::now(),
        }
    }

    /// Has every report checked before it is received.
    #[must_use]
    pub fn checked(self, check: Check) -> Self {
        Self { check: Some(check), ..self }
    }

    /// Advances by one step: a session begins or ends, a message arrives, or a confirm. Cancel safe.
    async fn wait(&mut self) {
        let Some((_, deliveries)) = &mut self.session else {
            match self.link.session_after(self.last_session).await {
                Some(session) => self.begin_session(session),
                None => pending().await,
            }
            return;
        };
        tokio::select! {
            biased;
            (id, result) = first(&mut self.unconfirmed) => self.confirmed(id, result),
            Some(checked) = self.checking.next() => {
                self.progressed = Instant::now();
                self.checked.push_back(checked);
            }
            delivery = deliveries.next() => match delivery {
                Some(delivery) => self.arrived.push_back(delivery),
                None => self.end_session(),
            },
            Some(id) = self.remaking.next() => {
                self.answers.push_back(Incoming::Published { id, confirmed: false });
            }
        }
    }

    fn begin_session(&mut self, session: Arc<Session>) {
        self.last_session = session.number;
        let deliveries = session.deliveries();
        self.session = Some((session, deliveries));
        let failed = self.failed.drain(..).map(|id| Incoming::Published { id, confirmed: false });
        self.answers.extend(failed);
        self.look();
    }

    /// Forgets everything that belongs to the ended session.
    fn end_session(&mut self) {
        if let Some((session, _)) = self.session.take() {
            session.end();
        }
        self.failed.extend(self.unconfirmed.drain(..).filter_map(|(id, _)| id));
        self.arrived.clear();
        self.checked.clear();
        self.checking = FuturesOrdered::new();
        self.returned.clear();
        (self.given_out, self.drained_by) = (None, None);
    }

    /// Sends a mark to itself, behind everything that is queued now. It arrives once reports come to this server's
    /// connection, and everything before it has arrived.
    fn look(&mut self) {
        self.drained_by = Some(pictor_net::random());
        self.send_marks();
    }

    fn send_marks(&mut self) {
        self.marked = Instant::now();
        for mark in self.marks.clone().into_iter().chain(self.drained_by) {
            self.send_mark(mark);
        }
    }

    fn send_mark(&mut self, mark: u64) {
        if let Some((session, _)) = &self.session {
            let sent = session.publish(REPORTS, REPORTS, wire::barrier(mark), None);
            self.unconfirmed.push_back((None, Confirming(sent)));
        }
    }

    fn confirmed(&mut self, id: Option<u64>, result: lapin::Result<Confirmation>) {
        let (confirmed, back) = match result {
            Ok(Confirmation::Ack(back)) => (true, back),
            Ok(Confirmation::Nack(back)) => (false, back),
            Ok(Confirmation::NotRequested) => (false, None),
            Err(_) => {
                self.failed.extend(id);
                return self.end_session();
            }
        };
        // lapin hands a returned message to the next confirm, which may be another message's.
        if let Some((back, worker)) = back.as_ref().and_then(returned)
            && (id == Some(back) || self.unconfirmed.iter().any(|sent| sent.0 == Some(back)))
        {
            self.returned.insert(back, worker);
        }
        let Some(id) = id else { return };
        match self.returned.remove(&id) {
            Some(worker) => self.remake(worker, id),
            None => self.answers.push_back(Incoming::Published { id, confirmed }),
        }
    }

    /// Creates a worker's queue again, after a pause; then the returned assignment fails.
    fn remake(&mut self, worker: WorkerId, id: u64) {
        let Some((session, _)) = &self.session else { return self.failed.push(id) };
        let channel = session.publisher.clone();
        self.remaking.push(Box::pin(async move {
            sleep(REMAKE).await;
            // An error closes the channel, which ends the session.
            let declared = declare_worker(&channel, worker).await;
            warn!(worker = worker.0, ok = declared.is_ok(), "the queue of a worker was gone");
            id
        }));
    }

    /// Decodes what has arrived and begins to check it, as far as there is room. Returns whether that was anything.
    fn look_at_arrived(&mut self, sealer: &Sealer) -> bool {
        let before = self.arrived.len();
        while self.checking.len() < CHECKS
            && let Some(Delivery { delivery_tag: tag, data, properties, .. }) =
                self.arrived.pop_front()
        {
            // The broker has made sure that this is who sent it.
            let sender = properties.user_id().as_ref().map(ShortString::as_str);
            let is_from = |worker| {
                let vhost = self.vhost.as_deref();
                vhost.is_none_or(|vhost| sender == Some(&user(vhost, worker)))
            };
            let incoming = wire::incoming(sealer, data, is_from);
            match (&self.check, incoming) {
                (Some(Check(check)), Incoming::Message(ToOwner::Report(report)))
                    if matches!(report.what, What::Ended(_)) =>
                {
                    self.progressed = Instant::now();
                    let check = check(report);
                    let checked =
                        async move { (tag, Incoming::Message(ToOwner::Report(check.await))) };
                    self.checking.push_back(Box::pin(checked));
                }
                (_, incoming) if self.checking.is_empty() => {
                    self.checked.push_back((tag, incoming));
                }
                (_, incoming) => {
                    self.checking.push_back(Box::pin(std::future::ready((tag, incoming))));
                }
            }
        }
        self.arrived.len() < before
    }

    fn give_out(&mut self, (tag, incoming): (u64, Incoming)) -> Incoming {
        self.given_out = Some(tag);
        if let Incoming::Message(ToOwner::Barrier(mark)) = incoming {
            self.marks.retain(|waiting| *waiting != mark);
            if self.drained_by == Some(mark) {
                self.drained_by = None;
            }
        }
        incoming
    }
}

#[async_trait]
impl OwnerQueue for RabbitOwner {
    async fn elected(&mut self) {
        self.sealer = None;
        if self.given_out.is_some() || !self.checked.is_empty() || !self.checking.is_empty() {
            self.end_session();
        }
        self.look();
        while self.arrived.is_empty() {
            if timeout_at(self.marked + LOOK, self.wait()).await.is_err() {
                self.send_marks();
            }
        }
    }

    fn begin(&mut self, epoch: u64, ticket_key: [u8; 32]) {
        self.sealer = Some(Sealer::new(epoch, ticket_key));
        self.look();
    }

    async fn receive(&mut self, batch: &mut Vec<Incoming>, limit: usize) -> usize {
        let before = batch.len();
        loop {
            self.try_receive(batch, before + limit);
            if batch.len() > before {
                return batch.len() - before;
            }
            if self.marks.is_empty() && self.drained_by.is_none() {
                self.wait().await;
            } else if timeout_at(self.marked + LOST, self.wait()).await.is_err() {
                self.send_marks();
            }
        }
    }

    fn try_receive(&mut self, batch: &mut Vec<Incoming>, limit: usize) {
        let Some(sealer) = self.sealer.clone() else { return };
        while batch.len() < limit {
            if let Some(answer) = self.answers.pop_front() {
                batch.push(answer);
            } else if let Some(checked) = self.checked.pop_front() {
                let incoming = self.give_out(checked);
                batch.push(incoming);
            } else if self.look_at_arrived(&sealer) {
                // Some of it may be handed out now.
            } else if self.wait().now_or_never().is_none() {
                return;
            }
        }
    }

    fn acknowledge(&mut self) {
        if let (Some((session, _)), Some(tag)) = (&self.session, self.given_out.take()) {
            session.acknowledge(tag, true);
        }
    }

    fn publish(&mut self, worker: WorkerId, message: ToWorker) -> Publication {
        let Some(sealer) = &self.sealer else { return Publication::Failed(SendError::Away) };
        let id = match &message {
            ToWorker::Assign(assignment) => Some(assignment.id),
            ToWorker::Cancel(_) => None,
        };
        if self.unconfirmed.len() + self.failed.len() >= UNCONFIRMED {
            return Publication::Failed(SendError::Full);
        }
        let Some((session, _)) = &self.session else {
            self.failed.extend(id);
            return id.map_or(Publication::Failed(SendError::Away), |_| Publication::Pending);
        };
        let payload = wire::to_worker(sealer, worker, &message);
        let sent = session.publish(WORKERS, &worker.0.to_string(), payload, id);
        self.unconfirmed.push_back((id, Confirming(sent)));
        Publication::Pending
    }

    fn barrier(&mut self, mark: u64) {
        self.marks.push(mark);
        self.send_mark(mark);
    }

    fn is_drained(&self) -> bool {
        let is_held_up = !self.checking.is_empty() && self.progressed.elapsed() >= HELD_UP;
        self.session.is_some() && self.drained_by.is_none() && !is_held_up
    }
}

/// The id of the returned assignment, and the worker that has no queue.
fn returned(back: &BasicReturnMessage) -> Option<(u64, WorkerId)> {
    let id = back.delivery.properties.message_id().as_ref()?.as_str().parse().ok()?;
    Some((id, WorkerId(back.delivery.routing_key.as_str().parse().ok()?)))
}

/// Waits for the confirm of the oldest publication. Cancel safe.
async fn first(
    unconfirmed: &mut VecDeque<(Option<u64>, Confirming)>,
) -> (Option<u64>, lapin::Result<Confirmation>) {
    let Some((_, Confirming(confirming))) = unconfirmed.front_mut() else { return pending().await };
    let result = confirming.await;
    let (id, _) = unconfirmed.pop_front().expect("it was looked at");
    (id, result)
}
