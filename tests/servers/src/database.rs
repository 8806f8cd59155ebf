//! Postgres servers for tests, shared or private.

use crate::instance::{free_port, path, runs, secret, write_private};
use crate::server::{Running, Server, run, sure};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// Databases of ended tests (8 MB each) that may be left before the next test removes them.
const LEFT: usize = 16;

/// A Postgres server. Its superuser is `pictor`; text is compared by the rules of English, not by bytes, as on typical
/// servers in use.
#[derive(Clone, Debug)]
pub struct Postgres(Arc<Running<Settings>>);

impl Postgres {
    /// The server that all tests of this run share.
    pub fn start() -> Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        let start = || Self(Arc::new(sure("Postgres does not start", Running::shared())));
        SHARED.get_or_init(start).clone()
    }

    /// A private server; it ends with the last clone of this value.
    pub fn private() -> Self {
        Self(Arc::new(sure("Postgres does not start", Running::private(""))))
    }

    /// The URL of the database `postgres` on this server.
    pub fn url(&self) -> String {
        self.0.server.url("postgres")
    }

    /// Creates an empty database and returns its URL. A later test removes it after this process has ended.
    pub fn database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{count}", std::process::id());
        let made = self.0.server.make_database(&name);
        sure("Postgres makes no database", made.map(|()| self.0.server.url(&name)))
    }

    /// Executes SQL with `psql` and returns the rows, with columns separated by `|`.
    pub fn query(&self, url: &str, sql: &str) -> String {
        sure("Postgres refused", psql(url, sql))
    }

    /// TCP port of the server, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.0.server.port
    }

    /// The processes of the server, the postmaster first.
    pub fn pids(&self) -> Vec<i32> {
        self.0.instance.processes().iter().map(|pid| pid.as_raw_nonzero().get()).collect()
    }

    /// The last lines that the server has written.
    pub fn said(&self) -> String {
        self.0.instance.written()
    }

    /// Kills all processes of a private server at once by `kill -9`; returns when they are gone.
    pub fn kill9(&self) {
        sure("Postgres is not killed", self.0.kill9());
    }

    /// Stops a private server cleanly, without waiting for its clients.
    pub fn stop(&self) {
        sure("Postgres does not stop", self.0.stop());
    }

    /// Starts a private server again, on the same port with the same data.
    pub fn start_again(&self) {
        sure("Postgres does not start again", self.0.start_again());
    }

    /// Sends SIGSTOP to every process of a private server: connections stay open, nothing answers.
    pub fn freeze(&self) {
        sure("Postgres does not freeze", self.0.freeze());
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        sure("Postgres does not thaw", self.0.thaw());
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    port: u16,
    password: String,
}

impl Settings {
    fn url(&self, database: &str) -> String {
        format!("postgres://pictor:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    fn make_database(&self, name: &str) -> Result<()> {
        let admin = self.url("postgres");
        psql(&admin, &format!("CREATE DATABASE {name}"))?;
        let all = psql(&admin, r"SELECT datname FROM pg_database WHERE datname LIKE 'test\_%'")?;
        let pid = |name: &&str| Pid::from_raw(name.split('_').nth(1)?.parse().ok()?);
        let left: Vec<_> = all.lines().filter(|name| !pid(name).is_some_and(runs)).collect();
        if left.len() >= LEFT {
            for name in left {
                // Another test may be removing it as well.
                let _ = psql(&admin, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            }
        }
        Ok(())
    }
}

impl Server for Settings {
    const NAME: &'static str = "postgres";
    // "Fast shutdown": open sessions are ended.
    const END: Signal = Signal::INT;

    fn prepare(folder: &Path, _configuration: &str) -> Result<Self> {
        let (data, secrets) = (folder.join("data"), folder.join("password"));
        let settings = Self { port: free_port()?, password: secret()? };
        fs::create_dir(&data)?;
        write_private(&secrets, settings.password.as_bytes())?;
        if geteuid().is_root() {
            let user = run(Command::new("id").args(["-u", "postgres"]))?.trim().parse()?;
            chown(&data, Some(user), None)?;
            chown(&secrets, Some(user), None)?;
        }
        let mut command = program("initdb")?;
        command.arg("-D").arg(data).arg("--pwfile").arg(secrets).current_dir(folder);
        command.args(["-U", "pictor", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"]);
        if version()? >= 15 {
            command.args(["--locale-provider=icu", "--icu-locale=en-US"]);
        }
        // The server itself is durable; an empty cluster need not be.
        command.arg("--no-sync");
        run(&mut command)?;
        Ok(settings)
    }

    fn command(&self, folder: &Path) -> Result<Command> {
        // After `kill -9` the old process may still be a zombie, which Postgres takes for alive.
        let _ = fs::remove_file(folder.join("data/postmaster.pid"));
        let mut command = program("postgres")?;
        command.arg("-D").arg(folder.join("data"));
        let port = format!("port={}", self.port);
        let address = "listen_addresses=127.0.0.1";
        // Many tests run at once, each with a pool of connections.
        for setting in [&port, address, "unix_socket_directories=", "max_connections=400"] {
            command.arg("-c").arg(setting);
        }
        Ok(command)
    }

    fn answers(&self) -> Result<()> {
        psql(&self.url("postgres"), "SELECT 1").map(drop)
    }
}

fn psql(url: &str, sql: &str) -> Result<String> {
    let mut command = Command::new(binaries()?.1.join("psql"));
    // The user's ~/.psqlrc must not take effect.
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, url]);
    run(&mut command)
}

/// A server's program. As root it runs as the user `postgres`, because Postgres refuses root.
fn program(name: &str) -> Result<Command> {
    let program = binaries()?.1.join(name);
    if !geteuid().is_root() {
        return Ok(Command::new(program));
    }
    // Not runuser, which would stay in between as a process of its own. Changing the user undoes the keeper's
    // `--pdeathsig`.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL"]);
    command.arg(program);
    command.env("PATH", path());
    Ok(command)
}

fn version() -> Result<u32> {
    Ok(binaries()?.0)
}

/// Version and folder of the newest Postgres: Debian keeps it out of the PATH.
fn binaries() -> Result<(u32, PathBuf)> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.filter_map(|entry| {
        let version = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let folder = entry.path().join("bin");
        folder.join("initdb").exists().then_some((version, folder))
    });
    if let Some(newest) = found.max() {
        return Ok(newest);
    }
    let said = run(Command::new("pg_config").args(["--bindir", "--version"]))?;
    let (folder, version) = said.trim().split_once('\n').context("pg_config said nothing")?;
    let folder = PathBuf::from(folder);
    ensure!(folder.join("initdb").exists(), "no Postgres server is installed: `make setup`");
    let version = version.trim_start_matches("PostgreSQL ").split('.').next();
    Ok((version.context("pg_config has no version")?.parse()?, folder))
}
