//! The store of a farm: one Postgres database that several servers share. One of them is the owner and commits; the
//! epoch in the database keeps every former owner out.

mod connect;
mod insert;
mod read;

use crate::last_row::LastRow;
use crate::registry::{
    AuditEntry, Delivery, DueTime, ListedToken, NewWorker, Schedule, Token, Upload, WorkerRecord,
};
use crate::registry_queries::impl_registry;
use crate::run::{
    Created, Idempotency, NewRun, Ownership, Rejected, RunFilter, RunRecord, RunRows, StoredPlan,
};
use crate::store_queries::{
    add_run, after_all, damaged, impl_store, json, last_row, on, printable,
};
use crate::{Error, error, sql};
use connect::{ANSWER, CONNECT, LONG_ANSWER, Migrated, Refused};
use insert::{Batch, CommitResult};
use pictor_net::random_bytes;
use pictor_tasks::history::Row;
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::state::Service;
use read::{BLOCK_ROWS, Block, read_block};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{Connection, Postgres};
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Runs and their history in a Postgres database, in which this crate creates nothing but tables.
///
/// Commits use a connection of their own, everything else a small pool. A connection that fails or does not answer is
/// replaced at the next call.
pub struct PostgresStore {
    options: PgConnectOptions,
    pool: PgPool,
    refused: Refused,
    writer: Mutex<Writer>,
    place: String,
}

/// The connection that commits, and what is known about the committed history.
#[derive(Default)]
struct Writer {
    /// Taken out while in use: a connection whose use failed or was dropped half-way is not used again.
    on: Option<PgConnection>,
    /// Where the history of each run ends. Valid as long as this process is the owner, since nobody else writes then.
    last_rows: HashMap<RunId, LastRow>,
    epoch: Option<i64>,
}

/// A connection on loan from the pool. It is closed unless it is given back.
struct Lent {
    on: PoolConnection<Postgres>,
    is_sound: bool,
}

impl Lent {
    fn give_back(mut self) {
        self.is_sound = true;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_sound {
            self.on.close_on_drop();
        }
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.on
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.on
    }
}

/// Why a commit failed.
enum Failure {
    /// A failure that reading the last rows again cannot resolve.
    Error(Error),
    /// There is a row that the last rows do not know: from an earlier commit whose answer was lost.
    RowsAreThere(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl_store!(PostgresStore, postgres);
impl_registry!(PostgresStore, postgres);

impl PostgresStore {
    /// Connects to the database at `postgres://user:password@host:port/database` and migrates its tables to the newest
    /// version. Several servers may do this at once.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let options = connect::options(url)?;
        let place = connect::place(&options);
        let refused = Refused::default();
        let pool = connect::pool(options.clone(), refused.clone());
        let store = Self { options, pool, refused, writer: Mutex::default(), place };
        match on!(store.writer, |on| connect::migrate(on)) {
            Migrated::Done => Ok(store),
            Migrated::Newer => Err(Error::Invalid(format!(
                "the database {} was written by a newer pictor: update this one",
                store.place
            ))),
        }
    }

    async fn reader(&self) -> Result<Lent, Error> {
        let on = self.pool.acquire().await.map_err(|e| error::postgres(&self.place, e))?;
        Ok(Lent { on, is_sound: false })
    }

    async fn writer(&self) -> Result<Lent, Error> {
        self.reader().await
    }

    async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        self.answer_within(ANSWER, work).await
    }

