//! Decides what happens next: the compiler from job to plan, the state machine of runs, and the assignment of tasks to
//! workers. Pure: no I/O, no clock, no randomness.
//!
//! Four folders, each of which uses only those before it: [`plan`] (the compiler and its result), `run` (the state of
//! one run), `farm` (all runs and all workers), `views` (answers to queries about them).

mod farm;
pub mod plan;
mod run;
mod views;

pub use farm::{Config, Effects, Engine};
pub use plan::{Plan, compile, uses_of_folder};
pub use run::{FoldError, MAX_LOSSES, Note, Notes, Run, RunLimits, sizes, undefined_limits};
pub use run::{RunState, TaskState, transitions};
pub use views::{
    Effort, Found, Reason, RunView, StepView, TaskQuery, TaskView, Totals, WorkerView,
};
