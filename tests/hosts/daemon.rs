//! A `pictor serve` or `pictor work` on a host: it is started, killed or frozen, and started again.

use super::network::Host;
use crate::support::cache;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;

/// A program that is meant to run all the time.
pub(crate) struct Daemon {
    pub(crate) host: Arc<Host>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Prepares the program without starting it. Its output goes to the file `log`.
    pub(crate) fn new(host: Arc<Host>, arguments: Vec<String>, log: PathBuf) -> Self {
        Self { host, arguments, environment: Vec::new(), log, child: None }
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "it was started");
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.host.command(env!("CARGO_BIN_EXE_pictor"));
        for variable in ["PICTOR_DATA", "PICTOR_SERVER", "DISPLAY"] {
            command.env_remove(variable);
        }
        command.env("XDG_CACHE_HOME", cache());
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        // lapin logs each lost connection as an error, several times.
        command.env("PICTOR_LOG", "info,lapin=off");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Its process id, if it is running.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.id().try_into().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid().expect("it runs")).unwrap(), signal).unwrap();
    }

    /// Kills it by `kill -9`; it must not have ended before.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let ended = child.try_wait().unwrap();
        assert_eq!(ended, None, "it ended by itself:\n{}", self.said());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGTERM, and waits for its end.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let ended = self.child.take().expect("it runs").wait().unwrap();
        assert!(ended.success(), "{ended}:\n{}", self.said());
    }

    /// Waits for its end; it must report a failure.
    pub(crate) fn fails(&mut self) {
        let ended = self.child.take().expect("it runs").wait().unwrap();
        assert_eq!(ended.code(), Some(1), "{}", self.said());
    }

    /// How often these words occur in its output.
    pub(crate) fn times(&self, words: &str) -> usize {
        std::fs::read_to_string(&self.log).unwrap_or_default().matches(words).count()
    }

    /// Its output so far, or the end of it.
    pub(crate) fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("{}\n{}", self.log.display(), lines[lines.len().saturating_sub(100)..].join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
