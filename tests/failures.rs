//! What goes wrong on a farm: each case is reported for the right task or line, with what to do about it, and no
//! finished work is lost.
#![expect(clippy::disallowed_methods, reason = "what runs here has real time limits")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::pictures::{assert_same, exr};
use support::{Attempt, Running, TestDir, assert_one_success_each, render_job, scenes, until};

#[test]
fn five_mistakes_in_a_job_file_are_told_at_once_with_their_lines() {
    let dir = TestDir::new();
    dir.write(
        "job.yaml",
        "pictor: v1\nname: five\nrender:\n  scene: a.blend\n  frames: 10-1\n  tiles: 2by2\n  \
         samples: -4\n  resolution: wide\n  colour: red\n",
    );
    let said = dir.run(&[]);
    said.expect(2, &["job.yaml:5:11", "job.yaml:6:10", "job.yaml:7:12", "job.yaml:8:15"]);
    said.expect(2, &["job.yaml:9:3", "`colour` is not a field of `render`", "   frames: 10-1"]);
    assert_eq!(said.err.matches("error: ").count(), 5, "{said}");
    assert_eq!(dir.pictor(&["plan", "job.yaml"]).err, said.err, "`plan` tells the same");
    assert!(!dir.path("data").exists() && !dir.path("out").exists(), "nothing was started");
}

#[test]
fn a_scene_that_does_not_exist_is_a_mistake_in_the_job_file() {
    let dir = TestDir::new();
    dir.write("job.yaml", "pictor: v1\nname: gone\nrender:\n  scene: gone.blend\n  frames: 1\n");
    dir.run(&[])
        .expect(2, &["job.yaml:4:10", "gone.blend does not exist", "relative to the folder"]);
    std::fs::create_dir(dir.path("gone.blend")).unwrap();
    dir.run(&[]).expect(2, &["job.yaml:4:10", "is a folder, not a file"]);
    dir.pictor(&["run", "nowhere.yaml"]).expect(2, &["nowhere.yaml", "No such file"]);
}

/// Scenes that cannot be rendered, each with the message about it.
const REFUSED: [(&str, &str, &[&str]); 5] = [
    ("text.blend", "", &["is not a .blend file", "Save the scene from Blender"]),
    (
        "newer.blend",
        "",
        &["does not have blender >=4.50, which ", "newer.blend needs; it has 3.", "setup-blender"],
    ),
    ("blind.blend", "", &["has no active camera", "`camera:`", "Camera"]),
    (
        "texture.blend",
        "",
        &["files that are not here", "image 'wood'", "wood.png", "Pack Resources"],
    ),
    ("linked.blend", "", &["files that are not here", "library", "library.blend"]),
];

#[test]
fn a_scene_that_cannot_be_rendered_fails_its_inspection_and_nothing_is_rendered() {
    for (scene, more, parts) in REFUSED {
        let dir = TestDir::new();
        dir.write("job.yaml", &render_job(scene, more));
        let said = dir.run(&[]);
        said.expect(1, &["1 failed", "  inspect: ", "pictor logs"]).expect(1, parts);
        // Another attempt would not help a broken scene.
        let attempts = dir.attempts();
        assert_eq!(attempts, [Attempt { step: 0, task: 0, number: 1, outcome: 2 }], "{said}");
        let id = said.run_id();
        dir.ok(&["show", &id]).expect(0, parts).expect(0, &["failed:", "pictor retry"]);
        dir.ok(&["tasks", &id, "--state", "failed"]).expect(0, &["inspect"]);
        dir.ok(&["tasks", &id, "--step", "render"]).expect(0, &["skipped"]);
    }
}

#[test]
fn missing_files_are_accepted_if_the_job_says_so_and_told_in_a_note() {
    for (scene, name) in [("texture.blend", "wood.png"), ("linked.blend", "library.blend")] {
        let dir = TestDir::new();
        dir.write("job.yaml", &render_job(scene, "  allow_missing: true\n"));
        let said = dir.run(&[]);
        let told = ["notes:", "files that are not here", name, "(2 tasks, such as inspect)"];
        said.expect(0, &["2 files in"]).expect(0, &told);
        dir.ok(&["show", &said.run_id()]).expect(0, &told);
    }
}

