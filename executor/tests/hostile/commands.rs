//! `command` steps.

use crate::farm::{LIMIT, TestFarm, command, is_gone, shell, sleeper};
use pictor_tasks::message::{FailureKind, Outcome};
use pictor_tasks::units::{Bytes, Millis};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::time::Instant;

/// The folder of the slot in these tests.
fn slot(farm: &TestFarm) -> PathBuf {
    farm.folder.path().join("data/scratch/7/0")
}

/// The next task on that slot works, and nothing is left of those before it.
async fn all_is_well(farm: &mut TestFarm) {
    let script = "ls -A > said; echo fine >> said";
    let products = farm.products(command(&["sh", "-c", script], &[("said", "said")])).await;
    let said = std::fs::read_to_string(farm.artifact(&products.outputs[0])).unwrap();
    assert_eq!(said, ".bind\nsaid\nfine\n");
    let slot = slot(farm);
    let empty = async {
        while std::fs::read_dir(&slot).unwrap().count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, empty).await.expect("nothing is left");
}

#[tokio::test]
async fn a_storm_of_processes_ends_with_its_task() {
    let mut farm = TestFarm::start();
    let storm = r"trap '' TERM HUP; i=0; while [ $i -lt 150 ]; do
        (setsid sh -c 'trap : TERM; (sleep 600 &); sleep 600' > /dev/null 2>&1 &) & i=$((i+1)); done; exec sleep 600";
    let mut brief = sleeper(storm, farm.folder.path());
    brief.timeout = Some(Millis(3_000));
    farm.assign(brief, [0]);
    let processes = farm.sleeping().await;
    let Outcome::Failed(failure) = farm.ended().await.remove(0).outcome else {
        panic!("it runs into its limit")
    };
    assert_eq!(failure.kind, FailureKind::TimedOut);
    assert!(processes.iter().all(|process| is_gone(process)));
    let left = |entry: &std::fs::DirEntry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let folder = farm.folder.path().as_os_str().as_encoded_bytes();
        environment.windows(folder.len()).any(|part| part == folder)
    };
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(left).count();
    assert_eq!(left, 0, "a process outlives its task");
    all_is_well(&mut farm).await;
}

#[tokio::test]
async fn folders_that_resist_are_removed() {
    let mut farm = TestFarm::start();
    // Deeper than there are descriptors, and than a path may be long.
    let script = r#"
import os, socket
for name in ["-rf", "a\nb", "\x1b[2J", "\x1b]52;c;cGljdG9y\x07", "*", "$(reboot)", " ", "..."]:
    os.mkdir(name); open(os.path.join(name, "file"), "w").close()
os.symlink("/", "root"); os.symlink("..", "up"); os.mkfifo("pipe")
os.mkdir("closed"); os.mkdir("closed/in"); open("closed/in/file", "w").close(); os.chmod("closed/in", 0); os.chmod("closed", 0)
socket.socket(socket.AF_UNIX).bind("socket")
for number in range(1500):
    os.mkdir("d" * 100); os.chdir("d" * 100)
"#;
    farm.products(command(&["python3", "-c", script], &[])).await;
    all_is_well(&mut farm).await;
}

#[tokio::test]
async fn names_of_files_are_names_and_nothing_else() {
    let mut farm = TestFarm::start();
    for (name, shown) in [
        ("a ", "out/a `"),
        ("a\nb", "a\\nb"),
        ("\u{1b}[2J", "\\u{1b}[2J"),
        ("\u{1b}]52;c;cGljdG9y\u{7}", "\\u{1b}]52"),
    ] {
        let words = ["python3", "-c", "import os, sys; os.mkdir('out'); open(sys.argv[1], 'w')"];
        let file = format!("out/{name}");
        let brief = command(&[&words[..], &[&file]].concat(), &[("out", "out")]);
        let failure = farm.failure(brief).await;
        assert_eq!(failure.kind, FailureKind::BadOutput);
        assert!(failure.message.contains(shown), "{failure:?}");
        assert!(!failure.message.contains(char::is_control), "{failure:?}");
    }
    let script = "mkdir out; for name in -rf '*' '$(reboot)' ' a'; do echo a > \"out/$name\"; done";
    let products = farm.products(command(&["sh", "-c", script], &[("out", "out")])).await;
    let names: Vec<_> = products.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["out/ a", "out/$(reboot)", "out/*", "out/-rf"]);
    all_is_well(&mut farm).await;
}

