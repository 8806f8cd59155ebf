//! The arrays that hold the tasks of one step, and the information about each of them.

pub use pictor_tasks::state::{RunState, TaskState};

use super::retention::Retention;
use super::task_set::TaskSet;
use super::trail::Trail;
use crate::plan::{DimBound, DimCounts, DimValues, Plan};
use pictor_tasks::job::spec::TaskOrder;
use pictor_tasks::message::{Execution, Output, WorkerId};
use pictor_tasks::space::{Axis, Bound, Space, Values};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What has gone wrong with a task so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FailureRecord {
    /// The number of failures that count towards `retry.attempts`.
    pub(crate) failures: u32,
    /// The number of times that it was lost.
    pub(crate) losses: u32,
    /// The workers on which it failed.
    pub(crate) avoid: BTreeSet<WorkerId>,
    /// The workers whose GPU memory was too small.
    pub(crate) too_small: BTreeSet<WorkerId>,
    /// The earliest time for the next attempt, in milliseconds since 1970.
    pub(crate) not_before_ms: i64,
    /// The message of the last failure.
    pub(crate) message: String,
}

/// The assignment of a task that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) worker: WorkerId,
    /// The bundle in which it was sent; 0 if it is only known from history.
    pub(crate) bundle: u64,
    /// The execution that was claimed, once there is a claim.
    pub(crate) claim: Option<Execution>,
    /// The end of the lease or the deadline, in milliseconds since 1970.
    pub(crate) until_ms: i64,
}

/// The results of an accepted attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) execution: Execution,
    pub(crate) outputs: Vec<Output>,
}

/// The values to which a late-bound dimension is bound now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DimState {
    pub(crate) values: Option<Arc<Values>>,
    pub(crate) counts: Option<Arc<[u32]>>,
    pub(crate) generation: u32,
}

/// The tasks of one step. While a dimension of the step is not bound, there is no space and there are no tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepState {
    pub(crate) space: Option<Arc<Space>>,
    pub(crate) generation: u32,
    /// Whether a dimension is not bound and the step that would report its values has ended without success.
    pub(crate) given_up: bool,
    /// The state for each index; `None` for holes.
    pub(crate) tasks: Vec<Option<TaskState>>,
    /// For each task, the number of needs that are not open yet.
    pub(crate) closed: Vec<u16>,
    /// For each task, the number of needs that can no longer be met.
    pub(crate) broken: Vec<u16>,
    pub(crate) attempts: Vec<u32>,
    /// For each task, the worker that had it last; 0 if there was none.
    pub(crate) workers: Vec<u32>,
    pub(crate) accepted: HashMap<u32, Accepted>,
    /// Set only if the outputs are not kept as long as the run.
    pub(crate) retention: Option<Retention>,
    /// Ready tasks that have not failed, by rank.
    pub(crate) ready: TaskSet,
    /// The number of tasks that are assigned.
    pub(crate) live: u32,
    /// Whether it is among the run's `touched` steps.
    pub(crate) touched: bool,
    /// The index by rank and the rank by index, if the order is not by index.
    pub(crate) order: Option<(Vec<u32>, Vec<u32>)>,
    pub(crate) counts: [u32; 8],
    /// The measured durations of successes: their number, and their sum in milliseconds.
    pub(crate) took: (u32, u64),
    pub(crate) trail: Trail,
}

impl StepState {
    /// New tasks over a space, all pending.
    pub(crate) fn new(space: Arc<Space>, generation: u32, order: TaskOrder, needs: bool) -> Self {
        let size = space.len();
        let tasks: Vec<_> = if space.has_bounds() {
            (0..size).map(|i| space.exists(i).then_some(TaskState::Pending)).collect()
        } else {
            vec![Some(TaskState::Pending); size as usize]
        };
        let mut counts = [0; 8];
        counts[TaskState::Pending as usize] =
            u32::try_from(tasks.iter().flatten().count()).expect("a space is below 2^32");
        let per_need = if needs { size as usize } else { 0 };
        Self {
            generation,
            closed: vec![0; per_need],
            broken: vec![0; per_need],
            attempts: vec![1; size as usize],
            workers: vec![0; size as usize],
            ready: TaskSet::new(size),
            order: (order == TaskOrder::Preview).then(|| preview_order(&space)),
            tasks,
            counts,
            space: Some(space),
            ..Self::default()
        }
    }

