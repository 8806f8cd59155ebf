//! `command` steps by the real binary, in `pictor run` and on a server: the processes that they start end with them,
//! the files that they read travel with the job, and what they leave is kept, whatever it is.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use rustix::process::{Pid, Signal, test_kill_process};
use serde_json::Value as Json;
use std::os::unix::fs::PermissionsExt as _;
use support::farm::TestFarm;
use support::{TestDir, build_scenes, files, until, workflows};

/// Every way for a process to outlive its task: each writes the id of the process that it started.
const STAYERS: &str = r#"pictor: v1
name: stayers
retry: { attempts: 1 }
dims: { kind: [plain, jobs, timeout, setsid, nohup, daemon, script], how: [ended, late] }
steps:
  - name: stay
    over: [kind, how]
    timeout: 3s
    command:
      run:
        - bash
        - -c
        - |
          me="echo \$\$ > $1; exec sleep 600"
          case {kind} in
            plain) bash -c "$me" & ;;
            jobs) set -m; bash -c "$me" & ;;
            timeout) timeout 600 bash -c "$me" & ;;
            setsid) setsid bash -c "$me" & ;;
            nohup) nohup bash -c "trap '' TERM HUP INT; $me" > /dev/null & ;;
            daemon) (env -i setsid bash -c "cd /; (bash -c '$me' &)" &) ;;
            script) script -qc "$me" /dev/null > /dev/null & ;;
          esac
          while [ ! -s "$1" ]; do sleep 0.01; done
          [ {how} = ended ] || sleep 600
        - bash
        - "PIDS/{kind}-{how}"
"#;

/// The process ids that the tasks have written so far.
fn numbers(dir: &TestDir) -> Vec<i32> {
    let texts = files(&dir.path("pids")).into_values();
    texts.filter_map(|text| String::from_utf8(text).unwrap().trim().parse().ok()).collect()
}

fn lives(id: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    test_kill_process(Pid::from_raw(id).unwrap()).is_ok() && !stat.contains(") Z ")
}

fn stayers(farm: &TestFarm) {
    std::fs::create_dir(farm.dir.path("pids")).unwrap();
    let pids = farm.dir.path("pids").display().to_string();
    farm.dir.write("job.yaml", &STAYERS.replace("PIDS", &pids));
}

#[test]
fn what_a_task_starts_ends_with_it_after_success_timeout_and_cancel() {
    // The sandbox would end it all by itself.
    let farm = TestFarm::start(&["--slots", "4", "--sandbox", "off"]);
    stayers(&farm);
    let said = farm.pictor(&["submit", "job.yaml", "--wait"]);
    said.expect(1, &["7 tasks succeeded, 7 failed", "ran longer than its `timeout`"]);
    let all = numbers(&farm.dir);
    assert_eq!(all.len(), 14);
    assert_eq!(all.into_iter().find(|id| lives(*id)), None);
    // The same after a cancel.
    std::fs::remove_dir_all(farm.dir.path("pids")).unwrap();
    stayers(&farm);
    let set = ["--set", "dims.how=[late]", "--set", "steps[0].timeout=1h"];
    let run = farm.lines(&[&["submit", "job.yaml"][..], &set].concat());
    let run = run[0]["id"].as_str().unwrap().to_owned();
    until("four of them stay", || numbers(&farm.dir).len() >= 4);
    farm.pictor(&["cancel", &run]).expect(0, &["is cancelled"]);
    farm.pictor(&["show", &run, "--watch"]).expect(0, &["cancelled"]);
    until("they have ended", || numbers(&farm.dir).into_iter().all(|id| !lives(id)));
}

#[test]
fn what_a_task_starts_ends_with_a_killed_pictor() {
    let farm = TestFarm::start(&["--slots", "4", "--sandbox", "off"]);
    stayers(&farm);
    let set = ["--set", "dims.how=[late]", "--set", "steps[0].timeout=1h"];
    let set = [&set[..], &["--set", "dims.kind=[timeout, setsid, daemon, script]"]].concat();
    farm.pictor(&[&["submit", "job.yaml"][..], &set].concat()).expect(0, &[]);
    until("all of them stay", || numbers(&farm.dir).len() == 4);
    farm.server.signal(Signal::KILL);
    until("they have ended", || numbers(&farm.dir).into_iter().all(|id| !lives(id)));
}

