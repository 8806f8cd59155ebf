//! What all servers have in common: starting them for everyone or for one user, killing and freezing them.

use crate::instance::{Instance, root, write_private};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::{Serialize, de::DeserializeOwned};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a shared server waits for its next user.
const LINGER: Duration = Duration::from_secs(5);
/// Attempts to start a server, since a port may be taken between our check and the start.
const TRIES: u32 = 3;

/// One kind of server: what its clients must know, as stored beside the server for other processes.
pub(crate) trait Server: Serialize + DeserializeOwned {
    /// Prefix of its folders' names.
    const NAME: &'static str;
    /// The signal that ends it cleanly.
    const END: Signal;

    /// Chooses ports and passwords, and writes everything that the server needs into its folder.
    fn prepare(folder: &Path, configuration: &str) -> Result<Self>;
    /// The command that runs the server in the foreground.
    fn command(&self, folder: &Path) -> Result<Command>;
    /// Succeeds if the server serves requests.
    fn answers(&self) -> Result<()>;
}

/// A started server.
#[derive(Debug)]
pub(crate) struct Running<S> {
    pub(crate) server: S,
    pub(crate) instance: Instance,
    private: bool,
}

impl<S: Server> Running<S> {
    /// The server that the whole test run shares.
    pub(crate) fn shared() -> Result<Self> {
        let root = root()?;
        // A second process waits here until the first one's server answers.
        let lock = File::create(root.join(format!("{}.lock", S::NAME)))?;
        lock.lock()?;
        let current = root.join(format!("{}.current", S::NAME));
        if let Ok(folder) = fs::read_to_string(&current)
            && let Some(instance) = Instance::join(folder.into())?
            && let Ok(text) = fs::read(instance.folder().join("ready"))
            && let Ok(server) = serde_json::from_slice::<S>(&text)
            && server.answers().is_ok()
        {
            return Ok(Self { server, instance, private: false });
        }
        let running = Self::start("", LINGER)?;
        let folder = running.instance.folder();
        write_private(&folder.join("ready"), &serde_json::to_vec(&running.server)?)?;
        fs::write(&current, folder.as_os_str().as_encoded_bytes())?;
        Ok(Self { private: false, ..running })
    }

    /// A private server of the caller.
    pub(crate) fn private(configuration: &str) -> Result<Self> {
        Self::start(configuration, Duration::ZERO)
    }

    fn start(configuration: &str, linger: Duration) -> Result<Self> {
        let mut tried = 1;
        loop {
            let instance = Instance::create(S::NAME)?;
            let server = S::prepare(instance.folder(), configuration)?;
            instance.start(&server.command(instance.folder())?, linger)?;
            match instance.wait_until(|| server.answers()) {
                Ok(()) => return Ok(Self { server, instance, private: true }),
                Err(error) if tried == TRIES => return Err(error),
                Err(_) => tried += 1,
            }
        }
    }

    /// Kills all its processes at once by `kill -9`; returns when they are gone.
    pub(crate) fn kill9(&self) -> Result<()> {
        self.own()?.kill()
    }

    /// Stops the server cleanly.
    pub(crate) fn stop(&self) -> Result<()> {
        self.own()?.ask_to_end(S::END)
    }

    /// Starts it again after [`Self::kill9`] or [`Self::stop`], on the same port with the same data.
    pub(crate) fn start_again(&self) -> Result<()> {
        let instance = self.own()?;
        instance.kill()?;
        instance.start(&self.server.command(instance.folder())?, Duration::ZERO)?;
        instance.wait_until(|| self.server.answers())
    }

    pub(crate) fn freeze(&self) -> Result<()> {
        self.own()?.freeze()
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        self.own()?.signal(Signal::CONT);
        Ok(())
    }

    fn own(&self) -> Result<&Instance> {
        ensure!(self.private, "other tests use this server: take a private one");
        Ok(&self.instance)
    }
}

/// Runs a program to its end and returns its output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let said = command.output().with_context(|| format!("cannot run {name}: `make setup`"))?;
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "{name} failed: {} {}", said.status, error.trim());
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Unwraps the value, or panics with a sentence: a test without its server fails.
pub(crate) fn sure<T>(server: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{server}: {error:#}"))
}
