//! Scenes, commands and media of somebody hostile, with the real programs: they reach nothing, leave nothing behind, and
//! the next task on that slot works.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod commands;
#[path = "../farm/mod.rs"]
mod farm;
mod media;
mod scenes;
