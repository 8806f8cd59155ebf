//! Messages as the broker carries them: JSON, with the tickets beside the message that they belong to.

use crate::{BadTicket, Incoming, Sealer, Ticket, ToOwner, ToWorker};
use pictor_tasks::message::{Assignment, Cancel, Report, Try, What, WorkerId};
use serde::{Deserialize, Serialize};

/// The longest report, in bytes: one of a task with many thousand outputs.
const REPORT_BYTES_MAX: usize = 16 << 20;
/// As much of a rejected message is kept, in bytes.
const REJECTED_BYTES_MAX: usize = 64 << 10;

/// Why a message is rejected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is not a message of this protocol.
    #[error("the message cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It is longer than any worker has reason for.
    #[error("the message has {0} bytes; at most {most} are accepted", most = REPORT_BYTES_MAX)]
    Long(usize),
    /// There are not as many tickets as tasks.
    #[error("{tries} tasks came with {tickets} tickets")]
    Tickets { tries: usize, tickets: usize },
    /// It comes from a user of the broker that is not the worker's.
    #[error("worker {} has not sent the message", .0.0)]
    Sender(WorkerId),
    /// The report names no task, so no ticket could prove it.
    #[error("the report names no task")]
    Empty,
    /// The task was not given to this worker.
    #[error("task {} (attempt {}): {why}", task.index, task.attempt)]
    Ticket { task: Try, why: BadTicket },
}

/// A message to a worker.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Down<A, C> {
    Assign { message: A, tickets: Vec<Ticket> },
    Cancel { message: C, epoch: u64 },
}

/// A message to the owner.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Up<R> {
    Report { message: R, tickets: Vec<Ticket> },
    Barrier(u64),
}

/// A decoded message for a worker.
pub(crate) struct Received {
    pub(crate) message: ToWorker,
    /// Epoch of the owner that sent it.
    pub(crate) epoch: u64,
    /// One ticket for each task of an assignment.
    pub(crate) tickets: Vec<Ticket>,
}

pub(crate) fn to_worker(sealer: &Sealer, worker: WorkerId, message: &ToWorker) -> Vec<u8> {
    encode(&match message {
        ToWorker::Assign(assignment) => {
            let seal = |task: &Try| sealer.seal(&assignment.key, *task, worker);
            let tickets = assignment.tasks.iter().map(seal).collect();
            Down::Assign { message: assignment, tickets }
        }
        ToWorker::Cancel(cancel) => Down::Cancel { message: cancel, epoch: sealer.epoch() },
    })
}

pub(crate) fn from_owner(raw: &[u8]) -> Result<Received, Refusal> {
    match serde_json::from_slice::<Down<Assignment, Cancel>>(raw)? {
        Down::Assign { message, tickets } => {
            let (tries, epoch) = (message.tasks.len(), tickets.first().map(|first| first.epoch));
            match epoch.filter(|_| tries == tickets.len()) {
                Some(epoch) => Ok(Received { message: ToWorker::Assign(message), epoch, tickets }),
                None => Err(Refusal::Tickets { tries, tickets: tickets.len() }),
            }
        }
        Down::Cancel { message, epoch } => {
            Ok(Received { message: ToWorker::Cancel(message), epoch, tickets: Vec::new() })
        }
    }
}

/// Encodes a report with a ticket for each of its [`tries`].
pub(crate) fn report(message: &Report, tickets: Vec<Ticket>) -> Vec<u8> {
    encode(&Up::Report { message, tickets })
}

pub(crate) fn barrier(mark: u64) -> Vec<u8> {
    encode(&Up::<Report>::Barrier(mark))
}

/// Decodes and checks a message that reached the owner. `is_from` says whether a worker sent it.
pub(crate) fn incoming(
    sealer: &Sealer,
    raw: Vec<u8>,
    is_from: impl FnOnce(WorkerId) -> bool,
) -> Incoming {
    match to_owner(sealer, &raw, is_from) {
        Ok(message) => Incoming::Message(message),
        Err(refusal) => {
            let (reason, mut raw) = (refusal.to_string(), raw);
            raw.truncate(REJECTED_BYTES_MAX);
            Incoming::Rejected { reason, raw }
        }
    }
}

fn to_owner(
    sealer: &Sealer,
    raw: &[u8],
    is_from: impl FnOnce(WorkerId) -> bool,
) -> Result<ToOwner, Refusal> {
    if raw.len() > REPORT_BYTES_MAX {
        return Err(Refusal::Long(raw.len()));
    }
    let (report, tickets) = match serde_json::from_slice(raw)? {
        Up::Barrier(mark) => return Ok(ToOwner::Barrier(mark)),
        Up::<Report>::Report { message, tickets } => (message, tickets),
    };
    let count = tries(&report.what).count();
    if count != tickets.len() {
        return Err(Refusal::Tickets { tries: count, tickets: tickets.len() });
    }
    if count == 0 {
        return Err(Refusal::Empty);
    }
    for (task, ticket) in tries(&report.what).zip(&tickets) {
        let checked = sealer.verify(ticket, &report.key, task, report.worker);
        checked.map_err(|why| Refusal::Ticket { task, why })?;
    }
    if !is_from(report.worker) {
        return Err(Refusal::Sender(report.worker));
    }
    Ok(ToOwner::Report(report))
}

/// The attempts that a report is about.
pub(crate) fn tries(what: &What) -> impl Iterator<Item = Try> {
    let (plain, one, ended): (&[Try], _, &[_]) = match what {
        What::Claimed(tasks) | What::Released(tasks) => (tasks, None, &[]),
        What::Progress { task, .. } => (&[], Some(*task), &[]),
        What::Ended(ends) => (&[], None, ends),
    };
    plain.iter().copied().chain(one).chain(ended.iter().map(|end| end.task))
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("messages are plain data")
}
