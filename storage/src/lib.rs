//! Storage of what happened: runs with their history, accounts and machines.
//!
//! **Invariant:** history is insert-only. A row that was committed is never changed, and removed only
//! together with its whole run.

mod error;
mod last_row;
mod outcome;
mod postgres;
mod registry;
mod registry_queries;
mod run;
mod sql;
mod sqlite;
mod store;
mod store_queries;

pub use pictor_artifacts::Error;
pub use postgres::PostgresStore;
pub use registry::{
    AuditEntry, Delivery, DueTime, ListedToken, NewWorker, Registry, Schedule, Token, Upload,
    WorkerRecord,
};
pub use run::{
    Created, Idempotency, NewRun, Ownership, Rejected, RunFilter, RunRecord, RunRows, StoredPlan,
};
pub use sqlite::SqliteStore;
pub use store::Store;

use std::path::Path;
use std::sync::Arc;

/// Opens a store: a Postgres database if `place` begins with `postgres://`, otherwise the data folder of that path,
/// which is created if needed.
pub async fn open(place: &str) -> Result<(Arc<dyn Store>, Arc<dyn Registry>), Error> {
    if ["postgres://", "postgresql://"].iter().any(|scheme| place.starts_with(scheme)) {
        let store = Arc::new(PostgresStore::open(place).await?);
        return Ok((store.clone(), store));
    }
    let store = Arc::new(SqliteStore::open(Path::new(place)).await?);
    Ok((store.clone(), store))
}
