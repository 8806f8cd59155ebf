//! RabbitMQ servers for tests, shared or private.

use crate::http::{connect, request};
use crate::instance::{free_port, secret, write_private};
use crate::server::{Running, Server, sure};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

/// Debian's path. The wrapper in `/usr/sbin` would switch users and could start a broker of the system.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Folder of the modules of every installed version, and of Erlang.
const LIBRARIES: &str = "/usr/lib/rabbitmq/lib";
const ERLANG: &str = "/usr/lib/erlang/lib";
/// Folder of an instance with links to plugins, see [`link_modules`].
const PLUGINS: &str = "plugin-folders";
const MODULES: &str = "modules";
/// The user with all permissions everywhere.
const ADMIN: &str = "pictor";

/// How a broker stores a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queues {
    /// On one node. A message is delivered while it is being written to disk.
    Classic,
    /// On several nodes, if there are any. A message is delivered once most of them have it on disk.
    Quorum,
}

/// A RabbitMQ broker with its management plugin and an `epmd` of its own.
#[derive(Clone, Debug)]
pub struct RabbitMq(Arc<Running<Settings>>);

/// A new virtual host, and a user that has all permissions in it and is an administrator (it may create users).
#[derive(Clone, Debug)]
pub struct Vhost {
    /// Name of the virtual host and of its user.
    pub name: String,
    /// AMQP address: `amqp://user:password@127.0.0.1:port/name`.
    pub amqp_url: String,
    /// Address of the management service, `http://user:password@127.0.0.1:port`: its API is below `/api`.
    pub management_url: String,
}

impl RabbitMq {
    /// The broker that all tests of this run share.
    pub fn start() -> Self {
        static SHARED: OnceLock<RabbitMq> = OnceLock::new();
        let start = || Self(Arc::new(sure("RabbitMQ does not start", Running::shared())));
        SHARED.get_or_init(start).clone()
    }

    /// A private broker; it ends with the last clone of this value. `configuration` are further lines of
    /// `rabbitmq.conf`, such as `consumer_timeout = 10000`; a setting that has no name there is given as an Erlang
    /// term, such as `{channel_tick_interval, 1000}`.
    pub fn private(configuration: &str) -> Self {
        Self(Arc::new(sure("RabbitMQ does not start", Running::private(configuration))))
    }

    /// The administrator's `http://user:password@127.0.0.1:port`: the API is below `/api`.
    pub fn management_url(&self) -> String {
        self.0.server.management_url(ADMIN, &self.0.server.password)
    }

    /// Creates a virtual host, and a user of the same name for it.
    pub fn vhost(&self) -> Vhost {
        self.vhost_of(Queues::Classic)
    }

    /// Creates a virtual host whose queues have this type unless they are declared with another one.
    pub fn vhost_of(&self, queues: Queues) -> Vhost {
        sure("RabbitMQ makes no virtual host", self.0.server.make_vhost(queues))
    }

    /// Sends a request to the management API as administrator, such as `GET /api/queues`; returns the body.
    pub fn manage(&self, method: &str, path: &str, body: &str) -> String {
        sure("RabbitMQ refused", self.0.server.manage(method, path, body))
    }

    /// AMQP port of the broker, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.0.server.amqp
    }

    /// The processes of the broker, the virtual machine first (`epmd` is not among them).
    pub fn pids(&self) -> Vec<i32> {
        self.0.instance.processes().iter().map(|pid| pid.as_raw_nonzero().get()).collect()
    }

    /// Kills all processes of a private broker at once by `kill -9`; returns when they are gone.
    pub fn kill9(&self) {
        sure("RabbitMQ is not killed", self.0.kill9());
    }

    /// Stops a private broker cleanly.
    pub fn stop(&self) {
        sure("RabbitMQ does not stop", self.0.stop());
    }

    /// Starts a private broker again, on the same ports with the same data.
    pub fn start_again(&self) {
        sure("RabbitMQ does not start again", self.0.start_again());
    }

    /// Sends SIGSTOP to every process of a private broker: connections stay open, nothing answers.
    pub fn freeze(&self) {
        sure("RabbitMQ does not freeze", self.0.freeze());
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        sure("RabbitMQ does not thaw", self.0.thaw());
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    amqp: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
    password: String,
}

impl Settings {
    fn amqp_url(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/{vhost}", self.amqp)
    }

    fn management_url(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@127.0.0.1:{}", self.management)
    }

    fn manage(&self, method: &str, path: &str, body: &str) -> Result<String> {
        request(self.management, (ADMIN, &self.password), (method, path), body)
    }

