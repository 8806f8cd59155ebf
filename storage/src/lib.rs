//! What did happen, and the pixels: the store of runs and their history, and the artifacts.
//!
//! **Invariant:** history is insert-only. A row that was committed is never changed or removed.

pub mod artifacts;
mod connect;
mod error;
mod folder;
mod head;
mod insert;
mod read;
mod run;
mod sqlite;

pub use artifacts::Artifacts;
pub use error::Error;
pub use run::{NewRun, Rejected, RunRecord, RunRows, StoredPlan};
pub use sqlite::Store;
