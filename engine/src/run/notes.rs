//! Notes of workers on tasks that succeeded ("scripts were blocked"): each sentence once, with the tasks whose accepted
//! attempt reported it.

use super::Run;
use crate::plan::Plan;
use pictor_tasks::message::TaskId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The most different sentences that a run keeps.
const SENTENCES_MAX: usize = 100;
/// The most sentences of one task, and the length of each: workers respect these limits, but must not be relied upon to
/// do so.
const PER_TASK_MAX: usize = 20;
const BYTES_MAX: usize = 1_000;

/// A note, and the tasks that reported it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The sentence for the user.
    pub text: String,
    /// The number of tasks that reported it.
    pub tasks: u32,
    /// The first of these tasks, such as `render[frame=7]`.
    pub example: String,
}

/// All notes of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The notes, in the order in which they were first reported.
    pub notes: Vec<Note>,
    /// How often other sentences were reported after the limit for different ones was reached.
    pub notes_left_out: u32,
}

/// The sentences of a run, and the tasks that reported them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sentences {
    all: Vec<(String, BTreeSet<TaskId>)>,
    left_out: u32,
}

impl Sentences {
    /// Replaces the sentences of a task by those of its successful attempt.
    pub(crate) fn say(&mut self, at: TaskId, notes: &[String]) {
        self.unsay(at);
        for note in notes.iter().take(PER_TASK_MAX) {
            let text = &note[..note.floor_char_boundary(BYTES_MAX)];
            if let Some((_, tasks)) = self.all.iter_mut().find(|(known, _)| known == text) {
                tasks.insert(at);
            } else if self.all.len() < SENTENCES_MAX {
                self.all.push((text.to_owned(), BTreeSet::from([at])));
            } else {
                self.left_out = self.left_out.saturating_add(1);
            }
        }
    }

    /// Removes the sentences of a task that will be done again.
    pub(crate) fn unsay(&mut self, at: TaskId) {
        self.all.retain_mut(|(_, tasks)| !(tasks.remove(&at) && tasks.is_empty()));
    }

    /// Removes the sentences of a step whose tasks have changed.
    pub(crate) fn forget_step(&mut self, step: u16) {
        self.all.retain_mut(|(_, tasks)| {
            tasks.retain(|at| at.step != step);
            !tasks.is_empty()
        });
    }
}

/// Notes on limits that a plan's steps hold and that are not `defined`: one for each limit, with the number of tasks
/// (if known) and the step.
pub fn undefined_limits<T>(plan: &Plan, defined: &BTreeMap<String, T>) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for step in &plan.steps {
        for limit in step.limits.iter().filter(|limit| !defined.contains_key(*limit)) {
            let text = format!(
                "the limit `{limit}` is not defined (`[limits]` of the server's configuration, or `--limit \
                 {limit}=N`), so it limits nothing"
            );
            if !notes.iter().any(|note| note.text == text) {
                notes.push(Note { text, tasks: 0, example: step.name.clone() });
            }
        }
    }
    notes
}

impl Run {
    /// The notes of workers on the tasks that have succeeded.
    pub fn notes(&self) -> Notes {
        let note = |(text, tasks): &(String, BTreeSet<TaskId>)| {
            let first = tasks.first()?;
            let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
            let example = self.task_name(*first);
            Some(Note { text: text.clone(), tasks: count, example })
        };
        let notes = self.sentences.all.iter().filter_map(note).collect();
        Notes { notes, notes_left_out: self.sentences.left_out }
    }
}