    pub(crate) fn rank(&self, index: u32) -> u32 {
        self.order.as_ref().map_or(index, |(_, ranks)| ranks[index as usize])
    }

    pub(crate) fn index_of_rank(&self, rank: u32) -> u32 {
        self.order.as_ref().map_or(rank, |(indices, _)| indices[rank as usize])
    }

    pub(crate) fn state(&self, index: u32) -> Option<TaskState> {
        self.tasks.get(index as usize).copied().flatten()
    }

    pub(crate) fn unfinished(&self) -> u32 {
        self.counts[..4].iter().sum()
    }

    pub(crate) fn mean_ms(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        (self.took.0 > 0).then(|| self.took.1 as f64 / f64::from(self.took.0))
    }
}

/// First, middle and last of the slowest dimension, then the ones halfway between; the other dimensions by index.
fn preview_order(space: &Space) -> (Vec<u32>, Vec<u32>) {
    let outer = space.axes.first().map_or(1, |a| a.values.len());
    let inner = space.len().checked_div(outer).unwrap_or(0);
    let mut indices = Vec::with_capacity(space.len() as usize);
    for position in bisection(outer) {
        indices.extend((0..inner).map(|i| position * inner + i));
    }
    let mut ranks = vec![0; indices.len()];
    for (rank, index) in (0..).zip(&indices) {
        ranks[*index as usize] = rank;
    }
    (indices, ranks)
}

/// `0, last, middle, …`: first and last, then breadth first through the halves.
fn bisection(len: u32) -> Vec<u32> {
    let mut order: Vec<u32> = [0, len.saturating_sub(1) / 2, len.saturating_sub(1)].into();
    order.dedup();
    order.truncate(len as usize);
    let mut gaps = std::collections::VecDeque::new();
    gaps.extend(order.windows(2).map(|w| (w[0], w[1])));
    while let Some((low, high)) = gaps.pop_front() {
        if high - low > 1 {
            let middle = low + (high - low) / 2;
            order.push(middle);
            gaps.extend([(low, middle), (middle, high)]);
        }
    }
    order
}

/// The space of a step over the current values of its dimensions, and the generation; `None` while one of them is not
/// bound.
pub(crate) fn space_of(plan: &Plan, dims: &[DimState], step: u16) -> Option<(Space, u32)> {
    let over = &plan.steps[step as usize].over;
    let mut axes = Vec::new();
    let mut generation = 0;
    for &dim in over {
        let values = values_of(plan, dims, dim)?;
        generation += dims[plan.root(dim).0].generation;
        let bound = match &plan.dims[dim].bound {
            None => None,
            Some(DimBound { by, counts }) => {
                let counts = match counts {
                    DimCounts::Fixed(counts) => counts.clone(),
                    DimCounts::Late { .. } => dims[dim].counts.clone()?,
                };
                let by = over.iter().position(|d| d == by).expect("the compiler checked it");
                Some(Bound { by, counts })
            }
        };
        axes.push(Axis { name: plan.dims[dim].name.clone(), values, bound });
    }
    Some((Space { axes }, generation))
}

fn values_of(plan: &Plan, dims: &[DimState], dim: usize) -> Option<Values> {
    match &plan.dims[dim].values {
        DimValues::Fixed(values) => Some(values.clone()),
        DimValues::Late { .. } => dims[dim].values.as_deref().cloned(),
        DimValues::Blocks { of, size } => {
            Some(Values::Blocks { of: Arc::new(values_of(plan, dims, *of)?), size: *size })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preview_order_takes_first_middle_last_then_bisects_and_visits_everything_once() {
        assert_eq!(bisection(0), [] as [u32; 0]);
        assert_eq!(bisection(1), [0]);
        assert_eq!(bisection(2), [0, 1]);
        assert_eq!(bisection(9)[..5], [0, 4, 8, 2, 6]);
        for len in 0..70 {
            let mut order = bisection(len);
            order.sort_unstable();
            assert_eq!(order, (0..len).collect::<Vec<_>>());
        }
    }
}
