//! Requests about runs, and changes of them: one implementation for the socket of a data folder and for HTTP. Who may
//! see a run, and how a response is sent, is decided outside.

mod archive;
mod change;
mod cursor;
mod look;
mod request;
pub mod shape;

pub(crate) use cursor::TaskCursor;
pub(crate) use look::{Detail, FEW, TaskFilter};
pub use request::{Request, Response};

use crate::handle::{Error, OwnerHandle};
use archive::Archive;
use futures_util::FutureExt as _;
use pictor_api::Code;
use pictor_engine::{Config, Effort, Engine, FoldError, Found, Plan, Run, RunLimits};
use pictor_storage::{Registry, RunRecord, Store};
use pictor_tasks::history::Row;
use pictor_tasks::message::{RunId, TaskId};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Most tasks that one search examines: about a millisecond of the owner's time.
const LOOK: u32 = 1 << 20;

/// The runs of a data folder or of a farm. Every method takes the owner, if there is one.
pub struct Runs {
    store: Arc<dyn Store>,
    /// The workers of a farm. A data folder has none: its runs were executed on this machine.
    registry: Option<Arc<dyn Registry>>,
    archive: Archive,
    now_ms: fn() -> i64,
}

impl Runs {
    /// The runs of a data folder.
    pub fn of_folder(store: Arc<dyn Store>) -> Self {
        Self { store, registry: None, archive: Archive::default(), now_ms: crate::now_ms }
    }

    /// The runs of a farm, whose tasks name their workers.
    pub(crate) fn of_farm(
        store: Arc<dyn Store>,
        registry: Arc<dyn Registry>,
        now_ms: fn() -> i64,
    ) -> Self {
        Self { store, registry: Some(registry), archive: Archive::default(), now_ms }
    }

    /// The run of this id, or of an unambiguous beginning of it; if an account is given, among its runs.
    pub(crate) async fn find(&self, account: Option<&str>, name: &str) -> Result<RunRecord, Error> {
        found(self.store.run_of(account, name).await, name)
    }

    /// Runs a query about a run in one turn of the owner's loop, or on the run's folded history if no owner has it.
    /// Everything that belongs in one response has to be one query, and it has to be fast.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        owner: Option<&OwnerHandle>,
        record: &RunRecord,
        question: impl FnOnce(&Engine, &Run) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (id, mut question) = (record.id.clone(), Some(question));
        // While the owner cannot write, only what is in the database counts.
        if let Some(owner) = owner.filter(|owner| !owner.is_stalled()) {
            let ask = question.take().expect("not asked yet");
            // An engine that no longer has the run hands the query back.
            let asked = owner.ask(move |engine| match engine.run(&id) {
                Some(run) => Ok(ask(engine, run)),
                None => Err(ask),
            });
            match asked.await? {
                Ok(answer) => return Ok(answer),
                Err(back) => question = Some(back),
            }
        }
        let question = question.expect("handed back by the owner");
        let run = self.folded(owner, record).await?;
        let config = owner.map_or_else(|| Config::of(run.plan()), |owner| owner.config().clone());
        Ok(question(&Engine::new(config), &run))
    }

    /// Continues a search for tasks until `limit` are found, in bounded pieces, so that the owner can do other work in
    /// between.
    pub(crate) async fn search<T: Send + 'static>(
        &self,
        owner: Option<&OwnerHandle>,
        record: &RunRecord,
        (mut found, limit): (Found<T>, usize),
        look: impl Fn(&Engine, &Run, TaskId, Effort) -> Result<Found<T>, Error> + Clone + Send + 'static,
    ) -> Result<Found<T>, Error> {
        while let Some(from) = found.next
            && found.items.len() < limit
        {
            let (look, effort) = (look.clone(), effort(limit - found.items.len()));
            let more = self.ask(owner, record, move |engine, run| look(engine, run, from, effort));
            let more = more.await??;
            found.items.extend(more.items);
            found.next = more.next;
        }
        Ok(found)
    }

    /// A run that no engine has, folded from its history or from the cache.
    async fn folded(
        &self,
        owner: Option<&OwnerHandle>,
        record: &RunRecord,
    ) -> Result<Arc<Run>, Error> {
        if let Some(run) = self.archive.get(record) {
            return Ok(run);
        }
        let _turn = self.archive.folding.lock().await;
        if let Some(run) = self.archive.get(record) {
            return Ok(run);
        }
        let run = Arc::new(self.fold(owner, &record.id).await?);
        if record.finished_ms.is_some() {
            self.archive.put(record, &run);
        }
        Ok(run)
    }

    /// Folds a run from its history, on a thread of its own, because it can take a while.
    async fn fold(&self, owner: Option<&OwnerHandle>, id: &RunId) -> Result<Run, Error> {
        let limits = owner.map_or_else(RunLimits::default, |owner| owner.config().run_limits);
        let (store, id) = (self.store.clone(), id.clone());
        let runtime = tokio::runtime::Handle::current();
        aside(move || runtime.block_on(load_run(&*store, &id, &limits))).await?
    }
}

