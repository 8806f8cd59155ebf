//! The page about the states of tasks matches the table that the engine uses.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use pictor_engine::transitions::{Next, TRANSITIONS};
use pictor_engine::{TaskState, transitions::Transition};
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "<!-- Made by engine/tests/transitions.rs from engine/src/run/transitions.rs. -->\n
# The states of a task\n
A task that waits is `pending`, `ready` or `skipped`: which of them follows from the tasks that it needs, is never
stored, and changes with them. Everything else happens to it.\n\n";

/// The states to which a transition leads, and how it is written from each state.
fn arrows(transition: &Transition) -> Vec<(TaskState, TaskState)> {
    let by_needs = [TaskState::Pending, TaskState::Ready, TaskState::Skipped];
    let to = match transition.to {
        Next::State(state) => vec![state],
        Next::ByNeeds => by_needs.to_vec(),
    };
    let pairs = transition.from.iter().flat_map(|from| to.iter().map(|to| (*from, *to)));
    pairs.filter(|(from, to)| from != to).collect()
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| what happens | in the states | the state that follows |\n|---|---|---|\n");
    for Transition { text, from, to, .. } in TRANSITIONS {
        let from = if from.len() == TaskState::ALL.len() {
            "any".to_owned()
        } else {
            from.iter().map(|state| format!("`{}`", state.name())).collect::<Vec<_>>().join(", ")
        };
        let to = match to {
            Next::State(state) => format!("`{}`", state.name()),
            Next::ByNeeds => "by its needs".to_owned(),
        };
        writeln!(page, "| {text} | {from} | {to} |").unwrap();
    }
    page.push_str("\n```mermaid\nstateDiagram-v2\n    state \"by its needs\" as needs {\n");
    page.push_str("        pending\n        ready\n        skipped\n    }\n    [*] --> needs\n");
    let waits = |state: &TaskState| state.is_derived();
    for Transition { text, from, to, .. } in TRANSITIONS {
        if from.len() == TaskState::ALL.len() {
            continue;
        }
        let to = match to {
            Next::State(state) => state.name(),
            Next::ByNeeds => "needs",
        };
        let all_that_wait = from.iter().filter(|state| waits(state)).count() == 3;
        for from in from.iter().filter(|from| !(all_that_wait && waits(from))) {
            if !(to == "needs" && waits(from)) {
                writeln!(page, "    {} --> {to}: {text}", from.name()).unwrap();
            }
        }
        if all_that_wait && to != "needs" {
            writeln!(page, "    needs --> {to}: {text}").unwrap();
        }
    }
    page.push_str("```\n\nA task in any state goes back to what its needs say when it is reset.\n");
    page
}

#[test]
fn the_page_of_states_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/task-states.md");
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept, page(), "WRITE_DOCS=1 cargo test -p pictor-engine --test transitions");
}

#[test]
fn every_state_is_reached_and_left_as_the_states_say() {
    for (place, transition) in TRANSITIONS.iter().enumerate() {
        assert_eq!(transition.fact as usize, place, "the order of the facts");
    }
    let all = || TRANSITIONS.iter().flat_map(arrows);
    for state in TaskState::ALL {
        assert!(all().any(|(_, to)| to == state), "nothing leads to {}", state.name());
        let by_itself = TRANSITIONS.iter().filter(|t| t.from.len() < TaskState::ALL.len());
        let left = by_itself.flat_map(arrows).any(|(from, _)| from == state);
        // A task that has ended stays so until it is done again; a skipped task follows its needs.
        assert_eq!(left, !state.is_terminal() || state == TaskState::Skipped, "{}", state.name());
    }
}
