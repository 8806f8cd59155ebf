//! A farm on several hosts of this machine: the real binary, a Postgres, a RabbitMQ and an S3 service. Everything ends
//! with the test, even if the test is killed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(dead_code, reason = "each test binary uses its part")]

pub(crate) mod api;
pub(crate) mod daemon;
mod forwarder;
pub(crate) mod history;
pub(crate) mod network;

use crate::support::{TestDir, until};
use api::Api;
use daemon::Daemon;
use network::{Host, Network};
use pictor_test_servers::{Postgres, Queues, RabbitMq, S3, Vhost};
use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

/// Short, so that a test that kills workers need not wait a minute for their leases to expire.
const SETTINGS: &str = "[server]\nlease = \"12s\"\n";
/// The broker closes a silent connection after two of these, rather than after two times 10 s.
const BROKER: &str = "heartbeat = 3\n";

/// Whom the database server and the broker belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owned {
    /// To this test, which may kill them. A broker takes ten seconds of processor time to start.
    Privately,
    /// To all tests. The farm has a database and a virtual host of its own.
    Together,
}

/// The services of a farm, each on a host of its own.
pub(crate) struct Services {
    pub(crate) postgres: Postgres,
    pub(crate) rabbit: RabbitMq,
    /// URL for clients on the server's own host.
    database_url: String,
    /// URLs for clients on the broker's own host.
    vhost: Vhost,
    s3: S3,
    pub(crate) database: Arc<Host>,
    pub(crate) broker: Arc<Host>,
    pub(crate) objects: Arc<Host>,
    bucket: String,
    owned: Owned,
}

impl Services {
    fn start(network: &Network, owned: Owned) -> Self {
        let hosts = [network.host(), network.host(), network.host()];
        let [database, broker, objects] = hosts;
        let (postgres, rabbit) = std::thread::scope(|scope| match owned {
            Owned::Privately => {
                let rabbit = scope.spawn(|| broker.inside(|| RabbitMq::private(BROKER)));
                (database.inside(Postgres::private), rabbit.join().unwrap())
            }
            Owned::Together => {
                let rabbit = scope.spawn(|| network.outside(RabbitMq::start));
                (network.outside(Postgres::start), rabbit.join().unwrap())
            }
        });
        let (database_url, vhost) = match owned {
            Owned::Privately => (postgres.url(), broker.inside(|| rabbit.vhost())),
            // The other tests have classic ones.
            Owned::Together => {
                network.outside(|| (postgres.database(), rabbit.vhost_of(Queues::Quorum)))
            }
        };
        let s3 = objects.inside(S3::start);
        let bucket = s3.bucket();
        let management = port_of(&rabbit.management_url());
        for (host, port) in
            [(&database, postgres.port()), (&broker, rabbit.port()), (&broker, management)]
        {
            match owned {
                Owned::Privately => host.publish(port),
                Owned::Together => host.publish_from_outside(network, port),
            }
        }
        objects.publish(port_of(s3.endpoint()));
        Self { postgres, rabbit, database_url, vhost, s3, database, broker, objects, bucket, owned }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the database:\n{}", self.postgres.said());
        }
    }
}

/// The port of an address such as `http://user:password@127.0.0.1:4711/x`.
fn port_of(url: &str) -> u16 {
    let after = url.rsplit_once("127.0.0.1:").unwrap_or_else(|| panic!("{url}")).1;
    after.split('/').next().unwrap().parse().unwrap()
}

/// A farm of servers and workers with their services.
pub(crate) struct TestFarm {
    // In the order in which they are stopped.
    pub(crate) workers: Vec<Daemon>,
    pub(crate) servers: Vec<Daemon>,
    pub(crate) api: Api,
    pub(crate) services: Services,
    pub(crate) network: Network,
    pub(crate) dir: TestDir,
    token: String,
    urls: Vec<String>,
}

impl TestFarm {
    /// Starts two servers, and one worker with that many slots for each number in `slots`.
    pub(crate) fn start(slots: &[u32]) -> Self {
        Self::start_with(Owned::Together, slots)
    }

    /// Like [`Self::start`], with a database server and a broker that the test may kill, freeze and cut off.
    pub(crate) fn start_with_services(slots: &[u32]) -> Self {
        Self::start_with(Owned::Privately, slots)
    }

    fn start_with(owned: Owned, slots: &[u32]) -> Self {
        let (dir, network) = (TestDir::new(), Network::new());
        let services = Services::start(&network, owned);
        let settings = dir.write("pictor.toml", SETTINGS).display().to_string();
        let (mut servers, mut urls): (Vec<Daemon>, Vec<String>) = Default::default();
        for name in ["server-1", "server-2"] {
            let (server, url) = new_server(&dir, &network, &services, (name, &settings));
            servers.push(server);
            urls.push(url);
        }
        let token = dir.path("server-1/admin-token");
        servers[0].start();
        until("the first server has made a token", || token.exists());
        servers[1].start();
        let token = std::fs::read_to_string(token).unwrap().trim().to_owned();
        let api = Api::new(urls.clone(), token.clone());
        let workers = Vec::new();
        let mut farm = Self { workers, servers, api, services, network, dir, token, urls };
        for slots in slots {
            farm.add_worker(*slots);
        }
        farm
    }

    /// Adds a worker on a host of its own, without Blender and other programs that take a second to print their
    /// version. Returns when the farm knows it.
    pub(crate) fn add_worker(&mut self, slots: u32) {
        let programs = self.dir.path("programs");
        if !programs.exists() {
            link_programs(&programs);
        }
        self.add(slots, programs.as_os_str());
    }

    /// Like [`Self::add_worker`], with every program of this machine.
    pub(crate) fn add_renderer(&mut self, slots: u32) {
        self.add(slots, &std::env::var_os("PATH").unwrap());
    }

