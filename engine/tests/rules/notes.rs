//! Notes of workers on tasks that succeeded: shown once for all tasks, dropped with the attempt.

use super::bench::Bench;
use pictor_engine::Note;
use pictor_tasks::history::{Event, ResetTasks};
use pictor_tasks::message::{Outcome, Products};

const JOB: &str = "
dims: { frame: 1-3 }
steps:
  - { name: draw, over: [frame], noop: {} }
  - { name: film, needs: [draw], noop: {} }
";

fn say(bench: &mut Bench, task: &str, notes: &[&str]) {
    let notes = notes.iter().map(|note| (*note).to_owned()).collect();
    let given = bench.given(task);
    bench.end(&given, Outcome::Succeeded(Products { notes, ..Products::default() }));
    bench.turn();
}

fn told(bench: &Bench) -> Vec<(String, u32, String)> {
    let notes = bench.run().notes().notes.into_iter();
    notes.map(|Note { text, tasks, example }| (text, tasks, example)).collect()
}

fn note(text: &str, tasks: u32, example: &str) -> (String, u32, String) {
    (text.to_owned(), tasks, example.to_owned())
}

#[test]
fn a_sentence_is_told_once_with_how_many_tasks_said_it() {
    let mut bench = Bench::new(JOB);
    say(&mut bench, "draw[frame=2]", &["no wood"]);
    say(&mut bench, "draw[frame=1]", &["no wood", "no stone"]);
    say(&mut bench, "draw[frame=3]", &[]);
    say(&mut bench, "film", &["no sound"]);
    let all = [
        note("no wood", 2, "draw[frame=1]"),
        note("no stone", 1, "draw[frame=1]"),
        note("no sound", 1, "film"),
    ];
    assert_eq!(told(&bench), all);
    bench.check_recovery();
}

#[test]
fn what_an_attempt_said_that_does_not_count_any_more_is_forgotten() {
    let mut bench = Bench::new(JOB);
    for frame in 1..=3 {
        say(&mut bench, &format!("draw[frame={frame}]"), &["no wood"]);
    }
    say(&mut bench, "film", &["no sound"]);
    bench.control(Event::Reset(vec![ResetTasks { step: 0, tasks: vec![0] }]));
    assert_eq!(told(&bench), [note("no wood", 2, "draw[frame=2]")]);
    bench.turn();
    say(&mut bench, "draw[frame=1]", &[]);
    say(&mut bench, "film", &[]);
    assert_eq!(told(&bench), [note("no wood", 2, "draw[frame=2]")]);
    bench.check_recovery();
}

#[test]
fn however_much_is_said_only_so_much_is_kept() {
    let mut bench = Bench::new("steps: [{ name: a, noop: {} }, { name: b, noop: {} }]\n");
    let long = "é".repeat(1_000);
    let many: Vec<String> = (0..50).map(|n| format!("{n} {long}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    say(&mut bench, "a", &many);
    let notes = bench.run().notes();
    assert_eq!((notes.notes.len(), notes.notes_left_out), (20, 0));
    assert!(notes.notes.iter().all(|note| note.text.len() <= 1_000));
    bench.check_recovery();
}

#[test]
fn a_run_in_which_every_task_says_something_else_tells_the_first_and_counts_the_rest() {
    let mut bench =
        Bench::new("dims: { i: { count: 130 } }\nsteps: [{ name: a, over: [i], noop: {} }]\n");
    for index in 0..130 {
        say(&mut bench, &format!("a[i={index}]"), &[&format!("about {index}")]);
    }
    let notes = bench.run().notes();
    assert_eq!((notes.notes.len(), notes.notes_left_out), (100, 30));
    assert_eq!(notes.notes[99].text, "about 99");
    bench.check_recovery();
}
