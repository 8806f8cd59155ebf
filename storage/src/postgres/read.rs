//! Reads history back. The database sends a block of rows in the binary form of COPY and this module decodes it as it
//! arrives: measured, a row fetched by itself through sqlx costs several times as much.

use crate::outcome;
use futures_util::TryStreamExt;
use pictor_tasks::history::{Claim, Control, Ended, Fact, Row, TaskRef};
use pictor_tasks::message::{Execution, Outcome, Products, Try, WorkerId};
use serde::de::DeserializeOwned;
use sqlx::postgres::PgConnection;

/// Rows of one block, unless they are large.
pub(super) const BLOCK_ROWS: u64 = 16_384;
/// Bytes above which a block makes the next one smaller.
const BLOCK_BYTES: usize = 16 << 20;
/// Codes of the rows other than ends of attempts, beside those of [`outcome`].
const CLAIM: i16 = 0;
const EVENT: i16 = -1;
/// The beginning of a binary COPY, before two numbers of four bytes each.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = SIGNATURE.len() + 8;
/// Number of columns of a row.
const COLUMNS: usize = 12;

/// A block of consecutive rows of a run.
pub(super) struct Block {
    /// The rows, in order of `seq`.
    pub(super) rows: Vec<Row>,
    /// How many rows the next block should have.
    pub(super) next_count: u64,
}

// The numbers are written into the statement: COPY has no parameters.
fn statement(run: i64, from: u64, to: u64) -> String {
    let rows = format!("WHERE run = {run} AND seq >= {from} AND seq < {to}");
    format!(
        "COPY (SELECT outcome, seq, time_ms, step, generation, task, attempt, execution, worker, \
             started_ms, took_ms, coalesce(products, failure) FROM attempt {rows} \
         UNION ALL SELECT {CLAIM}::smallint, seq, time_ms, step, generation, task, attempt, \
             execution, worker, 0, 0, NULL FROM claim {rows} \
         UNION ALL SELECT {EVENT}::smallint, seq, time_ms, 0, 0, 0, 0, id, 0, 0, 0, event \
             FROM event {rows}) TO STDOUT (FORMAT binary)"
    )
}

/// Reads the rows `from..from + count` of a run, which must exist.
pub(super) async fn read_block(
    on: &mut PgConnection,
    run: i64,
    from: u64,
    count: u64,
) -> Result<Block, sqlx::Error> {
    let mut pieces = on.copy_out_raw(&statement(run, from, from + count)).await?;
    let mut rows = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
    let (mut bytes, mut is_begun, mut size) = (Vec::new(), false, 0);
    while let Some(piece) = pieces.try_next().await? {
        size += piece.len();
        bytes.extend_from_slice(&piece);
        let mut at = 0;
        if !is_begun && bytes.len() >= HEADER_BYTES {
            if !bytes.starts_with(SIGNATURE) {
                return Err(damaged("a COPY without its signature"));
            }
            (is_begun, at) = (true, HEADER_BYTES);
        }
        while is_begun && let Some(tuple) = Tuple::whole(&bytes[at..])? {
            at += tuple.size;
            rows.extend(tuple.row()?);
        }
        bytes.drain(..at);
    }
    if !rows.is_sorted_by_key(|row: &Row| row.seq) {
        rows.sort_by_key(|row| row.seq);
    }
    let next_count = if size > BLOCK_BYTES { (count / 2).max(1) } else { count };
    Ok(Block { rows, next_count })
}

fn damaged(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// One row in the form of COPY: the number of its columns, then the length and the bytes of each.
struct Tuple<'a> {
    /// Length of the tuple in bytes.
    size: usize,
    /// The tuple after its column count; `None` marks the end of the rows.
    rest: Option<&'a [u8]>,
}

impl<'a> Tuple<'a> {
    /// The tuple at the beginning of `bytes`. Returns `None` if it is not complete yet.
    fn whole(bytes: &'a [u8]) -> Result<Option<Self>, sqlx::Error> {
        let Some((columns, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let columns = i16::from_be_bytes(*columns);
        if columns == -1 {
            return Ok(Some(Self { size: 2, rest: None }));
        }
        if usize::try_from(columns) != Ok(COLUMNS) {
            return Err(damaged("a row with another number of columns"));
        }
        let mut left = rest;
        for _ in 0..COLUMNS {
            let Some((length, after)) = left.split_first_chunk() else { return Ok(None) };
            // A column without a value has the length -1.
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            let Some(after) = after.get(length..) else { return Ok(None) };
            left = after;
        }
        Ok(Some(Self { size: bytes.len() - left.len(), rest: Some(rest) }))
    }

    /// Decodes the row. Returns `None` at the end of the rows.
    fn row(self) -> Result<Option<Row>, sqlx::Error> {
        let Some(rest) = self.rest else { return Ok(None) };
        let mut columns = Columns(rest);
        columns.row().map(Some).ok_or_else(|| damaged("a row of the history"))
    }
}

/// The columns of a complete row, decoded one after the other.
struct Columns<'a>(&'a [u8]);

impl<'a> Columns<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
        let value;
        (value, self.0) = rest.split_at_checked(length)?;
        Some(value)
    }

    fn short(&mut self) -> Option<i16> {
        self.next()?.try_into().ok().map(i16::from_be_bytes)
    }

    fn int(&mut self) -> Option<i32> {
        self.next()?.try_into().ok().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Option<i64> {
        self.next()?.try_into().ok().map(i64::from_be_bytes)
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Option<T> {
        self.long()?.try_into().ok()
    }

    fn row(&mut self) -> Option<Row> {
        let kind = self.short()?;
        let (seq, time_ms) = (self.number()?, self.long()?);
        let step = self.int()?;
        let generation = self.number()?;
        let (index, attempt) = (self.long()?, self.long()?);
        let (execution, worker) = (self.long()?.cast_unsigned(), self.number()?);
        let (started_ms, took_ms) = (self.long()?, self.number()?);
        let detail = self.next();
        if kind == EVENT {
            let control = Control { id: execution, event: parse(detail?)? };
            return Some(Row { seq, time_ms, fact: Fact::Event(control) });
        }
        let task = Try { index: index.try_into().ok()?, attempt: attempt.try_into().ok()? };
        let task = TaskRef { step: step.try_into().ok()?, generation, task };
        let (execution, worker) = (Execution(execution), WorkerId(worker));
        let outcome = match (kind, detail) {
            (CLAIM, None) => {
                let fact = Fact::Claim(Claim { task, execution, worker });
                return Some(Row { seq, time_ms, fact });
            }
            (outcome::SUCCEEDED, None) => Outcome::Succeeded(Products::default()),
            (outcome::SUCCEEDED, Some(products)) => Outcome::Succeeded(parse(products)?),
            (outcome::FAILED, Some(failure)) => Outcome::Failed(parse(failure)?),
            (outcome::CANCELLED, None) => Outcome::Cancelled,
            (outcome::LOST, None) => Outcome::Lost,
            _ => return None,
        };
        let ended = Ended { task, execution, worker, started_ms, took_ms, outcome };
        Some(Row { seq, time_ms, fact: Fact::Ended(ended) })
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}
