//! A folder with one server in it, and the lease that keeps the server alive.

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The script that ends the server; see there.
const KEEP: &str = include_str!("keep.sh");
/// Time limit for a server to start or to end, after which it counts as hung.
const LIMIT: Duration = Duration::from_mins(2);
/// Interval between checks for something that cannot notify us.
const LOOK: Duration = Duration::from_millis(20);

/// A folder of its own with the server in it.
#[derive(Debug)]
pub(crate) struct Instance {
    folder: PathBuf,
    /// The lock on the lease, held shared; `None` once released.
    lease: Option<File>,
    /// The keeper, if this process started it.
    keeper: Mutex<Option<Child>>,
}

impl Instance {
    /// Creates an empty folder that nobody else has, and takes a lease on it.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let root = root()?;
        // Sweeping looks for folders without a lease: none may be half created.
        let lock = File::create(root.join("lock"))?;
        lock.lock()?;
        sweep(&root)?;
        let folder = root.join(format!("{name}-{}", secret()?));
        // The user `postgres` has to enter it; others need not list it.
        fs::DirBuilder::new().mode(0o711).create(&folder)?;
        let lease = File::create(folder.join("lease"))?;
        lease.lock_shared()?;
        Ok(Self { folder, lease: Some(lease), keeper: Mutex::new(None) })
    }

    /// Takes a lease on a server that another process started. Returns `None` if that has ended.
    pub(crate) fn join(folder: PathBuf) -> Result<Option<Self>> {
        let Ok(lease) = File::open(folder.join("lease")) else { return Ok(None) };
        // Waits while a keeper ends its server.
        lease.lock_shared()?;
        let kept = folder.join("lease").exists();
        Ok(kept.then(|| Self { folder, lease: Some(lease), keeper: Mutex::new(None) }))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the server under a keeper that waits this long after the last user.
    pub(crate) fn start(&self, server: &Command, linger: Duration) -> Result<()> {
        let script = self.folder.join("keep.sh");
        fs::write(&script, KEEP)?;
        let _ = fs::remove_file(self.folder.join("pid"));
        let log = File::options().create(true).append(true).open(self.log())?;
        // A session of its own: what stops a test's process group must not stop the server.
        let mut keeper = Command::new("setsid");
        keeper.arg("sh").arg(script).arg(&self.folder).arg(linger.as_secs().to_string());
        keeper.arg(server.get_program()).args(server.get_args()).env_clear();
        for (name, value) in server.get_envs() {
            keeper.env(name, value.unwrap_or_default());
        }
        keeper.env("PATH", path()).env("LANG", "C.UTF-8").current_dir(&self.folder);
        keeper.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let keeper = keeper.spawn().context("cannot run setsid (package util-linux)")?;
        *self.keeper() = Some(keeper);
        Ok(())
    }

    /// Returns when the server answers; an error contains the end of its output.
    pub(crate) fn wait_until(&self, answers: impl Fn() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            let Err(error) = answers() else { return Ok(()) };
            let ended = self.pid().is_some_and(|pid| !runs(pid));
            if ended || start.elapsed() > LIMIT {
                let what = if ended { "ended" } else { "does not answer" };
                return Err(anyhow!("it {what}; it wrote:\n{}", self.written()).context(error));
            }
            sleep(LOOK);
        }
    }

    /// The server's process id, once the keeper has started it.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.folder.join("pid")).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// The server and all processes below it.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        self.pid().map(tree).unwrap_or_default()
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = kill_process(pid, signal);
        }
    }

    /// Stops every process of the server, and returns when none of their threads does anything any more: a signal alone
    /// takes a moment to reach the threads that are running.
    pub(crate) fn freeze(&self) -> Result<()> {
        let all = self.pid().map(tree_stopped).unwrap_or_default();
        let start = Instant::now();
        while !all.iter().all(|pid| is_stopped(*pid)) {
            if start.elapsed() > LIMIT {
                bail!("processes of {} do not stop", self.folder.display());
            }
            sleep(LOOK);
        }
        Ok(())
    }

    /// Kills every process of this instance, including the keeper, and returns when all are gone. The folder stays.
    pub(crate) fn kill(&self) -> Result<()> {
        let Some(mut keeper) = self.keeper().take() else { return Ok(()) };
        // A stopped process starts no more children while the others are looked for.
        let root = i32::try_from(keeper.id()).ok().and_then(Pid::from_raw);
        let all = root.map(tree_stopped).unwrap_or_default();
        for pid in &all {
            let _ = kill_process(*pid, Signal::KILL);
        }
        keeper.wait()?;
        self.wait_gone(&all)
    }

    /// Asks the server to end, and waits for that.
    pub(crate) fn ask_to_end(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("it does not run")?;
        kill_process(pid, signal).context("it does not run")?;
        let start = Instant::now();
        while runs(pid) {
            if start.elapsed() > LIMIT {
                bail!("it does not end; it wrote:\n{}", self.written());
            }
            sleep(LOOK);
        }
        self.kill()
    }

    /// Waits until all processes are gone. Every process of an instance holds `alive`, even one that has lost its
    /// parent, but releases it a moment before it ends.
    fn wait_gone(&self, killed: &[Pid]) -> Result<()> {
        let alive = File::open(self.folder.join("alive"))?;
        let start = Instant::now();
        while alive.try_lock().is_err() || killed.iter().any(|pid| runs(*pid)) {
            if start.elapsed() > LIMIT {
                bail!("killed processes of {} do not go away", self.folder.display());
            }
            sleep(LOOK);
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The end of what the server has written.
    pub(crate) fn written(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn keeper(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.lease = None;
        // An instance that another process started, or that was killed, has no keeper to wait for.
        if let Some(mut keeper) = self.keeper().take() {
            let _ = keeper.wait();
        }
        remove_if_idle(&self.folder);
    }
}

/// `target/servers`; if the user `postgres` could not enter that, a folder of root's in `/var/tmp`.
pub(crate) fn root() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let workspace = workspace.context("tests/servers lies in the workspace")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let mut root = workspace.join(target).join("servers");
    fs::create_dir_all(&root)?;
    let open = |folder: &Path| fs::metadata(folder).is_ok_and(|m| m.permissions().mode() & 1 != 0);
    if rustix::process::geteuid().is_root() && !root.ancestors().all(open) {
        root = "/var/tmp/pictor-servers".into();
        fs::create_dir_all(&root)?;
        if fs::metadata(&root)?.uid() != 0 {
            bail!("{} must belong to root", root.display());
        }
    }
    Ok(root)
}

/// Removes folders whose processes and users have all gone.
fn sweep(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root)? {
        remove_if_idle(&entry?.path());
    }
    Ok(())
}

