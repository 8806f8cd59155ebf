//! What leads a task from one state to another: the one table that says so. `docs/task-states.md` is made
//! from it, too (`engine/tests/transitions.rs`).

use pictor_tasks::state::TaskState;
use pictor_tasks::state::TaskState::{
    Cancelled, Failed, Pending, Queued, Ready, Running, Skipped, Succeeded,
};

/// Something that happens to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFact {
    /// Tasks that it needs have changed their state.
    NeedsChanged,
    /// The queue of a worker has it.
    Sent,
    /// It was given to a worker and is not with it any more, without having begun.
    TakenBack,
    /// A worker holds a lease on it.
    Claimed,
    /// Its result counts.
    Done,
    /// An attempt ended without a result, and there is another one.
    TriedAgain,
    /// An attempt ended without a result, and it was the last one.
    GaveOut,
    /// The run was cancelled, or stopped by its own failures.
    RunEnded,
    /// It is done again because somebody asked, or because what it was built on is done again.
    Reset,
}

/// The state that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This one.
    State(TaskState),
    /// `pending`, `ready` or `skipped`: what the states of its needs say.
    ByNeeds,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    /// What happens.
    pub fact: TaskFact,
    /// What happens, for people.
    pub text: &'static str,
    /// The states in which it can happen.
    pub from: &'static [TaskState],
    /// The state that follows.
    pub to: Next,
}

/// Every transition, in the order of [`TaskFact`].
pub const TRANSITIONS: [Transition; 9] = {
    use TaskFact as F;
    const ALL: &[TaskState] = &TaskState::ALL;
    const HELD: &[TaskState] = &[Ready, Queued, Running];
    const fn line(
        fact: TaskFact,
        text: &'static str,
        from: &'static [TaskState],
        to: Next,
    ) -> Transition {
        Transition { fact, text, from, to }
    }
    [
        line(F::NeedsChanged, "its needs change", &[Pending, Ready, Skipped], Next::ByNeeds),
        line(F::Sent, "sent to a worker", &[Ready], Next::State(Queued)),
        line(F::TakenBack, "not begun and taken back", &[Ready, Queued], Next::ByNeeds),
        line(F::Claimed, "claimed", &[Ready, Queued], Next::State(Running)),
        line(F::Done, "done", HELD, Next::State(Succeeded)),
        line(F::TriedAgain, "failed, lost or given back, tries left", HELD, Next::ByNeeds),
        line(F::GaveOut, "failed or lost, no tries left", HELD, Next::State(Failed)),
        // Cancelling one task makes others `skipped` before it is their turn.
        line(
            F::RunEnded,
            "the run is cancelled or stopped",
            &[Pending, Ready, Queued, Running, Skipped],
            Next::State(Cancelled),
        ),
        line(F::Reset, "done again", ALL, Next::ByNeeds),
    ]
};
