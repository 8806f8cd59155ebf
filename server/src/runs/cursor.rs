//! Cursors of lists of tasks.

use pictor_tasks::message::TaskId;
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use std::fmt;
use std::str::FromStr;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// A cursor that is a task of a run: step and index.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TaskCursor(pub(crate) TaskId);

impl fmt::Display for TaskCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.step, self.0.index)
    }
}

impl FromStr for TaskCursor {
    type Err = &'static str;

    /// Accepts anything of the right form; most of it is beyond the end of the list.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str, digits: usize| {
            let fits = (1..=digits).contains(&text.len());
            let number = fits && text.bytes().all(|byte| byte.is_ascii_digit());
            number.then(|| text.parse::<u64>().ok()).flatten()
        };
        let cursor = text.split_once('.').and_then(|(step, index)| {
            let (step, index) = (number(step, 5)?, number(index, 10)?);
            let step = u16::try_from(step).unwrap_or(u16::MAX);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            Some(Self(TaskId { step, index }))
        });
        cursor.ok_or("`after` is not the `next` of a page")
    }
}

impl<'de> Deserialize<'de> for TaskCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl utoipa::PartialSchema for TaskCursor {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        text.pattern(Some(r"^[0-9]{1,5}\.[0-9]{1,10}$")).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let last = TaskId { step: u16::MAX, index: u32::MAX };
        for task in [TaskId::default(), TaskId { step: 7, index: 12 }, last] {
            let read: TaskCursor = TaskCursor(task).to_string().parse().unwrap();
            assert_eq!(read.0, task);
        }
        let beyond: TaskCursor = "99999.9999999999".parse().unwrap();
        assert_eq!(beyond.0, last);
        for wrong in
            ["", ".", "1", "1.", ".1", "+1.1", "1.-1", "1.2.3", "123456.1", "1.12345678901"]
        {
            assert!(wrong.parse::<TaskCursor>().is_err(), "{wrong}");
        }
    }
}
