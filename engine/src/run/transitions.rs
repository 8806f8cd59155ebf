//! The table of transitions between the states of a task. `docs/task-states.md` is generated from it as well
//! (`engine/tests/transitions.rs`).

use pictor_tasks::state::TaskState;
use pictor_tasks::state::TaskState::{
    Cancelled, Failed, Pending, Queued, Ready, Running, Skipped, Succeeded,
};

/// An event that may change the state of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFact {
    /// Tasks that it needs have changed their state.
    NeedsChanged,
    /// It was sent to a worker.
    Sent,
    /// It was assigned to a worker, but is no longer held by it, without having begun.
    TakenBack,
    /// A worker holds a lease on it.
    Claimed,
    /// It succeeded, and its result was accepted.
    Done,
    /// An attempt ended without a result, and there will be another one.
    TriedAgain,
    /// An attempt ended without a result, and it was the last one.
    GaveOut,
    /// The run was cancelled, or stopped because of its failures.
    RunEnded,
    /// It is reset, on request or because a task whose results it used is done again.
    Reset,
}

/// The state that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This state.
    State(TaskState),
    /// `pending`, `ready` or `skipped`, depending on the state of its needs.
    ByNeeds,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    /// The event.
    pub fact: TaskFact,
    /// A description of the event for the documentation.
    pub text: &'static str,
    /// The states in which the event can occur.
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
        line(F::TakenBack, "reclaimed before it started", &[Ready, Queued], Next::ByNeeds),
        line(F::Claimed, "claimed", &[Ready, Queued], Next::State(Running)),
        line(F::Done, "succeeds", HELD, Next::State(Succeeded)),
        line(F::TriedAgain, "failed, lost or given back, attempts left", HELD, Next::ByNeeds),
        line(F::GaveOut, "failed or lost, no attempts left", HELD, Next::State(Failed)),
        // Cancelling one task makes others `skipped` before they are cancelled themselves.
        line(
            F::RunEnded,
            "the run is cancelled or stopped",
            &[Pending, Ready, Queued, Running, Skipped],
            Next::State(Cancelled),
        ),
        line(F::Reset, "reset", ALL, Next::ByNeeds),
    ]
};
