//! Runs programs: started in a process group of their own, with their output captured, and killed together with
//! everything that they started, wherever it went (`process/family.rs`). That happens when the program ends, when it is
//! stopped, and when its [`Group`] is dropped. If pictor itself is killed (`kill -9`), the watchdog does it: a small
//! shell script that reads the ids of the groups from a pipe, which the kernel closes when pictor dies. It kills these
//! groups, and every process with our mark.

mod family;
#[cfg(test)]
mod tests;

pub(crate) use family::settle;

use super::Confinement;
use super::sandbox::{Groups, prepare};
use crate::ground::failure::failure;
use crate::ground::lock;
use crate::ground::log::LogWriter;
use crate::ground::progress::StopSignal;
use family::{Family, OURS, Who, spawn_apart};
use pictor_tasks::message::{Failure, FailureKind};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, sleep, timeout};

/// The interval at which processes that are to end are checked, until they are gone.
const POLL: Duration = Duration::from_millis(10);
/// How long to wait for the last lines of a program that has ended.
const LAST_LINES: Duration = Duration::from_millis(300);
/// How long to wait for killed processes to end, and how long where nobody can wait.
const ENDING: Duration = Duration::from_secs(2);
const ENDING_AT_ONCE: Duration = Duration::from_millis(100);
/// How often starting a program is repeated while its file is being written.
const BUSY: u32 = 100;
/// The interval at which terminated processes that we have adopted are reaped.
const CLEAR_EVERY: Duration = Duration::from_secs(1);

/// A program and everything that it started.
#[derive(Debug)]
pub struct Group {
    child: Child,
    id: Pid,
    family: Family,
    live: bool,
    left: usize,
    /// Removed when all processes have ended.
    _groups: Groups,
}

impl Group {
    /// Starts a program as the leader of a new process group, in a sandbox with what it needs. Its standard input,
    /// output and error are connected to `pipes`.
    pub fn spawn(
        command: &Command,
        needs: &Confinement,
        [stdin, stdout, stderr]: [Stdio; 3],
    ) -> io::Result<Self> {
        let mut program = prepare(command, needs)?;
        program.command.stdin(stdin).stdout(stdout).stderr(stderr);
        // The watchdog first: from then on, a program's mark shows whose it is.
        watchdog();
        let (child, id, family) = family::spawn(&mut program)?;
        watch('+', id);
        Ok(Self { child, id, family, live: true, left: 0, _groups: program.groups })
    }

    /// The leader, whose pipes can be taken from it.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id of the program: that of the leader, unless it runs in namespaces that the leader made.
    pub fn program(&self) -> u32 {
        self.find_program()()
    }

    /// What finds that id as long as the leader runs.
    pub(crate) fn find_program(&self) -> impl Fn() -> u32 + use<> {
        let family = self.family;
        move || family.program().unsigned_abs()
    }

    /// The number of processes that the leader left behind when it ended.
    pub fn left_behind(&self) -> usize {
        self.left
    }

    /// Waits for the leader to end, then kills what it left behind. Cancel safe.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = loop {
            match timeout(CLEAR_EVERY, self.child.wait()).await {
                Ok(status) => break status?,
                Err(_) => family::clear_ended(),
            }
        };
        self.end().await;
        Ok(self.family.status(status))
    }

    /// Asks all processes to end (SIGTERM), and kills them after `grace` (SIGKILL).
    pub async fn stop(&mut self, grace: Duration) {
        if !self.live {
            return;
        }
        let deadline = Instant::now() + grace;
        if !grace.is_zero() {
            // Strays first: as long as their parents live, it is clear to whom they belong.
            let mut left = self.family.signal(Some(Signal::TERM), Who::Strays);
            // An error means that the group is gone already, which is fine.
            let group = Pid::from_raw(self.family.group()).unwrap_or(self.id);
            let _ = kill_process_group(group, Signal::TERM);
            while Instant::now() < deadline && (left > 0 || !self.leader_has_ended()) {
                sleep(POLL).await;
                left = self.family.signal(None, Who::All);
            }
        }
        self.end().await;
        let _ = timeout(LAST_LINES, self.child.wait()).await;
    }

    /// Kills what left the leader's process group, as a program does that is meant to keep running by itself.
    pub fn end_strays(&mut self) {
        if self.live {
            self.family.signal(Some(Signal::KILL), Who::Strays);
        }
    }

    fn leader_has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills all processes and waits until they are gone.
    async fn end(&mut self) {
        if !self.live {
            return;
        }
        let deadline = Instant::now() + ENDING;
        let mut left = self.kill();
        // In namespaces, what is left is ending already, with the process that kept them.
        self.left = if self.family.in_namespaces() { 0 } else { self.left.max(left) };
        while left > 0 && Instant::now() < deadline {
            sleep(POLL / 5).await;
            left = self.kill();
        }
        self.over(left == 0);
    }

    /// Sends SIGKILL to all live processes, and returns how many there were.
    fn kill(&mut self) -> usize {
        let left = self.family.signal(Some(Signal::KILL), Who::All);
        if !self.leader_has_ended() {
            // The group id cannot have been reused: the leader is a member until it has been waited for.
            let _ = kill_process_group(self.id, Signal::KILL);
        }
        left
    }

    fn over(&mut self, gone: bool) {
        if self.leader_has_ended() {
            self.family.leader_ended();
        }
        self.family.over(gone);
        self.live = false;
        watch('-', self.id);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.live {
            return;
        }
        let deadline = Instant::now() + ENDING_AT_ONCE;
        let mut left = self.kill();
        while left > 0 && Instant::now() < deadline {
            std::thread::sleep(POLL / 10);
            left = self.kill();
        }
        self.over(left == 0);
    }
}

