//! What workers say of tasks that succeeded ("scripts were blocked"): each sentence once, with the tasks
//! whose accepted attempt said it.

use crate::run::{At, Run};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Different sentences that a run keeps.
const SENTENCES_MAX: usize = 100;
/// Sentences of one task, and the length of each: what workers keep to, and strangers must.
const PER_TASK_MAX: usize = 20;
const BYTES_MAX: usize = 1_000;

/// One sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The sentence.
    pub text: String,
    /// How many tasks said it.
    pub tasks: u32,
    /// The first of them, as in `render[frame=7]`.
    pub example: String,
}

/// All of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// The sentences, in the order in which they were first said.
    pub notes: Vec<Note>,
    /// How often something else was said, after there were too many different sentences.
    pub notes_left_out: u32,
}

/// The sentences of a run, and who said them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sentences {
    all: Vec<(String, BTreeSet<At>)>,
    left_out: u32,
}

impl Sentences {
    /// A task has succeeded: what it said counts, and nothing that it said before.
    pub(crate) fn say(&mut self, at: At, notes: &[String]) {
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

    /// A task is to be done again.
    pub(crate) fn unsay(&mut self, at: At) {
        self.all.retain_mut(|(_, tasks)| !(tasks.remove(&at) && tasks.is_empty()));
    }

    /// A step has other tasks now.
    pub(crate) fn forget_step(&mut self, step: u16) {
        self.all.retain_mut(|(_, tasks)| {
            tasks.retain(|at| at.0 != step);
            !tasks.is_empty()
        });
    }
}

impl Run {
    /// What workers said of the tasks that have succeeded.
    pub fn notes(&self) -> Notes {
        let note = |(text, tasks): &(String, BTreeSet<At>)| {
            let (step, index) = tasks.first()?;
            let count = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
            let example = self.task_name(*step, *index);
            Some(Note { text: text.clone(), tasks: count, example })
        };
        let notes = self.sentences.all.iter().filter_map(note).collect();
        Notes { notes, notes_left_out: self.sentences.left_out }
    }
}
