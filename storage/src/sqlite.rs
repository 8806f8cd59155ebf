//! The embedded store: one `SQLite` file in a data folder that one process owns.

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
use connect::{DATABASE, migrate, options, private, reserve_log};
use insert::Batch;
use pictor_net::random_bytes;
use pictor_tasks::history::Row;
use pictor_tasks::message::{RunId, WorkerId};
use pictor_tasks::state::{RunState, Service};
use read::{BLOCK_ROWS, Block};
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection};
use std::collections::HashMap;
use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

/// Runs and their history in a data folder.
///
/// The folder is locked until the store is closed or dropped, or its process ends. Commits use one connection, reads
/// another, so neither waits for the other.
pub struct SqliteStore {
    reader: Mutex<Option<SqliteConnection>>,
    // Holds the lock, which is therefore released last.
    writer: Mutex<Option<Writer>>,
    path: PathBuf,
}

struct Writer {
    on: SqliteConnection,
    /// Where the history of each run ends. Nobody else writes, so this needs no query.
    last_rows: HashMap<RunId, LastRow>,
    /// Whether work failed or was dropped half-way: then the connection may still be in its transaction.
    is_doubtful: bool,
    _lock: File,
}

/// The connection for reading, on loan.
struct Reading<'a>(MappedMutexGuard<'a, SqliteConnection>);

impl Reading<'_> {
    /// Does nothing: reading leaves no state behind.
    #[expect(clippy::unused_self, reason = "written like the one for writing")]
    fn give_back(self) {}
}

impl Deref for Reading<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for Reading<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

/// The connection for writing, on loan. It is doubtful until it is given back.
struct Writing<'a>(MappedMutexGuard<'a, Writer>);

impl Writing<'_> {
    fn give_back(mut self) {
        self.0.is_doubtful = false;
    }
}

impl Deref for Writing<'_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0.on
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0.on
    }
}

impl_store!(SqliteStore, sqlite);
impl_registry!(SqliteStore, sqlite);

