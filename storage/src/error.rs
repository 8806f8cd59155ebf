//! The errors of databases.

use pictor_artifacts::{Error, disk_full};
use std::path::Path;

/// The primary result codes of `SQLite` that this crate distinguishes.
mod code {
    pub(super) const BUSY: u32 = 5;
    pub(super) const LOCKED: u32 = 6;
    pub(super) const NOMEM: u32 = 7;
    pub(super) const READONLY: u32 = 8;
    pub(super) const IOERR: u32 = 10;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const FULL: u32 = 13;
    pub(super) const CANTOPEN: u32 = 14;
    pub(super) const TOOBIG: u32 = 18;
    pub(super) const CONSTRAINT: u32 = 19;
    pub(super) const NOTADB: u32 = 26;
}

/// An error of the database file at `path`.
pub(crate) fn sqlite(path: &Path, source: sqlx::Error) -> Error {
    let place = path.display();
    let (message, retryable) = match &source {
        sqlx::Error::Database(e) if e.is_unique_violation() => {
            return Error::Corrupt(format!("a row of `{place}` is there already: {e}"));
        }
        sqlx::Error::Database(e) => match primary_code(e.as_ref()) {
            code::FULL => (disk_full(path), true),
            code::BUSY | code::LOCKED => {
                (format!("`{place}` is used by another program: end it"), true)
            }
            // SQLite reports this after the system has remounted a failing disk read-only.
            code::READONLY => {
                (format!("`{place}` may not be written: change its owner or mode"), true)
            }
            code::CANTOPEN => (format!("`{place}` or its log cannot be opened"), true),
            code::NOMEM => (format!("no memory is left for `{place}`"), true),
            code::IOERR => (format!("`{place}`: the disk reports an error"), true),
            code::CORRUPT | code::NOTADB => {
                return Error::Corrupt(format!("`{place}` is not a sound database: {e}"));
            }
            code::CONSTRAINT => return Error::Invalid(format!("a rule is broken: {e}")),
            _ => (format!("`{place}` cannot be used"), false),
        },
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            return Error::Corrupt(format!("`{place}`: {source}"));
        }
        _ => (format!("`{place}` cannot be used"), false),
    };
    Error::Unavailable { message, retryable, source: Some(Box::new(source)) }
}

/// An error of the Postgres database at `place`.
pub(crate) fn postgres(place: &str, source: sqlx::Error) -> Error {
    let (message, retryable) = match &source {
        sqlx::Error::Database(e) => {
            let code = e.code().unwrap_or_default().into_owned();
            match (code.get(..2).unwrap_or_default(), &*code) {
                (_, "23505") => {
                    return Error::Corrupt(format!("a row of {place} is there already: {e}"));
                }
                (_, "XX001" | "XX002") => {
                    return Error::Corrupt(format!("the database {place}: {e}"));
                }
                ("22" | "23", _) => return Error::Invalid(format!("a rule is broken: {e}")),
                (_, "53100") => {
                    (format!("the disk of the database {place} is full: free some space"), true)
                }
                // Connections, resources, locks, operator intervention, system errors, a standby.
                ("08" | "40" | "53" | "55" | "57" | "58" | "XX", _) | (_, "25006" | "25P03") => {
                    (format!("the database {place} cannot answer now"), true)
                }
                ("28", _) => (format!("the database {place} rejected the credentials"), false),
                _ => (format!("the database {place} cannot be used"), false),
            }
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            return Error::Corrupt(format!("the database {place}: {source}"));
        }
        sqlx::Error::PoolClosed => return Error::Invalid("the store is closed".to_owned()),
        sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => {
            (format!("the database {place} cannot be used"), false)
        }
        _ => (format!("the database {place} does not answer"), true),
    };
    Error::Unavailable { message, retryable, source: Some(Box::new(source)) }
}

/// The error when the Postgres database at `place` did not answer in time.
pub(crate) fn silent(place: &str) -> Error {
    let message = format!("the database {place} does not answer");
    Error::Unavailable { message, retryable: true, source: None }
}

/// `SQLite`'s primary result code: the extended code without its upper bits.
fn primary_code(error: &dyn sqlx::error::DatabaseError) -> u32 {
    error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default() & 0xff
}

/// Whether the result was longer than `SQLite` allows a text to be.
pub(crate) fn is_too_big(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| primary_code(e) == code::TOOBIG)
}
