//! Tickets: how a worker proves that a task was given to it. They travel beside the tasks of an assignment and come
//! back with reports and with requests over HTTP.

use pictor_tasks::message::{StepKey, Try, WorkerId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt::{self, Write};
use std::str::FromStr;

/// Bytes of a ticket's authentication code.
const MAC_BYTES: usize = 16;

/// Proves that one attempt was given to one worker, by the owner of one epoch. Written as `epoch-code`, both in
/// hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Epoch of the owner that gave out the task.
    pub epoch: u64,
    mac: [u8; MAC_BYTES],
}

/// Why a ticket is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTicket {
    /// It belongs to another attempt or another worker, or was not made by an owner.
    #[error("the ticket is not valid for this task and this worker")]
    Forged,
    /// It is from an epoch that has not begun.
    #[error("the ticket is from epoch {0}, which has not begun")]
    Future(u64),
    /// It does not have the form of a ticket.
    #[error("this is not a ticket")]
    Malformed,
}

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

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        write!(f, "{:x}-", self.epoch)?;
        for byte in self.mac {
            f.write_char(char::from(DIGITS[usize::from(byte >> 4)]))?;
            f.write_char(char::from(DIGITS[usize::from(byte & 15)]))?;
        }
        Ok(())
    }
}

impl FromStr for Ticket {
    type Err = BadTicket;

    fn from_str(text: &str) -> Result<Self, BadTicket> {
        let (epoch, code) = text.split_once('-').ok_or(BadTicket::Malformed)?;
        let code = code.as_bytes();
        if epoch.starts_with('+') || code.len() != 2 * MAC_BYTES {
            return Err(BadTicket::Malformed);
        }
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| BadTicket::Malformed)?;
        let mut mac = [0; MAC_BYTES];
        for (byte, digits) in mac.iter_mut().zip(code.chunks_exact(2)) {
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        Ok(Self { epoch, mac })
    }
}

fn digit(text: u8) -> Result<u8, BadTicket> {
    match text {
        b'0'..=b'9' => Ok(text - b'0'),
        b'a'..=b'f' => Ok(text - b'a' + 10),
        _ => Err(BadTicket::Malformed),
    }
}

impl Serialize for Ticket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
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
