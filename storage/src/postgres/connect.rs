//! Connections to Postgres, and the schema.

use crate::Error;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What turns version n of the schema into version n + 1.
const MIGRATIONS: &[&str] = &[include_str!("schema1.sql"), include_str!("schema2.sql")];
/// The lock that a server holds while it migrates: the word `pictor`.
const MIGRATION_LOCK: i64 = 0x7069_6374_6f72;

/// Connections for everything but commits.
const POOL: u32 = 8;
/// How long a connection may take to be made or to become free.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long after a refusal to be written connections are asked whether they would refuse again.
const DOUBTFUL: Duration = Duration::from_mins(1);
/// How long a statement may take, by our clock. The database gives up before, by its own clock; if it
/// cannot even do that, we go on without it.
pub(super) const ANSWER: Duration = Duration::from_secs(12);
/// How long the removal of a run may take, which is many statements.
pub(super) const LONG_ANSWER: Duration = Duration::from_mins(5);
/// What the database is told about each connection.
const SETTINGS: [(&str, &str); 5] = [
    ("statement_timeout", "10s"),
    ("lock_timeout", "8s"),
    // A server that is stopped in the middle of a transaction must not hold its locks.
    ("idle_in_transaction_session_timeout", "10s"),
    // Planning a commit anew each time takes as long as the commit.
    ("plan_cache_mode", "force_generic_plan"),
    ("client_min_messages", "warning"),
];

/// How to connect, from `postgres://user:password@host:port/database?…`.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, Error> {
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| {
        // The URL itself has a password in it.
        Error::Invalid(format!("the address of the database cannot be understood: {error}"))
    })?;
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("pictor"),
    };
    Ok(options.options(SETTINGS).disable_statement_logging())
}

/// Where the database is, for people.
pub(super) fn place(options: &PgConnectOptions) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("{database} at {host}:{port}")
}

/// Connections for everything but commits. Those that are older than `refused` are not used again, and those that
/// were made soon after it may be as it was: they are asked first.
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

/// When the database last refused to be written. A connection stays as it was made: one from before may refuse
/// for ever.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<Mutex<Option<Instant>>>);

impl Refused {
    /// Notes an error, if it is a refusal.
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

/// Brings the schema to the newest version in one transaction. Others who want to do the same wait.
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

/// What became of a migration.
pub(super) enum Migrated {
    /// The schema is as this program knows it.
    Done,
    /// A newer program has been here.
    Newer,
}
