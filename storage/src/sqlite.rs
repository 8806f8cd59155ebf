//! The embedded store: one `SQLite` file in a data folder that one process owns.

use crate::connect::{DATABASE, migrate, options, reserve_log};
use crate::head::Head;
use crate::insert::Batch;
use crate::read::{BLOCK_ROWS, Block};
use crate::run::{NewRun, Rejected, RunRecord, RunRows, StoredPlan};
use crate::{Error, folder};
use pictor_tasks::history::Row;
use pictor_tasks::message::RunId;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection, FromRow, Row as _};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// The most of a rejected message that is kept.
const REJECTED_BYTES_MAX: usize = 64 << 10;
/// The most rows of a list.
const PAGE_ROWS_MAX: u32 = 1000;

const RUN_COLUMNS: &str = "id, name, source_name, fold_version, owner, priority, created_ms, \
                           out_dir, state, finished_ms";

impl FromRow<'_, SqliteRow> for RunRecord {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: RunId(row.try_get::<String, _>("id")?.into()),
            name: row.try_get("name")?,
            source_name: row.try_get("source_name")?,
            fold_version: row.try_get("fold_version")?,
            owner: row.try_get("owner")?,
            priority: row.try_get("priority")?,
            created_ms: row.try_get("created_ms")?,
            out_dir: row.try_get("out_dir")?,
            state: row.try_get("state")?,
            finished_ms: row.try_get("finished_ms")?,
        })
    }
}

/// Runs and their history in a data folder.
///
/// The folder is locked until the store is dropped or its process ends. Commits go through one
/// connection, reads through another, so neither waits for the other.
pub struct Store {
    writer: Mutex<Writer>,
    reader: Mutex<SqliteConnection>,
    path: PathBuf,
    // Released last.
    _lock: File,
}

struct Writer {
    on: SqliteConnection,
    /// Where the history of runs ends. Nobody else writes, so this needs no query.
    heads: HashMap<RunId, Head>,
    /// A commit failed or was dropped half-way: the connection may still be in its transaction.
    is_doubtful: bool,
}

