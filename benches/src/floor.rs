//! Baselines: what the machine itself achieves, with the same durability and nothing around it.

use crate::farm::new_run;
use crate::{jobs, machine};
use pictor_storage::{RunRows, Store};
use pictor_tasks::history::{Ended, Fact, Row, TaskRef};
use pictor_tasks::message::{Execution, Outcome, Products, RunId, Try, WorkerId};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::time::Instant;

/// Makes commits through [`Store`], with nothing else around.
pub struct Commits {
    store: Arc<dyn Store>,
    run: RunId,
    seq: u64,
}

impl Commits {
    /// Opens a store of its own in the folder of this name.
    ///
    /// # Panics
    /// If the disk cannot be used.
    pub async fn open(name: &str) -> Self {
        Self::open_at(&machine::fresh_folder(name).display().to_string()).await
    }

    /// Opens a store in an empty folder, or in an empty database (`postgres://…`).
    ///
    /// # Panics
    /// If it cannot be opened.
    pub async fn open_at(place: &str) -> Self {
        let (store, _) = pictor_storage::open(place).await.expect("the store is ours");
        store.take_ownership("", 1).await.expect("the store works");
        let run = RunId("floor".into());
        let text = jobs::chain(1);
        store
            .create_run(&new_run(&run, &text, &jobs::plan(&text)), None)
            .await
            .expect("the store works");
        Self { store, run, seq: 0 }
    }

    /// Commits `rows` rows of history in one transaction; returns seconds.
    ///
    /// # Panics
    /// If the disk cannot be used.
    pub async fn commit(&mut self, rows: u32) -> f64 {
        let rows: Vec<Row> = (0..rows).map(|index| self.row(index)).collect();
        let batch = [RunRows { run: &self.run, rows: &rows, state: None }];
        let started = Instant::now();
        self.store.commit(&batch).await.expect("the store works");
        started.elapsed().as_secs_f64()
    }

    fn row(&mut self, index: u32) -> Row {
        self.seq += 1;
        let task = TaskRef { step: 0, generation: 0, task: Try { index, attempt: 1 } };
        let ended = Ended {
            task,
            execution: Execution(self.seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            worker: WorkerId(1),
            started_ms: 1_700_000_000_000,
            took_ms: 0,
            outcome: Outcome::Succeeded(Products::default()),
        };
        Row { seq: self.seq, time_ms: 1_700_000_000_000, fact: Fact::Ended(ended) }
    }
}

/// Single-row commits to a plain `SQLite` file, in the default layout of its log.
#[derive(Debug)]
pub struct Plain {
    on: SqliteConnection,
}

impl Plain {
    /// Opens a database of its own.
    ///
    /// # Panics
    /// If the disk cannot be used.
    pub async fn open(name: &str) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(machine::fresh_folder(name).join("plain.sqlite"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .disable_statement_logging();
        let mut on = options.connect().await.expect("the folder is ours");
        let table = "CREATE TABLE row (number INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT";
        on.execute(table).await.expect("the disk works");
        Self { on }
    }

    /// Commits one row; returns seconds.
    ///
    /// # Panics
    /// If the disk cannot be used.
    pub async fn commit(&mut self) -> f64 {
        let started = Instant::now();
        let insert = sqlx::query("INSERT INTO row (text) VALUES ($1)");
        insert.bind("x".repeat(60)).execute(&mut self.on).await.expect("the disk works");
        started.elapsed().as_secs_f64()
    }

    /// Closes the database.
    pub async fn close(self) {
        // Its file is removed with its folder.
        let _ = self.on.close().await;
    }
}

/// Writes 8 KiB into the allocated blocks of a file, `count` times, each followed by `fdatasync`; returns seconds of
/// each.
///
/// # Panics
/// If the disk cannot be used.
pub fn sync(count: u32) -> Vec<f64> {
    let path = machine::fresh_folder("sync").join("file");
    let file = File::create(&path).expect("the folder is ours");
    let block = vec![7; 8192];
    file.write_all_at(&vec![0; 8192 * count as usize], 0).expect("the disk has room");
    file.sync_all().expect("the disk works");
    (0..u64::from(count))
        .map(|number| {
            let started = Instant::now();
            file.write_all_at(&block, number * 8192).expect("the disk has room");
            file.sync_data().expect("the disk works");
            started.elapsed().as_secs_f64()
        })
        .collect()
}
