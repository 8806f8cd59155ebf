//! The oracle: a run derived from its history, implemented naively from the text of the design. It compares all pairs
//! of tasks, stores nothing that it can derive again, and shares no code with the engine.

use pictor_engine::plan::{DimCounts, DimValues, Need, Plan};
use pictor_engine::{Run, RunState, TaskState};
use pictor_tasks::message::{Execution, TaskId, WorkerId};
use pictor_tasks::space::Values;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) type At = (usize, usize);

/// The state of a task as recorded in history; everything else is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Claimed(WorkerId, Execution),
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) point: Vec<usize>,
    pub(super) exists: bool,
    pub(super) attempt: u32,
    pub(super) said: Said,
    pub(super) failures: u32,
    pub(super) losses: u32,
    /// Whether it has outputs that still exist.
    pub(super) outputs: bool,
    /// Whether its outputs have been removed.
    pub(super) removed: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Late {
    pub(super) values: Option<Values>,
    pub(super) counts: Option<Vec<u32>>,
    pub(super) generation: u32,
}

/// What a task waits for because of one need.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    pub(super) soft: bool,
    /// The tasks, or a whole step that has none yet.
    pub(super) on: Result<Vec<At>, usize>,
}

/// A run by brute force.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(super) plan: Arc<Plan>,
    pub(super) late: Vec<Late>,
    /// `None` for steps with an unbound dimension.
    pub(super) tasks: Vec<Option<Vec<Task>>>,
    pub(super) waits: BTreeMap<At, Vec<Wait>>,
    pub(super) paused: bool,
    pub(super) cancelled: bool,
    pub(super) stopped: bool,
    pub(super) controls: BTreeSet<u64>,
}

/// The states of all tasks, and for each step whether it is given up.
pub(super) struct States {
    pub(super) tasks: BTreeMap<At, TaskState>,
    pub(super) given_up: BTreeMap<usize, bool>,
}

