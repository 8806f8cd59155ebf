//! The outcomes of executions.

use super::rng::{Rng, mix};
use pictor_engine::plan::{DimValues, Plan};
use pictor_tasks::message::{
    Binding, Bound, Execution, Failure, FailureKind, Outcome, Output, Products, StepKey, Try,
};
use pictor_tasks::range::Ranges;
use pictor_tasks::space::Values;
use pictor_tasks::worker::Inventory;

/// One GiB, in bytes.
pub(crate) const GIB: u64 = 1 << 30;

/// One execution of a task.
pub(crate) struct Doing<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) key: &'a StepKey,
    pub(crate) task: Try,
    pub(crate) execution: Execution,
    pub(crate) machine: &'a Inventory,
}

/// The probabilities of events, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chances {
    pub(crate) fails: u32,
    pub(crate) binds_otherwise: u32,
    pub(crate) binds_wrongly: u32,
    pub(crate) hungry: u32,
}

impl Doing<'_> {
    pub(crate) fn outcome(&self, chances: Chances, rng: &mut Rng) -> Outcome {
        let place = u64::from(self.key.step) << 32 | u64::from(self.task.index);
        let hungry = mix(place) % 100 < u64::from(chances.hungry);
        let memory = self.machine.gpus.iter().map(|gpu| gpu.vram_bytes).max().unwrap_or(0);
        if hungry && memory < (8 << (mix(place + 1) % 3)) * GIB {
            return failed(FailureKind::OutOfMemory);
        }
        if rng.percent(chances.fails) {
            return failed(*rng.pick(&[
                FailureKind::Failed,
                FailureKind::Failed,
                FailureKind::Failed,
                FailureKind::Invalid,
                FailureKind::Unsupported,
                FailureKind::TimedOut,
                FailureKind::OutOfMemory,
                FailureKind::BadOutput,
                FailureKind::Storage,
            ]));
        }
        let mut products = Products::default();
        let dims = self.plan.bound_by(self.key.step);
        for dim in dims {
            if !rng.percent(chances.binds_wrongly) {
                products.bindings.push(self.binding(dim, chances, rng));
            }
        }
        if rng.percent(50) {
            let (Try { index, attempt }, execution) = (self.task, self.execution.0);
            products.outputs.push(Output {
                name: "image".into(),
                key: format!("{}/{index}/{attempt}/{execution}", self.key.step),
                digest: String::new(),
                size_bytes: 1,
            });
        }
        Outcome::Succeeded(products)
    }

    fn binding(&self, number: usize, chances: Chances, rng: &mut Rng) -> Binding {
        let dim = &self.plan.dims[number];
        // The usual values, most of the time.
        let usual = mix(number as u64);
        let chosen = if rng.percent(chances.binds_otherwise) { rng.next() } else { usual };
        let values = if dim.bound.is_none() {
            let least = u64::from(!dim.allow_empty || rng.percent(50));
            let len = i64::try_from((chosen % 5).max(least).min(4)).unwrap();
            let first = i64::try_from(chosen % 3).unwrap();
            let list: Vec<i64> = (first..first + len).collect();
            Bound::Values(Values::Ints(Ranges::from_values(&list).unwrap()))
        } else {
            let most = match &dim.values {
                DimValues::Fixed(values) => u64::from(values.len()) + 1,
                DimValues::Late { .. } | DimValues::Blocks { .. } => 4,
            };
            let count = |i: u64| u32::try_from(mix(chosen + i) % most).unwrap();
            Bound::Counts((0..chosen % 5).map(count).collect())
        };
        Binding { dim: dim.name.clone(), values }
    }
}

/// A failure of a kind.
pub(crate) fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure { kind, message: format!("{kind:?}") })
}