    fn add(&mut self, slots: u32, path: &OsStr) {
        let name = format!("worker-{}", self.workers.len() + 1);
        let mut worker = self.worker((&name, &name), slots, path);
        worker.start();
        self.workers.push(worker);
        let count = self.workers.len();
        until("the worker is known", || self.api.all("/v1/workers").len() == count);
    }

    /// Prepares a worker of this name, with this folder, without starting it.
    pub(crate) fn worker(&self, (name, folder): (&str, &str), slots: u32, path: &OsStr) -> Daemon {
        let data = self.dir.path(folder).display().to_string();
        let token = self.dir.write("token", &self.token).display().to_string();
        let slots = slots.to_string();
        let mut arguments = vec!["work", "--data", &data, "--name", name, "--slots", &slots];
        arguments.extend(["--token-file", &token, "--allow-commands"]);
        let urls = self.urls.join(",");
        arguments.extend(["--server", &urls]);
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        let log = self.dir.path(&format!("{folder}.log"));
        let path = path.to_str().unwrap();
        let shared = self.dir.shared("").display().to_string();
        let worker = Daemon::new(self.network.host(), arguments, log).env("PATH", path);
        worker.env("PICTOR_SANDBOX_WRITE", &shared)
    }

    /// Runs `pictor` as a user of this farm.
    pub(crate) fn pictor(&self, arguments: &[&str]) -> crate::support::Said {
        let token = self.dir.write("token", &self.token);
        let mut command = self.dir.command(arguments);
        command.env("PICTOR_SERVER", &self.urls[0]).env("PICTOR_TOKEN_FILE", token);
        crate::support::Running::start(command.env_remove("PICTOR_DATA")).finish()
    }

    /// Index of the server that owns the farm, and its epoch.
    pub(crate) fn owner(&self) -> Option<(usize, i64)> {
        let (epoch, address) = history::owner(self)?;
        let number = self.urls.iter().position(|url| *url == address)?;
        Some((number, epoch))
    }

    /// The URL of the database for the test itself.
    pub(crate) fn database_url(&self) -> String {
        let here = format!("127.0.0.1:{}", self.services.postgres.port());
        let there = (self.services.database.address(), self.services.postgres.port());
        self.services.database_url.replace(&here, &format!("{}:{}", there.0, there.1))
    }

    /// A request to the broker's management API in the virtual host of the farm; `path` such as `queues/VHOST/name`.
    pub(crate) fn manage(&self, method: &str, path: &str, body: &str) -> String {
        let Services { rabbit, vhost, broker, owned, .. } = &self.services;
        let path = format!("/api/{}", path.replace("VHOST", &vhost.name));
        let ask = || rabbit.manage(method, &path, body);
        match owned {
            Owned::Privately => broker.inside(ask),
            Owned::Together => self.network.outside(ask),
        }
    }

    /// Stops the workers, then the servers, cleanly.
    pub(crate) fn stop(&mut self) {
        self.workers.iter_mut().chain(&mut self.servers).for_each(Daemon::stop);
    }

    /// Processes that were started for tasks of this farm: they name its folder, or work in it.
    pub(crate) fn processes(&self) -> Vec<String> {
        let folder = self.dir.path("").display().to_string();
        let ours: Vec<i32> =
            self.servers.iter().chain(&self.workers).filter_map(Daemon::pid).collect();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            let read = |name| std::fs::read(entry.path().join(name)).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let environment = String::from_utf8_lossy(&read("environ")).into_owned();
            let work = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let named = line.contains(&folder)
                || environment.contains(&folder)
                || work.starts_with(&folder);
            if named && !ours.contains(&id) {
                found.push(format!("{id}: {line}"));
            }
        }
        found
    }
}

/// A folder with links to all programs of this machine except those whose version a worker determines.
fn link_programs(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    for program in std::env::split_paths(&path).flat_map(std::fs::read_dir).flatten().flatten() {
        let name = program.file_name();
        let asked = ["blender", "ffmpeg", "ffprobe", "python3"].iter().any(|it| name == **it);
        let link = folder.join(&name);
        if !asked && !link.exists() {
            // A dangling link is no program.
            let _ = symlink(program.path(), link);
        }
    }
}

/// Prepares a server without starting it, and the address that it will have.
fn new_server(
    dir: &TestDir,
    network: &Network,
    services: &Services,
    (name, settings): (&str, &str),
) -> (Daemon, String) {
    let host = network.host();
    let way = |to: &Host, url: &str| {
        let port = port_of(url);
        let there = network.way(&host, to, port).to_string();
        url.replace(&format!("127.0.0.1:{port}"), &there)
    };
    let Services { database_url, vhost, s3, database, broker, objects, bucket, .. } = services;
    let listen = format!("{}:{}", host.address(), host.port());
    let url = format!("http://{listen}");
    let artifacts = format!(
        "s3://{bucket}/farm?endpoint={}&region={}",
        way(objects, s3.endpoint()),
        s3.region()
    );
    let arguments = [
        ("--listen", listen),
        ("--data", dir.path(name).display().to_string()),
        ("--database", way(database, database_url)),
        ("--broker", way(broker, &vhost.amqp_url)),
        ("--broker-management", way(broker, &vhost.management_url)),
        ("--artifacts", artifacts),
        ("--public-url", url.clone()),
        ("--config", settings.to_owned()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let arguments = ["serve".to_owned(), "--no-worker".to_owned()].into_iter().chain(arguments);
    let log = dir.path(&format!("{name}.log"));
    let server = Daemon::new(host.clone(), arguments.collect(), log)
        .env("PICTOR_S3_KEY_ID", s3.access_key())
        .env("PICTOR_S3_SECRET", s3.secret_key());
    (server, url)
}
