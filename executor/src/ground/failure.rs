//! Failures of tasks: messages for errors that occur in every part of the executor.

use pictor_artifacts::is_full;
use pictor_pictures::PictureError;
use pictor_pictures::exr_image::ExrError;
use pictor_tasks::message::{Failure, FailureKind};
use std::error::Error;

/// A failure of this kind, with this message.
pub fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

/// A failure of storage. If the disk is full, the message says what to do.
pub(crate) fn storage_failure(what: &str, error: &(dyn Error + 'static)) -> Failure {
    let cause = io_error(error);
    let full = cause.is_some_and(is_full);
    let message = if full {
        format!("{what}: the disk of this worker is full. Free some space and retry.")
    } else {
        let cause = cause.map_or_else(|| error.to_string(), ToString::to_string);
        format!("{what}: {cause}.")
    };
    failure(FailureKind::Storage, message)
}

fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// A failure because of a picture, with its name. `kind` is used if the picture is unusable.
pub(crate) fn picture_failure(error: PictureError, name: &str, kind: FailureKind) -> Failure {
    match error {
        PictureError::Io(error) => {
            storage_failure(&format!("{name} cannot be read or written"), &error)
        }
        PictureError::Unusable(problem) => failure(kind, format!("{name} {problem}.")),
        PictureError::Rows(error) => match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(error) => failure(FailureKind::Failed, format!("{name}: {error}.")),
        },
    }
}

/// The error for rows of a picture that cannot be provided because of this failure.
pub(crate) fn gave_up(failure: Failure) -> PictureError {
    PictureError::Rows(Box::new(failure))
}

/// A failure because of an EXR file that a task made or was given.
pub(crate) fn exr_failure(error: ExrError) -> Failure {
    match error {
        ExrError::Io(path, error) => {
            storage_failure(&format!("{} cannot be read or written", path.display()), &error)
        }
        other => failure(FailureKind::BadOutput, format!("{other}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named() {
        let full = std::io::Error::from_raw_os_error(28);
        let failure = storage_failure("x cannot be stored", &full);
        assert_eq!(failure.kind, FailureKind::Storage);
        assert!(failure.message.contains("the disk of this worker is full"), "{failure:?}");
    }
}
