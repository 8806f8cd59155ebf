//! The codes of `attempt.outcome`, the same in both databases.

use pictor_tasks::message::{Outcome, Products};

pub(crate) const SUCCEEDED: i16 = 1;
pub(crate) const FAILED: i16 = 2;
pub(crate) const CANCELLED: i16 = 3;
pub(crate) const LOST: i16 = 4;

pub(crate) fn code(outcome: &Outcome) -> i16 {
    match outcome {
        Outcome::Succeeded(_) => SUCCEEDED,
        Outcome::Failed(_) => FAILED,
        Outcome::Cancelled => CANCELLED,
        Outcome::Lost => LOST,
    }
}

/// Whether the outcome carries data beyond its code.
pub(crate) fn has_detail(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Succeeded(Products { outputs, bindings, notes }) => {
            !(outputs.is_empty() && bindings.is_empty() && notes.is_empty())
        }
        Outcome::Failed(_) => true,
        Outcome::Cancelled | Outcome::Lost => false,
    }
}
