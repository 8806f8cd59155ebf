//! Connections to Postgres, and the schema.

use crate::Error;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The migrations: entry n turns version n of the schema into version n + 1.
const MIGRATIONS: &[&str] = &[
    include_str!("schema1.sql"),
    include_str!("schema2.sql"),
    include_str!("schema3.sql"),
    include_str!("schema4.sql"),
];
/// The advisory lock that a server holds while it migrates: the word `pictor`.
const MIGRATION_LOCK: i64 = 0x7069_6374_6f72;

/// Most connections for everything but commits.
const POOL: u32 = 8;
/// How long it may take to make a connection, or for one to become free.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// For how long after the database refused to write each connection is asked whether it would refuse again.
const DOUBTFUL: Duration = Duration::from_mins(1);
/// Time limit of a statement, by our clock. The database gives up earlier, by its own clock; if it cannot even do that,
/// this process stops waiting for it.
pub(super) const ANSWER: Duration = Duration::from_secs(12);
/// Time limit for the removal of a run, which takes many statements.
pub(super) const LONG_ANSWER: Duration = Duration::from_mins(5);
/// Session settings of each connection.
const SETTINGS: [(&str, &str); 5] = [
    ("statement_timeout", "10s"),
    ("lock_timeout", "8s"),
    // A server that is stopped in the middle of a transaction must not keep its locks.
    ("idle_in_transaction_session_timeout", "10s"),
    // Planning a commit anew each time takes as long as the commit.
    ("plan_cache_mode", "force_generic_plan"),
    ("client_min_messages", "warning"),
];

/// Connection options from `postgres://user:password@host:port/database?…`.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, Error> {
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| {
        // The URL itself contains a password.
        Error::Invalid(format!("the address of the database cannot be understood: {error}"))
    })?;
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("pictor"),
    };
    Ok(options.options(SETTINGS).disable_statement_logging())
}

/// Location of the database, for messages: without the password.
pub(super) fn place(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("{database} at {host}:{port}")
}

/// The pool for everything but commits. Connections older than `refused` are not used again; those made soon after it
/// may be read-only too, so they are asked first.
pub(super) fn pool(options: PgConnectOptions, refused: Refused) -> PgPool {
    PgPoolOptions::new()
        .max_connections(POOL)
        .acquire_timeout(CONNECT)
        .before_acquire(move |connection, meta| {
            let last = *refused.0.lock().unwrap_or_else(PoisonError::into_inner);
            let since = last.map(|at| at.elapsed());
            Box::pin(async move {
                match since {
                    Some(since) if meta.age >= since => Ok(false),
                    Some(since) if since < DOUBTFUL => {
                        let is: String = sqlx::query_scalar("SHOW transaction_read_only")
                            .fetch_one(connection)
                            .await?;
                        Ok(is == "off")
                    }
                    _ => Ok(true),
                }
            })
        })
        .connect_lazy_with(options)
}

/// When the database last refused to write. A connection keeps the mode in which it was made: one from before may
/// refuse for ever.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<Mutex<Option<Instant>>>);

impl Refused {
    /// Records the time of an error that is such a refusal.
    #[expect(
        clippy::disallowed_methods,
        reason = "the pool tells ages of connections in real time"
    )]
    pub(super) fn note(&self, error: &sqlx::Error) {
        const READ_ONLY: &str = "25006";
        if error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .is_some_and(|code| code == READ_ONLY)
        {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

/// Migrates the schema to the newest version in one transaction. Other servers that want to migrate wait.
pub(super) async fn migrate(on: &mut PgConnection) -> Result<Migrated, sqlx::Error> {
    let mut t = on.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *t).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS pictor_schema (version bigint NOT NULL)")
        .execute(&mut *t)
        .await?;
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM pictor_schema").fetch_one(&mut *t).await?;
    let version = usize::try_from(version.unwrap_or(0)).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Ok(Migrated::Newer);
    }
    for (number, migration) in (1_i64..).zip(MIGRATIONS).skip(version) {
        sqlx::raw_sql(*migration).execute(&mut *t).await?;
        let mark = sqlx::query("INSERT INTO pictor_schema (version) VALUES ($1)").bind(number);
        mark.execute(&mut *t).await?;
    }
    t.commit().await.map(|()| Migrated::Done)
}

/// The result of a migration.
pub(super) enum Migrated {
    /// The schema has the version that this program knows.
    Done,
    /// The schema is of a newer program.
    Newer,
}
