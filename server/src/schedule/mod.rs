//! Jobs that are submitted at recurring times: when they are due, what happens at each due time, and how they are
//! managed.
//!
//! **Invariant:** each due time of a schedule starts at most one run, whichever server handles it: the run and the
//! outcome of the due time are stored in one transaction.

mod book;
mod cron_text;
mod decide;
mod error;
mod name;
mod runner;
mod timetable;

pub use book::Schedules;
pub use cron_text::CronError;
pub use error::ScheduleError;
pub use runner::{Next, Runner};
pub use timetable::{Timetable, TimetableError};
