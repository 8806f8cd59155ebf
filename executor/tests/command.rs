//! `command` steps with real programs.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod farm;

use farm::{TestFarm, brief, command, first_try, is_gone, shell, sleeper};
use pictor_tasks::body::{Body, Command, LongWritten, Written};
use pictor_tasks::message::{Bound, FailureKind, Input, Outcome, Output, Products, What};
use pictor_tasks::space::{Coordinates, Values};
use pictor_tasks::units::Millis;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn a_command_gets_its_texts_environment_and_output_paths() {
    let mut farm = TestFarm::start();
    let script = r#"printf '%s %s %s' "$LOOK" "$HOME" "$1" > "$2"; env | cut -d= -f1 | sort > names
                    echo 'pictor: note a warning'"#;
    let words = ["sh", "-c", script, "-", "f{frame:04} {index} {attempt} {{}}", "{output.text}"];
    let run = words.map(str::to_owned).to_vec();
    let env = BTreeMap::from([("LOOK".to_owned(), "shot-{frame}".to_owned())]);
    let outputs = [("text", "a/text.txt"), ("names", "names")];
    let outputs = outputs.map(|(name, file)| (name.to_owned(), file.into())).into();
    let body = Command { run, env, outputs, files: BTreeMap::new() };
    let products = farm.products(brief(Body::Command(body), 3)).await;
    let text = |index: usize| {
        let output = &products.outputs[index];
        let bytes = std::fs::read(farm.artifact(output)).unwrap();
        assert_eq!(output.digest, blake3::hash(&bytes).to_hex().to_string());
        assert_eq!(output.size_bytes, bytes.len() as u64);
        String::from_utf8(bytes).unwrap()
    };
    let names: Vec<&str> = products.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["names", "text"]);
    let scratch = farm.folder.path().join("data/scratch/7/0/run-1/made");
    let said = text(1);
    let [look, home, rest] = said.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!((look, rest), ("shot-1", "f0001 0 1 {}"));
    assert!(Path::new(home).starts_with(&scratch), "its own folder: {home}");
    let variables = text(0);
    let of_machine = ["PWD", "_", "SHLVL", "OLDPWD", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "TMPDIR"];
    let variables = variables.lines().filter(|name| !of_machine.contains(name));
    // PICTOR_WATCH is the mark by which the watchdog finds the processes that a killed pictor leaves behind.
    let expected = ["HOME", "LANG", "LOOK", "PATH", "PICTOR_WATCH"];
    assert_eq!(variables.collect::<Vec<_>>(), expected);
    assert!(products.outputs[1].key.starts_with("runs/run-1/step/0/0/1-"));
    assert!(products.outputs[1].key.ends_with("/a/text.txt"));
    assert_eq!(products.notes, ["a warning"]);
    // Nothing of the run stays, unless a Blender goes on with it.
    let slot = farm.folder.path().join("data/scratch/7/0");
    while std::fs::read_dir(&slot).unwrap().count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn inputs_are_found_by_name_and_in_index_order() {
    let mut farm = TestFarm::start();
    let mut inputs = Vec::new();
    for index in [10, 9, 2] {
        let path = farm.folder.path().join("part.txt");
        std::fs::write(&path, format!("{index};")).unwrap();
        inputs.push(farm.input(index, &format!("shot=a/b,frame={index}"), "text", &path));
    }
    farm.inputs = Some(inputs.clone());
    let script = "cat {inputs.before}/* > {output.all}; ls {inputs.before} >> {output.all}";
    let mut many = command(&["sh", "-c", script], &[("all", "all.txt")]);
    many.has_inputs = true;
    let products = farm.products(many).await;
    let all = std::fs::read_to_string(farm.artifact(&products.outputs[0])).unwrap();
    let expected =
        "2;9;10;0-shot=a_b,frame=2.txt\n1-shot=a_b,frame=9.txt\n2-shot=a_b,frame=10.txt\n";
    assert_eq!(all, expected);

    let mut one = command(&["cp", "{input.before.text}", "{output.all}"], &[("all", "all.txt")]);
    one.has_inputs = true;
    let failure = farm.failure(one.clone()).await;
    assert!(failure.message.contains("there are 3"), "{failure:?}");
    farm.inputs = Some(inputs[..1].to_vec());
    let products = farm.products(one.clone()).await;
    assert_eq!(std::fs::read(farm.artifact(&products.outputs[0])).unwrap(), b"10;");
    std::fs::remove_file(farm.artifact(&inputs[0].output)).unwrap();
    let failure = farm.failure(one).await;
    assert_eq!(failure.kind, FailureKind::Storage);
    assert!(failure.message.contains("is gone"), "{failure:?}");
}