/// Kills the groups that are still listed when its standard input closes, and every marked process: by the limit that
/// all of them inherited, or by a variable. A program that is just being started gets its mark a moment later, and
/// others start more while they are being killed, hence the repeated checks.
const WATCHDOG: &str = r#"
mark=${1:?}[0-9][0-9][0-9][0-9][0-9][0-9][0-9]
groups=' '
while read -r change id; do
  case "$change" in
    +) groups="$groups$id " ;;
    -) groups="${groups%% $id *} ${groups#* $id }" ;;
  esac
done
for id in $groups; do kill -s KILL -- "-$id" 2>/dev/null; done
for look in 1 2 3; do
  for file in $(grep -ls "^Max file locks  *$mark " /proc/[0-9]*/limits;
                grep -lzsx "PICTOR_WATCH=$mark" /proc/[0-9]*/environ); do
    id=${file#/proc/}
    kill -s KILL "${id%/*}" 2>/dev/null
  done
  sleep 0.1
done
"#;

/// The pipe to the watchdog, which is started with the first program. Without a shell there is none; that only matters
/// if pictor is killed.
fn watchdog() -> Option<&'static Mutex<ChildStdin>> {
    static PIPE: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", WATCHDOG, "watchdog", &OURS.to_string()]);
        shell.stdin(Stdio::piped());
        shell.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = spawn_apart(&mut shell).inspect_err(|error| {
            tracing::warn!(%error, "no watchdog: programs outlive a killed pictor");
        });
        child.ok()?.stdin.map(Mutex::new)
    });
    pipe.as_ref()
}

/// Adds a group to the watchdog's list, or removes it.
fn watch(change: char, id: Pid) {
    if let Some(pipe) = watchdog() {
        // If the watchdog was killed, programs are still ended as long as this process lives.
        let _ = lock(pipe).write_all(format!("{change} {}\n", id.as_raw_nonzero()).as_bytes());
    }
}

/// The parts of a task that a running program is connected to.
#[derive(Clone, Copy, Debug)]
pub struct Supervision<'a> {
    /// Receives the lines of its output.
    pub log: &'a LogWriter,
    /// Stops the program together with its task.
    pub stop: &'a StopSignal,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
}

/// Runs a program for a task and writes its output to the task's log as it comes. Lines of its standard output go to
/// `on_line` first, which decides whether they belong in the log. Stopped with the task.
pub async fn run(
    task: Supervision<'_>,
    command: &Command,
    needs: &Confinement,
    on_line: &mut (dyn FnMut(&str) -> bool + Send),
) -> Result<ExitStatus, Failure> {
    let mut tries = 0;
    let mut group = loop {
        match Group::spawn(command, needs, [Stdio::null(), Stdio::piped(), Stdio::piped()]) {
            // Another program that is being started holds, for a moment, the file that we just wrote.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY => {
                tries += 1;
                sleep(POLL).await;
            }
            spawned => break spawned.map_err(|error| spawn_failure(command, &error))?,
        }
    };
    let (stdout, stderr) = (group.child().stdout.take(), group.child().stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        return Err(failure(FailureKind::Failed, "A program started without its pipes."));
    };
    let mut pumps = Box::pin(async {
        let mut both = |line: &str| {
            if on_line(line) {
                task.log.line(line);
            }
        };
        let mut log = |line: &str| task.log.line(line);
        tokio::join!(lines(stdout, &mut both), lines(stderr, &mut log))
    });
    let mut open = true;
    let status = loop {
        tokio::select! {
            status = group.wait() => break status,
            _ = &mut pumps, if open => open = false,
            _ = task.stop.stopped() => {
                let grace = task.grace;
                let rest = async { if open { let _ = timeout(grace + LAST_LINES, pumps).await; } };
                tokio::join!(group.stop(grace), rest);
                return Err(task.stop.failure());
            }
        }
    };
    if open {
        let _ = timeout(LAST_LINES, pumps).await;
    }
    if group.left_behind() > 0 {
        let left = group.left_behind();
        task.log
            .line(&format!("pictor: the program left {left} processes behind; they were ended"));
    }
    status.map_err(|error| failure(FailureKind::Failed, format!("Waiting for a program: {error}.")))
}

