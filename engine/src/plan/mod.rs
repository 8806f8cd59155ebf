//! The plan: the compiled, immutable graph of a run. Its size depends on the number of steps, never on the number of
//! tasks; edges are found by index arithmetic. The other files of this folder are the compiler that makes it.

mod check;
mod compile;
mod cycles;
mod expand;
pub(crate) mod join;
mod simulate;
mod templates;
mod upscale;

pub use compile::compile;
pub use templates::uses_of_folder;

use pictor_tasks::body::Body;
use pictor_tasks::job::spec::{OnFailure, Retry, TaskOrder};
use pictor_tasks::message::FileRef;
use pictor_tasks::space::Values;
use pictor_tasks::units::Millis;
use pictor_tasks::worker::Requires;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The version of the fold, which determines the state that a plan and a history result in. A server that does not know
/// a run's version leaves the run alone. Version 2 added the removal of outputs before the end of the run, version 3
/// changes to the settings of an existing run.
pub const FOLD_VERSION: u32 = 3;
/// The versions whose plans and histories give the same state with this fold.
pub const FOLDS: RangeInclusive<u32> = 1..=FOLD_VERSION;

/// The most tasks that a step may have, holes included.
pub const MAX_TASKS: u32 = 16_777_216;

/// The number of indices in the product of axes. An empty axis counts as one position, so that arithmetic over the
/// other axes stays within bounds, too.
pub(crate) fn box_size(lens: impl Iterator<Item = u32>) -> u64 {
    lens.fold(1, |size: u64, len| size.saturating_mul(len.max(1).into()))
}

/// The compiled graph of a run. Only its settings can change later ([`pictor_tasks::history::Changes`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of the fold that the plan was made for.
    pub fold_version: u32,
    /// The name of the job.
    pub name: String,
    /// All dimensions, which steps refer to by index.
    pub dims: Vec<Dim>,
    /// All steps, which needs refer to by index.
    pub steps: Vec<Step>,
    /// The run's initial priority.
    pub priority: i32,
    /// What happens to the rest of the run after a final failure.
    pub on_failure: OnFailure,
    /// The number of final failures that ends the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u32>,
    /// The files that the job names, by the names that it uses. Filled in when the job is submitted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileRef>,
    /// The absolute path of the folder of the job file; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
}

/// A dimension of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dim {
    /// The name in the job file.
    pub name: String,
    /// The source of its values.
    pub values: DimValues,
    /// Its bound by another dimension, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<DimBound>,
    /// Whether it may be bound to an empty list of values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_empty: bool,
}

impl Dim {
    /// The steps that report its values or counts.
    pub(crate) fn binders(&self) -> impl Iterator<Item = u16> + use<> {
        let values = match self.values {
            DimValues::Late { binder } => Some(binder),
            DimValues::Fixed(_) | DimValues::Blocks { .. } => None,
        };
        let counts = match self.bound {
            // Late-bound values of a bounded dimension are derived from its counts.
            Some(DimBound { counts: DimCounts::Late { binder }, .. }) => {
                Some(binder).filter(|_| values.is_none())
            }
            _ => None,
        };
        values.into_iter().chain(counts)
    }
}

/// The source of a dimension's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DimValues {
    /// Given in the job file.
    Fixed(Values),
    /// Reported by a step. With late-bound counts (see [`Dim::bound`]) there are as many values as the largest count.
    Late {
        /// The index of the step that reports them.
        binder: u16,
    },
    /// Blocks of another dimension.
    Blocks {
        /// The other dimension's index in [`Plan::dims`].
        of: usize,
        /// The number of positions in a block; the last one may be shorter.
        size: u32,
    },
}

/// The number of positions of a dimension for each position of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DimBound {
    /// The other dimension's index in [`Plan::dims`].
    pub by: usize,
    /// The number of positions for each position of the other dimension.
    pub counts: DimCounts,
}

/// The source of a bound's counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DimCounts {
    /// Given in the job file.
    Fixed(Arc<[u32]>),
    /// Reported by a step.
    Late {
        /// The index of the step that reports them.
        binder: u16,
    },
}

