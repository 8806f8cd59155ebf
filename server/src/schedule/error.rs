//! Why a request about a schedule fails.

use super::timetable::TimetableError;
use crate::SubmitError;
use pictor_tasks::message::RunId;

/// Why a request about a schedule fails.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The schedule has invalid values.
    #[error("{0}")]
    Invalid(String),
    /// Its cron fields or its time zone cannot be parsed.
    #[error(transparent)]
    Timetable(#[from] TimetableError),
    /// Its job cannot be submitted.
    #[error(transparent)]
    Job(#[from] SubmitError),
    /// There is no schedule of this name.
    #[error("there is no schedule `{0}`")]
    NoSchedule(String),
    /// There is a schedule of this name already.
    #[error("there is a schedule `{0}` already; replace it, or choose another name")]
    Taken(String),
    /// An earlier run has not ended, and the overlap rule forbids another one.
    #[error("run `{0}` of the schedule is still going, and its rule is `overlap: skip`")]
    Going(RunId),
    /// A run of the schedule is queued already.
    #[error("a run of the schedule waits for `{0}` to end already, and only one may wait")]
    Waits(RunId),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] pictor_storage::Error),
    /// The owner has ended or cannot write.
    #[error(transparent)]
    Owner(#[from] crate::Error),
}

impl ScheduleError {
    /// Whether the same call may succeed when it is repeated later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error)
            | Self::Owner(crate::Error::Store(error))
            | Self::Job(SubmitError::Store(error)) => error.is_retryable(),
            _ => false,
        }
    }
}
