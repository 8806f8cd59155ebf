//! The errors of storage. The variant says who has to act.

use std::io;
use std::path::Path;

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
    /// The named object exists already, and is not to be replaced.
    #[error("{0} exists already")]
    Exists(String),
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
            | Self::NotFound(_)
            | Self::Exists(_) => false,
        }
    }

    /// An error of the operating system at `path`.
    pub fn io(path: &Path, source: io::Error) -> Self {
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
                (format!("`{place}` rejected the credentials: are the keys right?"), false)
            }
            ErrorKind::NotFound => return Self::NotFound(format!("the artifact `{key}`")),
            ErrorKind::ConditionNotMatch => return Self::Exists(format!("the artifact `{key}`")),
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

/// The message about a full disk: it names the path and what to do.
pub fn disk_full(path: &Path) -> String {
    format!("the disk that holds `{}` is full: free some space on it", path.display())
}

/// Whether a disk was full, or its user's share of it.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
