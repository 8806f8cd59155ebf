//! Delivery of results: no existing file is replaced by mistake, and what is not delivered is kept.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use rustix::process::Signal;
use support::{Place, Running, until};

/// A job that writes `text` to each of three files.
fn job(place: &Place, text: &str) {
    let run = format!("[sh, -c, 'printf %s {text} > \"$1\"', sh, '{{output.o}}']");
    let steps = format!(
        "steps:\n  - {{name: a, over: [n], command: {{run: {run}, outputs: {{o: x.txt}}}}, deliver: {{o: \
         'texts/{{n}}.txt'}}}}\n"
    );
    place.write("job.yaml", &format!("pictor: v1\nname: job\ndims: {{n: 1-3}}\n{steps}"));
}

fn read(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.path(name)).unwrap()
}

#[test]
fn a_file_that_the_run_did_not_make_is_only_replaced_on_request() {
    let place = Place::new();
    job(&place, "first");
    place.run(&[]).expect(0, &["3 files in"]);
    job(&place, "second");
    let said = place.run(&[]);
    said.expect(1, &["out/texts/1.txt and 2 other files", "--out DIR", "--overwrite"]);
    assert_eq!(said.out, "", "nothing was begun");
    assert_eq!(read(&place, "out/texts/1.txt"), "first");
    assert_eq!(place.json(&["runs"])["state"], "succeeded", "there is no second run");
    place.run(&["--overwrite"]).expect(0, &["3 files in"]);
    assert_eq!(read(&place, "out/texts/3.txt"), "second");
    let said = place.pictor(&["run", "job.yaml", "--out", "job.yaml"]);
    said.expect(1, &["job.yaml is not a folder", "--out DIR"]);
}

#[test]
fn a_file_that_the_run_reads_is_never_replaced() {
    let place = Place::new();
    let file = place.path("texts/1.txt").display().to_string();
    place.write("texts/1.txt", "source");
    let copy = format!(
        "pictor: v1\nname: job\nsteps:\n  - {{name: a, command: {{run: [cp, '{file}', '{{output.o}}'], \
         outputs: {{o: x.txt}}}}, deliver: {{o: 'texts/1.txt'}}}}\n  - {{name: b, command: {{run: [sh, \
         -c, 'echo b > \"$1\"', sh, '{{output.o}}'], outputs: {{o: x.txt}}}}, deliver: {{o: \
         'link/job.yaml'}}}}\n"
    );
    place.write("job.yaml", &copy);
    std::os::unix::fs::symlink(".", place.path("link")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        let run = [&["run", "job.yaml", "--out", "texts/.."], more].concat();
        let said = place.pictor(&run);
        said.expect(1, &["link/job.yaml and another file: the run reads what is there"]);
    }
    assert_eq!((read(&place, "texts/1.txt"), read(&place, "job.yaml")), ("source".into(), copy));
}

/// The names are known only when a step has determined the values of a dimension.
#[test]
fn a_result_whose_name_comes_late_is_kept_and_can_be_delivered_elsewhere() {
    let place = Place::new();
    place.write(
        "job.yaml",
        "pictor: v1\nname: job\ndims: {n: {from: find}}\nsteps:\n  - {name: find, command: {run: [sh, -c, \
         'echo [1,2] > \"$1\"', sh, '{bind.n}']}}\n  - {name: a, over: [n], command: {run: [sh, -c, 'echo \
         made > \"$1\"', sh, '{output.o}'], outputs: {o: x.txt}}, deliver: {o: '{n}.txt'}}\n",
    );
    place.write("out/2.txt", "mine");
    let said = place.run(&[]);
    said.expect(1, &["1 files in", "out/2.txt: something else is there", "1 results are not in"]);
    assert_eq!(
        (read(&place, "out/2.txt"), read(&place, "out/1.txt")),
        ("mine".into(), "made\n".into())
    );
    let run = said.run_id();
    // Files in its own output folder are its own.
    place.pictor(&["resume", &run]).expect(1, &["something else is there"]);
    place.ok(&["resume", &run, "--out", "elsewhere"]);
    assert_eq!(read(&place, "elsewhere/2.txt"), "made\n");
    std::fs::remove_file(place.path("out/2.txt")).unwrap();
    place.pictor(&["resume", &run]).expect(0, &["2 files in"]);
    assert_eq!(read(&place, "out/2.txt"), "made\n");
}