const WITH_FILES: &str = "pictor: v1\nname: files\nretry: { attempts: 1 }\n\
    files: { tools/run.sh: ./scripts/run.sh, data: data }\nsteps:\n\
    - name: say\n  files: { more.txt: scripts/../more.txt }\n  command:\n    \
    run: [\"{job.dir}/tools/run.sh\", \"{job.dir}\", \"{output.said}\"]\n    \
    outputs: { said: said.txt }\n  deliver: { said: said.txt }\n";

fn with_files(dir: &TestDir) {
    dir.write("job.yaml", WITH_FILES);
    let script = "#!/bin/sh\ncat \"$1/more.txt\" \"$1/data/a\" \"$1/data/deep/b\" > \"$2\"\n\
                  cd \"$1\"; ls -l tools/run.sh data/a | cut -c1-10 >> \"$2\"\n";
    let script = dir.write("scripts/run.sh", script);
    std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir.write("more.txt", "more\n");
    dir.write("data/a", "a\n");
    dir.write("data/deep/b", "b\n");
}

const SAID: &str = "more\na\nb\n-r--r--r--\n-r-xr-xr-x\n";

#[test]
fn the_files_of_a_command_travel_with_the_job() {
    let farm = TestFarm::start(&["--slots", "4"]);
    with_files(&farm.dir);
    farm.pictor(&["submit", "job.yaml", "--wait", "--out", "there"]).expect(0, &["succeeded"]);
    let said = |folder: &str| {
        String::from_utf8(files(&farm.dir.path(folder))["said.txt"].clone()).unwrap()
    };
    assert_eq!(said("there"), SAID);
    farm.dir.ok(&["plan", "job.yaml"]).expect(0, &["IN {job.dir}", "tools/run.sh"]);
    // Here it is the same, by the bytes of the submission.
    farm.dir.ok(&["run", "job.yaml", "--out", "here"]);
    assert_eq!(said("here"), SAID);
    // A schedule keeps the bytes that it was created with.
    let add = ["schedule", "add", "nightly", "job.yaml", "--cron", "0 0 1 1 *"];
    farm.pictor(&add).expect(0, &["is due at"]);
    farm.dir.write("more.txt", "changed\n");
    let started = farm.lines(&["schedule", "trigger", "nightly"]);
    let run = started[0]["run"].as_str().unwrap();
    farm.pictor(&["show", run, "--watch"]).expect(0, &["succeeded"]);
    farm.pictor(&["download", run, "--out", "scheduled"]).expect(0, &[]);
    assert_eq!(said("scheduled"), SAID);
}

#[test]
fn a_run_that_goes_on_sees_the_files_of_its_submission() {
    let dir = TestDir::new();
    with_files(&dir);
    let slow = "pictor: v1\nname: slow\nfiles: { a: data/a }\nsteps:\n\
        - { name: first, command: { run: [sh, -c, 'until [ -e GO ]; do sleep 0.02; done'] } }\n\
        - name: second\n  needs: [first]\n  command: { run: [cp, \"{job.dir}/a\", \"{output.a}\"], outputs: { a: a } }\n  \
          deliver: { a: a }\n";
    dir.write("job.yaml", &slow.replace("GO", &dir.shared("go").display().to_string()));
    let mut run = dir.start(&["run", "job.yaml", "--out", "out"]);
    let id = run.wait_for(": results land in").split(':').next().unwrap().to_owned();
    run.signal(Signal::KILL);
    run.finish();
    dir.write("data/a", "something else\n");
    dir.write("shared/go", "");
    dir.ok(&["resume", &id]);
    assert_eq!(dir.results()["a"], b"a\n");
}

