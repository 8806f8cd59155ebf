//! What users and programs see of the command: texts, exit codes, odd names and closed pipes.

mod support;

use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use support::{Running, TestDir, build_scenes, render_job, root, scenes, workflows};

const NOOP: &str = "pictor: v1\nname: noop\nsteps: [{ name: a, noop: {} }]\n";

/// The commands in the list of a help text.
fn listed(help: &str) -> Vec<&str> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty());
    list.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|w| !w.is_empty()))
        .collect()
}

/// Each command is in the help, with a sentence about it.
#[test]
fn help_tells_every_command() {
    let dir = TestDir::new();
    let said = dir.ok(&["--help"]);
    let commands = [
        "run",
        "resume",
        "retry",
        "serve",
        "work",
        "submit",
        "runs",
        "show",
        "tasks",
        "logs",
        "pause",
        "cancel",
        "priority",
        "download",
        "prune",
        "workers",
        "schedule",
        "token",
        "plan",
        "models",
        "schema",
        "doctor",
        "setup-blender",
    ];
    assert_eq!(listed(&said.out), [&commands[..], &["help"]].concat());
    for command in commands {
        let line = said.out.lines().find(|line| line.starts_with(&format!("  {command} ")));
        assert!(line.is_some_and(|line| line.len() > 20), "{command} in\n{said}");
        dir.ok(&[command, "--help"]).expect(0, &["Usage: pictor", command, "--data <DIR>"]);
    }
    for (command, verbs) in [
        ("schedule", &["add", "list", "show", "pause", "resume", "remove", "trigger"][..]),
        ("token", &["add", "list", "revoke"]),
    ] {
        let said = dir.ok(&[command, "--help"]);
        assert_eq!(listed(&said.out), [verbs, &["help"]].concat(), "{command}");
    }
    // No option is offered that would have no effect.
    let prune = dir.ok(&["prune", "--help"]);
    for other in ["--slots", "--no-worker", "--limit", "--listen", "--broker", "--lease"] {
        assert!(!prune.out.contains(other), "{other} in\n{prune}");
    }
    prune.expect(0, &["--config <FILE>", "--database <URL>", "--artifacts <URL>", "--dry-run"]);
    dir.pictor(&[]).expect(2, &["Usage: pictor"]);
    dir.pictor(&["rnu"]).expect(2, &["unrecognized subcommand", "run"]);
    dir.ok(&["--version"]).expect(0, &["pictor 0."]);
}

#[test]
fn commands_about_runs_that_are_not_there_say_so() {
    let dir = TestDir::new();
    for command in ["show", "tasks", "pause", "cancel"] {
        dir.pictor(&[command, "x"]).expect(1, &["there are no runs in", "--data"]);
    }
    dir.pictor(&["runs"]).expect(1, &["there are no runs in", "--data"]);
    assert!(!dir.path("data").exists(), "looking makes no folder");
    dir.write("job.yaml", NOOP);
    let first = dir.run(&[]).expect(0, &[]).run_id();
    for command in ["show", "tasks", "resume", "retry", "pause", "cancel"] {
        dir.pictor(&[command, "x"]).expect(1, &["there is no run `x`", "pictor runs"]);
    }
    let second = dir.run(&[]).expect(0, &[]).run_id();
    dir.pictor(&["show", "noop"]).expect(1, &["fits several runs", &first, &second]);
    dir.ok(&["show", &first]).expect(0, &[&first, "succeeded"]);
    dir.ok(&["runs"]).expect(0, &[&first, &second]);
    dir.pictor(&["tasks", &first, "--step", "b"]).expect(1, &["has no step `b`; it has a"]);
    dir.pictor(&["tasks", &first, "--state", "b"]).expect(2, &["succeeded, failed"]);
    dir.pictor(&["retry", &first, "b"]).expect(1, &["there is no task `b`"]);
    dir.pictor(&["run", "job.yaml", "--set", "colour=1"]).expect(2, &["`colour` is not a field"]);
    dir.pictor(&["run", "job.yaml", "--set", "colour"]).expect(2, &["KEY=VALUE"]);
    dir.pictor(&["run", "job.yaml", "--slots", "0"]).expect(2, &["--slots"]);
}