#[tokio::test]
async fn outputs_of_folders_lie_beside_the_others_in_folders_of_their_tasks() {
    let mut farm = TestFarm::start();
    let mut inputs = Vec::new();
    for (index, name) in [(9, "image"), (10, "image"), (10, "files/a/0010.exr"), (9, "files/a.exr")]
    {
        let path = farm.folder.path().join(name.replace('/', "-"));
        std::fs::write(&path, format!("{index} {name};")).unwrap();
        inputs.push(farm.input(index, &format!("frame={index}"), name, &path));
    }
    farm.inputs = Some(inputs);
    let script = "cd {inputs.before}; find . -type l | sort | xargs cat > {output.all}; find . -type l | sort >> {output.all}";
    let mut all = command(&["sh", "-c", script], &[("all", "all.txt")]);
    all.has_inputs = true;
    let products = farm.products(all).await;
    let all = std::fs::read_to_string(farm.artifact(&products.outputs[0])).unwrap();
    let expected = "9 image;10 image;9 files/a.exr;10 files/a/0010.exr;./0-frame=9\n./1-frame=10\n\
                    ./files/09-frame=9/a.exr\n./files/10-frame=10/a/0010.exr\n";
    assert_eq!(all, expected);
    // One picture counts as one file, even with a folder beside it.
    let mut one = command(&["cp", "{input.before}", "{output.all}"], &[("all", "all.txt")]);
    one.has_inputs = true;
    farm.inputs = farm.inputs.take().map(|all| all.into_iter().filter(|i| i.index == 9).collect());
    let products = farm.products(one).await;
    assert_eq!(std::fs::read(farm.artifact(&products.outputs[0])).unwrap(), b"9 image;");
}

#[tokio::test]
async fn a_failing_program_is_quoted() {
    let mut farm = TestFarm::start();
    let failure = farm.failure(shell("echo out; echo the reason >&2; exit 3")).await;
    assert_eq!(failure.kind, FailureKind::Failed);
    assert!(failure.message.starts_with("`sh` exited with code 3."), "{failure:?}");
    assert!(failure.message.contains("the reason"), "{failure:?}");
    let failure = farm.failure(shell("kill -9 $$")).await;
    let killed = "`sh` was killed by signal 9 (SIGKILL), often because memory ran out.";
    assert_eq!(failure.message, killed);
    let failure = farm.failure(shell("echo openjd_fail: no licence; exit 1")).await;
    assert_eq!(failure.message, "no licence");
    let logs: Vec<_> = walk(&farm.folder.path().join("data/logs"));
    assert_eq!(logs.len(), 2);
    assert!(logs.iter().any(|path| std::fs::read_to_string(path).unwrap() == "out\nthe reason\n"
        || std::fs::read_to_string(path).unwrap() == "the reason\nout\n"));
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn outputs_must_be_there_and_the_task_s_own() {
    let mut farm = TestFarm::start();
    for (script, why) in [
        (":", "was not written"),
        ("mkdir out.bin", "is a folder without any file"),
        ("ln -s /etc/passwd out.bin", "leads out of the task's folder, to /etc/passwd"),
        ("ln -s nowhere out.bin", "leads nowhere"),
        ("mkfifo out.bin", "is neither a file nor a folder"),
        (
            "mkdir out.bin; ln -s /etc/passwd out.bin/a",
            "holds `out.bin/a`, which is a link that leads out",
        ),
        (
            "mkdir -p out.bin/a; ln -s .. out.bin/a/b",
            "holds `out.bin/a/b`, which is a link to a folder that it is in",
        ),
        (
            "mkdir out.bin; : > out.bin/a$(printf '\\377')",
            "holds `a\\xff` in `out.bin`, whose name is not UTF-8",
        ),
        (
            "mkdir out.bin; for i in $(seq 1001); do : > out.bin/$i; done",
            "with more than 1000 files",
        ),
    ] {
        let failure = farm.failure(command(&["sh", "-c", script], &[("out", "out.bin")])).await;
        assert_eq!(failure.kind, FailureKind::BadOutput, "{script}");
        assert!(failure.message.contains(why), "{failure:?}");
    }
    let failure = farm.failure(command(&["true"], &[("out", "../out.bin")])).await;
    assert_eq!(failure.kind, FailureKind::Invalid);
}

#[tokio::test]
async fn outputs_may_be_empty_folders_links_inside_or_left_out() {
    let mut farm = TestFarm::start();
    let script = ": > empty; echo a > real; ln -s real link; mkdir -p d/e; echo b > d/e/b; ln -s ../real d/c; ln -s e d/last";
    let outputs = [("d", "d"), ("empty", "empty"), ("link", "link")];
    let mut all = command(&["sh", "-c", script], &outputs);
    let Body::Command(body) = &mut all.body else { panic!("a command") };
    let maybe = LongWritten { file: "maybe".into(), optional: true };
    body.outputs.insert("maybe".into(), Written::Long(maybe));
    let products = farm.products(all).await;
    let left = |output: &Output| {
        let text = std::fs::read_to_string(farm.artifact(output)).unwrap();
        (output.name.clone(), text)
    };
    let left: Vec<_> = products.outputs.iter().map(left).collect();
    let expected =
        [("d/c", "a\n"), ("d/e/b", "b\n"), ("d/last/b", "b\n"), ("empty", ""), ("link", "a\n")];
    assert_eq!(left, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));

    // The next step finds the folder unchanged.
    let input = |output: Output| Input {
        step: "before".into(),
        label: String::new(),
        index: 0,
        coordinates: Coordinates::default(),
        output,
    };
    farm.inputs = Some(products.outputs.into_iter().map(input).collect());
    let script = "cd \"$1\"; cat c e/b > \"$2\"";
    let run = ["sh", "-c", script, "sh", "{input.before.d}", "{output.all}"];
    let mut next = command(&run, &[("all", "all")]);
    next.has_inputs = true;
    let products = farm.products(next).await;
    assert_eq!(std::fs::read(farm.artifact(&products.outputs[0])).unwrap(), b"a\nb\n");
}