/// The output of a program within a time limit, or the error that prevented it.
pub(crate) async fn output(
    command: &Command,
    needs: &Confinement,
    limit: Duration,
) -> io::Result<String> {
    let (text, ended) = transcript(command, needs, limit).await?;
    ended.map(|()| text)
}

/// The output of a program until it ends or its time is up, and whether it succeeded.
pub(crate) async fn transcript(
    command: &Command,
    needs: &Confinement,
    limit: Duration,
) -> io::Result<(String, io::Result<()>)> {
    let pipes = [Stdio::null(), Stdio::piped(), Stdio::null()];
    let mut group = Group::spawn(command, needs, pipes)?;
    let stdout = group.child().stdout.take();
    let stdout = stdout.ok_or_else(|| io::Error::other("a program without its pipe"))?;
    let mut text = Vec::new();
    let read = async {
        stdout.take(1 << 20).read_to_end(&mut text).await?;
        let status = group.wait().await?;
        status.success().then_some(()).ok_or_else(|| io::Error::other(exit_sentence(status)))
    };
    let ended = timeout(limit, read).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    Ok((String::from_utf8_lossy(&text).into_owned(), ended))
}

/// Passes the lines of a pipe to `on_line` as they come. A carriage return ends a line too, so that progress bars are
/// seen; a line that is too long is passed in pieces.
pub async fn lines(mut pipe: impl AsyncRead + Unpin, on_line: &mut (dyn FnMut(&str) + Send)) {
    let (mut buffer, mut after_return) = (Vec::with_capacity(8 << 10), false);
    // A pipe that cannot be read counts as closed.
    while pipe.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        let mut start = 0;
        while let Some(length) = buffer[start..].iter().position(|b| matches!(b, b'\n' | b'\r')) {
            let end = start + length;
            let is_second_half = after_return && length == 0 && buffer[end] == b'\n';
            if !is_second_half {
                on_line(&String::from_utf8_lossy(&buffer[start..end]));
            }
            after_return = buffer[end] == b'\r';
            start = end + 1;
        }
        buffer.drain(..start);
        if buffer.len() >= crate::ground::log::LINE_BYTES_MAX {
            on_line(&String::from_utf8_lossy(&buffer));
            buffer.clear();
        }
        // A program that floods its output must not keep us from noticing a stop.
        tokio::task::yield_now().await;
    }
    if !buffer.is_empty() {
        on_line(&String::from_utf8_lossy(&buffer));
    }
}

/// The failure for a program that could not be started.
pub(crate) fn spawn_failure(command: &Command, error: &io::Error) -> Failure {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let folder = command.as_std().get_current_dir();
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        let message = format!("The folder {} to run `{program}` in is gone.", folder.display());
        return failure(FailureKind::Storage, message);
    }
    match error.kind() {
        io::ErrorKind::NotFound => {
            let hint = crate::programs::how_to_get(&program);
            let message = format!("The program `{program}` is not on this worker. {hint}");
            failure(FailureKind::Unsupported, message)
        }
        io::ErrorKind::PermissionDenied => {
            let message =
                format!("`{program}` cannot be run on this worker: it is not executable.");
            failure(FailureKind::Unsupported, message)
        }
        io::ErrorKind::ArgumentListTooLong => {
            let message = format!("The arguments of `{program}` are too long for this system.");
            failure(FailureKind::Invalid, message)
        }
        _ => failure(FailureKind::Failed, format!("`{program}` could not be started: {error}.")),
    }
}

/// How a program ended, as a phrase to follow its name: `exited with code 3`.
pub fn exit_sentence(status: ExitStatus) -> String {
    if let Some(code) = status.code() {
        return match code {
            126 => "exited with code 126 (a program that it calls is not executable)".into(),
            127 => "exited with code 127 (a program that it calls was not found)".into(),
            _ => format!("exited with code {code}"),
        };
    }
    let signal = status.signal().unwrap_or_default();
    let name = match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL), often because the processor lacks what the program was built for",
        6 => " (SIGABRT): it gave up by itself",
        7 => " (SIGBUS), often because a disk or memory was full",
        8 => " (SIGFPE)",
        9 => " (SIGKILL), often because memory ran out",
        11 => " (SIGSEGV): it crashed",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU): its processor time is limited",
        25 => " (SIGXFSZ): the size of its files is limited",
        _ => "",
    };
    format!("was killed by signal {signal}{name}")
}

/// The failure for a program that did not succeed, with its last lines.
pub(crate) fn program_failure(log: &LogWriter, program: &str, status: ExitStatus) -> Failure {
    let (how, tail) = (exit_sentence(status), log.tail());
    let tail = if tail.is_empty() { String::new() } else { format!(" Its last lines:\n{tail}") };
    failure(FailureKind::Failed, format!("`{program}` {how}.{tail}"))
}
