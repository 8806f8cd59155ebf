//! Jobs that are submitted at times: when they are due, what becomes of each due time, and what people
//! may do with them.
//!
//! **Invariant:** each due time of a schedule starts at most one run, whichever server deals with it:
//! the run and the note that the time was dealt with are one transaction.

mod book;
mod cron_text;
mod decide;
mod name;
mod runner;
mod timetable;
mod view;

pub use book::Schedules;
pub use cron_text::CronError;
pub use decide::{CatchUp, Overlap};
pub use runner::{Next, Runner};
pub use timetable::{Timetable, TimetableError};
pub use view::{
    FireView, NewSchedule, ScheduleBody, ScheduleDetail, ScheduleError, ScheduleView, ScheduledJob,
    Triggered,
};