/// A step of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The name in the job file.
    pub name: String,
    /// Its dimensions (indices into [`Plan::dims`]), slowest first.
    pub over: Vec<usize>,
    /// Its needs, in the order of the job file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Need>,
    /// The work of its tasks.
    pub body: Body,
    /// The requirements of its tasks on a machine.
    pub requires: Requires,
    /// How often and how soon failed tasks are retried.
    pub retry: Retry,
    /// The time limit for a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How long a task may run without any sign of progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Millis>,
    /// The order in which its tasks are done.
    pub order: TaskOrder,
    /// The concurrency limits that its tasks hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// Where its outputs are delivered: output name to templated path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deliver: BTreeMap<String, String>,
    /// Its outputs are removed when all tasks that need them have succeeded, and so has this step (an index into
    /// [`Plan::steps`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<u16>,
    /// The number of steps between it and the end of the graph: lower ones go first, so that frames finish early.
    pub to_sink: u16,
}

/// A need of one step on another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The needed step's index in [`Plan::steps`].
    pub step: u16,
    /// For each dimension with an offset (an index into [`Plan::dims`]): how many positions away the needed task is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<(usize, i32)>,
    /// Whether it is sufficient that the needed tasks have ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soft: bool,
}

impl Plan {
    /// The index of the step called `name`.
    pub fn step(&self, name: &str) -> Option<u16> {
        self.steps.iter().position(|s| s.name == name).and_then(|i| u16::try_from(i).ok())
    }

    /// The dimension that a dimension is derived from in the end, and how many of its positions one position covers.
    pub(crate) fn root(&self, dim: usize) -> (usize, u64) {
        let (mut dim, mut scale) = (dim, 1);
        while let DimValues::Blocks { of, size } = self.dims[dim].values {
            scale = u64::saturating_mul(scale, size.into());
            dim = of;
        }
        (dim, scale)
    }

    /// The steps that report the values or bounds of a dimension, including those of the dimensions that it is derived
    /// from.
    pub(crate) fn binders(&self, dim: usize) -> impl Iterator<Item = u16> + use<> {
        let root = self.root(dim).0;
        let of_root = (root != dim).then(|| self.dims[root].binders());
        self.dims[dim].binders().chain(of_root.into_iter().flatten())
    }

    /// The dimensions whose values or counts the step has to report.
    pub fn bound_by(&self, step: u16) -> impl Iterator<Item = usize> + '_ {
        let dims = self.dims.iter().enumerate();
        dims.filter(move |(_, dim)| dim.binders().any(|b| b == step)).map(|(i, _)| i)
    }

    /// The longest chain of tasks that must be done one after another, as far as it is known before the run: its
    /// length, and the steps along it. A step that needs its own previous task counts once for each link of that chain.
    pub fn longest_path(&self) -> (u64, Vec<String>) {
        let links = |step: &Step, number: u16| {
            let own = step.needs.iter().filter(|need| need.step == number);
            let lengths = own.flat_map(|need| &need.offsets).map(|(dim, by)| {
                let len = match &self.dims[*dim].values {
                    DimValues::Fixed(values) => u64::from(values.len()),
                    DimValues::Late { .. } | DimValues::Blocks { .. } => 1,
                };
                len.div_ceil(u64::from(by.unsigned_abs().max(1)))
            });
            lengths.max().unwrap_or(1).max(1)
        };
        let mut order: Vec<u16> = (0u16..).take(self.steps.len()).collect();
        order.sort_by_key(|step| std::cmp::Reverse(self.steps[*step as usize].to_sink));
        let mut best: Vec<(u64, Option<u16>)> = vec![(0, None); self.steps.len()];
        for &number in &order {
            let step = &self.steps[number as usize];
            let before = step
                .needs
                .iter()
                .map(|need| need.step)
                .filter(|need| self.steps[*need as usize].to_sink > step.to_sink);
            let from = before.max_by_key(|need| best[*need as usize].0);
            let length = from.map_or(0, |need| best[need as usize].0) + links(step, number);
            best[number as usize] = (length, from);
        }
        let last = (0u16..).take(best.len()).max_by_key(|step| best[*step as usize].0);
        let length = last.map_or(0, |step| best[step as usize].0);
        let chain = std::iter::successors(last, |step| best[*step as usize].1);
        let mut path: Vec<String> =
            chain.map(|step| self.steps[step as usize].name.clone()).collect();
        path.reverse();
        (length, path)
    }
}
