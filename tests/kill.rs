//! `kill -9`, signals, and other commands during a run: no finished task is executed again, and no process is left
//! running.
#![expect(clippy::disallowed_methods, reason = "what runs here has real time limits")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use rustix::process::Signal;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::pictures::{assert_same, png, video};
use support::{Running, TestDir, assert_one_success_each, command_lines, render_job, soak, until};

/// Pseudo-random numbers. The seed is printed; `PICTOR_SEED` sets it.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let given = std::env::var("PICTOR_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(1));
        eprintln!("PICTOR_SEED={seed}");
        Self(seed | 1)
    }

    /// A number from 0 to `end - 1`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }

    /// This many moments of a run of `all`, in order, spread over the whole of it.
    fn moments(&mut self, count: usize, all: usize) -> Vec<usize> {
        (0..count).map(|i| (i * all + self.below(all)) / count).collect()
    }
}

/// The numbers in the file to which every execution of a task appends its own.
fn executions(dir: &TestDir) -> Vec<i64> {
    let text = std::fs::read_to_string(dir.shared("executed")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Forty tasks that record their execution, and one that adds up.
fn counting_job(dir: &TestDir) {
    dir.write(
        "job.yaml",
        &format!(
            "pictor: v1\nname: count\ndims: {{ i: {{ count: 40 }} }}\nsteps:\n\
             - name: work\n  over: [i]\n  command:\n    \
             run: [sh, -c, 'echo {{i}} >> {}; sleep 0.04; echo {{i}} > \"$0\"', \"{{output.n}}\"]\n    \
             outputs: {{ n: n.txt }}\n  deliver: {{ n: \"n/{{i}}.txt\" }}\n\
             - name: sum\n  needs: [work]\n  command:\n    \
             run: [sh, -c, 'cat \"$1\"/* | sort -n > \"$0\"', \"{{output.all}}\", \"{{inputs.work}}\"]\n    \
             outputs: {{ all: all.txt }}\n  deliver: {{ all: all.txt }}\n",
            dir.shared("executed").display()
        ),
    );
}

#[test]
fn after_kill_9_at_ten_moments_no_finished_command_is_executed_again() {
    let mut dice = Dice::new();
    for _ in 0..if soak() { 20 } else { 1 } {
        let dir = TestDir::new();
        counting_job(&dir);
        let mut run = dir.start(&["run", "job.yaml", "--out", "out", "--slots", "2"]);
        let mut id = String::new();
        // What had been executed at each kill, and what was known to be finished then.
        let mut kills: Vec<(usize, BTreeSet<i64>)> = Vec::new();
        for moment in dice.moments(10, 40) {
            let first = run.wait_for(": results land in");
            id = first.split(':').next().unwrap().to_owned();
            until("the moment", || executions(&dir).len() > moment || !run.is_running());
            run.signal(Signal::KILL);
            run.finish();
            let committed = dir.attempts();
            assert_one_success_each(&committed);
            let finished = committed.iter().filter(|a| a.step == 0 && a.outcome == 1);
            kills.push((executions(&dir).len(), finished.map(|a| a.task).collect()));
            run = dir.start(&["resume", &id, "--slots", "2"]);
        }
        run.finish().expect(0, &["succeeded", "41 files in"]);
        let executed = executions(&dir);
        for (before, finished) in &kills {
            let again: Vec<_> =
                executed[*before..].iter().filter(|i| finished.contains(i)).collect();
            assert!(
                again.is_empty(),
                "{again:?} were finished after {before} executions: {kills:?}"
            );
        }
        assert_eq!(assert_one_success_each(&dir.attempts()), 41);
        let all = (0..40).map(|i| i.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        assert_eq!(std::fs::read_to_string(dir.path("out/all.txt")).unwrap(), all);
        assert_eq!(dir.results().len(), 41);
        // Another resume changes nothing.
        dir.ok(&["resume", &id]);
        assert_eq!(executions(&dir), executed);
    }
}

/// Everything below a folder that is not a folder, and every empty folder.
fn leaves(folder: &Path) -> Vec<String> {
    let mut entries = std::fs::read_dir(folder).unwrap().peekable();
    if entries.peek().is_none() {
        return vec![folder.display().to_string()];
    }
    let below = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() { leaves(&path) } else { vec![path.display().to_string()] }
    };
    entries.flat_map(below).collect()
}

#[test]
fn after_kill_9_at_six_moments_nothing_is_left_of_what_was_to_go() {
    let mut dice = Dice::new();
    let dir = TestDir::new();
    dir.write(
        "job.yaml",
        &format!(
            "pictor: v1\nname: film\ndims: {{ i: {{ count: 30 }} }}\nsteps:\n\
             - name: cut\n  over: [i]\n  command:\n    \
             run: [sh, -c, 'echo {{i}} >> {}; sleep 0.05; echo {{i}} > \"$0\"', \"{{output.n}}\"]\n    \
             outputs: {{ n: n.txt }}\n  keep: {{ until: draw }}\n\
             - name: draw\n  over: [i]\n  needs: [cut]\n  command:\n    \
             run: [sh, -c, 'cat \"$1\" \"$1\" > \"$0\"', \"{{output.n}}\", \"{{input.cut}}\"]\n    \
             outputs: {{ n: n.txt }}\n  keep: {{ until: film }}\n\
             - name: film\n  needs: [draw]\n  command:\n    \
             run: [sh, -c, 'cat \"$1\"/* | sort -n > \"$0\"', \"{{output.all}}\", \"{{inputs.draw}}\"]\n    \
             outputs: {{ all: all.txt }}\n  deliver: {{ all: all.txt }}\n",
            dir.shared("executed").display()
        ),
    );
    let mut run = dir.start(&["run", "job.yaml", "--out", "out", "--slots", "2"]);
    let mut id = String::new();
    for moment in dice.moments(6, 30) {
        let first = run.wait_for(": results land in");
        id = first.split(':').next().unwrap().to_owned();
        until("the moment", || executions(&dir).len() > moment || !run.is_running());
        run.signal(Signal::KILL);
        run.finish();
        assert_one_success_each(&dir.attempts());
        run = dir.start(&["resume", &id, "--slots", "2"]);
    }
    run.finish().expect(0, &["succeeded", "1 files in"]);
    assert_eq!(assert_one_success_each(&dir.attempts()), 61, "nothing was made again");
    let twice = (0..30).flat_map(|i| [i, i]).map(|i| i.to_string()).collect::<Vec<_>>();
    let twice = twice.join("\n") + "\n";
    assert_eq!(std::fs::read_to_string(dir.path("out/all.txt")).unwrap(), twice);
    let left = leaves(&dir.path("data/artifacts/runs"));
    let committed = |path: &&String| path.ends_with("/all.txt");
    // An execution that was killed between writing its file and its commit leaves bytes that history does not know.
    let unknown = left.iter().filter(|path| !committed(path)).count();
    assert!(left.len() - unknown == 1 && unknown <= 2 * 6, "{left:?}");
    // The film has to be made again, and with it everything that it was made of.
    let before = executions(&dir).len();
    dir.ok(&["retry", &id, "draw[i=7]"])
        .expect(0, &["61 tasks of", "60 of them because", "1 files in"]);
    assert_eq!(std::fs::read_to_string(dir.path("out/all.txt")).unwrap(), twice);
    assert_eq!(executions(&dir).len() - before, 30);
}

/// Frames in tiles with a video. The first ffmpeg that makes a video reports that and waits.
fn film(dir: &TestDir) -> Vec<&'static str> {
    let more = "  tiles: 2x1\n  samples: 2\n  output: { video: film.mp4 }\n";
    dir.write("job.yaml", &render_job("plain.blend", more));
    let encoding = dir.shared("encoding").display().to_string();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-version*) ;; *) if [ ! -e {encoding} ]; then : > {encoding}; \
         exec sleep 60; fi ;; esac\nPATH=${{PATH#*:}} exec ffmpeg \"$@\"\n"
    );
    let ffmpeg = dir.write("bin/ffmpeg", &script);
    std::fs::set_permissions(&ffmpeg, std::fs::Permissions::from_mode(0o755)).unwrap();
    vec!["--set", "render.frames=1-4"]
}

