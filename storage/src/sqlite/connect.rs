//! Opens the file of the embedded store: settings, schema and reserved space in its log.

use crate::{Error, error};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor};
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name of the database file in a data folder.
pub(crate) const DATABASE: &str = "pictor.sqlite";
/// The migrations: entry n turns version n of the schema into version n + 1.
const MIGRATIONS: &[&str] = &[
    include_str!("schema1.sql"),
    include_str!("schema2.sql"),
    include_str!("schema3.sql"),
    include_str!("schema4.sql"),
    include_str!("schema5.sql"),
];
const PAGE_BYTES: u32 = 4096;
/// Pages in the write-ahead log after which it is copied into the database and reused.
const WAL_PAGES: u32 = 1000;
/// Bytes of the log that are filled with zeros when it is opened. A commit into existing blocks takes half as long as
/// one that extends the file.
const WAL_RESERVED_BYTES: usize = 1 << 20;

pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .page_size(PAGE_BYTES)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("wal_autocheckpoint", WAL_PAGES.to_string())
        .pragma("cache_size", "-16384")
        .disable_statement_logging()
}

/// Makes the file readable for its owner only: it holds jobs of everybody, and digests of tokens. `SQLite` gives the files
/// beside it the same permissions.
pub(crate) fn private(path: &Path) -> Result<(), Error> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let private = |file: File| file.set_permissions(Permissions::from_mode(0o600));
    opened.and_then(private).map_err(|e| Error::io(path, e))
}

/// Migrates the schema to the newest version, each step in one transaction.
pub(crate) async fn migrate(on: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let failed = |e| error::sqlite(path, e);
    let version: u32 =
        sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *on).await.map_err(failed)?;
    let done = version as usize;
    if done > MIGRATIONS.len() {
        return Err(Error::Invalid(format!(
            "`{}` was written by a newer pictor: update this one",
            path.display()
        )));
    }
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let mut transaction = on.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        transaction.execute(*migration).await.map_err(failed)?;
        let mark = format!("PRAGMA user_version = {}", number + 1);
        transaction.execute(sqlx::AssertSqlSafe(mark)).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
    }
    Ok(())
}

/// Extends the log's file to at least [`WAL_RESERVED_BYTES`]. Whatever lies behind the last commit in a log, `SQLite`
/// does not take it for a frame. The transaction keeps every other writer away.
pub(crate) async fn reserve_log(on: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let failed = |e| error::sqlite(path, e);
    let transaction = on.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    let fill = || -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).open(&log)?;
        let len = file.metadata()?.len();
        let missing = WAL_RESERVED_BYTES.saturating_sub(usize::try_from(len).unwrap_or(usize::MAX));
        if missing > 0 {
            file.write_all_at(&vec![0; missing], len)?;
            file.sync_all()?;
        }
        Ok(())
    };
    fill().map_err(|e| Error::io(&log, e))?;
    transaction.rollback().await.map_err(failed)
}
