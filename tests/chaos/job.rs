//! The job of the chaos test: 2,000 tasks of mixed length whose results are known in advance.

use crate::support::soak;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

pub(crate) const TASKS: usize = 2_000;
const GROUP: u32 = 20;
const SLOW: u32 = 12;

/// Number of tasks that write a file each.
fn writes() -> u32 {
    if soak() { 600 } else { 300 }
}

/// The job file. Every execution of a program appends a line to the file `executed`.
pub(crate) fn text(executed: &Path) -> String {
    let writes = writes();
    let executed = executed.display();
    // Enough for the whole storm, which hits tasks of every kind. A worker claims after 5 s.
    let (count, long, short) = if soak() { (30, "6s", "1.2") } else { (20, "1500ms", "0.1") };
    let ticks = TASKS - (writes + writes / GROUP + count + SLOW + 1) as usize;
    format!(
        "pictor: v1
name: chaos
dims:
  t: {{ count: {ticks} }}
  l: {{ count: {count} }}
  s: {{ count: {SLOW} }}
  i: {{ count: {writes} }}
  g: {{ of: i, size: {GROUP} }}
steps:
- {{ name: tick, over: [t], noop: {{ duration: 20ms }} }}
- {{ name: long, over: [l], noop: {{ duration: {long} }} }}
- name: slow
  over: [s]
  command:
    run: [sh, -c, 'echo slow >> {executed}; sleep 6; echo {{s}} > \"$0\"', \"{{output.n}}\"]
    outputs: {{ n: n.txt }}
  deliver: {{ n: \"slow/{{s}}.txt\" }}
- name: write
  over: [i]
  command:
    run: [sh, -c, 'echo write >> {executed}; sleep {short}; seq 0 {{i}} > \"$0\"', \"{{output.n}}\"]
    outputs: {{ n: n.txt }}
  deliver: {{ n: \"write/{{i}}.txt\" }}
- name: fold
  over: [g]
  needs: [write]
  command:
    run: [sh, -c, 'echo fold >> {executed}; cat \"$1\"/* | sort -n > \"$0\"',
      \"{{output.n}}\", \"{{inputs.write}}\"]
    outputs: {{ n: n.txt }}
  deliver: {{ n: \"fold/{{g}}.txt\" }}
- name: all
  needs: [fold, tick, long, slow]
  command:
    run: [sh, -c, 'echo all >> {executed}; cat \"$1\"/* | sort -n > \"$0\"',
      \"{{output.n}}\", \"{{inputs.fold}}\"]
    outputs: {{ n: n.txt }}
  deliver: {{ n: all.txt }}
"
    )
}

/// Every file that the job delivers, as an undisturbed run produces it.
pub(crate) fn results() -> BTreeMap<String, String> {
    let lines = |numbers: &[u32]| {
        numbers.iter().fold(String::new(), |mut text, number| {
            writeln!(text, "{number}").expect("a text has room");
            text
        })
    };
    let folded = |writes: std::ops::Range<u32>| {
        let mut numbers: Vec<u32> = writes.flat_map(|i| 0..=i).collect();
        numbers.sort_unstable();
        lines(&numbers)
    };
    let mut files = BTreeMap::from([("all.txt".to_owned(), folded(0..writes()))]);
    files.extend((0..SLOW).map(|s| (format!("slow/{s}.txt"), lines(&[s]))));
    files.extend((0..writes()).map(|i| {
        let all: Vec<u32> = (0..=i).collect();
        (format!("write/{i}.txt"), lines(&all))
    }));
    let fold = |g| (format!("fold/{g}.txt"), folded(g * GROUP..(g + 1) * GROUP));
    files.extend((0..writes() / GROUP).map(fold));
    files
}

/// Number of executions of programs in an undisturbed run.
pub(crate) fn programs() -> usize {
    (writes() + writes() / GROUP + SLOW + 1) as usize
}