#[test]
fn scripts_in_a_scene_do_not_run_and_the_user_is_told() {
    let dir = TestDir::new();
    dir.write("job.yaml", &render_job("scripts.blend", ""));
    let said = dir.run(&[]);
    let told = &["notes:", "Python inside the scene does not run", "run.py", "driver of 'Cube'"];
    said.expect(0, &["2 files in"]).expect(0, told);
    dir.ok(&["show", &said.run_id()]).expect(0, told);
    for trace in ["ran", "drove"] {
        assert!(!scenes().join(trace).exists(), "the scene's Python ran");
    }
}

#[test]
fn a_blender_that_is_killed_in_the_middle_of_a_tile_costs_that_tile_and_no_more() {
    let dir = TestDir::new();
    // Slow enough to be interrupted.
    let more = "  tiles: 1x2\n  samples: 600\nretry: { backoff: 10ms }\n";
    dir.write("job.yaml", &render_job("plain.blend", more));
    let mut run = dir.start(&["run", "job.yaml", "--out", "out", "--json"]);
    run.wait_for("\"render\"");
    until("the second tile is rendered", || {
        let said = dir.pictor(&["tasks", "job", "--step", "render", "--json"]).out;
        said.lines().any(|line| line.contains("tile=1") && line.contains("\"progress\":0."))
    });
    let victims = dir.processes("blender");
    assert_eq!(victims.len(), 1);
    kill_process(Pid::from_raw(victims[0]).unwrap(), Signal::KILL).unwrap();
    run.finish().expect(0, &["\"succeeded\""]);
    let attempts = dir.attempts();
    let renders: Vec<_> = attempts.iter().filter(|a| a.step == 1).collect();
    let told: Vec<_> = renders.iter().map(|a| (a.task, a.number, a.outcome)).collect();
    assert_eq!(told, [(0, 1, 1), (1, 1, 2), (1, 2, 1)]);
    assert_eq!(assert_one_success_each(&attempts), 6);
    let tile = "render[frame=1,render.tile=1]";
    let log = dir.ok(&["logs", "job", tile, "--attempt", "1"]).out;
    assert!(log.contains("attempt 1: failed") && log.contains("Blender"), "{log}");
    assert_eq!(exr(&dir.path("out/frames/0001.exr")).0, (96, 54));
}

