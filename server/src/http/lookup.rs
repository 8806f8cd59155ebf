//! Where answers about runs come from: the owner's engine, or, for a run that has been over for a while,
//! its history, folded once and kept for a while.

use super::Api;
use super::auth::Caller;
use super::problem::{Code, Problem};
use crate::access::load_run;
use crate::handle::OwnerHandle;
use pictor_engine::{Config, Effort, Engine, Found, Plan, Run, TaskQuery};
use pictor_storage::RunRecord;
use pictor_tasks::message::RunId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Folded runs that are kept, and how many tasks they may have together.
const KEPT_RUNS: usize = 16;
const KEPT_TASKS: usize = 4_000_000;
/// Places that one look at a run's tasks passes at most: about a millisecond of the owner's time.
const LOOK: u32 = 1 << 20;

/// Runs that were folded to answer questions, the latest last.
#[derive(Default)]
pub(super) struct Archive {
    kept: Mutex<VecDeque<Kept>>,
    /// One at a time: folding a million rows twice at once helps nobody.
    folding: tokio::sync::Mutex<()>,
}

struct Kept {
    finished_ms: Option<i64>,
    tasks: usize,
    run: Arc<Run>,
}

impl Archive {
    fn get(&self, record: &RunRecord) -> Option<Arc<Run>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |k: &Kept| *k.run.id() == record.id && k.finished_ms == record.finished_ms;
        let found = kept.iter().position(is_it)?;
        let found = kept.remove(found)?;
        let run = found.run.clone();
        kept.push_back(found);
        Some(run)
    }

    fn put(&self, record: &RunRecord, run: &Arc<Run>) {
        let steps = (0u16..).take(run.plan().steps.len());
        let tasks = steps.filter_map(|step| run.space(step)).map(|s| s.len() as usize).sum();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| other.run.id() != run.id());
        kept.push_back(Kept { finished_ms: record.finished_ms, tasks, run: run.clone() });
        while kept.len() > KEPT_RUNS
            || kept.len() > 1 && kept.iter().map(|k| k.tasks).sum::<usize>() > KEPT_TASKS
        {
            kept.pop_front();
        }
    }
}

/// Who answers about a run.
#[derive(Clone)]
pub(super) enum Source {
    /// The owner's engine.
    Live(OwnerHandle, RunId),
    /// Its folded history.
    Folded(Arc<Run>),
}

impl Source {
    /// Asks something that is answered quickly.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Engine, &Run) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        match self {
            Self::Live(owner, id) => {
                let asked = id.clone();
                let ask =
                    move |engine: &Engine| engine.run(&asked).map(|run| question(engine, run));
                // Let go of between two questions: the next request finds it in history.
                let gone = || Problem::new(Code::Unavailable, "the run is being put away");
                owner.ask(ask).await?.ok_or_else(|| gone().retry_after(1))
            }
            Self::Folded(run) => Ok(question(&Engine::new(Config::default()), run)),
        }
    }

    /// Looks for tasks in bounded pieces, so that the owner does other things in between.
    pub(super) async fn find<T: Send + 'static>(
        &self,
        query: &TaskQuery,
        (mut from, limit): ((u16, u32), usize),
        look: impl Fn(&Engine, &Run, &TaskQuery, (u16, u32), Effort) -> Found<T>
        + Clone
        + Send
        + 'static,
    ) -> Result<Found<T>, Problem> {
        let mut items = Vec::new();
        loop {
            let (query, look) = (query.clone(), look.clone());
            let effort = Effort { limit: limit - items.len(), places: LOOK };
            let asked =
                self.ask(move |engine, run| look(engine, run, &query, from, effort)).await?;
            items.extend(asked.items);
            match asked.next {
                Some(next) if items.len() < limit => from = next,
                next => return Ok(Found { items, next }),
            }
        }
    }
}

impl Api {
    /// The owner, which is this server.
    pub(super) fn owner(&self) -> Result<OwnerHandle, Problem> {
        self.role.borrow().owner().cloned().ok_or_else(Problem::no_owner)
    }

    /// A run that the caller may see, by its id or an unambiguous beginning of it.
    pub(super) async fn run(&self, caller: &Caller, name: &str) -> Result<RunRecord, Problem> {
        let found = self.store.run(name).await.map_err(|error| match error {
            pictor_storage::Error::Invalid(text) => Problem::new(Code::AmbiguousRun, text),
            error => error.into(),
        })?;
        let found = found.filter(|run| caller.sees(&run.owner));
        found.ok_or_else(|| Problem::not_found(format_args!("run `{name}`")))
    }

    /// Who answers about a run.
    pub(super) async fn source(&self, record: &RunRecord) -> Result<Source, Problem> {
        let owner = self.owner()?;
        if owner.has_run(&record.id).await? {
            return Ok(Source::Live(owner, record.id.clone()));
        }
        if let Some(run) = self.archive.get(record) {
            return Ok(Source::Folded(run));
        }
        let _turn = self.archive.folding.lock().await;
        if let Some(run) = self.archive.get(record) {
            return Ok(Source::Folded(run));
        }
        let run = Arc::new(self.fold(&record.id).await?);
        if record.finished_ms.is_some() {
            self.archive.put(record, &run);
        }
        Ok(Source::Folded(run))
    }

    /// A run from its history, on a thread of its own: it can take a while.
    pub(super) async fn fold(&self, id: &RunId) -> Result<Run, Problem> {
        let (store, id) = (self.store.clone(), id.clone());
        let runtime = tokio::runtime::Handle::current();
        let folded = tokio::task::spawn_blocking(move || runtime.block_on(load_run(&*store, &id)));
        Ok(folded
            .await
            .map_err(|_| Problem::new(Code::Internal, "the server's log says more"))??)
    }

    /// The run in the owner's engine, to be changed there. One that is over is put back into it.
    pub(super) async fn revive(&self, record: &RunRecord) -> Result<OwnerHandle, Problem> {
        let owner = self.owner()?;
        if !owner.has_run(&record.id).await? {
            let run = self.fold(&record.id).await?;
            owner.add(run, record.owner.clone(), record.created_ms).await?;
        }
        Ok(owner)
    }

    /// The plan of a run.
    pub(super) async fn plan(&self, record: &RunRecord) -> Result<Arc<Plan>, Problem> {
        self.source(record).await?.ask(|_, run| run.plan().clone()).await
    }
}
