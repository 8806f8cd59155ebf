//! A cache of runs that ended a while ago: each is folded from its history once, and kept for a while.

use pictor_engine::Run;
use pictor_storage::RunRecord;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Most folded runs in the cache; below, most tasks that they may have together.
const KEPT_RUNS: usize = 16;
const KEPT_TASKS: usize = 4_000_000;
/// A cache of folded runs, the most recently used last.
#[derive(Default)]
pub(super) struct Archive {
    kept: Mutex<VecDeque<Kept>>,
    /// One at a time: folding a million rows twice in parallel would only be slower.
    pub(super) folding: tokio::sync::Mutex<()>,
}

struct Kept {
    finished_ms: Option<i64>,
    tasks: usize,
    run: Arc<Run>,
}

impl Archive {
    pub(super) fn get(&self, record: &RunRecord) -> Option<Arc<Run>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |k: &Kept| *k.run.id() == record.id && k.finished_ms == record.finished_ms;
        let found = kept.iter().position(is_it)?;
        let found = kept.remove(found)?;
        let run = found.run.clone();
        kept.push_back(found);
        Some(run)
    }

    pub(super) fn put(&self, record: &RunRecord, run: &Arc<Run>) {
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
