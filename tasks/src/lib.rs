//! The content of pictor jobs: the job file, the kinds of steps and tasks, messages between the engine and its workers,
//! the rows of a run's history, the states of runs, tasks and workers, and the geometry of dimensions and tiles. Pure:
//! no I/O, no clock, no randomness.

pub mod blend;
pub mod body;
pub mod history;
pub mod job;
pub mod media;
pub mod message;
pub mod output;
pub mod pack;
pub mod range;
pub mod space;
pub mod state;
pub mod template;
pub mod ticket;
pub mod units;
pub mod worker;
