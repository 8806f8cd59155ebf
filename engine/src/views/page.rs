//! Finds tasks of a run by step, state and dimension values, a bounded number at a time: however many tasks there are,
//! a query never blocks the engine for long.

use super::{Lacks, TaskView};
use crate::farm::Engine;
use crate::run::state::StepState;
use crate::run::{Run, TaskState};
use pictor_tasks::message::TaskId;
use pictor_tasks::space::Space;

/// A filter for tasks of a run. Fields that are not set match every task.
#[derive(Clone, Debug, Default)]
pub struct TaskQuery {
    /// Only tasks of the step with this index in the plan.
    pub step: Option<u16>,
    /// Only tasks in this state.
    pub state: Option<TaskState>,
    /// Only tasks with these values: dimension and value as they are written in a task's name. A step without the
    /// dimension has no matching task.
    pub dims: Vec<(String, String)>,
}

impl TaskQuery {
    /// Whether a task matches the step and the values of the filter.
    fn fits(&self, run: &Run, TaskId { step, index }: TaskId) -> bool {
        let sieve = run.space(step).and_then(|space| Sieve::new(space, &self.dims));
        self.step.is_none_or(|only| only == step)
            && sieve.is_some_and(|sieve| sieve.next(index) == Some(index))
    }
}

/// The tasks found by one query, and where the next one begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    /// The matching tasks, ordered by step and index.
    pub items: Vec<T>,
    /// The step and index to continue from; `None` when everything has been searched.
    pub next: Option<TaskId>,
}

/// The limits of one query.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The most tasks to return.
    pub limit: usize,
    /// The most indices to examine.
    pub places: u32,
}

/// The axes of a space with the positions that the filter requires.
struct Sieve {
    lens: Vec<u32>,
    fixed: Vec<Option<u32>>,
}

impl Sieve {
    /// Returns `None` if no task of the space can match.
    fn new(space: &Space, dims: &[(String, String)]) -> Option<Self> {
        let mut fixed = vec![None; space.axes.len()];
        for (name, value) in dims {
            let axis = axis_of(space, name)?;
            let position = space.axes[axis].values.position_of(value)?;
            if fixed[axis].is_some_and(|other| other != position) {
                return None;
            }
            fixed[axis] = Some(position);
        }
        Some(Self { lens: space.axes.iter().map(|a| a.values.len()).collect(), fixed })
    }

    fn is_open(&self) -> bool {
        self.fixed.iter().all(Option::is_none)
    }

    /// The first index at or after `index` with the required positions.
    fn next(&self, index: u32) -> Option<u32> {
        let mut positions = vec![0; self.lens.len()];
        let mut rest = index;
        for (position, len) in positions.iter_mut().zip(&self.lens).rev() {
            (*position, rest) = (rest % len, rest / len);
        }
        if rest > 0 {
            return None;
        }
        let wrong = |(axis, fixed): (usize, &Option<u32>)| {
            fixed.is_some_and(|fixed| positions[axis] != fixed).then_some(axis)
        };
        let Some(axis) = self.fixed.iter().enumerate().find_map(wrong) else { return Some(index) };
        let mut from = axis;
        if self.fixed[axis].is_some_and(|fixed| positions[axis] > fixed) {
            // The position is past the required one, so the next match has a higher position on a slower axis.
            let free = |a: &usize| self.fixed[*a].is_none() && positions[*a] + 1 < self.lens[*a];
            let slower = (0..axis).rev().find(free)?;
            positions[slower] += 1;
            from = slower + 1;
        }
        for (position, fixed) in positions[from..].iter_mut().zip(&self.fixed[from..]) {
            *position = fixed.unwrap_or(0);
        }
        let digits = positions.iter().zip(&self.lens);
        Some(digits.fold(0, |index, (position, len)| index * len + position))
    }
}

/// The axis with this name; a macro's private dimension may be abbreviated, as in [`Space::find`].
fn axis_of(space: &Space, name: &str) -> Option<usize> {
    let exact = space.axes.iter().position(|axis| axis.name == name);
    exact.or_else(|| space.axes.iter().position(|axis| is_short(&axis.name, name)))
}

fn is_short(full: &str, name: &str) -> bool {
    full.rsplit_once('.').is_some_and(|(_, last)| last == name)
}

