//! Delivery of results: no existing file is replaced by mistake, and what is not delivered is kept.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use rustix::process::Signal;
use support::{Running, TestDir, until};

/// A job that writes `text` to each of three files.
fn job(dir: &TestDir, text: &str) {
    let run = format!("[sh, -c, 'printf %s {text} > \"$1\"', sh, '{{output.o}}']");
    let steps = format!(
        "steps:\n  - {{name: a, over: [n], command: {{run: {run}, outputs: {{o: x.txt}}}}, deliver: {{o: \
         'texts/{{n}}.txt'}}}}\n"
    );
    dir.write("job.yaml", &format!("pictor: v1\nname: job\ndims: {{n: 1-3}}\n{steps}"));
}

fn read(dir: &TestDir, name: &str) -> String {
    std::fs::read_to_string(dir.path(name)).unwrap()
}

#[test]
fn a_file_that_the_run_did_not_make_is_only_replaced_on_request() {
    let dir = TestDir::new();
    job(&dir, "first");
    dir.run(&[]).expect(0, &["3 files in"]);
    job(&dir, "second");
    let said = dir.run(&[]);
    said.expect(1, &["out/texts/1.txt and 2 other files", "--out DIR", "--overwrite"]);
    assert_eq!(said.out, "", "nothing was begun");
    assert_eq!(read(&dir, "out/texts/1.txt"), "first");
    assert_eq!(dir.json(&["runs"])["state"], "succeeded", "there is no second run");
    dir.run(&["--overwrite"]).expect(0, &["3 files in"]);
    assert_eq!(read(&dir, "out/texts/3.txt"), "second");
    let said = dir.pictor(&["run", "job.yaml", "--out", "job.yaml"]);
    said.expect(1, &["job.yaml is not a folder", "--out DIR"]);
}

#[test]
fn a_file_that_the_run_reads_is_never_replaced() {
    let dir = TestDir::new();
    let file = dir.path("texts/1.txt").display().to_string();
    dir.write("texts/1.txt", "source");
    let copy = format!(
        "pictor: v1\nname: job\nsteps:\n  - {{name: a, command: {{run: [cp, '{file}', '{{output.o}}'], \
         outputs: {{o: x.txt}}}}, deliver: {{o: 'texts/1.txt'}}}}\n  - {{name: b, command: {{run: [sh, \
         -c, 'echo b > \"$1\"', sh, '{{output.o}}'], outputs: {{o: x.txt}}}}, deliver: {{o: \
         'link/job.yaml'}}}}\n"
    );
    dir.write("job.yaml", &copy);
    std::os::unix::fs::symlink(".", dir.path("link")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        let run = [&["run", "job.yaml", "--out", "texts/.."], more].concat();
        let said = dir.pictor(&run);
        said.expect(1, &["link/job.yaml and another file: the run reads what is there"]);
    }
    assert_eq!((read(&dir, "texts/1.txt"), read(&dir, "job.yaml")), ("source".into(), copy));
}

/// The names are known only when a step has determined the values of a dimension.
#[test]
fn a_result_whose_name_comes_late_is_kept_and_can_be_delivered_elsewhere() {
    let dir = TestDir::new();
    dir.write(
        "job.yaml",
        "pictor: v1\nname: job\ndims: {n: {from: find}}\nsteps:\n  - {name: find, command: {run: [sh, -c, \
         'echo [1,2] > \"$1\"', sh, '{bind.n}']}}\n  - {name: a, over: [n], command: {run: [sh, -c, 'echo \
         made > \"$1\"', sh, '{output.o}'], outputs: {o: x.txt}}, deliver: {o: '{n}.txt'}}\n",
    );
    dir.write("out/2.txt", "mine");
    let said = dir.run(&[]);
    said.expect(1, &["1 files in", "out/2.txt: something else is there", "1 results are not in"]);
    assert_eq!(
        (read(&dir, "out/2.txt"), read(&dir, "out/1.txt")),
        ("mine".into(), "made\n".into())
    );
    let run = said.run_id();
    // Files in its own output folder are its own.
    dir.pictor(&["resume", &run]).expect(1, &["something else is there"]);
    dir.ok(&["resume", &run, "--out", "elsewhere"]);
    assert_eq!(read(&dir, "elsewhere/2.txt"), "made\n");
    std::fs::remove_file(dir.path("out/2.txt")).unwrap();
    dir.pictor(&["resume", &run]).expect(0, &["2 files in"]);
    assert_eq!(read(&dir, "out/2.txt"), "made\n");
}

