//! How large a run is, computed from its plan before any of its tasks exists. A plan of a few lines may stand for more
//! tasks than any machine has memory for.

use super::Run;
use super::fold::bind_dim;
use super::state::{DimState, space_of};
use crate::plan::join::Join;
use crate::plan::{MAX_TASKS, Plan, box_size};
use pictor_tasks::history::{Fact, Row};
use pictor_tasks::job::spec::TaskOrder;
use pictor_tasks::message::Outcome;
use pictor_tasks::space::Space;
use pictor_tasks::units::Bytes;

/// What every task takes: its state, attempt, worker, and place among the ready ones.
const TASK_BYTES: u64 = 11;
/// What a task takes besides if its step needs others: two counters.
const NEEDY_BYTES: u64 = 4;
/// What a task takes besides if its step is done in the order of a preview: two tables.
const ORDER_BYTES: u64 = 8;
/// What a task takes besides if its outputs are removed early: a counter, and its place in two sets.
const KEEP_BYTES: u64 = 3;
/// What each point of a need takes: two counters.
const POINT_BYTES: u64 = 8;

/// How large a run may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLimits {
    /// The most tasks in all steps together, holes included.
    pub tasks: u64,
    /// The most memory that its tasks may take before any of them has been executed, in bytes.
    pub memory_bytes: u64,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self { tasks: MAX_TASKS.into(), memory_bytes: 1 << 30 }
    }
}

impl RunLimits {
    /// Says what is too large about a run of this plan, as far as that is known before the run. Takes next to no memory.
    pub fn check(&self, plan: &Plan) -> Result<(), String> {
        self.check_with(plan, &vec![DimState::default(); plan.dims.len()])
    }

    /// The same for the values to which late-bound dimensions are bound now.
    pub(crate) fn check_with(&self, plan: &Plan, dims: &[DimState]) -> Result<(), String> {
        let numbers = (0u16..).take(plan.steps.len());
        let spaces: Vec<Option<Space>> =
            numbers.map(|step| space_of(plan, dims, step).map(|(space, _)| space)).collect();
        let (mut tasks, mut bytes) = (0u64, 0u64);
        for (step, space) in plan.steps.iter().zip(&spaces) {
            let Some(space) = space else { continue };
            let size = box_size(space.axes.iter().map(|axis| axis.values.len()));
            if size > MAX_TASKS.into() {
                let name = &step.name;
                return Err(format!(
                    "step `{name}` would have {size} tasks; the limit is {MAX_TASKS}"
                ));
            }
            let each = TASK_BYTES
                + if step.needs.is_empty() { 0 } else { NEEDY_BYTES }
                + if step.order == TaskOrder::Preview { ORDER_BYTES } else { 0 }
                + if step.keep_until.is_some() { KEEP_BYTES } else { 0 };
            tasks += size;
            bytes += size * each;
        }
        if tasks > self.tasks {
            return Err(format!("the run would have {tasks} tasks; the limit is {}", self.tasks));
        }
        for (number, step) in (0u16..).zip(&plan.steps) {
            let space = spaces[usize::from(number)].as_ref();
            for need in &step.needs {
                let producer = spaces[usize::from(need.step)].as_ref();
                let join = Join::new(plan, (number, need), space, producer);
                bytes += u64::from(join.points()) * POINT_BYTES;
            }
        }
        if bytes > self.memory_bytes {
            let (bytes, limit) = (rounded(bytes), Bytes(self.memory_bytes));
            return Err(format!("the run would take {bytes} of memory; the limit is {limit}"));
        }
        Ok(())
    }

    /// Says what would be too large about a run after this row, which was recorded when other limits may have applied.
    pub fn check_row(&self, run: &Run, row: &Row) -> Result<(), String> {
        let Fact::Ended(ended) = &row.fact else { return Ok(()) };
        let Outcome::Succeeded(products) = &ended.outcome else { return Ok(()) };
        if products.bindings.is_empty() {
            return Ok(());
        }
        let mut dims = run.dims.clone();
        for binding in &products.bindings {
            bind_dim(&run.plan, &mut dims, binding);
        }
        self.check_with(&run.plan, &dims)
    }
}

/// The number of tasks of each step of a plan within the limits; `None` where it is not known before the run.
pub fn sizes(plan: &Plan) -> Vec<Option<u32>> {
    let dims = vec![DimState::default(); plan.dims.len()];
    let numbers = (0u16..).take(plan.steps.len());
    numbers.map(|step| Some(space_of(plan, &dims, step)?.0.len())).collect()
}

/// A size in whole MiB, which are enough to see how far it is beyond a limit.
fn rounded(bytes: u64) -> Bytes {
    Bytes(bytes.next_multiple_of(1 << 20))
}
