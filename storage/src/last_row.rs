//! The end of a run's history, and which rows may follow it.

use crate::Error;
use pictor_tasks::history::Row;

/// The last row of a run's history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastRow {
    /// The run's number in the database.
    pub(crate) run: i64,
    /// The last row's sequence number; 0 if there is no row.
    pub(crate) seq: u64,
    /// The last row's time, in milliseconds since 1970.
    pub(crate) time_ms: i64,
}

impl LastRow {
    /// Splits rows into those at or before this row and those after it, and checks that the latter continue it without
    /// a gap and never go back in time.
    pub(crate) fn split<'r>(&self, rows: &'r [Row]) -> Result<(&'r [Row], &'r [Row]), Error> {
        let Some(first) = rows.first() else {
            return Ok((rows, rows));
        };
        if first.seq == 0 || first.seq > self.seq + 1 {
            return Err(Error::Invalid(format!(
                "row {} cannot follow row {} of the history",
                first.seq, self.seq
            )));
        }
        for pair in rows.windows(2) {
            if pair[1].seq != pair[0].seq + 1 || pair[1].time_ms < pair[0].time_ms {
                return Err(Error::Invalid(format!(
                    "row {} does not follow row {} in number and time",
                    pair[1].seq, pair[0].seq
                )));
            }
        }
        let known = usize::try_from(self.seq + 1 - first.seq).unwrap_or(usize::MAX);
        let (old, new) = rows.split_at(known.min(rows.len()));
        if new.first().is_some_and(|row| row.time_ms < self.time_ms) {
            return Err(Error::Invalid(format!(
                "row {} is older than the row before",
                self.seq + 1
            )));
        }
        Ok((old, new))
    }

    /// The last row after `rows` have been written.
    pub(crate) fn after(self, rows: &[Row]) -> Self {
        rows.last().map_or(self, |row| Self { seq: row.seq, time_ms: row.time_ms, ..self })
    }
}
