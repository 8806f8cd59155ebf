//! Programs that try to get out, in every sandbox that this machine has.

use super::*;
use std::net::TcpListener;
use std::process::Stdio;
use tempfile::TempDir;

/// What a worker's folder looks like to one of its tasks.
struct Worker(TempDir);

impl Worker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("worker.json", "the token"),
            ("scratch/0/other/frame.exr", "the frame of somebody else"),
            ("scratch/0/mine/a", "mine"),
            ("input/scene", "the scene"),
        ] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn needs(&self) -> Confinement {
        let needs = Confinement::default().reads(self.0.path().join("input"));
        needs.writes(self.0.path().join("scratch/0/mine"))
    }

    /// Runs a script of `bash` and returns what it prints. `$0` is the worker's folder.
    async fn run(&self, sandbox: &Sandbox, script: &str, needs: &Confinement) -> String {
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).arg(self.0.path());
        let mut program = prepare_in(sandbox, &command, needs).unwrap();
        program.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = program.start().unwrap().wait_with_output().await.unwrap();
        let errors = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success(), "{sandbox:?}: {errors}");
        String::from_utf8(ended.stdout).unwrap()
    }
}

/// The sandboxes of this machine. Where it has no namespaces, only Landlock is tested.
fn sandboxes() -> Vec<Sandbox> {
    let full = bubblewrap::usable()
        .map(|program| Sandbox::Bubblewrap(program, restrict::CallsFile::new().unwrap()));
    let full = full.inspect_err(|why| eprintln!("only Landlock is tested: {why}")).ok();
    let landlock = restrict::is_usable().ok().map(|()| Sandbox::Landlock("of a test".into()));
    let found: Vec<_> = full.into_iter().chain(landlock).collect();
    assert!(!found.is_empty(), "this machine has no sandbox at all");
    found
}

#[tokio::test]
async fn a_program_sees_its_own_files_and_nothing_else() {
    let worker = Worker::new();
    let script = r#"
        cat "$0/input/scene" "$0/scratch/0/mine/a" && echo more > "$0/scratch/0/mine/b" && echo " read"
        pwd; echo "$HOME"
        for file in "$0/worker.json" "$0/scratch/0/other/frame.exr" /etc/passwd /etc/shadow ~root/.profile \
                    "/proc/PID/environ" "/proc/PID/root/etc/passwd" /root/.bashrc; do
          cat "$file" 2> /dev/null && echo "READ $file"
        done
        for file in "$0/worker.json" "$0/input/scene" "$0/input/new" "$0/new" /usr/new /etc/new /root/new /dev/shm/../new; do
          { echo x > "$file"; } 2> /dev/null
        done
        chmod 600 "$0/input/scene" 2> /dev/null && { echo x > "$0/input/scene"; } 2> /dev/null && echo "CHANGED"
        ln "$0/worker.json" "$0/scratch/0/mine/linked" 2> /dev/null && cat "$0/scratch/0/mine/linked" && echo "LINKED"
        env | cut -d= -f1 | sort | tr '\n' ' '
    "#;
    let script = script.replace("PID", &std::process::id().to_string());
    for sandbox in sandboxes() {
        let said = worker.run(&sandbox, &script, &worker.needs()).await;
        let folder = worker.0.path().canonicalize().unwrap().join("scratch/0/mine");
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("the scenemine read"), "{sandbox:?}: {said}");
        assert_eq!(lines.next().map(Path::new), Some(&*folder), "{said}");
        assert_eq!(lines.next().map(Path::new), Some(&*folder), "{said}");
        let left: Vec<&str> = lines.collect();
        assert_eq!(left.len(), 1, "{sandbox:?}: {said}");
        let known = [
            "HOME",
            "LANG",
            "LC_ALL",
            "LD_LIBRARY_PATH",
            "OLDPWD",
            "PATH",
            "PWD",
            "SHLVL",
            "TMPDIR",
            "TZ",
            "_",
        ];
        let foreign = left[0].split(' ').find(|name| !name.is_empty() && !known.contains(name));
        assert_eq!(foreign, None, "{said}");
        assert!(!folder.join("linked").exists());
        // Elsewhere it may have written to a folder in memory that only it sees.
        let root = worker.0.path();
        let text = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
        assert_eq!((&*text("worker.json"), &*text("input/scene")), ("the token", "the scene"));
        for place in [root, &root.join("input"), Path::new("/usr"), Path::new("/etc")] {
            assert!(!place.join("new").exists(), "{sandbox:?}: {}", place.display());
        }
    }
}

#[tokio::test]
async fn a_program_connects_to_nobody_unless_it_may() {
    let worker = Worker::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("(: > /dev/tcp/127.0.0.1/{port}) 2> /dev/null && echo connected; :");
    for sandbox in sandboxes() {
        let mut needs = worker.needs();
        assert_eq!(worker.run(&sandbox, &script, &needs).await, "", "{sandbox:?}");
        needs.network = true;
        assert_eq!(worker.run(&sandbox, &script, &needs).await, "connected\n", "{sandbox:?}");
    }
}

