//! The edge cases of the rules, one test each: joins, late-bound dimensions, failures, resets, and which of two reports
//! counts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod bench;

#[path = "rules/assignment.rs"]
mod assignment;
#[path = "rules/binding.rs"]
mod binding;
#[path = "rules/changes.rs"]
mod changes;
#[path = "rules/choice.rs"]
mod choice;
#[path = "rules/failure.rs"]
mod failure;
#[path = "rules/joins.rs"]
mod joins;
#[path = "rules/notes.rs"]
mod notes;
#[path = "rules/reports.rs"]
mod reports;
#[path = "rules/retention.rs"]
mod retention;
