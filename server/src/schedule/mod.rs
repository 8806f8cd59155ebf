//! Jobs that are submitted at recurring times: when they are due, what happens at each due time, and how they are
//! managed.
//!
//! **Invariant:** each due time of a schedule starts at most one run, whichever server handles it: the run and the
//! outcome of the due time are stored in one transaction.

mod book;
mod cron_text;
mod decide;
mod name;
mod runner;
mod timetable;
mod view;

pub use book::Schedules;
pub use cron_text::CronError;
pub use pictor_tasks::state::{CatchUp, Overlap};
pub use runner::{Next, Runner};
pub use timetable::{Timetable, TimetableError};
pub use view::{
    DueTimeView, NewSchedule, ScheduleBody, ScheduleDetail, ScheduleError, ScheduleView,
    ScheduledJob, Triggered,
};