/// `pictor` with the ffmpeg of [`film`].
fn with_slow_ffmpeg(dir: &TestDir, arguments: &[&str]) -> Running {
    let path = format!("{}:{}", dir.path("bin").display(), std::env::var("PATH").unwrap());
    Running::start(dir.command(arguments).env("PATH", path).arg("--json"))
}

#[test]
fn after_kill_9_a_render_is_what_it_would_have_been() {
    const TASKS: usize = 22;
    let kills = if soak() { 10 } else { 5 };
    let (mut dice, quiet, dir) = (Dice::new(), TestDir::new(), TestDir::new());
    let set = film(&quiet);
    quiet.run(&set).expect(0, &["9 files in"]);

    film(&dir);
    let mut run =
        with_slow_ffmpeg(&dir, &[&["run", "job.yaml", "--out", "out"], &set[..]].concat());
    let start: Json = serde_json::from_str(&run.wait_for("start")).unwrap();
    let id = start["run"].as_str().unwrap().to_owned();
    let mut moments = dice.moments(kills - 1, TASKS - 1);
    // The last moment is while the video is being made.
    moments.push(TASKS - 1);
    let mut last = BTreeMap::new();
    for moment in moments {
        while last.values().sum::<u64>() < moment as u64 {
            let event: Json = serde_json::from_str(&run.wait_for("\"step\"")).unwrap();
            let step = event["step"].as_str().unwrap().to_owned();
            last.insert(step, event["finished"].as_u64().unwrap());
        }
        if moment == TASKS - 1 {
            until("the video is made", || dir.shared("encoding").exists());
        }
        run.signal(Signal::KILL);
        run.finish();
        let before = dir.attempts();
        let known = assert_one_success_each(&before);
        assert!(known >= moment, "{known} tasks are stored, and {moment} were told to be finished");
        // Succeeded, handed back when its worker was gone, or lost.
        assert!(before.iter().all(|a| matches!(a.outcome, 1 | 3 | 4)), "{before:?}");
        until("no program is left", || {
            dir.processes("blender").is_empty() && dir.processes("sleep").is_empty()
        });
        run = with_slow_ffmpeg(&dir, &["resume", &id]);
        run.wait_for("start");
        last.clear();
    }
    run.finish().expect(0, &["\"end\""]);
    assert_eq!(assert_one_success_each(&dir.attempts()), TASKS);
    for frame in 1..=4 {
        let name = format!("out/frames/{frame:04}.exr");
        assert_same(&dir.path(&name), &quiet.path(&name));
        let name = format!("out/previews/{frame:04}.png");
        assert_eq!(png(&dir.path(&name)), png(&quiet.path(&name)));
    }
    assert_eq!(video(&dir.path("out/film.mp4")), (96, 54, 4));
    let names = |dir: &TestDir| dir.results().into_keys().collect::<Vec<_>>();
    assert_eq!(names(&dir), names(&quiet));
}