impl SqliteStore {
    /// Opens the store in the folder `dir`; creates both if needed.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        let lock = pictor_artifacts::lock(dir)?;
        let path = dir.join(DATABASE);
        let failed = |e| error::sqlite(&path, e);
        private(&path)?;
        let options = options(&path);
        let mut on = options.connect().await.map_err(failed)?;
        migrate(&mut on, &path).await?;
        reserve_log(&mut on, &path).await?;
        let reader = options.connect().await.map_err(failed)?;
        let writer = Writer { on, last_rows: HashMap::new(), is_doubtful: false, _lock: lock };
        Ok(Self { reader: Mutex::new(Some(reader)), writer: Mutex::new(Some(writer)), path })
    }

    /// Copies the log into the database, then unlocks the folder.
    async fn shut(&self) -> Result<(), Error> {
        if let Some(reader) = self.reader.lock().await.take() {
            self.answer(reader.close()).await?;
        }
        if let Some(writer) = self.writer.lock().await.take() {
            self.answer(writer.on.close()).await?;
        }
        Ok(())
    }

    async fn reader(&self) -> Result<Reading<'_>, Error> {
        let reader = MutexGuard::try_map(self.reader.lock().await, Option::as_mut);
        reader.map(Reading).map_err(|_| self.closed())
    }

    async fn writer(&self) -> Result<Writing<'_>, Error> {
        let writer = MutexGuard::try_map(self.writer.lock().await, Option::as_mut);
        let mut writer = writer.map_err(|_| self.closed())?;
        let Writer { on, is_doubtful, .. } = &mut *writer;
        if std::mem::replace(is_doubtful, true) {
            // After SQLite has rolled back by itself (on a full disk, for example), sqlx's own count of transactions
            // stays wrong: only a new connection helps.
            self.answer(on.ping()).await?;
            if on.is_in_transaction() {
                *on = self.answer(options(&self.path).connect()).await?;
            }
        }
        Ok(Writing(writer))
    }

    fn closed(&self) -> Error {
        Error::Invalid(format!("the store in `{}` is closed", self.path.display()))
    }

    async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        work.await.map_err(|e| error::sqlite(&self.path, e))
    }

    async fn long_answer<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Error> {
        self.answer(work).await
    }

    /// Nobody else has the folder: here the epoch only tells assignments apart.
    async fn own(&self, address: &str, now_ms: i64) -> Result<Ownership, Error> {
        let key: [u8; 32] = random_bytes();
        let row = on!(self.writer, |on| {
            sqlx::query_as(sql::TAKE_OWNERSHIP)
                .bind(sql::SHARD)
                .bind(&key[..])
                .bind(address)
                .bind(now_ms)
                .fetch_one(on)
        });
        sql::ownership(row).ok_or_else(|| damaged("ownership"))
    }

    /// Drops what is cached about a run that was removed; its number may be reused.
    async fn forget(&self, run: &RunId) {
        if let Some(writer) = &mut *self.writer.lock().await {
            writer.last_rows.remove(run);
        }
    }

    async fn commit_rows(&self, batch: &[RunRows<'_>]) -> Result<(), Error> {
        let failed = |e| error::sqlite(&self.path, e);
        let mut lent = self.writer().await?;
        let Writer { on, last_rows, .. } = &mut *lent.0;
        let mut after = HashMap::with_capacity(batch.len());
        let mut inserts = Batch::default();
        for part in batch {
            // Taken out, so that the last row is read again if the commit fails or is dropped half-way.
            let last_row = match last_rows.remove(part.run) {
                Some(last_row) => last_row,
                // Nobody else writes, so what is read before the transaction still holds in it.
                None => last_row!(on, part.run).await.map_err(failed)?.ok_or_else(|| {
                    Error::Invalid(format!("the run `{}` is not in the store", part.run))
                })?,
            };
            let (old, new) = last_row.split(part.rows)?;
            self.compare(on, last_row, old).await?;
            inserts.add(last_row.run, new);
            if after.insert(part.run.clone(), last_row.after(new)).is_some() {
                let run = part.run;
                return Err(Error::Invalid(format!("the run `{run}` is in a commit twice")));
            }
        }
        let states: Vec<_> =
            batch.iter().filter_map(|part| Some((after[part.run].run, part.state?))).collect();
        if states.is_empty() && inserts.is_one_statement() {
            // It is a transaction by itself, without two more round trips to the database's thread.
            inserts.write(on).await.map_err(failed)?;
        } else {
            let mut transaction = on.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
            inserts.write(&mut transaction).await.map_err(failed)?;
            for (run, (state, finished_ms)) in states {
                set_state(&mut transaction, run, state, finished_ms).await.map_err(failed)?;
            }
            transaction.commit().await.map_err(failed)?;
        }
        let ended = |run: &RunId| {
            batch.iter().any(|p| p.run == run && p.state.is_some_and(|(_, end)| end.is_some()))
        };
        last_rows.extend(after.into_iter().filter(|(run, _)| !ended(run)));
        lent.give_back();
        Ok(())
    }

    /// Checks that stored rows are equal to `rows`.
    async fn compare(
        &self,
        on: &mut SqliteConnection,
        last_row: LastRow,
        rows: &[Row],
    ) -> Result<(), Error> {
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let count = BLOCK_ROWS.min(rest.len() as u64);
            let block = Block::read(on, last_row.run, first.seq, count)
                .await
                .map_err(|e| error::sqlite(&self.path, e))?
                .decode(&self.path)?;
            let (now, later) = rest.split_at(block.len());
            if let Some((_, new)) = block.iter().zip(now).find(|(old, new)| old != new) {
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
        let mut on = self.reader().await?;
        let number: Option<i64> = self
            .answer(sqlx::query_scalar(sql::RUN_NUMBER).bind(&*run.0).fetch_optional(&mut *on))
            .await?;
        let number = number.ok_or_else(|| Error::NotFound(format!("the run `{run}`")))?;
        let mut rows = Vec::with_capacity(seqs.len());
        for seq in seqs {
            let block = self.answer(Block::read(&mut on, number, *seq, 1)).await?;
            rows.extend(block.rows(&self.path)?);
        }
        Ok(rows)
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
        // While one block is decoded, the database's thread prints the next.
        while from <= last_row.seq || block.is_some() {
            let left = (last_row.seq + 1).saturating_sub(from);
            let read = async {
                if left == 0 {
                    return Ok(None);
                }
                let mut on = self.reader().await?;
                self.answer(Block::read(&mut on, last_row.run, from, count.min(left)))
                    .await
                    .map(Some)
            };
            let take_apart = async {
                let rows = block.take().map(|block| block.decode(&self.path)).transpose()?;
                rows.into_iter().flatten().for_each(&mut *each);
                Ok::<(), Error>(())
            };
            let (next, done) = tokio::join!(read, take_apart);
            done?;
            block = next?;
            if let Some(block) = &block {
                from += block.count;
                count = block.next_count();
            }
        }
        Ok(last_row.seq)
    }
}

async fn set_state(
    on: &mut SqliteConnection,
    run: i64,
    state: RunState,
    finished_ms: Option<i64>,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE run SET state = $2, finished_ms = $3 WHERE number = $1")
        .bind(run)
        .bind(state.name())
        .bind(finished_ms)
        .execute(on)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use pictor_tasks::history::{Control, Event, Fact};

    fn new_run(id: &RunId) -> NewRun {
        NewRun {
            id: id.clone(),
            name: String::new(),
            spec: String::new(),
            source_name: String::new(),
            plan: "{}".to_owned(),
            fold_version: 1,
            account: String::new(),
            priority: 0,
            created_ms: 0,
            out_dir: String::new(),
        }
    }

    fn rows(from: u64, to: u64) -> Vec<Row> {
        let pause = |id| Fact::Event(Control { id, event: Event::Paused });
        (from..=to).map(|seq| Row { seq, time_ms: 0, fact: pause(seq) }).collect()
    }

    async fn set_max_pages(store: &SqliteStore, count: u32) {
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {count}"));
        sqlx::query(pragma).execute(&mut *store.writer().await.unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_loses_nothing_and_the_commit_succeeds_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).await.unwrap();
        let id = RunId("full".into());
        store.create_run(&new_run(&id), None).await.unwrap();
        set_max_pages(&store, 30).await;
        let few = rows(1, 100);
        store.commit(&[RunRows { run: &id, rows: &few, state: None }]).await.unwrap();
        let many = rows(101, 20_000);
        let many = [RunRows { run: &id, rows: &many, state: None }];
        let error = store.commit(&many).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("pictor.sqlite` is full: free some space"), "{text}");
        assert_eq!(store.load_history(&id, 1, &mut |_| {}).await.unwrap(), 100);

        set_max_pages(&store, 20_000).await;
        store.commit(&many).await.unwrap();
        assert_eq!(store.load_history(&id, 1, &mut |_| {}).await.unwrap(), 20_000);
    }
}
