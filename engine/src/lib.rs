//! What happens next: the compiler from job to plan, the state machine of runs, and the assignment of
//! tasks to workers. Pure: no I/O, no clock, no randomness.

mod assign;
mod audit;
mod binding;
mod change;
mod check;
mod compile;
mod cycles;
mod engine;
mod expand;
mod fold;
mod join;
mod notes;
mod page;
pub mod plan;
mod rebuild;
mod report;
mod retention;
mod run;
mod simulate;
mod state;
mod task_set;
mod templates;
mod upscale;
mod view;

pub use compile::compile;
pub use engine::{Config, Effects, Engine};
pub use fold::{FoldError, MAX_LOSSES};
pub use notes::{Note, Notes, undefined_limits};
pub use page::{Effort, Found, TaskQuery};
pub use plan::Plan;
pub use run::Run;
pub use state::{RunState, TaskState};
pub use templates::uses_of_folder;
pub use view::{RunView, StepView, TaskView, Totals, WorkerView};