/// Starts a render that would take hours, and waits until its first samples are done.
fn endless(dir: &TestDir) -> (Running, String) {
    dir.write("job.yaml", &render_job("plain.blend", "  samples: 900000\n"));
    let mut run = dir.start(&["run", "job.yaml", "--out", "out"]);
    let id = run.wait_for(": results land in").split(':').next().unwrap().to_owned();
    let renders = |task: &Json| task["step"] == "render" && task["progress"].as_f64().is_some();
    until("samples are rendered", || {
        let said = dir.ok(&["tasks", &id, "--json"]).out;
        said.lines().any(|line| renders(&serde_json::from_str(line).unwrap()))
    });
    assert_eq!(dir.processes("blender").len(), 1);
    (run, id)
}

#[test]
fn ctrl_c_and_sigterm_stop_blender_and_say_how_to_go_on() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = TestDir::new();
        let (run, id) = endless(&dir);
        let pressed = Instant::now();
        run.signal(signal);
        let said = run.finish();
        let took = pressed.elapsed();
        said.expect(130, &[&format!("interrupted; go on with: pictor resume {id}")]);
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(dir.processes("blender"), Vec::<i32>::new());
        dir.ok(&["show", &id]).expect(0, &["interrupted", &format!("go on: pictor resume {id}")]);
        // The interrupted attempt is not a failure, and does not count.
        let attempts = dir.attempts();
        assert!(attempts.iter().all(|a| a.outcome != 2 && a.outcome != 3), "{attempts:?}");
    }
}

#[test]
fn cancel_stops_a_blender_that_renders_in_less_than_two_seconds() {
    let dir = TestDir::new();
    let (run, id) = endless(&dir);
    let started = Instant::now();
    dir.ok(&["cancel", &id]).expect(0, &["is cancelled"]);
    until("Blender is gone", || dir.processes("blender").is_empty());
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    run.finish().expect(1, &["cancelled: 1 tasks succeeded"]);
    dir.pictor(&["cancel", &id]).expect(1, &["is over (cancelled) and cannot be cancelled"]);
}

