//! What all servers have in common: to be started for everyone or for one user, and to be ill-treated.

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
/// Somebody may take a port between our look and the server's start.
const TRIES: u32 = 3;

/// One kind of server: what its clients must know, as stored beside the server for other processes.
pub(crate) trait Server: Serialize + DeserializeOwned {
    /// Names its folders.
    const NAME: &'static str;
    /// The signal that ends it in order.
    const END: Signal;

    /// Chooses ports and passwords, and writes all that the server needs into its folder.
    fn prepare(folder: &Path, configuration: &str) -> Result<Self>;
    /// What runs in the foreground.
    fn command(&self, folder: &Path) -> Result<Command>;
    /// Whether it serves requests.
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
    /// The one that the whole test run shares.
    pub(crate) fn shared() -> Result<Self> {
        let root = root()?;
        // Whoever comes second waits here until the first one's server answers.
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

    /// One of the caller's own.
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

    /// `kill -9` of all its processes at once; returns when they are gone.
    pub(crate) fn kill9(&self) -> Result<()> {
        self.own()?.kill()
    }

    /// Ends it in order.
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

/// Runs a program to its end and gives what it wrote.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let said = command.output().with_context(|| format!("cannot run {name}: `make setup`"))?;
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "{name} failed: {} {}", said.status, error.trim());
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// The value, or a panic with a sentence: a test without its server fails.
pub(crate) fn sure<T>(server: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{server}: {error:#}"))
}
