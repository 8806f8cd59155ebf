//! A worker's two halves: what it receives, and what it reports. Reports wait through any outage until the broker has
//! confirmed them.

use super::connection::{Address, Deliveries, Endpoint, Link, Session};
use super::tickets::Tickets;
use super::{REPORTS, wire};
use crate::{Delivery, Receipt, SendError, Ticket, ToWorker, WorkerQueue};
use async_trait::async_trait;
use lapin::Confirmation;
use pictor_net::Backoff;
use pictor_tasks::message::{Report, StepKey, Try, What, WorkerId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::{debug, warn};

/// Pause, or up to twice as long, before a report is sent again that found no queue: the owner creates a new one.
const NO_QUEUE: Duration = Duration::from_millis(100);
/// Messages that arrive within this time after connecting may have waited while the worker was away.
const KEPT: Duration = Duration::from_secs(10);
/// Number of settled assignments to remember.
const SETTLED: usize = 256;

/// A worker's receiving end.
#[derive(Debug)]
pub struct RabbitWorker {
    link: Link,
    session: Option<(Arc<Session>, Deliveries)>,
    last_session: u64,
    /// The highest epoch seen. A sender of a lower one is no longer the owner.
    epoch: u64,
    tickets: Arc<Mutex<Tickets>>,
    settled: Arc<Mutex<Settled>>,
}

/// The assignments that were settled last. One whose acknowledgement was lost is delivered again, and must not be
/// executed again.
#[derive(Debug, Default)]
struct Settled(VecDeque<(u64, u64)>);

/// A worker's sending half.
#[derive(Clone, Debug)]
pub struct RabbitReports {
    link: Link,
    tickets: Arc<Mutex<Tickets>>,
}

impl RabbitWorker {
    /// A worker's two halves. The connection is made in the background and kept up for ever.
    pub fn connect(address: Address, worker: WorkerId) -> (Self, RabbitReports) {
        let link = Link::start(address, Endpoint::Worker(worker));
        let tickets = Arc::<Mutex<Tickets>>::default();
        let reports = RabbitReports { link: link.clone(), tickets: tickets.clone() };
        let settled = Arc::default();
        let queue = Self { link, session: None, last_session: 0, epoch: 0, tickets, settled };
        (queue, reports)
    }

    /// Decodes a message. Returns `None` if it is not to be passed on.
    fn accept(
        &mut self,
        session: &Arc<Session>,
        delivery: &lapin::message::Delivery,
    ) -> Option<Delivery> {
        let tag = delivery.delivery_tag;
        let received = match wire::from_owner(&delivery.data) {
            Ok(received) if received.epoch >= self.epoch => received,
            Ok(received) => {
                debug!(epoch = received.epoch, "a message of a former owner is dropped");
                session.acknowledge(tag, false);
                return None;
            }
            Err(error) => {
                warn!(%error, "a message of the owner is dropped");
                session.acknowledge(tag, false);
                return None;
            }
        };
        self.epoch = received.epoch;
        let mut name = None;
        if let ToWorker::Assign(assignment) = &received.message {
            let this = (received.epoch, assignment.id);
            if delivery.redelivered && lock(&self.settled).0.contains(&this) {
                session.acknowledge(tag, false);
                return None;
            }
            let tickets = assignment.tasks.iter().copied().zip(received.tickets);
            lock(&self.tickets).keep(&assignment.key, tickets);
            name = Some(this);
        }
        let is_kept = delivery.redelivered || session.began.elapsed() < KEPT;
        let (session, settled) = (session.clone(), self.settled.clone());
        let receipt = Receipt::new(move || {
            if let Some(name) = name {
                let mut settled = lock(&settled);
                if settled.0.len() == SETTLED {
                    settled.0.pop_front();
                }
                settled.0.push_back(name);
            }
            session.acknowledge(tag, false);
        });
        Some(Delivery { message: received.message, receipt, is_kept })
    }
}

#[async_trait]
impl WorkerQueue for RabbitWorker {
    async fn receive(&mut self) -> Option<Delivery> {
        loop {
            let Some((session, deliveries)) = &mut self.session else {
                let session = self.link.session_after(self.last_session).await?;
                self.last_session = session.number;
                let deliveries = session.deliveries();
                self.session = Some((session, deliveries));
                continue;
            };
            let session = session.clone();
            let Some(delivery) = deliveries.next().await else {
                session.end();
                self.session = None;
                continue;
            };
            if let Some(delivery) = self.accept(&session, &delivery) {
                return Some(delivery);
            }
        }
    }
}

impl RabbitReports {
    /// Sends a report. After `Ok` the broker has it. Waits as long as that takes.
    pub async fn send(&self, report: Report) -> Result<(), SendError> {
        let tickets: Option<Vec<Ticket>> = {
            let held = lock(&self.tickets);
            wire::tries(&report.what).map(|task| held.get(&report.key, task)).collect()
        };
        let Some(tickets) = tickets else {
            // Without tickets nobody would accept it.
            warn!(run = %report.key.run, "a report about tasks of somebody else is not sent");
            return Ok(());
        };
        if tickets.is_empty() {
            return Ok(());
        }
        self.deliver(wire::report(&report, tickets)).await?;
        if matches!(report.what, What::Ended(_) | What::Released(_)) {
            let tasks: Vec<Try> = wire::tries(&report.what).collect();
            self.forget(&report.key, &tasks);
        }
        Ok(())
    }

    /// The ticket of a task that this worker was given, for requests to other servers.
    pub fn ticket(&self, key: &StepKey, task: Try) -> Option<Ticket> {
        lock(&self.tickets).get(key, task)
    }

    /// Drops the tickets of these tasks: the worker has nothing more to report about them.
    pub fn forget(&self, key: &StepKey, tasks: &[Try]) {
        lock(&self.tickets).forget(key, tasks);
    }

    /// Whether the connection to the broker is up.
    pub fn is_connected(&self) -> bool {
        self.link.is_up()
    }

    /// Waits until the broker rejects the worker's name or password: it has to register again.
    pub async fn refused(&self) {
        self.link.clone().refused().await;
    }

    /// Closes the connection when the broker has received everything, or after 2 s. After that the receiving half
    /// delivers nothing more.
    pub async fn close(&self) {
        self.link.clone().close().await;
    }

    async fn deliver(&self, mut payload: Vec<u8>) -> Result<(), SendError> {
        let (mut link, mut after) = (self.link.clone(), 0);
        let mut pauses = Backoff::new(NO_QUEUE, NO_QUEUE);
        loop {
            let session = link.session_after(after).await.ok_or(SendError::Gone)?;
            match session.publish(REPORTS, REPORTS, payload.clone(), None).await {
                Ok(Confirmation::Ack(None)) => return Ok(()),
                // No queue took it. The returned message may be another's: lapin hands it to the next confirm. Whoever
                // receives it sends it again.
                Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
                    payload = returned.delivery.data;
                    pauses.wait().await;
                }
                Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => {
                    pauses.wait().await;
                }
                Err(error) => {
                    debug!(%error, "sending to the broker");
                    session.end();
                    after = session.number;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
