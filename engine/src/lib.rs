//! What happens next: the compiler from job to plan, the state machine of runs, and the assignment of
//! tasks to workers. Pure: no I/O, no clock, no randomness.
//!
//! Four rooms, each of which knows only those before it: [`plan`] (the compiler and what it makes), `run`
//! (the state of one run), `farm` (all runs and all workers), `views` (what is asked about them).

mod farm;
pub mod plan;
mod run;
mod views;

pub use farm::{Config, Effects, Engine};
pub use plan::{Plan, compile, uses_of_folder};
pub use run::{FoldError, MAX_LOSSES, Note, Notes, Run, undefined_limits};
pub use run::{RunState, TaskState};
pub use views::{Effort, Found, RunView, StepView, TaskQuery, TaskView, Totals, WorkerView};