#[tokio::test]
async fn a_command_reports_the_values_of_a_dimension() {
    let mut farm = TestFarm::start();
    let words = |words: &[&str]| {
        Values::Names(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>().into())
    };
    for (text, expected) in [
        ("[1, 2, 3]", Values::Ints("1-3".parse().unwrap())),
        ("1-3", words(&["1-3"])),
        ("0004\\n7\\n", words(&["0004", "7"])),
        ("wood\\nglass", words(&["wood", "glass"])),
    ] {
        let mut brief = shell(&format!("printf '{text}' > {{bind.material}}"));
        brief.binds = vec!["material".into()];
        let Products { bindings, .. } = farm.products(brief).await;
        assert_eq!(bindings[0].dim, "material");
        assert_eq!(bindings[0].values, Bound::Values(expected));
    }
    let mut brief = shell(":");
    brief.binds = vec!["material".into()];
    let failure = farm.failure(brief).await;
    assert_eq!(failure.kind, FailureKind::BadOutput);
    assert!(failure.message.contains("did not write them"), "{failure:?}");
}

#[tokio::test]
async fn what_a_worker_lacks_is_unsupported() {
    let mut farm = TestFarm::start();
    let failure = farm.failure(command(&["no-such-program"], &[])).await;
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert!(failure.message.contains("`no-such-program` is not on this worker"), "{failure:?}");
    let mut farm = TestFarm::start_with(|config| config.allow_commands = false);
    let failure = farm.failure(shell("true")).await;
    assert_eq!(failure.kind, FailureKind::Unsupported);
}

/// A parent and a child that both ignore SIGTERM.
const STUBBORN: &str = r#"trap '' TERM; (trap "" TERM; sleep 600; :) &
    echo pictor: progress 0.5 waiting; wait; sleep 600"#;

#[tokio::test]
async fn a_timeout_ends_the_whole_tree() {
    let mut farm = TestFarm::start();
    let mut brief = sleeper(STUBBORN, farm.folder.path());
    brief.timeout = Some(Millis(300));
    let started = Instant::now();
    farm.assign(brief, [0]);
    let processes = farm.sleeping().await;
    let Outcome::Failed(failure) = farm.ended().await.remove(0).outcome else {
        panic!("a failure")
    };
    assert!(started.elapsed() < Duration::from_millis(2300), "{:?}", started.elapsed());
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(failure.message.contains("its `timeout` of 300ms"), "{failure:?}");
    all_gone(&processes, started + Duration::from_millis(2300)).await;
}