/// Removes the folder of an instance without users and processes.
fn remove_if_idle(folder: &Path) {
    let Ok(lease) = File::open(folder.join("lease")) else { return };
    // Before the keeper has started there is no such file.
    let alive = File::open(folder.join("alive")).ok();
    if lease.try_lock().is_ok() && alive.is_none_or(|alive| alive.try_lock().is_ok()) {
        // A keeper may be removing it, too.
        let _ = fs::remove_dir_all(folder);
    }
}

/// A process and all below it.
fn tree(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// Like [`tree`], with each process stopped before its children are looked for.
fn tree_stopped(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        let _ = kill_process(pid, Signal::STOP);
        found.extend(children(pid));
        next += 1;
    }
    found
}

fn children(pid: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|t| fs::read_to_string(t.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    pids.filter_map(Pid::from_raw).collect()
}

/// Whether a process exists and is not a zombie.
pub(crate) fn runs(pid: Pid) -> bool {
    !matches!(state(format!("/proc/{pid}/stat").as_ref()), None | Some('Z' | 'X'))
}

/// Whether no thread of a process is running or runnable.
fn is_stopped(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .map(|thread| state(&thread.path().join("stat")))
        .all(|state| matches!(state, None | Some('T' | 'Z' | 'X')))
}

/// The state of a process or a thread, from its `stat` in `/proc`.
fn state(stat: &Path) -> Option<char> {
    let stat = fs::read_to_string(stat).ok()?;
    // The name in brackets may contain spaces and brackets.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// A PATH with all programs: a cron job's PATH lacks `sbin`.
pub(crate) fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// 64 random bits as text.
pub(crate) fn secret() -> Result<String> {
    Ok(format!("{:016x}", u64::from_le_bytes(random()?)))
}

/// Writes a file that only this user can read.
pub(crate) fn write_private(path: &Path, text: &[u8]) -> Result<()> {
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text)?)
}

/// A free loopback port below those that the kernel gives to outgoing connections, so that a server that is restarted
/// finds it free.
pub(crate) fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let port = 15_000 + u16::from_le_bytes(random()?) % 17_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 15000 and 32000")
}