#[test]
fn json_output_is_one_value_a_line() {
    let dir = TestDir::new();
    dir.write(
        "job.yaml",
        &NOOP
            .replace("a, noop", "a, over: [i], noop")
            .replace("steps", "dims: { i: { count: 1000 } }\nsteps"),
    );
    let said = dir.run(&["--json"]);
    let events: Vec<Json> = said.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(said.err.is_empty(), "{said}");
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("start", "end"));
    let last = &events[events.len() - 2];
    assert_eq!(
        (&last["step"], &last["finished"], &last["tasks"]),
        (&"a".into(), &1000.into(), &1000.into())
    );
    let id = events[0]["run"].as_str().unwrap();
    let shown = dir.json(&["show", id]);
    assert_eq!(shown["steps"][0]["size"], 1000);
    assert_eq!(dir.json(&["runs"])["id"], id);
    let tasks = dir.ok(&["tasks", id, "--json"]).out;
    let tasks: Vec<Json> = tasks.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((tasks.len(), &tasks[999]["name"]), (1000, &"a[i=999]".into()));
    let plan = dir.json(&["plan", "job.yaml"]);
    assert_eq!(plan["steps"][0]["name"], "a");
    assert!(dir.json(&["doctor"])["programs"].as_array().unwrap().len() >= 3);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = TestDir::new();
    dir.write(
        "job.yaml",
        &NOOP
            .replace("a, noop", "a, over: [i], noop")
            .replace("steps", "dims: { i: { count: 1000 } }\nsteps"),
    );
    let id = dir.run(&[]).run_id();
    let dot = ["plan", "job.yaml", "--dot"];
    for arguments in [&["schema"][..], &["tasks", &id], &["runs"], &dot, &["--help"]] {
        let mut command = dir.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let end = child.wait_with_output().unwrap();
        assert!(!line.is_empty() && end.status.success(), "{arguments:?}: {end:?}");
        assert!(end.stderr.is_empty(), "{arguments:?}: {end:?}");
    }
    // A run continues even if nobody reads its output.
    let mut command = dir.command(&["run", "job.yaml", "--out", "out"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn plan_shows_what_a_job_compiles_to() {
    let dir = TestDir::new();
    build_scenes();
    // The inputs of the upscaling examples are results of another example.
    let inputs = ["frame.png", "film.mp4"].map(|name| dir.write(name, "").display().to_string());
    for (name, path) in workflows() {
        let path = path.display().to_string();
        let input = match &*name {
            "upscale-image" => format!("upscale.input={}", inputs[0]),
            "upscale-video" => format!("upscale.input={}", inputs[1]),
            _ => String::new(),
        };
        let set = ["--set", &input];
        let set: &[&str] = if input.is_empty() { &[] } else { &set };
        let said = dir.ok(&[&["plan", &path], set].concat());
        insta::assert_snapshot!(format!("plan of {name}"), said.out);
    }
    let turntable = root().join("workflows/turntable.yaml").display().to_string();
    let dot = dir.ok(&["plan", &turntable, "--dot"]).out;
    insta::assert_snapshot!("plan of turntable for graphviz", dot);
}

#[test]
fn the_schema_beside_the_workflows_is_the_one_that_pictor_prints() {
    let printed = TestDir::new().ok(&["schema"]).out;
    let kept = std::fs::read_to_string(root().join("workflows/pictor.schema.json")).unwrap();
    assert_eq!(kept, printed, "pictor schema > workflows/pictor.schema.json");
    let schema: Json = serde_json::from_str(&printed).unwrap();
    assert!(schema["properties"]["render"].is_object());
}

#[test]
fn names_may_have_spaces_quotes_and_any_letters() {
    let dir = TestDir::new();
    let odd = "Ünï ‘x’ \"q\" $HOME {a} & #1";
    std::fs::create_dir_all(dir.path(odd)).unwrap();
    // The scene is a link to a file elsewhere, and the command is not started in the job's folder.
    let link = dir.path(&format!("{odd}/my scene #1.blend"));
    std::os::unix::fs::symlink(scenes().join("plain.blend"), link).unwrap();
    let job = render_job("plain.blend", "  output: { video: \"mein film.mp4\" }\n");
    let scene = scenes().join("plain.blend").display().to_string();
    let job = job
        .replace(&scene, "\"my scene #1.blend\"")
        .replace("name: job", "name: 'Söme \"job\" / x'");
    dir.write(&format!("{odd}/my job.yaml"), &job);
    let job = format!("{odd}/my job.yaml");
    let (data, out) = (format!("{odd}/data"), format!("./{odd}/../{odd}/out"));
    let said = dir.pictor(&["run", &job, "--data", &data, "--out", &out]);
    said.expect(0, &["3 files in"]);
    let names: Vec<_> = support::files(&dir.path(&format!("{odd}/out"))).into_keys().collect();
    assert_eq!(names, ["frames/0001.exr", "mein film.mp4", "previews/0001.png"]);
    let id = said.run_id();
    assert!(id.starts_with("s-me-job-x-") && id.is_ascii(), "{id}");
    dir.ok(&["show", &id, "--data", &data]);
}

#[test]
fn a_folder_with_a_very_long_name_works_too() {
    let dir = TestDir::new();
    dir.write("job.yaml", &NOOP.replace("noop: {}", "noop: { duration: 3s }"));
    let data = format!("{}/{}", "d".repeat(120), "e".repeat(120));
    let mut run = dir.start(&["run", "job.yaml", "--data", &data]);
    let id = run.wait_for(": results land in").split(':').next().unwrap().to_owned();
    dir.ok(&["show", &id, "--data", &data]).expect(0, &["running"]);
    dir.ok(&["cancel", &id, "--data", &data]);
    let said = run.finish();
    said.expect(1, &["cancelled"]);
    assert!(!said.err.contains("WARN"), "{said}");
}

#[test]
fn results_land_beside_the_command_unless_told_otherwise() {
    let dir = TestDir::new();
    dir.write(
        "jobs/job.yaml",
        "pictor: v1\nname: small\nsteps:\n- name: a\n  command:\n    \
         run: [cp, \"{job.dir}/job.yaml\", \"{output.copy}\"]\n    outputs: { copy: c.yaml }\n  \
         deliver: { copy: c.yaml }\n",
    );
    let said = dir.ok(&["run", "jobs/job.yaml"]);
    let copied = dir.path(&format!("out/{}/c.yaml", said.run_id()));
    assert_eq!(std::fs::read(copied).unwrap(), std::fs::read(dir.path("jobs/job.yaml")).unwrap());
    // Lost results are delivered again, and broken ones are repaired on request.
    std::fs::remove_dir_all(dir.path("out")).unwrap();
    dir.ok(&["resume", &said.run_id()]).expect(0, &["1 files in"]);
    std::fs::write(dir.path(&format!("out/{}/c.yaml", said.run_id())), "broken").unwrap();
    let refused = dir.pictor(&["resume", &said.run_id()]);
    refused.expect(1, &["c.yaml: something else is there", "--overwrite"]);
    dir.ok(&["resume", &said.run_id(), "--overwrite"]);
    let text = std::fs::read_to_string(dir.path(&format!("out/{}/c.yaml", said.run_id()))).unwrap();
    assert!(text.starts_with("pictor: v1"));
}

#[test]
fn without_data_a_folder_in_the_home_is_used() {
    let dir = TestDir::new();
    dir.write("job.yaml", NOOP);
    let homes: BTreeMap<&str, &str> =
        [("HOME", "home/.local/share/pictor"), ("XDG_DATA_HOME", "xdg/pictor")].into();
    for (variable, data) in homes {
        let home = dir.path(data.split('/').next().unwrap());
        let mut command = dir.command(&["run", "job.yaml", "--out", "out"]);
        command.env_remove("PICTOR_DATA").env_remove("HOME").env_remove("XDG_DATA_HOME");
        let said = Running::start(command.env(variable, &home)).finish();
        said.expect(0, &[]);
        assert!(dir.path(data).join("pictor.sqlite").exists(), "{data}");
    }
    let mut command = dir.command(&["runs"]);
    command.env_remove("PICTOR_DATA").env_remove("HOME").env_remove("XDG_DATA_HOME");
    Running::start(&mut command).finish().expect(1, &["--data DIR"]);
}

#[test]
fn what_programs_told_is_remembered_in_the_cache_folder_of_the_user() {
    let dir = TestDir::new();
    dir.write("job.yaml", &format!("{NOOP}requires: {{ software: {{ ffmpeg: \">=1.0\" }} }}\n"));
    let homes = [("HOME", "home", "home/.cache/pictor"), ("XDG_CACHE_HOME", "xdg", "xdg/pictor")];
    for (variable, home, cache) in homes {
        let mut command = dir.command(&["run", "job.yaml", "--out", "out"]);
        command.env_remove("HOME").env_remove("XDG_CACHE_HOME").env(variable, dir.path(home));
        Running::start(&mut command).finish().expect(0, &[]);
        let kept = std::fs::read_to_string(dir.path(cache).join("programs.json")).unwrap();
        assert!(kept.contains("ffmpeg") && kept.contains("version"), "{kept}");
    }
    let mut command = dir.command(&["run", "job.yaml", "--out", "out"]);
    command.env_remove("HOME").env_remove("XDG_CACHE_HOME");
    Running::start(&mut command).finish().expect(0, &[]);
}

/// Renders as a user without any privileges, if this test runs as one who may switch users.
#[test]
fn an_ordinary_user_can_run_jobs() {
    let dir = TestDir::new();
    dir.write("job.yaml", NOOP);
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    if id != b"0\n" {
        dir.run(&[]).expect(0, &[]);
        return;
    }
    let binary = dir.path("pictor");
    std::fs::copy(env!("CARGO_BIN_EXE_pictor"), &binary).unwrap();
    let chown = Command::new("chown").args(["-R", "65534:65534"]).arg(dir.path("")).status();
    assert!(chown.unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    command.args(["run", "job.yaml", "--data", "data", "--out", "out"]);
    Running::start(command.current_dir(dir.path(""))).finish().expect(0, &["succeeded"]);
}

/// Width of the terminal in these tests.
const COLUMNS: usize = 100;

/// The text on a terminal after all this was written to it. Full lines are wrapped.
fn screen(written: &str) -> Vec<String> {
    let (mut rows, mut row, mut column) = (vec![Vec::new()], 0_usize, 0_usize);
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        match c {
            '\r' => column = 0,
            '\n' => (row, column) = (row + 1, 0),
            '\u{1b}' => {
                let (mut count, mut end) = (String::new(), ' ');
                while !end.is_ascii_alphabetic() {
                    count.extend(Some(end).filter(char::is_ascii_digit));
                    end = rest.next().expect("a whole sequence");
                }
                match end {
                    'A' => row -= count.parse().unwrap_or(1).min(row),
                    'B' => row += count.parse().unwrap_or(1),
                    'K' if count == "2" => rows[row].clear(),
                    'K' => rows[row].truncate(column),
                    'J' => rows.truncate(row + 1),
                    // Colours, and the visibility of the cursor.
                    _ => {}
                }
            }
            c => {
                if column == COLUMNS {
                    (row, column) = (row + 1, 0);
                    rows.resize(rows.len().max(row + 1), Vec::new());
                }
                let width = rows[row].len().max(column + 1);
                rows[row].resize(width, ' ');
                rows[row][column] = c;
                column += 1;
            }
        }
        let height = rows.len().max(row + 1);
        rows.resize(height, Vec::new());
    }
    rows.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

/// `script` runs the command on a terminal of its own.
#[test]
fn on_a_terminal_every_step_has_one_bar_that_stays() {
    let dir = TestDir::new();
    let steps = "steps:\n- { name: one, over: [i], noop: { duration: 60ms } }\n\
                 - { name: two, over: [i], needs: [one], noop: {} }\n\
                 - { name: three, needs: [two], noop: {} }\n";
    dir.write(
        "job.yaml",
        &format!("pictor: v1\nname: bars\ndims: {{ i: {{ count: 5 }} }}\n{steps}"),
    );
    let said = dir.on_terminal(COLUMNS, "run job.yaml --out out --slots 1").finish();
    let screen = screen(&said.out);
    let bars: Vec<String> = screen.iter().filter(|line| line.contains('█')).cloned().collect();
    let told: Vec<(&str, &str)> = bars
        .iter()
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap(), words.find(|word| word.contains('/')).unwrap())
        })
        .collect();
    assert_eq!(told, [("one", "5/5"), ("two", "5/5"), ("three", "1/1")], "{screen:#?}");
    let end = screen.iter().position(|line| line.contains("11 tasks succeeded")).unwrap();
    assert_eq!(screen[end - 3..end], bars[..], "nothing is left between: {screen:#?}");
}
