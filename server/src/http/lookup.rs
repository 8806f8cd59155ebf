//! Where responses about runs come from: the owner's engine, or, for a run that ended a while ago, its history, which
//! is folded once and cached.

use super::auth::Caller;
use super::paging::Place;
use super::refusal::Refusal;
use super::{Api, aside};
use crate::access::load_run;
use crate::handle::OwnerHandle;
use pictor_api::Code;
use pictor_engine::{Effort, Engine, Found, Run};
use pictor_storage::RunRecord;
use pictor_tasks::message::{RunId, TaskId};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Most folded runs in the cache; below, most tasks that they may have together.
const KEPT_RUNS: usize = 16;
const KEPT_TASKS: usize = 4_000_000;
/// Most tasks that one search examines: about a millisecond of the owner's time.
const LOOK: u32 = 1 << 20;

/// A cache of folded runs, the most recently used last.
#[derive(Default)]
pub(super) struct Archive {
    kept: Mutex<VecDeque<Kept>>,
    /// One at a time: folding a million rows twice in parallel would only be slower.
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

impl Api {
    /// The owner, if it is this server. Its handle does not keep requests waiting while history cannot be written.
    pub(super) fn owner(&self) -> Result<OwnerHandle, Refusal> {
        let owner = self.role.borrow().owner().cloned().map(OwnerHandle::in_a_hurry);
        owner.ok_or_else(Refusal::no_owner)
    }

    /// The run of this id, or of an unambiguous beginning of it, if the caller may see it.
    pub(super) async fn run(&self, caller: &Caller, name: &str) -> Result<RunRecord, Refusal> {
        let found = self.store.run(name).await.map_err(|error| match error {
            pictor_storage::Error::Invalid(text) => Refusal::new(Code::AmbiguousRun, text),
            error => error.into(),
        })?;
        let found = found.filter(|run| caller.sees(&run.account));
        found.ok_or_else(|| Refusal::not_found(format_args!("run `{name}`")))
    }

    /// Runs a query about a run in one turn of the owner's loop. Everything that belongs in one response has to be one
    /// query, and it has to be fast.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        record: &RunRecord,
        question: impl FnOnce(&Engine, &Run) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let owner = self.owner()?;
        if owner.is_stalled() {
            // Only what is in the database counts so far.
            let run = self.folded(record).await?;
            return Ok(question(&Engine::new(owner.config().clone()), &run));
        }
        let id = record.id.clone();
        // An engine that no longer has the run hands the query back.
        let ask = move |engine: &Engine| match engine.run(&id) {
            Some(run) => Ok(question(engine, run)),
            None => Err(question),
        };
        match owner.ask(ask).await? {
            Ok(answer) => Ok(answer),
            Err(question) => {
                let run = self.folded(record).await?;
                Ok(question(&Engine::new(owner.config().clone()), &run))
            }
        }
    }

    /// Continues a search for tasks until `limit` are found, in bounded pieces, so that the owner can do other work in
    /// between.
    pub(super) async fn find<T: Send + 'static>(
        &self,
        record: &RunRecord,
        (mut found, limit): (Found<T>, usize),
        look: impl Fn(&Engine, &Run, TaskId, Effort) -> Result<Found<T>, Refusal>
        + Clone
        + Send
        + 'static,
    ) -> Result<Found<T>, Refusal> {
        while let Some(from) = found.next
            && found.items.len() < limit
        {
            let (look, effort) = (look.clone(), effort(limit - found.items.len()));
            let more =
                self.ask(record, move |engine, run| look(engine, run, from, effort)).await??;
            found.items.extend(more.items);
            found.next = more.next;
        }
        Ok(found)
    }

    /// A run that the engine no longer has.
    async fn folded(&self, record: &RunRecord) -> Result<Arc<Run>, Refusal> {
        if let Some(run) = self.archive.get(record) {
            return Ok(run);
        }
        let _turn = self.archive.folding.lock().await;
        if let Some(run) = self.archive.get(record) {
            return Ok(run);
        }
        let run = Arc::new(self.fold(&record.id).await?);
        if record.finished_ms.is_some() {
            self.archive.put(record, &run);
        }
        Ok(run)
    }

    /// Folds a run from its history, on a thread of its own, because it can take a while.
    pub(super) async fn fold(&self, id: &RunId) -> Result<Run, Refusal> {
        let (store, id) = (self.store.clone(), id.clone());
        let runtime = tokio::runtime::Handle::current();
        Ok(aside(move || runtime.block_on(load_run(&*store, &id))).await??)
    }

    /// Adds a run to the engine again, after the engine dropped it, so that it can be changed there.
    pub(super) async fn revive(&self, record: &RunRecord) -> Result<(), Refusal> {
        let run = self.fold(&record.id).await?;
        let (account, created_ms) = (record.account.clone(), record.created_ms);
        Ok(self.owner()?.add(run, account, created_ms).await?)
    }
}

/// The bounds of one search for this many tasks.
pub(super) fn effort(limit: usize) -> Effort {
    Effort { limit, places: LOOK }
}

/// The start of a search: after a page, or at the first task.
pub(super) fn from<T>(after: Option<Place>) -> Found<T> {
    Found { items: Vec::new(), next: Some(after.unwrap_or_default().0) }
}

/// The cursor of the page after this one. Returns `None` if this is the last.
pub(super) fn next<T>(found: &Found<T>) -> Option<String> {
    found.next.map(|at| Place(at).to_string())
}