/// Three tasks in sequence that wait for a file; the second and third then wait for a child process.
fn gated(dir: &TestDir) -> (Running, String) {
    let gate = dir.shared("gate");
    let job = format!(
        "pictor: v1\nname: gated\ndims: {{ i: {{ count: 3 }} }}\nsteps:\n- name: wait\n  over: [i]\n  \
         command: {{ run: [sh, -c, 'echo here is {{i}}; while [ ! -e {0} ]; do sleep 0.01; done; \
         [ {{i}} = 0 ] || {{{{ sh -c \"sleep 600; : {0}\" & wait; }}}}'] }}\n",
        gate.display()
    );
    dir.write("job.yaml", &job);
    let mut run = dir.start(&["run", "job.yaml", "--out", "out"]);
    let first = run.wait_for(": results land in");
    let id = first.split(':').next().unwrap().to_owned();
    until_runs(dir, &id, 0);
    (run, id)
}

fn until_runs(dir: &TestDir, id: &str, task: u32) {
    let (name, here) = (format!("wait[i={task}]"), format!("here is {task}"));
    until("the task runs", || dir.pictor(&["logs", id, &name]).out.contains(&here));
}

#[test]
fn a_second_terminal_looks_at_a_run_and_changes_it() {
    let dir = TestDir::new();
    let (mut run, id) = gated(&dir);
    dir.ok(&["show", &id[..7]]).expect(0, &[&id, "running", "waits for a free slot"]);
    dir.ok(&["runs"]).expect(0, &[&id, "running"]);
    let out = dir.ok(&["tasks", &id, "--state", "ready"]).out;
    assert_eq!(out.lines().count(), 3, "a head and two tasks:\n{out}");
    dir.pictor(&["run", "job.yaml"]).expect(1, &["another pictor", "--data DIR"]);

    dir.ok(&["pause", &id]).expect(0, &["pictor resume"]);
    run.wait_for("is paused");
    std::fs::write(dir.shared("gate"), "").unwrap();
    let count = |state| dir.ok(&["tasks", &id, "--state", state, "--json"]).out.lines().count();
    until("the first task is done", || count("succeeded") == 1);
    assert_eq!(count("ready"), 2, "nothing is started while the run is paused");
    dir.ok(&["show", &id]).expect(0, &["paused", "the run is paused"]);
    dir.ok(&["priority", &id, "-7"]).expect(0, &["priority -7"]);
    dir.ok(&["resume", &id]).expect(0, &["continues"]);
    run.wait_for("continues");
    until_runs(&dir, &id, 1);
    dir.ok(&["retry", &id, "wait[i=0]"]).expect(0, &[&format!("1 tasks of {id} are done again")]);
    dir.ok(&["show", &id]).expect(0, &["priority -7"]);
    dir.ok(&["cancel", &id]);
    run.finish().expect(1, &["cancelled"]);
}

#[test]
fn cancel_stops_a_command_and_its_children_in_less_than_two_seconds() {
    let dir = TestDir::new();
    let (run, id) = gated(&dir);
    std::fs::write(dir.shared("gate"), "").unwrap();
    until_runs(&dir, &id, 1);
    let gate = dir.shared("gate").display().to_string();
    let child = format!("\0sleep 600; : {gate}");
    until("its child runs too", || command_lines().any(|line| line.contains(&child)));
    let started = Instant::now();
    dir.ok(&["cancel", &id]).expect(0, &["is cancelled"]);
    until("the command is gone", || !command_lines().any(|line| line.contains(&gate)));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    run.finish().expect(1, &["1 tasks succeeded", "2 cancelled"]);
}

#[test]
fn a_process_takes_over_when_the_one_before_has_gone() {
    let dir = TestDir::new();
    counting_job(&dir);
    let mut run = dir.start(&["run", "job.yaml", "--out", "out"]);
    let id = run.wait_for(": results land in").split(':').next().unwrap().to_owned();
    until("something is done", || executions(&dir).len() > 2);
    run.signal(Signal::KILL);
    run.finish();
    // The socket of the dead process misleads nobody.
    assert!(Path::new(&dir.path("data/socket")).exists());
    dir.ok(&["show", &id]).expect(0, &["interrupted"]);
    dir.ok(&["pause", &id]);
    dir.ok(&["show", &id]).expect(0, &["paused"]);
    dir.ok(&["resume", &id]).expect(0, &["41 files in"]);
    dir.ok(&["retry", &id, "sum"]).expect(0, &["1 tasks of", "41 files in"]);
    dir.pictor(&["retry", &id]).expect(1, &["nothing to retry"]);
    let sums = dir.attempts().iter().filter(|a| a.step == 1 && a.outcome == 1).count();
    assert_eq!(sums, 2);
}