impl Store {
    /// Opens the store in the folder `dir` and creates both if needed.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        let lock = folder::lock(dir)?;
        let path = dir.join(DATABASE);
        let failed = |e| Error::sql(&path, e);
        let options = options(&path);
        let mut on = options.connect().await.map_err(failed)?;
        migrate(&mut on, &path).await?;
        reserve_log(&mut on, &path).await?;
        let reader = options.connect().await.map_err(failed)?;
        let writer = Writer { on, heads: HashMap::new(), is_doubtful: false };
        Ok(Self { writer: Mutex::new(writer), reader: Mutex::new(reader), path, _lock: lock })
    }

    /// Closes the store: its log is copied into the database, then the folder is unlocked.
    pub async fn close(self) -> Result<(), Error> {
        let failed = |e| Error::sql(&self.path, e);
        self.reader.into_inner().close().await.map_err(failed)?;
        self.writer.into_inner().on.close().await.map_err(failed)
    }

    /// Stores a run. The same run again changes nothing; another run under the same id is an error.
    pub async fn create_run(&self, run: &NewRun) -> Result<(), Error> {
        let failed = |e| Error::sql(&self.path, e);
        let mut writer = self.writer.lock().await;
        let done = sqlx::query(
            "INSERT INTO run (id, name, spec, source_name, plan, fold_version, owner, priority, \
                 created_ms, out_dir) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING",
        )
        .bind(&*run.id.0)
        .bind(&run.name)
        .bind(&run.spec)
        .bind(&run.source_name)
        .bind(&run.plan)
        .bind(run.fold_version)
        .bind(&run.owner)
        .bind(run.priority)
        .bind(run.created_ms)
        .bind(&run.out_dir)
        .execute(&mut writer.on)
        .await
        .map_err(failed)?;
        drop(writer);
        if done.rows_affected() == 0 && self.load_new_run(&run.id).await?.as_ref() != Some(run) {
            return Err(Error::Invalid(format!("there is another run with the id `{}`", run.id)));
        }
        Ok(())
    }

    /// The run as it was created.
    async fn load_new_run(&self, id: &RunId) -> Result<Option<NewRun>, Error> {
        let Some(run) = self.exact_run(&id.0).await? else {
            return Ok(None);
        };
        let Some(StoredPlan { spec, plan, fold_version }) = self.run_plan(id).await? else {
            return Ok(None);
        };
        Ok(Some(NewRun {
            id: run.id,
            name: run.name,
            spec,
            source_name: run.source_name,
            plan,
            fold_version,
            owner: run.owner,
            priority: run.priority,
            created_ms: run.created_ms,
            out_dir: run.out_dir,
        }))
    }

    /// Commits rows of several runs, each run at most once, in one transaction. When this returns,
    /// they are on the disk.
    ///
    /// Rows that are there already change nothing if they are equal; otherwise nothing is written
    /// and the error is [`Error::Corrupt`].
    pub async fn commit(&self, batch: &[RunRows<'_>]) -> Result<(), Error> {
        let failed = |e| Error::sql(&self.path, e);
        let mut writer = self.writer.lock().await;
        let Writer { on, heads, is_doubtful } = &mut *writer;
        if std::mem::replace(is_doubtful, true) {
            // After SQLite has rolled back by itself (a full disk, for example), sqlx's own count of
            // transactions is off for good: only a new connection helps.
            on.ping().await.map_err(failed)?;
            if on.is_in_transaction() {
                *on = options(&self.path).connect().await.map_err(failed)?;
            }
        }
        let mut after = HashMap::with_capacity(batch.len());
        let mut inserts = Batch::default();
        for part in batch {
            // Taken out, so that a head is read again if the commit fails or is dropped half-way.
            let head = match heads.remove(part.run) {
                Some(head) => head,
                // Nobody else writes: what is read before the transaction is as it was.
                None => Head::load(on, part.run).await.map_err(failed)?.ok_or_else(|| {
                    Error::Invalid(format!("the run `{}` is not in the store", part.run))
                })?,
            };
            let (old, new) = head.split(part.rows)?;
            self.compare(on, head, old).await?;
            inserts.add(head.run, new);
            if after.insert(part.run.clone(), head.after(new)).is_some() {
                let run = part.run;
                return Err(Error::Invalid(format!("the run `{run}` is in a commit twice")));
            }
        }
        let states: Vec<_> =
            batch.iter().filter_map(|part| Some((after[part.run].run, part.state?))).collect();
        if states.is_empty() && inserts.is_one_statement() {
            // It is a transaction by itself, without two more trips to the database's thread.
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
        heads.extend(after.into_iter().filter(|(run, _)| !ended(run)));
        *is_doubtful = false;
        Ok(())
    }

    /// Checks that rows that are there already are equal to `rows`.
    async fn compare(
        &self,
        on: &mut SqliteConnection,
        head: Head,
        rows: &[Row],
    ) -> Result<(), Error> {
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let count = BLOCK_ROWS.min(rest.len() as u64);
            let block = Block::read(on, head.run, first.seq, count)
                .await
                .map_err(|e| Error::sql(&self.path, e))?
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

    /// Reads a run's history from `from_seq` to its end, in order, and returns the last `seq`.
    pub async fn load_history(
        &self,
        run: &RunId,
        from_seq: u64,
        each: &mut (dyn FnMut(Row) + Send),
    ) -> Result<u64, Error> {
        let failed = |e| Error::sql(&self.path, e);
        let head = Head::load(&mut *self.reader.lock().await, run)
            .await
            .map_err(failed)?
            .ok_or_else(|| Error::NotFound(format!("the run `{run}`")))?;
        let (mut from, mut count) = (from_seq.max(1), BLOCK_ROWS);
        let mut block: Option<Block> = None;
        // While one block is taken apart, the database's thread prints the next.
        while from <= head.seq || block.is_some() {
            let left = (head.seq + 1).saturating_sub(from);
            let read = async {
                if left == 0 {
                    return Ok(None);
                }
                let on = &mut *self.reader.lock().await;
                Block::read(on, head.run, from, count.min(left)).await.map(Some)
            };
            let take_apart = async {
                let rows = block.take().map(|block| block.decode(&self.path)).transpose()?;
                rows.into_iter().flatten().for_each(&mut *each);
                Ok::<(), Error>(())
            };
            let (next, done) = tokio::join!(read, take_apart);
            done?;
            block = next.map_err(failed)?;
            if let Some(block) = &block {
                from += block.count;
                count = block.next_count();
            }
        }
        Ok(head.seq)
    }

    /// Up to `limit` runs, the newest first; with `after` those that were stored before that run.
    pub async fn runs(&self, limit: u32, after: Option<&RunId>) -> Result<Vec<RunRecord>, Error> {
        let statement = format!(
            "SELECT {RUN_COLUMNS} FROM run \
             WHERE $1 IS NULL OR number < (SELECT number FROM run WHERE id = $1) \
             ORDER BY number DESC LIMIT $2"
        );
        sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(after.map(|run| &*run.0))
            .bind(limit.min(PAGE_ROWS_MAX))
            .fetch_all(&mut *self.reader.lock().await)
            .await
            .map_err(|e| Error::sql(&self.path, e))
    }

    /// Every run that has not ended, the oldest first: what an owner goes on with.
    pub async fn unfinished_runs(&self) -> Result<Vec<RunRecord>, Error> {
        let statement =
            format!("SELECT {RUN_COLUMNS} FROM run WHERE finished_ms IS NULL ORDER BY number");
        sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .fetch_all(&mut *self.reader.lock().await)
            .await
            .map_err(|e| Error::sql(&self.path, e))
    }

    /// The run with this id, or the only one whose id begins so.
    pub async fn run(&self, id: &str) -> Result<Option<RunRecord>, Error> {
        if let Some(run) = self.exact_run(id).await? {
            return Ok(Some(run));
        }
        if id.is_empty() {
            return Ok(None);
        }
        let statement = format!(
            "SELECT {RUN_COLUMNS} FROM run \
             WHERE id >= $1 AND id < $1 || char(0x10ffff) ORDER BY id LIMIT 3"
        );
        let mut found: Vec<RunRecord> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(id)
            .fetch_all(&mut *self.reader.lock().await)
            .await
            .map_err(|e| Error::sql(&self.path, e))?;
        if found.len() > 1 {
            let ids: Vec<String> = found.iter().map(|run| format!("`{}`", run.id)).collect();
            return Err(Error::Invalid(format!(
                "`{id}` fits several runs, for example {}: write more of the id",
                ids.join(" and ")
            )));
        }
        Ok(found.pop())
    }

    async fn exact_run(&self, id: &str) -> Result<Option<RunRecord>, Error> {
        let statement = format!("SELECT {RUN_COLUMNS} FROM run WHERE id = $1");
        sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(id)
            .fetch_optional(&mut *self.reader.lock().await)
            .await
            .map_err(|e| Error::sql(&self.path, e))
    }

    /// What the run was compiled from and to.
    pub async fn run_plan(&self, run: &RunId) -> Result<Option<StoredPlan>, Error> {
        let found: Option<(String, String, u32)> =
            sqlx::query_as("SELECT spec, plan, fold_version FROM run WHERE id = $1")
                .bind(&*run.0)
                .fetch_optional(&mut *self.reader.lock().await)
                .await
                .map_err(|e| Error::sql(&self.path, e))?;
        Ok(found.map(|(spec, plan, fold_version)| StoredPlan { spec, plan, fold_version }))
    }

    /// Keeps a message that could not be decoded or folded.
    pub async fn reject(&self, message: &Rejected) -> Result<(), Error> {
        let raw = &message.raw[..message.raw.len().min(REJECTED_BYTES_MAX)];
        sqlx::query("INSERT INTO rejected (time_ms, reason, raw) VALUES ($1, $2, $3)")
            .bind(message.time_ms)
            .bind(&message.reason)
            .bind(raw)
            .execute(&mut self.writer.lock().await.on)
            .await
            .map_err(|e| Error::sql(&self.path, e))?;
        Ok(())
    }

    /// The newest `limit` rejected messages, the newest first.
    pub async fn rejected(&self, limit: u32) -> Result<Vec<Rejected>, Error> {
        let rows: Vec<(i64, String, Vec<u8>)> = sqlx::query_as(
            "SELECT time_ms, reason, raw FROM rejected ORDER BY number DESC LIMIT $1",
        )
        .bind(limit.min(PAGE_ROWS_MAX))
        .fetch_all(&mut *self.reader.lock().await)
        .await
        .map_err(|e| Error::sql(&self.path, e))?;
        let rows = rows.into_iter();
        Ok(rows.map(|(time_ms, reason, raw)| Rejected { time_ms, reason, raw }).collect())
    }
}

async fn set_state(
    on: &mut SqliteConnection,
    run: i64,
    state: &str,
    finished_ms: Option<i64>,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE run SET state = $2, finished_ms = $3 WHERE number = $1")
        .bind(run)
        .bind(state)
        .bind(finished_ms)
        .execute(on)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_tasks::history::{Control, Event, Fact};

    fn new_run(id: &RunId) -> NewRun {
        NewRun {
            id: id.clone(),
            name: String::new(),
            spec: String::new(),
            source_name: String::new(),
            plan: "{}".to_owned(),
            fold_version: 1,
            owner: String::new(),
            priority: 0,
            created_ms: 0,
            out_dir: String::new(),
        }
    }

    fn rows(from: u64, to: u64) -> Vec<Row> {
        let pause = |id| Fact::Event(Control { id, event: Event::Paused });
        (from..=to).map(|seq| Row { seq, time_ms: 0, fact: pause(seq) }).collect()
    }

    async fn set_max_pages(store: &Store, count: u32) {
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {count}"));
        sqlx::query(pragma).execute(&mut store.writer.lock().await.on).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_loses_nothing_and_the_commit_succeeds_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let id = RunId("full".into());
        store.create_run(&new_run(&id)).await.unwrap();
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