#[tokio::test]
async fn a_cancel_ends_the_whole_tree_within_two_seconds() {
    let mut farm = TestFarm::start();
    farm.assign(sleeper(STUBBORN, farm.folder.path()), [0]);
    let What::Progress { task, fraction, message } = farm.report().await else {
        panic!("progress")
    };
    assert_eq!((task, fraction, &*message), (first_try(0), 0.5, "waiting"));
    let processes = farm.sleeping().await;
    let started = Instant::now();
    farm.cancel([0]);
    assert_eq!(farm.ended().await[0].outcome, Outcome::Cancelled);
    eprintln!("a stubborn tree: cancelled in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(2));
    all_gone(&processes, started + Duration::from_secs(2)).await;
    farm.assign(shell("echo pictor: progress 0.1 up; exec sleep 600"), [1]);
    assert!(matches!(farm.report().await, What::Progress { .. }));
    let started = Instant::now();
    farm.cancel([1]);
    assert_eq!(farm.ended().await[0].outcome, Outcome::Cancelled);
    eprintln!("an obedient program: cancelled in {:?}", started.elapsed());
}

#[tokio::test]
async fn silence_is_not_progress() {
    let mut farm = TestFarm::start();
    let mut brief = shell("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done; exec sleep 600");
    brief.stalled = Some(Millis(400));
    farm.assign(brief, [0]);
    let end = farm.ended().await.remove(0);
    assert!(end.took_ms >= 900, "{end:?}");
    let Outcome::Failed(failure) = end.outcome else { panic!("{end:?}") };
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(failure.message.contains("no sign of life for its `stalled` of 400ms"), "{failure:?}");
    assert!(failure.message.ends_with("5\n6"), "{failure:?}");
}

/// Not a test by itself: the victim of the next one, which tells it where to leave its traces.
#[tokio::test]
async fn victim() {
    let Ok(folder) = std::env::var("PICTOR_TEST_FOLDER") else { return };
    let mut farm = TestFarm::start();
    farm.assign(sleeper(STUBBORN, Path::new(&folder)), [0]);
    farm.ended().await;
}

#[tokio::test]
async fn a_killed_pictor_leaves_no_program_behind() {
    let farm = TestFarm::start();
    let mut victim = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim"])
        .env("PICTOR_TEST_FOLDER", farm.folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let processes = farm.sleeping().await;
    assert!(processes.iter().all(|process| !is_gone(process)));
    victim.kill().await.unwrap();
    all_gone(&processes, Instant::now() + Duration::from_secs(10)).await;
}

/// Processes end some time after the signal that kills them.
async fn all_gone(processes: &[String], by: Instant) {
    let gone = async {
        while !processes.iter().all(|process| is_gone(process)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout_at(by, gone).await.expect("no orphans");
}

#[tokio::test]
async fn a_command_reaches_neither_the_worker_nor_other_tasks_and_ends_with_its_task() {
    let mut farm = TestFarm::start();
    let data = farm.folder.path().join("data").canonicalize().unwrap();
    let other = data.join("scratch/7/0/run-0/made/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("frame"), "the frame of somebody else").unwrap();
    std::fs::write(data.join("worker.json"), "the token").unwrap();
    let script = format!(
        r"cat {data}/worker.json {data}/scratch/7/0/run-0/made/other/frame /etc/shadow /proc/{pid}/environ 2> /dev/null
           (echo x > {data}/planted) 2> /dev/null; rm -rf {data}/worker.json 2> /dev/null
           (setsid sh -c 'while sleep 0.05; do echo alive >> beat; done' &) &
           while [ ! -s beat ]; do sleep 0.01; done; env",
        data = data.display(),
        pid = std::process::id(),
    );
    let products = farm
        .products(command(&["bash", "-c", &format!("({script}) > said"), "-"], &[("said", "said")]))
        .await;
    let said = std::fs::read_to_string(farm.artifact(&products.outputs[0])).unwrap();
    for secret in ["the token", "somebody else", "root:", "CARGO"] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    assert!(!data.join("planted").exists() && data.join("worker.json").exists());
    let lives = |entry: std::fs::DirEntry| {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("echo alive >> beat")
    };
    assert!(!std::fs::read_dir("/proc").unwrap().flatten().any(lives));
}

#[tokio::test]
async fn a_result_with_another_name_may_be_anybodys_file() {
    let mut farm = TestFarm::start();
    for (link, why) in [("ln real out", "other names"), ("ln -s /etc/passwd out", "link")] {
        let script = format!("echo a > real; {link}");
        let failure = farm.failure(command(&["sh", "-c", &script], &[("out", "out")])).await;
        assert_eq!(failure.kind, FailureKind::BadOutput, "{failure:?}");
        assert!(failure.message.contains(why), "{failure:?}");
    }
}