#[tokio::test]
async fn system_calls_of_administrators_do_not_exist() {
    let worker = Worker::new();
    let calls = [libc::SYS_mount, libc::SYS_unshare, libc::SYS_ptrace, libc::SYS_bpf]
        .into_iter()
        .chain([libc::SYS_keyctl, libc::SYS_userfaultfd, libc::SYS_io_uring_setup])
        .map(|call| call.to_string());
    let script = format!(
        "/usr/bin/python3 -c 'import ctypes, errno\n\
         lib = ctypes.CDLL(None, use_errno=True)\n\
         for call in [{}]:\n\
         \x20   print(lib.syscall(call, 0, 0, 0, 0, 0), errno.errorcode[ctypes.get_errno()])'\n\
         unshare -U true 2> /dev/null && echo NAMESPACE; ulimit -c",
        calls.collect::<Vec<_>>().join(", ")
    );
    for sandbox in sandboxes() {
        let said = worker.run(&sandbox, &script, &worker.needs()).await;
        assert_eq!(said, format!("{}0\n", "-1 ENOSYS\n".repeat(7)), "{sandbox:?}");
    }
}

#[tokio::test]
async fn other_processes_are_neither_seen_nor_reached() {
    let worker = Worker::new();
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let script = format!(
        "kill -9 {} 2> /dev/null && echo KILLED; kill -0 {} 2> /dev/null && echo REACHED; :",
        other.id(),
        std::process::id()
    );
    for sandbox in sandboxes() {
        let said = worker.run(&sandbox, &script, &worker.needs()).await;
        assert_eq!(said, "", "{sandbox:?}");
        assert!(other.try_wait().unwrap().is_none());
    }
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_from_one_that_may_not_run() {
    let worker = Worker::new();
    let kind = |name: &str| prepare(&Command::new(name), &worker.needs()).unwrap_err().kind();
    assert_eq!(kind("pictor-knows-no-such-program"), io::ErrorKind::NotFound);
    assert_eq!(kind("./missing"), io::ErrorKind::NotFound);
    assert_eq!(kind("./a"), io::ErrorKind::PermissionDenied);
}

/// Where the system lets us make groups, as it does on a machine where we are root, and in few containers.
#[tokio::test]
async fn memory_and_processes_run_out_for_the_program_alone() {
    let limited = groups::limited();
    let worker = Worker::new();
    let limits = |sandbox: &Sandbox, script: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script]);
        let mut program = prepare_in(sandbox, &command, &worker.needs()).unwrap();
        program.groups = Groups::with(256 << 20, 100);
        if program.in_namespaces {
            program.command.env(GROUPS, program.groups.doors());
        }
        program.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        program.command.process_group(0);
        program
    };
    for sandbox in sandboxes() {
        if limited.contains("processes") {
            let bomb = "import os, time\nn = 0\ntry:\n  while os.fork(): n += 1\n  time.sleep(600)\n\
                        except OSError: print(n, flush=True); os.kill(0, 9)";
            let mut program = limits(&sandbox, bomb);
            let ended = program.start().unwrap().wait_with_output().await.unwrap();
            let count: u32 = String::from_utf8(ended.stdout).unwrap().trim().parse().unwrap();
            assert!((40..100).contains(&count), "{sandbox:?}: {count}");
        }
        if limited.contains("memory") {
            let mut program = limits(&sandbox, "all = b'x' * (1 << 30); print(len(all))");
            let ended = program.start().unwrap().wait_with_output().await.unwrap();
            assert!(!ended.status.success() && ended.stdout.is_empty(), "{sandbox:?}: {ended:?}");
        }
    }
    if limited.is_empty() {
        eprintln!("not tested: this system lets us make no control groups");
    }
}

#[test]
fn a_worker_does_not_keep_its_secrets_where_everybody_may_read() {
    let hidden = tempfile::tempdir().unwrap();
    let open = Path::new("/usr/share");
    for sandbox in sandboxes() {
        assert!(sandbox.check_hides(hidden.path()).is_ok());
        let why = sandbox.check_hides(open).unwrap_err().to_string();
        assert!(why.contains("/usr") && why.contains("`--data`"), "{why}");
    }
    assert!(Sandbox::Nothing("of a test".into()).check_hides(open).is_ok());
}

#[test]
fn a_policy_is_one_of_three_words() {
    for policy in ["required", "preferred", "off"] {
        assert_eq!(policy.parse::<SandboxPolicy>().unwrap().to_string(), policy);
    }
    assert!("on".parse::<SandboxPolicy>().is_err());
}
