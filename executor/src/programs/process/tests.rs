//! Programs that leave something behind, each in a different way.

use super::*;

#[tokio::test]
async fn lines_end_at_newlines_and_carriage_returns_and_are_cut_when_too_long() {
    let long = "x".repeat(200 << 10);
    let text = format!("a\r\n\nb 1\rb 2\r\n{long}\nc\u{fffd}");
    let mut found = Vec::new();
    lines(text.as_bytes(), &mut |line| found.push(line.to_owned())).await;
    assert_eq!(found[..4], ["a", "", "b 1", "b 2"]);
    assert_eq!(found.last().unwrap(), "c\u{fffd}");
    assert!(found[4..found.len() - 1].iter().all(|line| line.len() < 130 << 10));
    assert_eq!(found[4..found.len() - 1].concat(), long);
}

/// Scripts that leave a process behind whose id is in the file `$1`, each in a different way.
const LEAVERS: [&str; 9] = [
    r#"sh -c 'echo $$ > "$0"; exec sleep 600' "$1" &"#,
    r#"set -m; sh -c 'echo $$ > "$0"; exec sleep 600' "$1" &"#,
    r#"timeout 600 sh -c 'echo $$ > "$0"; exec sleep 600' "$1" &"#,
    r#"setsid sh -c 'echo $$ > "$0"; exec sleep 600' "$1" &"#,
    r#"nohup sh -c 'trap "" TERM HUP INT; echo $$ > "$0"; sleep 600' "$1" > /dev/null &"#,
    r#"(setsid sh -c '(sh -c "echo \$\$ > $0; exec sleep 600" &)' "$1" &)"#,
    r#"script -qc "echo \$\$ > $1; exec sleep 600" /dev/null > /dev/null &"#,
    // All that is known of it is that it was started from here.
    r#"(env -i setsid sh -c 'cd /; (sh -c "echo \$\$ > $0; exec sleep 600" &)' "$1" &)"#,
    // Not even that; only whose descendant it is.
    r#"(ulimit -S -x unlimited; env -i setsid sh -c 'echo $$ > "$0"; exec sleep 600' "$1"; :) &"#,
];

/// Starts a program without sandbox, which would end everything by itself.
fn spawn(command: &Command) -> Group {
    let pipes = [Stdio::null(), Stdio::inherit(), Stdio::inherit()];
    Group::spawn(command, &Confinement::trusted(), pipes).unwrap()
}

/// Runs a script that leaves a process behind; once that exists, the script ends or waits.
fn leaver(script: &str, file: &std::path::Path, then: &str) -> Group {
    let wait = r#"while [ ! -s "$1" ]; do sleep 0.01; done"#;
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{script}\n{wait}\n{then}"), "bash"]).arg(file);
    spawn(&command)
}

async fn number(file: &std::path::Path) -> Pid {
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some(id) = text.strip_suffix('\n').and_then(|id| Pid::from_raw(id.parse().ok()?)) {
            return id;
        }
        sleep(POLL).await;
    }
}

fn lives(id: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it_wherever_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = spawn(Command::new("sleep").arg("600"));
    for (nth, script) in LEAVERS.iter().enumerate() {
        for (how, then) in [("ended", "exit 3"), ("stopped", "sleep 600"), ("dropped", "wait")] {
            let file = folder.path().join(format!("{nth}-{how}"));
            let mut group = leaver(script, &file, then);
            let left = number(&file).await;
            match how {
                "ended" => {
                    assert_eq!(group.wait().await.unwrap().code(), Some(3), "{script}");
                    assert!(group.left_behind() > 0, "{script}");
                }
                "stopped" => {
                    let before = Instant::now();
                    group.stop(Duration::from_millis(200)).await;
                    assert!(before.elapsed() < Duration::from_secs(2), "{script}");
                }
                _ => drop(group),
            }
            assert!(!lives(left), "{how}: {script}");
        }
    }
    assert!(other.child().try_wait().unwrap().is_none(), "another program is let alone");
    let late = output(
        Command::new("sleep").arg("600"),
        &Confinement::default(),
        Duration::from_millis(50),
    )
    .await;
    assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn what_leaves_the_group_of_a_program_that_goes_on_can_be_ended_alone() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["stray", "helper"].map(|name| folder.path().join(name));
    let script = format!("{}\n{}", LEAVERS[3], LEAVERS[0].replace("$1", "$2"));
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{script}\nwait"), "bash"]).args(&files);
    let mut group = spawn(&command);
    let (stray, helper) = (number(&files[0]).await, number(&files[1]).await);
    group.end_strays();
    while lives(stray) {
        sleep(POLL).await;
    }
    assert!(lives(helper) && group.child().try_wait().unwrap().is_none());
}

#[test]
fn the_watchdog_ends_only_groups_that_are_still_listed_and_what_is_marked() {
    let sleeper = |command: &mut std::process::Command| {
        spawn_apart(command.arg("600").process_group(0)).unwrap()
    };
    let plain = || std::process::Command::new("sleep");
    let (mut kept, mut ended) = (sleeper(&mut plain()), sleeper(&mut plain()));
    let mark = format!("{:09}", 1_000_000_000 - std::process::id());
    let variable = format!("{mark}0000001");
    let mut marked = sleeper(plain().env(family::MARK, &variable));
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", &format!("ulimit -S -x {variable}; exec sleep \"$0\"")]);
    let mut limited = sleeper(&mut bash);
    let mut shell = std::process::Command::new("/bin/sh");
    // Without a mark it would match every process with an empty word in its environment.
    let refused = std::process::Command::new("/bin/sh").args(["-c", WATCHDOG]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let shell = shell.args(["-c", WATCHDOG, "watchdog", &mark]);
    let mut shell = shell.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = shell.stdin.take().unwrap();
    write!(pipe, "+ {}\n+ {}\n- {}\n", kept.id(), ended.id(), kept.id()).unwrap();
    drop(pipe);
    for child in [&mut ended, &mut marked, &mut limited] {
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    shell.wait().unwrap();
    assert_eq!(kept.try_wait().unwrap(), None);
    kept.kill().unwrap();
    kept.wait().unwrap();
}
