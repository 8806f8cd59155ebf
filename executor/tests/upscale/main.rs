//! `probe`, `extract`, `upscale`, `stitch` and `encode` with real weights and the real ffmpeg.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../farm/mod.rs"]
mod farm;
mod films;
mod frames;
mod job;
mod pictures;
mod refusals;
mod video;
#[path = "../weights/mod.rs"]
mod weights;
