//! Tickets: how a worker proves that a task was assigned to it. They are sent with the tasks of an assignment and come
//! back with reports and with HTTP requests.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt::{self, Write};
use std::str::FromStr;

/// The length of a ticket's authentication code, in bytes.
pub const MAC_BYTES: usize = 16;

/// Proves that one attempt was assigned to one worker, by the owner of one epoch. Written as `epoch-code`, both in
/// hexadecimal.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The epoch of the owner that assigned the task.
    pub epoch: u64,
    /// The authentication code.
    pub mac: [u8; MAC_BYTES],
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
    /// The text does not have the form of a ticket.
    #[error("this is not a ticket")]
    Malformed,
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