#[tokio::test]
async fn the_values_of_a_dimension_are_the_program_s_own() {
    let mut farm = TestFarm::start();
    let secret = farm.folder.path().join("data/worker.json");
    std::fs::write(&secret, "the-token").unwrap();
    for script in [
        format!("ln -s {} {{bind.name}}", secret.display()),
        format!("rmdir .bind; ln -s {} .bind", secret.parent().unwrap().display()),
        "mkfifo {bind.name}".to_owned(),
        "ln -s /dev/zero {bind.name}".to_owned(),
        "mkdir {bind.name}".to_owned(),
        "echo a > a; ln a {bind.name}".to_owned(),
    ] {
        let mut brief = shell(&script);
        brief.binds = vec![if script.contains("rmdir") { "worker.json" } else { "name" }.into()];
        let failure = farm.failure(brief).await;
        assert_eq!(failure.kind, FailureKind::BadOutput, "{script}: {failure:?}");
        assert!(!failure.message.contains("the-token"), "{script}: {failure:?}");
    }
    all_is_well(&mut farm).await;
}

#[tokio::test]
async fn a_million_lines_are_a_log_of_bounded_size() {
    let mut farm = TestFarm::start();
    let started = Instant::now();
    let line = "x".repeat(70);
    let script =
        format!("yes '{line}' | head -n 1000000; printf '\\033]52;c;cGljdG9y\\007\\n'; exit 3");
    let failure = farm.failure(shell(&script)).await;
    eprintln!("a million lines: {:?}", started.elapsed());
    assert!(
        failure.message.len() < 10_000 && failure.message.contains("\\u{1b}]52;c;"),
        "{failure:?}"
    );
    let mut logs = Vec::new();
    walk(&farm.folder.path().join("data/logs"), &mut logs);
    let sizes: Vec<u64> = logs.iter().map(|log| log.metadata().unwrap().len()).collect();
    let [size] = sizes[..] else { panic!("one log: {logs:?}") };
    assert!((60 << 20..=64 << 20).contains(&size), "{size}");
    let end = std::fs::read(&logs[0]).unwrap();
    assert!(end.ends_with(b"pictor: the log is full; what follows is not kept\n"));
    all_is_well(&mut farm).await;
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

#[tokio::test]
async fn no_program_connects_to_anything() {
    let mut farm = TestFarm::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "curl -s -m 2 http://127.0.0.1:{port}/ ; curl -s -m 2 http://localhost:{port}/ ; \
         curl -s -m 2 http://169.254.169.254/latest/meta-data/ ; curl -s -m 2 file:///etc/passwd; echo $? > said"
    );
    let products = farm.products(command(&["sh", "-c", &script], &[("said", "said")])).await;
    let said = std::fs::read_to_string(farm.artifact(&products.outputs[0])).unwrap();
    // curl's number for a file that cannot be read.
    assert_eq!(said, "37\n");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    all_is_well(&mut farm).await;
}

/// A disk of its own, which is removed with the test.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that still uses the disk loses it when it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// As root, who may have a small disk.
#[tokio::test]
async fn a_task_that_fills_the_disk_is_ended_before_the_worker_has_no_room() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: only root can mount a small disk");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk(folder.path().to_owned());
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=96m", "pictor-test"]).arg(folder.path());
    assert!(mount.status().unwrap().success());
    let mut farm = TestFarm::start_with(|config| {
        config.data = folder.path().join("data");
        config.disk_left = Bytes(40 << 20);
    });
    // It could go on until there is no room at all.
    let filler = "head -c 60M /dev/zero > big; exec sleep 600";
    let failure = farm.failure(shell(filler)).await;
    assert_eq!(failure.kind, FailureKind::Storage);
    assert!(failure.message.contains("left less than"), "{failure:?}");
    // So do many small files.
    let many = "i=0; while :; do i=$((i+1)); head -c 1M /dev/zero > file$i; done";
    let failure = farm.failure(shell(many)).await;
    assert_eq!(failure.kind, FailureKind::Storage);
    let fine = farm.outcome(shell("head -c 30M /dev/zero > some")).await;
    assert!(matches!(fine, Outcome::Succeeded(_)), "{fine:?}");
    let room = rustix::fs::statvfs(folder.path()).unwrap();
    assert!(room.f_bavail * room.f_frsize > 90 << 20, "what they wrote is gone");
    drop(farm);
    drop(disk);
}
