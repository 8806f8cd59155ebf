//! Making and checking tickets.

use pictor_tasks::message::{StepKey, Try, WorkerId};
use pictor_tasks::ticket::MAC_BYTES;
pub use pictor_tasks::ticket::{BadTicket, Ticket};
use std::fmt;

/// Makes and checks tickets. The key is enough to give tasks to workers, so it must stay secret.
#[derive(Clone)]
pub struct Sealer {
    epoch: u64,
    key: [u8; 32],
}

impl Sealer {
    /// A sealer for an epoch. The key is the same in all epochs, so that tickets outlive a takeover.
    pub fn new(epoch: u64, key: [u8; 32]) -> Self {
        Self { epoch, key }
    }

    /// The epoch that new tickets carry.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The ticket for an attempt that is given to a worker.
    pub fn seal(&self, key: &StepKey, task: Try, worker: WorkerId) -> Ticket {
        let digest = self.digest(self.epoch, key, task, worker);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&digest.as_bytes()[..MAC_BYTES]);
        Ticket { epoch: self.epoch, mac }
    }

    /// Checks whether a ticket is valid for this attempt and this worker. Takes the same time for every wrong code.
    pub fn verify(
        &self,
        ticket: &Ticket,
        key: &StepKey,
        task: Try,
        worker: WorkerId,
    ) -> Result<(), BadTicket> {
        if ticket.epoch > self.epoch {
            return Err(BadTicket::Future(ticket.epoch));
        }
        let right = self.digest(ticket.epoch, key, task, worker);
        // Digests compare in constant time; the part that the ticket omits is equal by construction.
        let mut given = *right.as_bytes();
        given[..MAC_BYTES].copy_from_slice(&ticket.mac);
        if right == blake3::Hash::from_bytes(given) { Ok(()) } else { Err(BadTicket::Forged) }
    }

    fn digest(&self, epoch: u64, key: &StepKey, task: Try, worker: WorkerId) -> blake3::Hash {
        // Fixed lengths first, so that no two different contents give the same bytes.
        let mut content = Vec::with_capacity(64);
        content.extend_from_slice(&epoch.to_le_bytes());
        content.extend_from_slice(&key.step.to_le_bytes());
        content.extend_from_slice(&key.generation.to_le_bytes());
        content.extend_from_slice(&task.index.to_le_bytes());
        content.extend_from_slice(&task.attempt.to_le_bytes());
        content.extend_from_slice(&worker.0.to_le_bytes());
        content.extend_from_slice(key.run.0.as_bytes());
        blake3::keyed_hash(&self.key, &content)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_tasks::message::RunId;

    fn key(run: &str) -> StepKey {
        StepKey { run: RunId(run.into()), step: 3, generation: 1 }
    }

    const TASK: Try = Try { index: 7, attempt: 2 };
    const WORKER: WorkerId = WorkerId(5);

    #[test]
    fn a_ticket_is_good_for_its_task_and_worker_only() {
        let sealer = Sealer::new(9, [1; 32]);
        let ticket = sealer.seal(&key("run"), TASK, WORKER);
        assert_eq!(sealer.verify(&ticket, &key("run"), TASK, WORKER), Ok(()));
        let forged = Err(BadTicket::Forged);
        for other in [Try { index: 8, ..TASK }, Try { attempt: 3, ..TASK }] {
            assert_eq!(sealer.verify(&ticket, &key("run"), other, WORKER), forged);
        }
        for other in
            [key("ruN"), StepKey { step: 4, ..key("run") }, StepKey { generation: 2, ..key("run") }]
        {
            assert_eq!(sealer.verify(&ticket, &other, TASK, WORKER), forged);
        }
        assert_eq!(sealer.verify(&ticket, &key("run"), TASK, WorkerId(6)), forged);
        let other_key = Sealer::new(9, [2; 32]);
        assert_eq!(other_key.verify(&ticket, &key("run"), TASK, WORKER), forged);
        let earlier = Ticket { epoch: 8, ..ticket };
        assert_eq!(sealer.verify(&earlier, &key("run"), TASK, WORKER), forged);
    }

    #[test]
    fn a_ticket_outlives_its_epoch_and_none_is_from_the_future() {
        let ticket = Sealer::new(9, [1; 32]).seal(&key("run"), TASK, WORKER);
        assert_eq!(Sealer::new(10, [1; 32]).verify(&ticket, &key("run"), TASK, WORKER), Ok(()));
        let early = Sealer::new(8, [1; 32]).verify(&ticket, &key("run"), TASK, WORKER);
        assert_eq!(early, Err(BadTicket::Future(9)));
    }

    #[test]
    fn tickets_are_read_as_they_are_written() {
        let sealer = Sealer::new(u64::MAX, [1; 32]);
        let text = sealer.seal(&key("run"), TASK, WORKER).to_string();
        assert!(text.starts_with("ffffffffffffffff-"), "{text}");
        let read: Ticket = serde_json::from_value(text.as_str().into()).unwrap();
        assert_eq!(sealer.verify(&read, &key("run"), TASK, WORKER), Ok(()));
        let long = format!("{text}0");
        let sign = text.replacen("ffffffffffffffff", "+1", 1);
        for wrong in ["", "-", "1", &text[1..text.len() - 1], &long, &sign, &text.to_uppercase()] {
            assert_eq!(wrong.parse::<Ticket>().unwrap_err(), BadTicket::Malformed, "{wrong}");
        }
    }
}