#[test]
fn files_that_cannot_be_are_refused_in_their_place_before_anything_runs() {
    let farm = TestFarm::start(&["--slots", "4"]);
    let dir = &farm.dir;
    dir.write("there.txt", "x");
    for (files, why) in [
        ("{ ../x: there.txt }", "relative path"),
        ("{ /x: there.txt }", "relative path"),
        ("{ x: gone.txt }", "gone.txt does not exist"),
        ("{ x: there.txt, x/y: there.txt }", "`x/y` would lie in `x`"),
        ("{ x: '' }", "path of a file"),
    ] {
        let job = format!(
            "pictor: v1\nname: bad\nsteps:\n  - name: a\n    files: {files}\n    command: {{ run: ['true'] }}\n"
        );
        dir.write("job.yaml", &job);
        for verb in ["plan", "run"] {
            dir.pictor(&[verb, "job.yaml"]).expect(2, &[why, "job.yaml:5"]);
        }
        farm.pictor(&["submit", "job.yaml"]).expect(2, &[why, "job.yaml:5"]);
    }
    // A server has no folder of the job file.
    let job =
        "pictor: v1\nname: dir\nsteps:\n  - name: a\n    command:\n      run: [ls, '{job.dir}']\n";
    dir.write("job.yaml", job);
    farm.pictor(&["submit", "job.yaml"]).expect(2, &["{job.dir}", "`files: {", "job.yaml:6"]);
    dir.ok(&["run", "job.yaml"]);
}

#[test]
fn outputs_may_be_empty_folders_links_or_left_out() {
    let farm = TestFarm::start(&["--slots", "4"]);
    let job = "pictor: v1\nname: outs\nretry: { attempts: 1 }\nsteps:\n\
        - name: make\n  command:\n    run: [sh, -c, 'touch done; mkdir -p d/e; echo a > d/a; echo b > d/e/b; ln -s d/a l']\n    \
          outputs: { done: done, d: d, l: l, o: { file: maybe.txt, optional: true } }\n  \
          deliver: { done: done.flag, d: caches, l: link.txt, o: maybe.txt }\n\
        - name: use\n  needs: [make]\n  command:\n    run: [sh, -c, 'cat \"$1/a\" \"$1/e/b\" \"$2\" > \"$3\"', sh, \
          '{input.make.d}', '{input.make.done}', '{output.all}']\n    outputs: { all: all.txt }\n  deliver: { all: all.txt }\n";
    farm.dir.write("job.yaml", job);
    let expected = [
        ("all.txt", "a\nb\n"),
        ("caches/a", "a\n"),
        ("caches/e/b", "b\n"),
        ("done.flag", ""),
        ("link.txt", "a\n"),
    ];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into();
    farm.dir.ok(&["run", "job.yaml", "--out", "here"]);
    assert_eq!(files(&farm.dir.path("here")), expected);
    farm.pictor(&["submit", "job.yaml", "--wait", "--out", "there"]).expect(0, &["succeeded"]);
    assert_eq!(files(&farm.dir.path("there")), expected);
}

#[test]
fn every_workflow_without_a_network_succeeds_on_a_plain_server() {
    build_scenes();
    let farm = TestFarm::start(&["--slots", "4"]);
    let small = |name: &str| match name {
        "turntable" => vec!["render.frames=1-2", "render.resolution=64x36", "render.samples=1"],
        "still" => vec!["render.resolution=64x64", "render.samples=1", "render.tiles=2x1"],
        "simulation" => vec!["dims.frame=1-2"],
        "sweep" => vec!["dims.roughness=[\"0.05\"]"],
        _ => Vec::new(),
    };
    for (name, path) in workflows().into_iter().filter(|(name, _)| !name.starts_with("upscale")) {
        let (path, out) = (path.display().to_string(), format!("out-{name}"));
        let mut arguments = vec!["submit", &path, "--wait", "--out", &out];
        arguments.extend(small(&name).into_iter().flat_map(|pair| ["--set", pair]));
        // One item of the pipeline fails, and that failure is absorbed.
        farm.pictor(&arguments).expect(0, &["succeeded"]);
        assert!(!files(&farm.dir.path(&out)).is_empty(), "{name}");
    }
}

