//! Reads history back. `SQLite` prints a block of rows as one text and this module parses it: measured, a row fetched
//! by itself through sqlx costs twelve times as much.

use crate::Error;
use crate::error::is_too_big;
use crate::outcome;
use pictor_tasks::history::{Claim, Control, Ended, Fact, Row, TaskRef};
use pictor_tasks::message::{Execution, Outcome, Products, Try, WorkerId};
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteConnection;
use std::path::Path;

/// Rows of one block, unless they are large.
pub(crate) const BLOCK_ROWS: u64 = 8192;
/// Bytes of text above which a block makes the next one smaller.
const BLOCK_BYTES: usize = 16 << 20;

// A line is a row: its numbers as a JSON array, then its payload. Stored JSON has no line breaks, and a row has
// products or a failure, never both. `json_array` prints numbers faster than `printf` does.
const BLOCK: &str = "SELECT \
    (SELECT group_concat(json_array(seq, time_ms, step, generation, task, attempt, execution, \
         worker, started_ms, took_ms, outcome) || coalesce(products, failure, ''), char(10)) \
     FROM attempt WHERE run = $1 AND seq >= $2 AND seq < $3), \
    (SELECT group_concat(json_array(seq, time_ms, step, generation, task, attempt, execution, \
         worker), char(10)) \
     FROM claim WHERE run = $1 AND seq >= $2 AND seq < $3), \
    (SELECT group_concat(json_array(seq, time_ms, id) || event, char(10)) \
     FROM event WHERE run = $1 AND seq >= $2 AND seq < $3)";

/// The rows `from..from + count` of a run as text, not yet parsed.
pub(crate) struct Block {
    from: u64,
    /// Number of rows in the block.
    pub(crate) count: u64,
    texts: [Option<String>; 3],
}

impl Block {
    /// Reads `count` rows, which must exist, or fewer if they are too large for one text.
    pub(crate) async fn read(
        on: &mut SqliteConnection,
        run: i64,
        from: u64,
        mut count: u64,
    ) -> Result<Self, sqlx::Error> {
        loop {
            let block = sqlx::query_as(BLOCK)
                .bind(run)
                .bind(from.cast_signed())
                .bind((from + count).cast_signed())
                .fetch_one(&mut *on)
                .await;
            match block {
                Ok((attempts, claims, events)) => {
                    return Ok(Self { from, count, texts: [attempts, claims, events] });
                }
                Err(error) if count > 1 && is_too_big(&error) => count /= 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// How many rows the next block should have.
    pub(crate) fn next_count(&self) -> u64 {
        let bytes: usize = self.texts.iter().flatten().map(String::len).sum();
        if bytes > BLOCK_BYTES { (self.count / 2).max(1) } else { self.count }
    }

    /// Parses the text, which may lack rows. `path` names the database in errors.
    pub(crate) fn rows(&self, path: &Path) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::with_capacity(usize::try_from(self.count).unwrap_or_default());
        let parsers: [fn(&mut Line<'_>) -> Option<Fact>; 3] =
            [parse_ended, parse_claim, parse_event];
        for (text, parse) in self.texts.iter().zip(parsers) {
            for line in text.iter().flat_map(|text| text.split('\n')) {
                rows.push(parse_row(line, parse).ok_or_else(|| {
                    Error::Corrupt(format!("`{}`: the row `{line}`", path.display()))
                })?);
            }
        }
        if !rows.is_sorted_by_key(|row| row.seq) {
            rows.sort_by_key(|row| row.seq);
        }
        Ok(rows)
    }

    /// Parses the text, which must have all rows.
    pub(crate) fn decode(&self, path: &Path) -> Result<Vec<Row>, Error> {
        let rows = self.rows(path)?;
        let expected = self.from..self.from + self.count;
        if !rows.iter().map(|row| row.seq).eq(expected.clone()) {
            return Err(Error::Corrupt(format!(
                "`{}`: the rows {} to {} of a run are not all there once",
                path.display(),
                expected.start,
                expected.end - 1
            )));
        }
        Ok(rows)
    }
}

/// The unparsed rest of a row's line.
struct Line<'a>(&'a str);

impl Line<'_> {
    /// Parses the next number.
    fn next<T: TryFrom<i64>>(&mut self) -> Option<T> {
        let end = self.0.bytes().position(|byte| matches!(byte, b',' | b']'))?;
        let number: i64 = self.0[..end].parse().ok()?;
        self.0 = &self.0[end + 1..];
        T::try_from(number).ok()
    }

    /// Parses the whole rest as JSON.
    fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.0).ok()
    }
}

fn parse_row(line: &str, parse: fn(&mut Line<'_>) -> Option<Fact>) -> Option<Row> {
    let mut line = Line(line.strip_prefix('[')?);
    Some(Row { seq: line.next()?, time_ms: line.next()?, fact: parse(&mut line)? })
}

fn parse_claim(line: &mut Line<'_>) -> Option<Fact> {
    let task = TaskRef {
        step: line.next()?,
        generation: line.next()?,
        task: Try { index: line.next()?, attempt: line.next()? },
    };
    let execution = Execution(line.next::<i64>()?.cast_unsigned());
    Some(Fact::Claim(Claim { task, execution, worker: WorkerId(line.next()?) }))
}

fn parse_ended(line: &mut Line<'_>) -> Option<Fact> {
    let Fact::Claim(Claim { task, execution, worker }) = parse_claim(line)? else {
        return None;
    };
    let (started_ms, took_ms) = (line.next()?, line.next()?);
    let outcome = match line.next::<i16>()? {
        outcome::SUCCEEDED if line.0.is_empty() => Outcome::Succeeded(Products::default()),
        outcome::SUCCEEDED => Outcome::Succeeded(line.json()?),
        outcome::FAILED => Outcome::Failed(line.json()?),
        outcome::CANCELLED => Outcome::Cancelled,
        outcome::LOST => Outcome::Lost,
        _ => return None,
    };
    Some(Fact::Ended(Ended { task, execution, worker, started_ms, took_ms, outcome }))
}

fn parse_event(line: &mut Line<'_>) -> Option<Fact> {
    let id = line.next::<i64>()?.cast_unsigned();
    Some(Fact::Event(Control { id, event: line.json()? }))
}