#[test]
fn without_blender_a_run_ends_at_once_and_says_how_to_get_it() {
    let dir = TestDir::new();
    dir.write("job.yaml", &render_job("plain.blend", "  output: { video: film.mp4 }\n"));
    let path = dir.write("bin/README", "nothing is here").parent().unwrap().to_path_buf();
    let with = |arguments: &[&str], path: &Path| {
        Running::start(dir.command(arguments).env("PATH", path)).finish()
    };
    let started = Instant::now();
    let said = with(&["run", "job.yaml", "--out", "out"], &path);
    said.expect(1, &["  inspect: ", "does not have blender", "install blender"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    with(&["doctor"], &path).expect(1, &["blender", "ffmpeg", "apt install"]);
    // Blender alone: the video cannot be made, and that is known before anything is rendered.
    let blender = which("blender");
    std::os::unix::fs::symlink(&blender, path.join("blender")).unwrap();
    let said = with(&["run", "job.yaml", "--out", "out"], &path);
    said.expect(1, &["  encode: ", "does not have ffmpeg", "install ffmpeg"]);
    // Once it is installed, the run continues with the results that it has.
    dir.ok(&["retry", &said.run_id()]).expect(0, &["3 files in"]);
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(program));
    found.find(|path| path.exists()).unwrap()
}

/// A small disk, which is removed with the test.
struct Disk(PathBuf);

impl Disk {
    fn new(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let disk = Self(at);
        disk.mount(&format!("size={size}"));
        disk
    }

    fn mount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "pictor-test"]).arg(&self.0);
        let done = mount.output().unwrap();
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "a small disk cannot be mounted (run as root): {why}");
    }

    fn grow(&self, size: &str) {
        self.mount(&format!("remount,size={size}"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that still uses the disk loses it when it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn results_that_do_not_fit_into_the_output_folder_are_safe_and_delivered_later() {
    let dir = TestDir::new();
    let disk = Disk::new(dir.path("out"), "32k");
    dir.write("job.yaml", &render_job("plain.blend", "  output: { video: film.mp4 }\n"));
    let said = dir.run(&["--set", "render.frames=1-2"]);
    let id = said.run_id();
    let told = ["disk", "full", "results are not in", "they are safe in", "Make room, then"];
    said.expect(1, &told).expect(1, &[&format!("pictor resume {id}"), "0 failed"]);
    let attempts = dir.attempts();
    dir.pictor(&["resume", &id]).expect(1, &told);
    disk.grow("4m");
    dir.ok(&["resume", &id]).expect(0, &["5 files in"]);
    assert_eq!(dir.attempts(), attempts, "nothing was done again");
    for frame in [1, 2] {
        let plain = scenes().join(format!("plain-{frame}.exr"));
        assert_same(&dir.path(&format!("out/frames/{frame:04}.exr")), &plain);
    }
    assert!(dir.results().keys().all(|name| !name.contains(".part")), "{:?}", dir.results());
}

/// Twelve tasks, each of which produces `kilobytes` of output and appends a line to `executed`.
fn hoarding_job(dir: &TestDir, kilobytes: u32) {
    dir.write(
        "job.yaml",
        &format!(
            "pictor: v1\nname: hoard\ndims: {{ i: {{ count: 12 }} }}\nretry: {{ backoff: 10ms }}\n\
             steps:\n- name: keep\n  over: [i]\n  command:\n    \
             run: [sh, -c, 'echo {{i}} >> {}; head -c {kilobytes}k /dev/zero > \"$0\"', \
             \"{{output.n}}\"]\n    outputs: {{ n: n.bin }}\n",
            dir.shared("executed").display()
        ),
    );
}

fn executed(dir: &TestDir) -> Vec<String> {
    let text = std::fs::read_to_string(dir.shared("executed")).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

#[test]
fn results_that_do_not_fit_into_the_data_folder_fail_their_tasks_and_no_others() {
    let dir = TestDir::new();
    let disk = Disk::new(dir.path("data"), "6m");
    hoarding_job(&dir, 700);
    let said = dir.run(&[]);
    said.expect(1, &["full", "keep[i=", "pictor logs"]);
    let done: Vec<_> = dir.attempts().into_iter().filter(|a| a.outcome == 1).collect();
    assert!(!done.is_empty() && done.len() < 12, "{said}");
    disk.grow("64m");
    let before = executed(&dir).len();
    dir.ok(&["retry", &said.run_id()]).expect(0, &["12 tasks succeeded, 0 failed"]);
    assert_eq!(assert_one_success_each(&dir.attempts()), 12);
    let again = executed(&dir).split_off(before);
    assert!(done.iter().all(|a| !again.contains(&a.task.to_string())), "{done:?} {again:?}");
}

/// More tasks than the history of a small disk has room for.
const MANY: usize = 100_000;

fn until_history_is_full(dir: &TestDir) -> (Running, String) {
    let job = format!("pictor: v1\nname: many\ndims: {{ i: {{ count: {MANY} }} }}\n");
    dir.write("job.yaml", &(job + "steps: [{ name: nothing, over: [i], noop: {} }]\n"));
    let mut run = dir.start(&["run", "job.yaml", "--out", "out"]);
    let id = run.wait_for(": results land in").split(':').next().unwrap().to_owned();
    run.wait_for("history cannot be written; trying again");
    (run, id)
}

#[test]
fn a_run_waits_for_room_for_its_history_and_goes_on_by_itself() {
    let dir = TestDir::new();
    let disk = Disk::new(dir.path("data"), "6m");
    let (run, _) = until_history_is_full(&dir);
    disk.grow("64m");
    run.finish().expect(0, &["100000 tasks succeeded, 0 failed", "is full: free some space"]);
    assert_eq!(assert_one_success_each(&dir.attempts()), MANY);
}

#[test]
fn a_run_without_room_for_its_history_can_be_stopped_and_loses_nothing_that_was_kept() {
    let dir = TestDir::new();
    let disk = Disk::new(dir.path("data"), "6m");
    let (run, id) = until_history_is_full(&dir);
    run.signal(Signal::INT);
    let told = [&format!("pictor resume {id}"), "history cannot be written", "Make room"];
    run.finish().expect(130, &told);
    disk.grow("64m");
    let kept = assert_one_success_each(&dir.attempts());
    assert!(kept > 0 && kept < MANY, "{kept}");
    dir.ok(&["resume", &id]).expect(0, &["100000 tasks succeeded, 0 failed"]);
    assert_eq!(assert_one_success_each(&dir.attempts()), MANY);
}

/// A server on a full disk: requests that read are answered at once, from a second terminal, too, those that change
/// something are refused, and with room it continues by itself.
#[test]
fn a_server_on_a_full_disk_answers_and_goes_on_when_there_is_room() {
    let dir = TestDir::new();
    let disk = Disk::new(dir.path("data"), "6m");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let url = format!("http://{listen}");
    let mut server = dir.start(&["serve", "--listen", &listen, "--allow-commands"]);
    server.wait_for("listening on");
    let token = dir.path("data/admin-token").display().to_string();
    let there = ["--server", &url, "--token-file", &token];
    let job = format!("pictor: v1\nname: many\ndims: {{ i: {{ count: {MANY} }} }}\n");
    dir.write("job.yaml", &(job + "steps: [{ name: nothing, over: [i], noop: {} }]\n"));
    let said = dir.pictor(&[&["submit", "job.yaml"], &there[..]].concat());
    let id = said.out.split(':').next().unwrap().to_owned();
    server.wait_for("questions are answered from memory");
    for question in [&["runs"][..], &["show", &id], &["tasks", &id], &["workers"]] {
        let asked = Instant::now();
        dir.pictor(&[question, &there[..]].concat()).expect(0, &[]);
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{question:?} took {:?}",
            asked.elapsed()
        );
    }
    let asked = Instant::now();
    dir.pictor(&["show", &id]).expect(0, &["running", "nothing"]);
    assert!(asked.elapsed() < Duration::from_secs(5), "by the socket: {:?}", asked.elapsed());
    disk.grow("64m");
    server.wait_for("history can be written again");
    let state = || dir.pictor(&[&["show", &id], &there[..]].concat()).out;
    until("the run ends", || state().contains("succeeded  priority"));
    server.signal(Signal::TERM);
    server.finish();
    assert_eq!(assert_one_success_each(&dir.attempts()), MANY);
}

#[test]
fn a_data_folder_that_may_not_be_written_is_told() {
    let dir = TestDir::new();
    dir.write("job.yaml", "pictor: v1\nname: n\nsteps: [{ name: a, noop: {} }]\n");
    let disk = Disk::new(dir.path("data"), "4m");
    disk.mount("remount,ro");
    let data = dir.path("data").display().to_string();
    dir.run(&[]).expect(1, &[&data, "Read-only"]);
    dir.pictor(&["runs"]).expect(1, &["there are no runs"]);
}

#[test]
fn a_command_that_fails_is_told_with_its_last_words_and_the_rest_goes_on() {
    let dir = TestDir::new();
    dir.write(
        "job.yaml",
        "pictor: v1\nname: some\ndims: { i: { count: 4 } }\nretry: { attempts: 2, backoff: 1ms }\n\
         steps:\n- name: work\n  over: [i]\n  command:\n    \
         run: [sh, -c, 'echo no paper left >&2; [ {i} != 2 ] && echo {i} > \"$0\"', \"{output.n}\"]\n    \
         outputs: { n: n.txt }\n  deliver: { n: \"{i}.txt\" }\n\
         - name: after\n  over: [i]\n  needs: [work]\n  noop: {}\n",
    );
    let said = dir.run(&[]);
    said.expect(1, &["6 tasks succeeded, 1 failed, 1 skipped", "work[i=2]: ", "no paper left"]);
    assert_eq!(dir.results().len(), 3);
    let mode = std::fs::metadata(dir.path("out/1.txt")).unwrap().permissions().mode();
    assert_eq!(mode & 0o200, 0o200, "people own their results: {mode:o}");
    let id = said.run_id();
    dir.ok(&["logs", &id, "work[i=2]"]).expect(0, &["attempt 2: failed", "no paper left"]);
    dir.pictor(&["logs", &id, "work[i=9]"]).expect(1, &["has no task `work[i=9]`", "pictor tasks"]);
    dir.pictor(&["resume", &id]).expect(1, &["1 failed"]);
}