impl Run {
    /// Searches for tasks, starting at `from`.
    pub fn find(&self, query: &TaskQuery, from: TaskId, effort: Effort) -> Found<TaskId> {
        let mut found = Found { items: Vec::new(), next: None };
        let mut places = effort.places;
        let TaskId { mut step, mut index } = from;
        while let Some(state) = self.steps.get(step as usize) {
            if query.step.is_none_or(|only| only == step) {
                let sieve = state.space.as_ref().and_then(|s| Sieve::new(s, &query.dims));
                let none = query.state.is_some_and(|s| state.counts[s as usize] == 0);
                if let Some(sieve) = sieve.filter(|_| !none) {
                    let room = effort.limit - found.items.len();
                    let mut look = Look { state, sieve: &sieve, wanted: query.state, room };
                    let next = look.walk(index, &mut places, &mut |index| {
                        found.items.push(TaskId { step, index });
                    });
                    if let Some(index) = next {
                        found.next = Some(TaskId { step, index });
                        return found;
                    }
                }
            }
            (step, index) = (step + 1, 0);
        }
        found
    }

    /// Whether some step of the run has a dimension with that name.
    pub fn has_dimension(&self, name: &str) -> bool {
        self.plan.dims.iter().any(|dim| dim.name == name || is_short(&dim.name, name))
    }
}

/// A search through one step.
struct Look<'a> {
    state: &'a StepState,
    sieve: &'a Sieve,
    wanted: Option<TaskState>,
    room: usize,
}

impl Look<'_> {
    /// Calls `found` with each matching task from `index` on. Returns where it stopped, if that was before the end.
    fn walk(
        &mut self,
        mut index: u32,
        places: &mut u32,
        found: &mut impl FnMut(u32),
    ) -> Option<u32> {
        loop {
            let tasks = self.state.tasks.get(index as usize..).unwrap_or_default();
            if tasks.is_empty() {
                return None;
            }
            if self.room == 0 || *places == 0 {
                return Some(index);
            }
            if self.sieve.is_open() {
                // The hot path: a linear search through bytes.
                let tasks = &tasks[..tasks.len().min(*places as usize)];
                let hit = tasks.iter().position(|task| self.fits(*task));
                let passed = hit.map_or(tasks.len(), |hit| hit + 1);
                let passed = u32::try_from(passed).expect("a step is below 2^32");
                *places -= passed;
                index += passed;
                if hit.is_some() {
                    found(index - 1);
                    self.room -= 1;
                }
                continue;
            }
            index = self.sieve.next(index)?;
            *places -= 1;
            if self.state.tasks.get(index as usize).is_some_and(|task| self.fits(*task)) {
                found(index);
                self.room -= 1;
            }
            index += 1;
        }
    }

    fn fits(&self, task: Option<TaskState>) -> bool {
        task.is_some() && self.wanted.is_none_or(|wanted| task == Some(wanted))
    }
}

impl Engine {
    /// Like [`Run::find`], with all information about each task.
    pub fn find(
        &self,
        run: &Run,
        query: &TaskQuery,
        (from, effort): (TaskId, Effort),
        now_ms: i64,
    ) -> Found<TaskView> {
        let Found { mut items, mut next } = run.find(query, from, effort);
        if query.state == Some(TaskState::Running) {
            let fits = |at: &TaskId| {
                *at >= from && next.is_none_or(|next| *at < next) && query.fits(run, *at)
            };
            items.extend(self.begun(run).filter(fits));
            items.sort_unstable();
            if items.len() > effort.limit {
                next = Some(items[effort.limit]);
                items.truncate(effort.limit);
            }
        }
        let mut lacks = Lacks::new();
        let views = items.into_iter().filter_map(|at| self.look(run, at, now_ms, &mut lacks));
        let views = views.filter(|view| query.state.is_none_or(|wanted| view.state == wanted));
        Found { items: views.collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_tasks::space::{Axis, Values};
    use proptest::prelude::*;

    fn space(lens: &[u32]) -> Space {
        let axis = |(i, len): (usize, &u32)| Axis {
            name: format!("d{i}"),
            values: Values::count(*len),
            bound: None,
        };
        Space { axes: lens.iter().enumerate().map(axis).collect() }
    }

    proptest! {
        #[test]
        fn the_sieve_finds_what_a_look_at_every_index_finds(
            lens in prop::collection::vec(1..5u32, 0..4),
            fixed in prop::collection::vec(prop::option::of(0..5u32), 4),
            start in 0..300u32,
        ) {
            let space = space(&lens);
            let dims: Vec<(String, String)> = fixed
                .iter()
                .take(lens.len())
                .enumerate()
                .filter_map(|(i, value)| Some((format!("d{i}"), value.as_ref()?.to_string())))
                .collect();
            let fits = |index: u32| dims.iter().all(|(name, value)| {
                space.value(index, name).is_some_and(|v| v.to_string() == *value)
            });
            let expected = (start..space.len()).find(|index| fits(*index));
            let sieve = Sieve::new(&space, &dims);
            prop_assert_eq!(sieve.and_then(|s| s.next(start)), expected);
        }
    }
}