#[test]
fn lists_name_the_worker_show_what_runs_and_have_an_end_that_is_told() {
    let farm = TestFarm::start(&["--slots", "4"]);
    let dir = &farm.dir;
    let job = "pictor: v1\nname: short\nsteps:\n\
        - { name: a, command: { run: [sh, -c, 'until [ -e GO ]; do sleep 0.02; done'] } }\n\
        - { name: b, over: [i], needs: [a], noop: {} }\ndims: { i: { count: 1500 } }\n";
    dir.write("job.yaml", &job.replace("GO", &dir.shared("go").display().to_string()));
    let run = farm.lines(&["submit", "job.yaml"])[0]["id"].as_str().unwrap().to_owned();
    let a = || farm.lines(&["tasks", &run, "--step", "a"]).remove(0);
    until("it is shown as running", || a()["state"] == "running");
    assert_eq!(farm.lines(&["tasks", &run, "--state", "running"]).len(), 1);
    assert_eq!(farm.lines(&["tasks", &run, "--state", "queued"]).len(), 0);
    farm.pictor(&["show", &run]).expect(0, &["1 running"]);
    let (_, workers) = farm.api("GET", "/v1/workers", "");
    let name = workers["items"][0]["name"].as_str().unwrap();
    assert_eq!(a()["worker_name"], name);
    dir.write("shared/go", "");
    farm.pictor(&["show", &run, "--watch"]).expect(0, &["succeeded"]);
    assert_eq!(
        (a()["state"].as_str(), a()["worker_name"].as_str()),
        (Some("succeeded"), Some(name))
    );
    farm.pictor(&["tasks", &run, "--limit", "1"]).expect(0, &["WORKER", name]);
    // All as JSON; as text a thousand, with a note that there are more.
    assert_eq!(farm.lines(&["tasks", &run]).len(), 1501);
    assert_eq!(farm.lines(&["tasks", &run, "--limit", "1200"]).len(), 1200);
    let said = farm.pictor(&["tasks", &run]);
    said.expect(0, &["only the first 1000"]);
    assert_eq!(said.out.lines().count(), 1 + 1000);
    assert_eq!(farm.lines(&["tasks", &run, "--dim", "i=7"]).len(), 1);
    // The same without a server.
    let here = dir.run(&["--set", "steps[0].command.run=[\"true\"]"]).run_id();
    let all = dir.ok(&["tasks", &here, "--json"]);
    assert_eq!(all.out.lines().count(), 1501);
    let one: Json = serde_json::from_str(all.out.lines().next().unwrap()).unwrap();
    assert!(one["worker_name"].is_string(), "{one}");
    assert_eq!(dir.ok(&["runs", "--state", "failed", "--json"]).out, "");
    assert_eq!(dir.ok(&["runs", "--name", "shor", "--json"]).out.lines().count(), 1);
}

