//! The HTTP API over a real port: an embedded farm that executes real tasks, and requests as clients send them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod connections;
mod controls;
mod enrolment;
mod events;
mod farm;
mod files;
mod first_token;
mod fuzz;
mod hostile;
mod limits;
mod machines;
mod matrix;
mod nul;
mod outage;
mod page;
mod roles;
mod runs;
mod schedules;
mod siege;
mod standby;
mod submit;
mod tokens;
mod uploads;
mod webhooks;