#[test]
fn what_a_killed_run_had_delivered_is_its_own_and_is_made_again_on_request() {
    let dir = TestDir::new();
    dir.write("shared/text", "first");
    let (text, gate) = (dir.shared("text").display().to_string(), dir.shared("gate"));
    let script = format!(
        "cat {text} > \"$1\"; test $2 = 1 || while ! test -e {}; do sleep 0.05; done",
        gate.display()
    );
    dir.write(
        "job.yaml",
        &format!(
            "pictor: v1\nname: job\ndims: {{n: 1-2}}\nsteps:\n  - name: a\n    over: [n]\n    command:\n      \
             run: [sh, -c, '{script}', sh, '{{output.o}}', '{{n}}']\n      outputs: {{o: x.txt}}\n    \
             deliver: {{o: '{{n}}.txt'}}\n"
        ),
    );
    let run = Running::start(&mut dir.command(&["run", "job.yaml", "--out", "out"]));
    until("the first is delivered", || dir.path("out/1.txt").exists());
    run.signal(Signal::KILL);
    drop(run);
    let id = dir.json(&["runs"])["id"].as_str().unwrap().to_owned();
    std::fs::write(&gate, "").unwrap();
    dir.pictor(&["resume", &id]).expect(0, &["2 files in"]);
    dir.write("shared/text", "second");
    dir.pictor(&["retry", &id, "a", "--yes"]).expect(0, &["2 files in"]);
    assert_eq!(read(&dir, "out/1.txt"), "second");
    // A file that the user has changed since belongs to the user.
    dir.write("out/1.txt", "by hand");
    dir.write("shared/text", "third");
    dir.pictor(&["retry", &id, "a", "--yes"]).expect(1, &["out/1.txt: something else is there"]);
    assert_eq!(
        (read(&dir, "out/1.txt"), read(&dir, "out/2.txt")),
        ("by hand".into(), "third".into())
    );
    dir.pictor(&["retry", &id, "a", "--yes", "--overwrite"]).expect(0, &["2 files in"]);
    assert_eq!(
        (read(&dir, "out/1.txt"), read(&dir, "out/2.txt")),
        ("third".into(), "third".into())
    );
}

#[test]
fn results_of_a_server_replace_only_what_was_fetched_of_the_same_run() {
    let dir = TestDir::new();
    let data = dir.path("server").display().to_string();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", &data, "--allow-commands"];
    let mut server = dir.start(&serve);
    let line = server.wait_for("http://127.0.0.1:");
    let address = line[line.find("http://").unwrap()..].trim().to_owned();
    let token = dir.path("server/admin-token");
    until("the server has made a token", || token.exists());
    let pictor = |arguments: &[&str]| {
        let mut command = dir.command(arguments);
        command.env("PICTOR_SERVER", &address).env("PICTOR_TOKEN_FILE", &token);
        Running::start(&mut command).finish()
    };
    dir.write("shared/text", "first");
    job(&dir, &format!("$(cat {})", dir.shared("text").display()));
    let wait = ["submit", "job.yaml", "--wait", "--out", "out"];
    let said = pictor(&wait);
    said.expect(0, &["3 files in"]);
    let run = said.run_id();
    pictor(&wait).expect(1, &["out/texts/1.txt and 2 other files: something else is there"]);
    dir.write("shared/text", "second");
    pictor(&["retry", &run, "a", "--yes"]).expect(0, &["3 tasks"]);
    until("it is made again", || pictor(&["show", &run]).out.contains("succeeded  priority"));
    dir.write("out/texts/2.txt", "by hand");
    let fetch = ["download", &run, "--out", "out"];
    pictor(&fetch).expect(1, &["out/texts/2.txt: something else is there", "2 files in"]);
    let texts = || [1, 2, 3].map(|n| read(&dir, &format!("out/texts/{n}.txt")));
    assert_eq!(texts(), ["second", "by hand", "second"]);
    pictor(&[&fetch[..], &["--overwrite"]].concat()).expect(0, &["3 files in"]);
    assert_eq!(texts(), ["second", "second", "second"]);
}