#[test]
fn the_api_takes_one_shape_of_a_job_and_speaks_plainly() {
    let farm = TestFarm::start(&["--slots", "4"]);
    let job = r#"{ "pictor": "v1", "name": "x", "steps": [{ "name": "a", "noop": {} }] }"#;
    let when = r#""cron": "0 0 1 1 *", "source_name": "x.json", "set": { "priority": "7" }"#;
    for (name, job) in [("tree", job.to_owned()), ("text", Json::from(job).to_string())] {
        let body = format!(r#"{{ "name": "{name}", "job": {job}, {when} }}"#);
        let (status, made) = farm.api("POST", "/v1/schedules", &body);
        assert_eq!((status, &made["job"]["set"]["priority"]), (201, &"7".into()), "{made}");
        let body =
            format!(r#"{{ "job": {job}, "source_name": "x.json", "set": {{ "priority": "7" }} }}"#);
        assert_eq!(farm.api("POST", "/v1/runs", &body).0, 201);
    }
    let old = format!(
        r#"{{ "name": "old", "cron": "0 0 1 1 *", "job": {{ "text": {} }} }}"#,
        Json::from(job)
    );
    assert_eq!(farm.api("POST", "/v1/schedules", &old).0, 201);
    for (path, body, expected) in [
        ("/v1/runs", "{", "the body is not JSON at line 1, column 1"),
        ("/v1/runs", "{}", "`job` is missing"),
        ("/v1/runs", r#"{ "job": 7 }"#, "`job` has to be the text of a job file"),
        ("/v1/runs", r#"{ "job": "", "set": { "a": 1 } }"#, "`set.a` has to be a text, not 1"),
        ("/v1/runs", r#"{ "jop": "" }"#, "there is no field `jop`; there are `job`"),
        (
            "/v1/schedules",
            r#"{ "name": "a", "cron": "", "job": [] }"#,
            "has to be the text of a job file",
        ),
        (
            "/v1/schedules",
            r#"{ "name": "a", "cron": "", "job": "", "overlap": "x" }"#,
            "`overlap` has to be one of `skip`",
        ),
    ] {
        let (status, said) = farm.api("POST", path, body);
        let detail = said["detail"].as_str().unwrap();
        assert_eq!(status / 100, 4, "{said}");
        assert!(detail.contains(expected), "{body}: {detail}");
        for word in ["deserialize", "struct", "enum", "untagged", "variant", "u32", "expected"] {
            assert!(!detail.contains(word), "{body}: {detail}");
        }
    }
    let (_, said) = farm.api("GET", "/v1/runs?limit=x", "");
    assert_eq!(said["detail"], "`limit` has to be a whole number");
}

#[test]
fn a_reason_holds_no_control_characters() {
    let dir = TestDir::new();
    let job = "pictor: v1\nname: red\nretry: { attempts: 1 }\nsteps:\n\
        - { name: a, command: { run: [sh, -c, 'printf \"\\033[31mred\\a\\n\"; exit 1'] } }\n";
    dir.write("job.yaml", job);
    let said = dir.run(&[]);
    said.expect(1, &["\\u{1b}[31mred\\u{7}"]);
    let task = dir.json(&["tasks", &said.run_id()]);
    assert!(!task["reason"].as_str().unwrap().contains(|c: char| c.is_control() && c != '\n'));
}

/// The names of all fields of an answer, without their values; of a list, those of the first item only.
fn shape(value: &Json) -> Json {
    match value {
        Json::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
        }
        Json::Array(items) => items.iter().take(1).map(shape).collect(),
        _ => Json::Null,
    }
}

/// What `pictor show --json` and `pictor tasks --json` have: removing a field breaks scripts.
const RUN: &str = "{created_ms,eta_ms,failures:[{attempt,index,name,progress,reason,state,step,worker,\
    worker_name}],finished_ms,id,interrupted,name,notes:[],notes_left_out,out_dir,owner,priority,source_name,state,\
    steps:[{kind,left_out,mean_ms,name,over:[],progress,size,tasks:{cancelled,failed,pending,queued,ready,running,\
    skipped,succeeded}}],tasks:{cancelled,failed,pending,queued,ready,running,skipped,succeeded},waiting:[]}";
const TASK: &str = "{attempt,index,name,progress,reason,state,step,worker,worker_name}";

#[test]
fn a_script_reads_the_same_here_from_a_server_and_from_the_api() {
    let farm = TestFarm::start(&["--slots", "4"]);
    let dir = &farm.dir;
    let job = "pictor: v1\nname: shape\nretry: { attempts: 1 }\n\
               steps: [{ name: a, command: { run: ['false'] } }]\n";
    dir.write("job.yaml", job);
    let here = dir.run(&[]).expect(1, &["1 failed"]).run_id();
    let there = farm.pictor(&["submit", "job.yaml", "--wait"]);
    let there = there.expect(1, &["1 failed"]).out.split(':').next().unwrap().to_owned();
    let local = |arguments: &[&str]| -> Json {
        let said = dir.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(said.out.lines().next().unwrap()).unwrap()
    };
    let api = |path: &str| farm.api("GET", path, "").1;
    let run = local(&["show", &here]);
    assert_eq!(shape(&run).to_string().replace(":null", "").replace('"', ""), RUN);
    assert_eq!(shape(&run), shape(&farm.lines(&["show", &there])[0]));
    assert_eq!(shape(&run), shape(&api(&format!("/v1/runs/{there}"))));
    assert_eq!((&run["state"], &run["interrupted"]), (&"failed".into(), &false.into()));
    assert!(run["out_dir"].as_str().unwrap().ends_with("/out"), "{run}");
    let task = local(&["tasks", &here]);
    assert_eq!(shape(&task).to_string().replace(":null", "").replace('"', ""), TASK);
    assert_eq!(shape(&task), shape(&farm.lines(&["tasks", &there])[0]));
    assert_eq!(shape(&task), shape(&api(&format!("/v1/runs/{there}/tasks"))["items"][0]));
    let names = |run: &Json| run.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let listed = local(&["runs"]);
    assert_eq!(names(&listed), names(&farm.lines(&["runs"])[0]));
    assert_eq!(names(&listed), names(&api("/v1/runs")["items"][0]));
    // A run that has ended is changed by neither.
    dir.pictor(&["priority", &here, "5"]).expect(1, &["is over (failed)", "another priority"]);
    farm.pictor(&["priority", &there, "5"]).expect(1, &["is over (failed)", "(run_is_over)"]);
}
