//! What a store of runs and their history does, whatever database is behind it.

use crate::Error;
use crate::run::{
    Created, Idempotency, NewRun, Ownership, Rejected, RunFilter, RunRecord, RunRows, StoredPlan,
};
use async_trait::async_trait;
use pictor_tasks::history::Row;
use pictor_tasks::message::RunId;

/// Runs and their history. Each method is one transaction.
///
/// When a method that writes returns, what it wrote is on the disk. When it fails with
/// [`Error::Unavailable`] it may have been written all the same, if the database's answer was lost:
/// the same call again changes nothing more.
#[async_trait]
pub trait Store: Send + Sync {
    /// Stores a run. The same run again changes nothing; another run under the same id is
    /// [`Error::Invalid`]. With `once` a submission that was made before stores nothing.
    async fn create_run(&self, run: &NewRun, once: Option<&Idempotency>) -> Result<Created, Error>;

    /// Commits rows of several runs, each run at most once, in one transaction.
    ///
    /// Rows that are there already change nothing if they are equal; otherwise nothing is written
    /// and the error is [`Error::Corrupt`]. [`Error::Fenced`]: another process has taken ownership
    /// since this one did; nothing is written. Several processes can use a Postgres at once, so
    /// there a commit without ownership is [`Error::Invalid`].
    async fn commit(&self, batch: &[RunRows<'_>]) -> Result<(), Error>;

    /// Reads a run's history from `from_seq` to its end, in order, and returns the last `seq`.
    async fn load_history(
        &self,
        run: &RunId,
        from_seq: u64,
        each: &mut (dyn FnMut(Row) + Send),
    ) -> Result<u64, Error>;

    /// Up to `limit` (at most 1000) runs that fit the filter, the newest first; with `after` those
    /// that were stored before that run.
    async fn runs(
        &self,
        filter: &RunFilter,
        limit: u32,
        after: Option<&RunId>,
    ) -> Result<Vec<RunRecord>, Error>;

    /// Every run that has not ended, the oldest first: what an owner goes on with.
    async fn unfinished_runs(&self) -> Result<Vec<RunRecord>, Error>;

    /// The run with this id, or the only one whose id begins so.
    async fn run(&self, id: &str) -> Result<Option<RunRecord>, Error>;

    /// What the run was compiled from and to.
    async fn run_plan(&self, run: &RunId) -> Result<Option<StoredPlan>, Error>;

    /// Keeps a message that could not be decoded or folded.
    async fn reject(&self, message: &Rejected) -> Result<(), Error>;

    /// The newest `limit` (at most 1000) rejected messages, the newest first.
    async fn rejected(&self, limit: u32) -> Result<Vec<Rejected>, Error>;

    /// Removes a run that has ended, with its history. `false`: there is no such run.
    /// [`Error::Invalid`]: it has not ended.
    async fn remove_run(&self, run: &RunId) -> Result<bool, Error>;

    /// Makes this process the owner: the epoch rises by one, and every commit of a former owner
    /// fails from now on. `address` is where the others reach this one.
    async fn take_ownership(&self, address: &str, now_ms: i64) -> Result<Ownership, Error>;

    /// Who owns now; nothing if nobody ever has.
    async fn owner(&self) -> Result<Option<Ownership>, Error>;

    /// Closes the connections. Every call after it fails.
    async fn close(&self) -> Result<(), Error>;
}
