//! The errors of this crate. The variant says who has to act.

use std::io;
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

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk, database or object store failed. Nothing was changed.
    #[error("{message}")]
    Unavailable {
        /// What failed, where, and what to do about it.
        message: String,
        /// Whether the same call can succeed later without anyone's intervention.
        retryable: bool,
        /// The underlying error, if there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Stored data breaks an invariant: someone has to look at it.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Another process owns the data folder.
    #[error("the data folder is in use{}", owner(*pid))]
    Locked {
        /// Process id of the owner, if the lock file holds it yet.
        pid: Option<u32>,
    },
    /// Another process has taken ownership: this one may no longer write history.
    #[error("another server has taken over")]
    Fenced,
    /// The caller asked for something impossible; the message says what.
    #[error("{0}")]
    Invalid(String),
    /// The named object does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" by process {pid}"))
}

impl Error {
    /// Whether the same call may succeed when it is repeated later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { retryable, .. } => *retryable,
            Self::Corrupt(_)
            | Self::Locked { .. }
            | Self::Fenced
            | Self::Invalid(_)
            | Self::NotFound(_) => false,
        }
    }

    /// An error of the operating system at `path`.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let place = path.display();
        let full = is_full(&source);
        let message = if full {
            disk_full(path)
        } else {
            match source.kind() {
                io::ErrorKind::NotFound => return Self::NotFound(format!("`{place}`")),
                io::ErrorKind::PermissionDenied => {
                    format!("`{place}` may not be read or written: change its owner or mode")
                }
                _ => format!("`{place}` cannot be read or written"),
            }
        };
        let retryable = full || source.kind() == io::ErrorKind::Interrupted;
        Self::Unavailable { message, retryable, source: Some(Box::new(source)) }
    }

    /// An error of the database file at `path`.
    pub(crate) fn sqlite(path: &Path, source: sqlx::Error) -> Self {
        let place = path.display();
        let (message, retryable) = match &source {
            sqlx::Error::Database(e) if e.is_unique_violation() => {
                return Self::Corrupt(format!("a row of `{place}` is there already: {e}"));
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
                    return Self::Corrupt(format!("`{place}` is not a sound database: {e}"));
                }
                code::CONSTRAINT => return Self::Invalid(format!("a rule is broken: {e}")),
                _ => (format!("`{place}` cannot be used"), false),
            },
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                return Self::Corrupt(format!("`{place}`: {source}"));
            }
            _ => (format!("`{place}` cannot be used"), false),
        };
        Self::Unavailable { message, retryable, source: Some(Box::new(source)) }
    }

    /// An error of the Postgres database at `place`.
    pub(crate) fn postgres(place: &str, source: sqlx::Error) -> Self {
        let (message, retryable) = match &source {
            sqlx::Error::Database(e) => {
                let code = e.code().unwrap_or_default().into_owned();
                match (code.get(..2).unwrap_or_default(), &*code) {
                    (_, "23505") => {
                        return Self::Corrupt(format!("a row of {place} is there already: {e}"));
                    }
                    (_, "XX001" | "XX002") => {
                        return Self::Corrupt(format!("the database {place}: {e}"));
                    }
                    ("22" | "23", _) => return Self::Invalid(format!("a rule is broken: {e}")),
                    (_, "53100") => {
                        (format!("the disk of the database {place} is full: free some space"), true)
                    }
                    // Connections, resources, locks, operator intervention, system errors, a standby.
                    ("08" | "40" | "53" | "55" | "57" | "58" | "XX", _)
                    | (_, "25006" | "25P03") => {
                        (format!("the database {place} cannot answer now"), true)
                    }
                    ("28", _) => (format!("the database {place} does not let us in"), false),
                    _ => (format!("the database {place} cannot be used"), false),
                }
            }
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                return Self::Corrupt(format!("the database {place}: {source}"));
            }
            sqlx::Error::PoolClosed => return Self::Invalid("the store is closed".to_owned()),
            sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => {
                (format!("the database {place} cannot be used"), false)
            }
            _ => (format!("the database {place} does not answer"), true),
        };
        Self::Unavailable { message, retryable, source: Some(Box::new(source)) }
    }

    /// The error when the Postgres database at `place` did not answer in time.
    pub(crate) fn silent(place: &str) -> Self {
        let message = format!("the database {place} does not answer");
        Self::Unavailable { message, retryable: true, source: None }
    }

    /// An error of artifact storage about `key`; `place` is the location of the storage.
    pub(crate) fn artifact(place: &str, key: &str, source: opendal::Error) -> Self {
        use opendal::ErrorKind;
        let full = std::error::Error::source(&source)
            .and_then(|cause| cause.downcast_ref::<io::Error>())
            .is_some_and(is_full);
        let (message, retryable) = match source.kind() {
            _ if full => (disk_full(Path::new(place)), true),
            ErrorKind::NotFound if key.is_empty() => (format!("there is no `{place}`"), false),
            ErrorKind::PermissionDenied => {
                (format!("`{place}` does not let us in: are the keys right?"), false)
            }
            ErrorKind::NotFound => return Self::NotFound(format!("the artifact `{key}`")),
            ErrorKind::ConfigInvalid | ErrorKind::Unsupported => {
                return Self::Invalid(format!("artifact storage cannot do this: {source}"));
            }
            _ => (
                format!("the artifact `{key}` cannot be read or written in `{place}`"),
                source.is_temporary(),
            ),
        };
        Self::Unavailable { message, retryable, source: Some(Box::new(source)) }
    }
}

fn disk_full(path: &Path) -> String {
    format!("the disk that holds `{}` is full: free some space on it", path.display())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `SQLite`'s primary result code: the extended code without its upper bits.
fn primary_code(error: &dyn sqlx::error::DatabaseError) -> u32 {
    error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or_default() & 0xff
}

/// Whether the result was longer than `SQLite` allows a text to be.
pub(crate) fn is_too_big(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|e| primary_code(e) == code::TOOBIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_names_the_path_and_can_be_retried() {
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let error = Error::io(Path::new("/data/x"), full);
        assert!(error.is_retryable());
        assert_eq!(
            error.to_string(),
            "the disk that holds `/data/x` is full: free some space on it"
        );
    }

    #[test]
    fn a_full_disk_under_artifact_storage_is_recognised() {
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let full = opendal::Error::new(opendal::ErrorKind::Unexpected, "write").set_source(full);
        let error = Error::artifact("/data", "a/b", full);
        assert!(error.is_retryable());
        assert!(error.to_string().contains("`/data` is full"), "{error}");
    }

    #[test]
    fn who_is_locked_out_learns_by_whom() {
        let text = Error::Locked { pid: Some(7) }.to_string();
        assert_eq!(text, "the data folder is in use by process 7");
        assert_eq!(Error::Locked { pid: None }.to_string(), "the data folder is in use");
    }
}