    /// Waits for work that takes many statements.
    async fn long_answer<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        self.answer_within(LONG_ANSWER, work).await
    }

    async fn answer_within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        match timeout(limit, work).await {
            Ok(done) => done.map_err(|e| {
                self.refused.note(&e);
                error::postgres(&self.place, e)
            }),
            Err(_) => Err(error::silent(&self.place)),
        }
    }

    async fn shut(&self) -> Result<(), Error> {
        let writer = std::mem::take(&mut *self.writer.lock().await);
        let close = async {
            if let Some(on) = writer.on {
                on.close().await?;
            }
            self.pool.close().await;
            Ok(())
        };
        self.answer(close).await
    }

    async fn own(&self, address: &str, now_ms: i64) -> Result<Ownership, Error> {
        let key: [u8; 32] = random_bytes();
        // No commit of this process is in flight while the epoch changes.
        let mut writer = self.writer.lock().await;
        let row: (i64, Vec<u8>, String) = on!(self.writer, |on| {
            sqlx::query_as(sql::TAKE_OWNERSHIP)
                .bind(sql::SHARD)
                .bind(&key[..])
                .bind(address)
                .bind(now_ms)
                .fetch_one(on)
        });
        writer.epoch = Some(row.0);
        // Others may have written since.
        writer.last_rows.clear();
        sql::ownership(row).ok_or_else(|| damaged("ownership"))
    }

    async fn forget(&self, run: &RunId) {
        self.writer.lock().await.last_rows.remove(run);
    }

    async fn commit_rows(&self, batch: &[RunRows<'_>]) -> Result<(), Error> {
        let mut writer = self.writer.lock().await;
        match self.try_commit(&mut writer, batch).await {
            Ok(()) => Ok(()),
            Err(Failure::Error(error)) => Err(error),
            // Once more, with last rows that are read again: this time those rows are compared.
            Err(Failure::RowsAreThere(_)) => match self.try_commit(&mut writer, batch).await {
                Ok(()) => Ok(()),
                Err(Failure::Error(error) | Failure::RowsAreThere(error)) => Err(error),
            },
        }
    }

    async fn try_commit(&self, writer: &mut Writer, batch: &[RunRows<'_>]) -> Result<(), Failure> {
        if self.pool.is_closed() {
            return Err(Error::Invalid("the store is closed".to_owned()).into());
        }
        let Some(epoch) = writer.epoch else {
            let text = "history can be committed after ownership was taken, not before";
            return Err(Error::Invalid(text.to_owned()).into());
        };
        let mut on = match writer.on.take() {
            Some(on) => on,
            None => self.connect().await?,
        };
        let mut after = HashMap::with_capacity(batch.len());
        let mut rows = Batch::default();
        for part in batch {
            // Taken out, so that the last row is read again if the commit fails or is dropped half-way.
            let last_row = if let Some(last_row) = writer.last_rows.remove(part.run) {
                last_row
            } else {
                let last_row = self.answer(last_row!(&mut on, part.run)).await?;
                last_row.ok_or_else(|| no_run(part.run))?
            };
            let (old, new) = last_row.split(part.rows)?;
            self.compare(&mut on, last_row, old).await?;
            rows.add(last_row.run, new, part.state);
            if after.insert(part.run.clone(), last_row.after(new)).is_some() {
                let run = part.run;
                let text = format!("the run `{run}` is in a commit twice");
                return Err(Error::Invalid(text).into());
            }
        }
        let result = match timeout(ANSWER, rows.write(&mut on, sql::SHARD, epoch)).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                let is_there = error
                    .as_database_error()
                    .is_some_and(sqlx::error::DatabaseError::is_unique_violation);
                self.refused.note(&error);
                let error = error::postgres(&self.place, error);
                return Err(if is_there { Failure::RowsAreThere } else { Failure::Error }(error));
            }
            Err(_) => return Err(error::silent(&self.place).into()),
        };
        writer.on = Some(on);
        match result {
            CommitResult::Done => {}
            CommitResult::Fenced => return Err(Error::Fenced.into()),
            CommitResult::NoRun => {
                let text = "a run was removed while its history was committed".to_owned();
                return Err(Error::Invalid(text).into());
            }
        }
        let ended = |run: &RunId| {
            batch.iter().any(|p| p.run == run && p.state.is_some_and(|(_, end)| end.is_some()))
        };
        writer.last_rows.extend(after.into_iter().filter(|(run, _)| !ended(run)));
        Ok(())
    }

    async fn connect(&self) -> Result<PgConnection, Error> {
        self.answer_within(CONNECT, PgConnection::connect_with(&self.options)).await
    }

    /// Checks that stored rows are equal to `rows`.
    async fn compare(
        &self,
        on: &mut PgConnection,
        last_row: LastRow,
        rows: &[Row],
    ) -> Result<(), Error> {
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let count = BLOCK_ROWS.min(rest.len() as u64);
            let block = self.answer(read_block(on, last_row.run, first.seq, count)).await?;
            let rows = whole(block, first.seq, count)?.rows;
            let (now, later) = rest.split_at(rows.len());
            if let Some((_, new)) = rows.iter().zip(now).find(|(old, new)| old != new) {
                return Err(Error::Corrupt(format!(
                    "row {} of a run is in the store with another content",
                    new.seq
                )));
            }
            rest = later;
        }
        Ok(())
    }

    async fn read_rows(&self, run: &RunId, seqs: &[u64]) -> Result<Vec<Row>, Error> {
        let rows: Option<Vec<Row>> = on!(self.reader, |on| async {
            let number = sqlx::query_scalar(sql::RUN_NUMBER).bind(&*run.0);
            let Some(number) = number.fetch_optional(&mut *on).await? else { return Ok(None) };
            let mut rows = Vec::with_capacity(seqs.len());
            for seq in seqs {
                rows.extend(read_block(on, number, *seq, 1).await?.rows);
            }
            Ok(Some(rows))
        });
        rows.ok_or_else(|| Error::NotFound(format!("the run `{run}`")))
    }

    async fn read_history(
        &self,
        run: &RunId,
        from_seq: u64,
        each: &mut (dyn FnMut(Row) + Send),
    ) -> Result<u64, Error> {
        let last_row: Option<LastRow> = on!(self.reader, |on| last_row!(on, run));
        let last_row = last_row.ok_or_else(|| Error::NotFound(format!("the run `{run}`")))?;
        let (mut from, mut count) = (from_seq.max(1), BLOCK_ROWS);
        let mut block: Option<Block> = None;
        // While the rows of one block are decoded, the database prepares the next.
        while from <= last_row.seq || block.is_some() {
            let left = (last_row.seq + 1).saturating_sub(from).min(count);
            let read = async {
                if left == 0 {
                    return Ok(None);
                }
                let block = on!(self.reader, |on| read_block(on, last_row.run, from, left));
                Ok::<_, Error>(Some(block))
            };
            let take =
                async { block.take().map(|block| block.rows.into_iter().for_each(&mut *each)) };
            let (next, _) = tokio::join!(read, take);
            if let Some(next) = next? {
                let next = match whole(next, from, left) {
                    Ok(next) => next,
                    // A run that was removed meanwhile is not damaged.
                    Err(error) => {
                        let number: Option<i64> = on!(self.reader, |on| {
                            sqlx::query_scalar(sql::RUN_NUMBER).bind(&*run.0).fetch_optional(on)
                        });
                        return Err(number.map_or_else(
                            || Error::NotFound(format!("the run `{run}`")),
                            |_| error,
                        ));
                    }
                };
                from += left;
                count = next.next_count;
                block = Some(next);
            }
        }
        Ok(last_row.seq)
    }
}

fn no_run(run: &RunId) -> Error {
    Error::Invalid(format!("the run `{run}` is not in the store"))
}

/// Checks that the block holds the rows that were requested.
fn whole(block: Block, from: u64, count: u64) -> Result<Block, Error> {
    if block.rows.iter().map(|row| row.seq).eq(from..from + count) {
        return Ok(block);
    }
    let to = from + count - 1;
    Err(Error::Corrupt(format!("the rows {from} to {to} of a run are not all there once")))
}