/// Runs work that may take a while on a thread of its own, so that it blocks nobody.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    // The panic has been printed already.
    let panicked = |_| Error::Refused(Code::Internal, "the server's log says more".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(panicked)
}

/// The bounds of one search for this many tasks.
pub(crate) fn effort(limit: usize) -> Effort {
    Effort { limit, places: LOOK }
}

/// The start of a search: after a page, or at the first task.
pub(crate) fn from<T>(after: Option<TaskCursor>) -> Found<T> {
    Found { items: Vec::new(), next: Some(after.unwrap_or_default().0) }
}

/// The cursor of the page after this one. Returns `None` if this is the last.
pub(crate) fn next<T>(found: &Found<T>) -> Option<String> {
    found.next.map(|at| TaskCursor(at).to_string())
}

/// A stored run by its id or an unambiguous beginning of it.
pub async fn stored_run(store: &dyn Store, name: &str) -> Result<RunRecord, Error> {
    found(store.run(name).await, name)
}

fn found(
    run: Result<Option<RunRecord>, pictor_storage::Error>,
    name: &str,
) -> Result<RunRecord, Error> {
    let found = run.map_err(|error| match error {
        pictor_storage::Error::Invalid(text) => Error::Refused(Code::AmbiguousRun, text),
        error => error.into(),
    });
    found?.ok_or_else(|| Error::NoRun(name.to_owned()))
}

/// The stored plan of a run.
async fn load_plan(store: &dyn Store, id: &RunId) -> Result<Plan, Error> {
    let bad = |why: String| Error::Plan { run: id.clone(), why };
    let stored = store.run_plan(id).await?.ok_or_else(|| Error::NoRun(id.to_string()))?;
    if !pictor_engine::plan::FOLDS.contains(&stored.fold_version) {
        return Err(bad(format!(
            "it was written by another version of pictor (fold {}, this one knows {})",
            stored.fold_version,
            pictor_engine::plan::FOLD_VERSION
        )));
    }
    serde_json::from_str(&stored.plan).map_err(|e| bad(format!("its plan: {e}")))
}

/// Folds a run from its stored plan and history. Fails before it takes more memory than `limits` allow.
pub async fn load_run(store: &dyn Store, id: &RunId, limits: &RunLimits) -> Result<Run, Error> {
    let folded = AssertUnwindSafe(fold_run(store, id, limits)).catch_unwind().await;
    // The panic has been printed already.
    let damaged = |_| Error::Plan { run: id.clone(), why: "it is damaged".to_owned() };
    folded.map_err(damaged)?
}

async fn fold_run(store: &dyn Store, id: &RunId, limits: &RunLimits) -> Result<Run, Error> {
    let plan = load_plan(store, id).await?;
    let too_large = |why| Error::Plan { run: id.clone(), why };
    limits.check(&plan).map_err(too_large)?;
    let mut run = Run::new(id.clone(), Arc::new(plan));
    let mut fault: Option<FoldError> = None;
    let fold = &mut |row: Row| {
        if fault.is_none() {
            let too_large = |why| FoldError { seq: row.seq, why };
            let fits = limits.check_row(&run, &row).map_err(too_large);
            fault = fits.and_then(|()| run.apply(&row)).err();
        }
    };
    store.load_history(id, 1, fold).await?;
    fault.map_or(Ok(run), |fault| Err(Error::Fold(id.clone(), fault)))
}