    fn make_vhost(&self, queues: Queues) -> Result<Vhost> {
        let kind = match queues {
            Queues::Classic => "classic",
            Queues::Quorum => "quorum",
        };
        // RabbitMQ 3.10 spells it without underscores, newer versions with them.
        let kind = format!(r#"{{"defaultqueuetype":"{kind}","default_queue_type":"{kind}"}}"#);
        let (name, password) = (format!("test-{}", secret()?), secret()?);
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        let user = format!(r#"{{"password":"{password}","tags":"administrator"}}"#);
        self.manage("PUT", &format!("/api/vhosts/{name}"), &kind)?;
        self.manage("PUT", &format!("/api/users/{name}"), &user)?;
        self.manage("PUT", &format!("/api/permissions/{name}/{name}"), all)?;
        Ok(Vhost {
            amqp_url: self.amqp_url(&name, &password, &name),
            management_url: self.management_url(&name, &password),
            name,
        })
    }
}

impl Server for Settings {
    const NAME: &'static str = "rabbitmq";
    const END: Signal = Signal::TERM;

    fn prepare(folder: &Path, configuration: &str) -> Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is not there: `make setup`");
        let settings = Self {
            amqp: free_port()?,
            management: free_port()?,
            distribution: free_port()?,
            epmd: free_port()?,
            password: secret()?,
        };
        let (terms, configuration): (Vec<&str>, Vec<&str>) =
            configuration.lines().partition(|line| line.starts_with('{'));
        // The same interval as below, for quorum queues.
        let terms = [&["{quorum_tick_interval, 1000}"][..], &terms].concat().join(", ");
        let configuration = configuration.join("\n");
        let text = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nmanagement.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\ndefault_user = {ADMIN}\ndefault_pass = {}\n\
             # The numbers that the management API gives are one second old, not five.\n\
             collect_statistics_interval = 1000\n{configuration}\n",
            settings.amqp, settings.management, settings.password
        );
        write_private(&folder.join("rabbitmq.conf"), text.as_bytes())?;
        fs::write(folder.join("advanced.config"), format!("[{{rabbit, [{terms}]}}].\n"))?;
        fs::write(folder.join("environment"), "")?;
        fs::write(folder.join("plugins"), "[rabbitmq_management].\n")?;
        link_modules(&folder.join(PLUGINS), &folder.join(MODULES))?;
        Ok(settings)
    }

    fn command(&self, folder: &Path) -> Result<Command> {
        let mut command = Command::new(PROGRAM);
        for (name, file) in [
            ("HOME", ""),
            ("RABBITMQ_CONF_ENV_FILE", "environment"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
            ("RABBITMQ_PLUGINS_DIR", PLUGINS),
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("RABBITMQ_LOG_BASE", "logs"),
        ] {
            command.env(name, folder.join(file));
        }
        command.env("RABBITMQ_NODENAME", format!("pictor{}@localhost", self.amqp));
        command.env("RABBITMQ_DIST_PORT", self.distribution.to_string());
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1");
        // The keeper starts an epmd on this port: one that the broker started would outlive it.
        command.env("ERL_EPMD_PORT", self.epmd.to_string());
        // Makes idle threads of the broker sleep instead of spinning: on a small machine a spinning one keeps the
        // processor from the very processes that the broker waits for.
        command.env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            // In the folder of the instance, where the broker starts: its absolute path may contain spaces.
            format!(
                "-pa {MODULES} -start_epmd false -kernel inet_dist_use_interface {{127,0,0,1}} \
                 +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        );
        command.env("RABBITMQ_LOGS", "-");
        // The script becomes the broker instead of starting it as a child, so the keeper knows the broker.
        command.env("RUNNING_UNDER_SYSTEMD", "1");
        Ok(command)
    }

    fn answers(&self) -> Result<()> {
        let mut stream = connect(self.amqp)?;
        stream.write_all(b"AMQP\0\0\x09\x01")?;
        stream.read_exact(&mut [0; 8])?;
        self.manage("GET", "/api/overview", "").map(drop)
    }
}

/// Links the plugins and modules into folders of the instance. A broker looks for each of its thousand modules in one
/// folder after another, and there are more than a hundred. With only the plugins that it needs, and one folder of all
/// modules to look in first, it starts in half the time.
fn link_modules(plugins: &Path, modules: &Path) -> Result<()> {
    fs::create_dir(plugins)?;
    fs::create_dir(modules)?;
    for version in fs::read_dir(LIBRARIES).context(LIBRARIES)? {
        for plugin in fs::read_dir(version?.path().join("plugins"))? {
            let plugin = plugin?;
            let name = plugin.file_name();
            let name = name.to_string_lossy();
            let needed = ["prelaunch", "management", "web_dispatch"];
            let needed = needed.iter().any(|part| name.contains(part));
            if needed || !name.starts_with("rabbitmq_") {
                symlink(plugin.path(), plugins.join(&*name))?;
            }
        }
    }
    for library in fs::read_dir(ERLANG).context(ERLANG)?.chain(fs::read_dir(plugins)?) {
        let Ok(files) = fs::read_dir(library?.path().join("ebin")) else { continue };
        for file in files {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "beam") {
                let link = modules.join(file.file_name().unwrap_or_default());
                // Of two modules of one name the first is Erlang's own.
                if !link.exists() {
                    symlink(fs::canonicalize(&file)?, link)?;
                }
            }
        }
    }
    Ok(())
}