impl Model {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let mut model = Self {
            late: vec![Late::default(); plan.dims.len()],
            tasks: vec![None; plan.steps.len()],
            waits: BTreeMap::new(),
            paused: false,
            cancelled: false,
            stopped: false,
            controls: BTreeSet::new(),
            plan,
        };
        let all: Vec<usize> = (0..model.plan.steps.len()).collect();
        model.give_tasks(&all);
        model
    }

    fn len(&self, dim: usize) -> Option<usize> {
        match &self.plan.dims[dim].values {
            DimValues::Fixed(values) => Some(values.len() as usize),
            DimValues::Late { .. } => self.late[dim].values.as_ref().map(|v| v.len() as usize),
            DimValues::Blocks { of, size } => Some(self.len(*of)?.div_ceil(*size as usize)),
        }
    }

    fn counts(&self, dim: usize, counts: &DimCounts) -> Option<Vec<u32>> {
        match counts {
            DimCounts::Fixed(counts) => Some(counts.to_vec()),
            DimCounts::Late { .. } => self.late[dim].counts.clone(),
        }
    }

    /// All points of a step in row-major order, with holes marked.
    fn points(&self, step: usize) -> Option<Vec<(Vec<usize>, bool)>> {
        let over = &self.plan.steps[step].over;
        let mut points = vec![vec![]];
        for &dim in over {
            let len = self.len(dim)?;
            let longer = |point: &Vec<usize>| {
                (0..len).map(|p| [&point[..], &[p]].concat()).collect::<Vec<_>>()
            };
            points = points.iter().flat_map(longer).collect();
        }
        let mut bounds = Vec::new();
        for (axis, &dim) in over.iter().enumerate() {
            if let Some(bound) = &self.plan.dims[dim].bound {
                let by = over.iter().position(|d| *d == bound.by).unwrap();
                bounds.push((axis, by, self.counts(dim, &bound.counts)?));
            }
        }
        let inside = |point: &Vec<usize>| {
            bounds.iter().all(|(axis, by, counts)| {
                point[*axis] < counts.get(point[*by]).map_or(0, |count| *count as usize)
            })
        };
        Some(points.into_iter().map(|point| (point.clone(), inside(&point))).collect())
    }

    pub(super) fn root(&self, dim: usize) -> (usize, usize) {
        match &self.plan.dims[dim].values {
            DimValues::Blocks { of, size } => {
                let (root, scale) = self.root(*of);
                (root, scale * *size as usize)
            }
            _ => (dim, 1),
        }
    }

    pub(super) fn give_tasks(&mut self, steps: &[usize]) {
        for &step in steps {
            if let Some(points) = self.points(step) {
                let task = |(point, exists)| Task {
                    point,
                    exists,
                    attempt: 1,
                    said: Said::Nothing,
                    failures: 0,
                    losses: 0,
                    outputs: false,
                    removed: false,
                };
                self.tasks[step] = Some(points.into_iter().map(task).collect());
            }
        }
        self.waits.clear();
        for at in self.all() {
            let needs = &self.plan.steps[at.0].needs;
            self.waits.insert(at, needs.iter().map(|need| self.wait(at, need)).collect());
        }
    }

    pub(super) fn all(&self) -> Vec<At> {
        let steps = self.tasks.iter().enumerate();
        steps
            .flat_map(|(step, tasks)| {
                let tasks = tasks.iter().flatten().enumerate();
                tasks.filter(|(_, t)| t.exists).map(move |(index, _)| (step, index))
            })
            .collect()
    }

    pub(super) fn task(&self, at: At) -> &Task {
        &self.tasks[at.0].as_ref().unwrap()[at.1]
    }

    pub(super) fn task_mut(&mut self, at: At) -> &mut Task {
        &mut self.tasks[at.0].as_mut().unwrap()[at.1]
    }

    fn wait(&self, consumer: At, need: &Need) -> Wait {
        let producer = need.step as usize;
        let on = match &self.tasks[producer] {
            None => Err(producer),
            Some(tasks) => {
                let tasks = tasks.iter().enumerate();
                let meets = |task: &Task| task.exists && self.meet(consumer, producer, task, need);
                Ok(tasks.filter(|(_, t)| meets(t)).map(|(i, _)| (producer, i)).collect())
            }
        };
        Wait { soft: need.soft, on }
    }

    /// Whether the consumer waits for the producer: they have the same values in all dimensions that they share.
    pub(super) fn meet(&self, consumer: At, producer: usize, theirs: &Task, need: &Need) -> bool {
        let ours = self.task(consumer);
        let (our_over, their_over) =
            (&self.plan.steps[consumer.0].over, &self.plan.steps[producer].over);
        let beyond = need.offsets.iter().any(|(dim, by)| {
            let axis = our_over.iter().position(|d| d == dim).unwrap();
            let wanted = i64::try_from(ours.point[axis]).unwrap() + i64::from(*by);
            wanted < 0 || wanted >= i64::try_from(self.len(*dim).unwrap()).unwrap()
        });
        !beyond
            && our_over.iter().enumerate().all(|(a, ours_dim)| {
                their_over.iter().enumerate().all(|(b, theirs_dim)| {
                    let ((root, size), (other, their_size)) =
                        (self.root(*ours_dim), self.root(*theirs_dim));
                    if root != other {
                        return true;
                    }
                    let by = need.offsets.iter().find(|(dim, _)| dim == ours_dim);
                    let by = by.map_or(0, |(_, by)| *by as isize);
                    let (here, there) = (ours.point[a] * size, theirs.point[b] * their_size);
                    let coarse = size.max(their_size);
                    (here / coarse).checked_add_signed(by) == Some(there / coarse)
                })
            })
    }

    pub(super) fn states(&self) -> States {
        let mut states = States { tasks: BTreeMap::new(), given_up: BTreeMap::new() };
        for at in self.all() {
            self.find_state(at, &mut states);
        }
        for step in 0..self.tasks.len() {
            self.find_given_up(step, &mut states);
        }
        states
    }

    fn find_state(&self, at: At, states: &mut States) -> TaskState {
        if let Some(state) = states.tasks.get(&at) {
            return *state;
        }
        let state = match self.task(at).said {
            Said::Claimed(..) => TaskState::Running,
            Said::Succeeded => TaskState::Succeeded,
            Said::Failed => TaskState::Failed,
            Said::Cancelled => TaskState::Cancelled,
            Said::Nothing => self.derive(at, states),
        };
        states.tasks.insert(at, state);
        state
    }

    pub(super) fn derive(&self, at: At, states: &mut States) -> TaskState {
        let (mut open, mut broken) = (true, false);
        for wait in &self.waits[&at] {
            let found: Vec<TaskState> = match &wait.on {
                Ok(tasks) => tasks.iter().map(|at| self.find_state(*at, states)).collect(),
                Err(step) if self.find_given_up(*step, states) => vec![TaskState::Skipped],
                Err(_) => vec![TaskState::Pending],
            };
            open &= found.iter().all(|s| s.is_terminal());
            let bad = |s: &TaskState| s.is_terminal() && *s != TaskState::Succeeded;
            broken |= !wait.soft && found.iter().any(bad);
        }
        match (broken, open) {
            (true, _) => TaskState::Skipped,
            (false, true) => TaskState::Ready,
            (false, false) => TaskState::Pending,
        }
    }

    /// Whether a step that waits for values will never get them as things stand.
    fn find_given_up(&self, step: usize, states: &mut States) -> bool {
        if self.tasks[step].is_some() {
            return false;
        }
        if let Some(known) = states.given_up.get(&step) {
            return *known;
        }
        let mut binders = Vec::new();
        for &dim in &self.plan.steps[step].over {
            for dim in [dim, self.root(dim).0] {
                if let DimValues::Late { binder } = self.plan.dims[dim].values {
                    binders.push(binder as usize);
                }
                let counts = self.plan.dims[dim].bound.as_ref().map(|bound| &bound.counts);
                if let Some(DimCounts::Late { binder }) = counts {
                    binders.push(*binder as usize);
                }
            }
        }
        let lost = binders.into_iter().any(|binder| {
            let state = self.find_state((binder, 0), states);
            state.is_terminal() && state != TaskState::Succeeded
        });
        states.given_up.insert(step, lost);
        lost
    }

    /// The state of the run.
    pub(crate) fn state(&self) -> RunState {
        let states = self.states();
        let over = states.tasks.values().all(|s| s.is_terminal())
            && states.given_up.values().all(|given_up| *given_up);
        if !over {
            return if self.paused { RunState::Paused } else { RunState::Running };
        }
        let needed = |at: At| {
            self.waits.values().flatten().any(|w| w.on.as_ref().is_ok_and(|on| on.contains(&at)))
        };
        let unborn_need = |step: usize| {
            let unborn = states.given_up.keys();
            let mut needs = unborn.flat_map(|step| &self.plan.steps[*step].needs);
            needs.any(|need| need.step as usize == step)
        };
        let bad = |s: TaskState| matches!(s, TaskState::Failed | TaskState::Skipped);
        let failed = states
            .tasks
            .iter()
            .any(|(at, s)| bad(*s) && !needed(*at) && !unborn_need(at.0))
            || states.given_up.keys().any(|step| {
                !self.plan.steps.iter().any(|s| s.needs.iter().any(|n| n.step as usize == *step))
            });
        if self.cancelled {
            RunState::Cancelled
        } else if self.stopped || failed {
            RunState::Failed
        } else {
            RunState::Succeeded
        }
    }

    /// Compares the state of every task with that of a run.
    pub(crate) fn compare(&self, run: &Run) -> Result<(), String> {
        let states = self.states();
        for (step, tasks) in self.tasks.iter().enumerate() {
            let number = u16::try_from(step).unwrap();
            if run.space(number).is_some() != tasks.is_some() {
                return Err(format!("step {step}: alive {:?}", run.space(number)));
            }
            for (index, task) in tasks.iter().flatten().enumerate() {
                let at = u32::try_from(index).unwrap();
                let id = TaskId { step: number, index: at };
                let theirs = run.task_state(id);
                let state =
                    theirs.map(|s| if s == TaskState::Queued { TaskState::Ready } else { s });
                let ours = states.tasks.get(&(step, index)).copied();
                if ours != state || task.exists && run.attempt(id) != Some(task.attempt) {
                    let attempt = run.attempt(id);
                    return Err(format!(
                        "{}: expected {ours:?} attempt {}, found {state:?} attempt {attempt:?}",
                        run.task_name(id),
                        task.attempt,
                    ));
                }
                if task.removed != run.is_removed(id) || task.outputs != run.outputs(id).is_some() {
                    return Err(format!(
                        "{}: left something {}, removed {}, found otherwise",
                        run.task_name(id),
                        task.outputs,
                        task.removed
                    ));
                }
            }
        }
        if self.state() != run.state() {
            return Err(format!("expected {:?}, found {:?}", self.state(), run.state()));
        }
        Ok(())
    }
}