#[test]
fn what_a_killed_run_had_delivered_is_its_own_and_is_made_again_on_request() {
    let place = Place::new();
    place.write("text", "first");
    let (text, gate) = (place.path("text").display().to_string(), place.path("gate"));
    let script = format!(
        "cat {text} > \"$1\"; test $2 = 1 || while ! test -e {}; do sleep 0.05; done",
        gate.display()
    );
    place.write(
        "job.yaml",
        &format!(
            "pictor: v1\nname: job\ndims: {{n: 1-2}}\nsteps:\n  - name: a\n    over: [n]\n    command:\n      \
             run: [sh, -c, '{script}', sh, '{{output.o}}', '{{n}}']\n      outputs: {{o: x.txt}}\n    \
             deliver: {{o: '{{n}}.txt'}}\n"
        ),
    );
    let run = Running::start(&mut place.command(&["run", "job.yaml", "--out", "out"]));
    until("the first is delivered", || place.path("out/1.txt").exists());
    run.signal(Signal::KILL);
    drop(run);
    let id = place.json(&["runs"])["id"].as_str().unwrap().to_owned();
    std::fs::write(&gate, "").unwrap();
    place.pictor(&["resume", &id]).expect(0, &["2 files in"]);
    place.write("text", "second");
    place.pictor(&["retry", &id, "a", "--yes"]).expect(0, &["2 files in"]);
    assert_eq!(read(&place, "out/1.txt"), "second");
    // A file that the user has changed since belongs to the user.
    place.write("out/1.txt", "by hand");
    place.write("text", "third");
    place.pictor(&["retry", &id, "a", "--yes"]).expect(1, &["out/1.txt: something else is there"]);
    assert_eq!(
        (read(&place, "out/1.txt"), read(&place, "out/2.txt")),
        ("by hand".into(), "third".into())
    );
    place.pictor(&["retry", &id, "a", "--yes", "--overwrite"]).expect(0, &["2 files in"]);
    assert_eq!(
        (read(&place, "out/1.txt"), read(&place, "out/2.txt")),
        ("third".into(), "third".into())
    );
}

#[test]
fn results_of_a_server_replace_only_what_was_fetched_of_the_same_run() {
    let place = Place::new();
    let data = place.path("server").display().to_string();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", &data];
    let mut server = place.start(&serve);
    let line = server.wait_for("http://127.0.0.1:");
    let address = line[line.find("http://").unwrap()..].trim().to_owned();
    let token = place.path("server/admin-token");
    until("the server has made a token", || token.exists());
    let pictor = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("PICTOR_SERVER", &address).env("PICTOR_TOKEN_FILE", &token);
        Running::start(&mut command).finish()
    };
    place.write("text", "first");
    job(&place, &format!("$(cat {})", place.path("text").display()));
    let wait = ["submit", "job.yaml", "--wait", "--out", "out"];
    let said = pictor(&wait);
    said.expect(0, &["3 files in"]);
    let run = said.run_id();
    pictor(&wait).expect(1, &["out/texts/1.txt and 2 other files: something else is there"]);
    place.write("text", "second");
    pictor(&["retry", &run, "a", "--yes"]).expect(0, &["3 tasks"]);
    until("it is made again", || pictor(&["show", &run]).out.contains("succeeded  priority"));
    place.write("out/texts/2.txt", "by hand");
    let fetch = ["download", &run, "--out", "out"];
    pictor(&fetch).expect(1, &["out/texts/2.txt: something else is there", "2 files in"]);
    let texts = || [1, 2, 3].map(|n| read(&place, &format!("out/texts/{n}.txt")));
    assert_eq!(texts(), ["second", "by hand", "second"]);
    pictor(&[&fetch[..], &["--overwrite"]].concat()).expect(0, &["3 files in"]);
    assert_eq!(texts(), ["second", "second", "second"]);
}
