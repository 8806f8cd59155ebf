//! The interface of a store of runs and their history, whatever database is behind it.

use crate::Error;
use crate::run::{
    Created, Idempotency, NewRun, Ownership, Rejected, RunFilter, RunRecord, RunRows, StoredPlan,
};
use async_trait::async_trait;
use pictor_tasks::history::Row;
use pictor_tasks::message::RunId;

/// Runs and their history. Each method is one transaction.
///
/// When a method that writes returns, what it wrote is on disk. When it fails with [`Error::Unavailable`], it may have
/// been written nevertheless, if the database's answer was lost: repeating the call changes nothing more.
#[async_trait]
pub trait Store: Send + Sync {
    /// Stores a run. The same run again changes nothing; another run of the same id fails with [`Error::Invalid`]. With
    /// `once`, a submission that was made before stores nothing.
    async fn create_run(&self, run: &NewRun, once: Option<&Idempotency>) -> Result<Created, Error>;

    /// Commits rows of several runs, each run at most once, in one transaction.
    ///
    /// Rows that are there already change nothing if they are equal; otherwise nothing is written and the error is
    /// [`Error::Corrupt`]. Fails with [`Error::Fenced`], and writes nothing, if another process has taken ownership
    /// since this one did. Several processes can use a Postgres database at once, so there a commit without ownership
    /// fails with [`Error::Invalid`].
    async fn commit(&self, batch: &[RunRows<'_>]) -> Result<(), Error>;

    /// Reads a run's history from `from_seq` to its end, in order, and returns the last `seq`.
    async fn load_history(
        &self,
        run: &RunId,
        from_seq: u64,
        each: &mut (dyn FnMut(Row) + Send),
    ) -> Result<u64, Error>;

    /// The rows of a run's history with these numbers, in their order. Those that do not exist are left out.
    async fn rows(&self, run: &RunId, seqs: &[u64]) -> Result<Vec<Row>, Error>;

    /// Up to `limit` (at most 1000) runs that match the filter, newest first; with `after` only those that were stored
    /// before that run.
    async fn runs(
        &self,
        filter: &RunFilter,
        limit: u32,
        after: Option<&RunId>,
    ) -> Result<Vec<RunRecord>, Error>;

    /// Every run that has not ended, oldest first: an owner continues these. With `after` only those that were stored
    /// after that run, if it still exists.
    async fn unfinished_runs(&self, after: Option<&RunId>) -> Result<Vec<RunRecord>, Error>;

    /// The run of this id, or the only one whose id begins with it.
    async fn run(&self, id: &str) -> Result<Option<RunRecord>, Error> {
        self.run_of(None, id).await
    }

    /// The same among the runs of one account, if one is given: those of others do not exist for the caller.
    async fn run_of(&self, account: Option<&str>, id: &str) -> Result<Option<RunRecord>, Error>;

    /// The run's job file and the plan compiled from it.
    async fn run_plan(&self, run: &RunId) -> Result<Option<StoredPlan>, Error>;

    /// Stores a message that could not be decoded or folded.
    async fn reject(&self, message: &Rejected) -> Result<(), Error>;

    /// The newest `limit` (at most 1000) rejected messages, newest first.
    async fn rejected(&self, limit: u32) -> Result<Vec<Rejected>, Error>;

    /// Removes a run that has ended, with its history. Returns `false` if there is no such run; fails with
    /// [`Error::Invalid`] if it has not ended.
    async fn remove_run(&self, run: &RunId) -> Result<bool, Error>;

    /// Makes this process the owner: the epoch rises, and from now on every commit of a former owner fails. `address`
    /// is where the other servers reach this one.
    async fn take_ownership(&self, address: &str, now_ms: i64) -> Result<Ownership, Error>;

    /// The current owner. Returns `None` if there has never been one.
    async fn owner(&self) -> Result<Option<Ownership>, Error>;

    /// Closes the connections. Every later call fails.
    async fn close(&self) -> Result<(), Error>;
}
