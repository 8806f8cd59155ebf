//! A farm of processes: the real `pictor serve` and `pictor work` over a Postgres and a RabbitMQ.

use pictor_benches::machine;
use pictor_benches::source::run;
use pictor_test_servers::{Postgres, Queues, RabbitMq, Vhost};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value as Json, json};
use sqlx::{Connection, PgConnection};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Shortest interval between checks whether something has happened. Longer waits are checked less often, because a
/// check takes time from what is measured.
const LOOK: Duration = Duration::from_millis(2);
/// Time limit, after which something counts as hung.
const LIMIT: Duration = Duration::from_mins(5);

/// The database server and the broker, shared by all farms that are measured.
pub(crate) struct Services {
    pub(crate) postgres: Postgres,
    pub(crate) rabbit: RabbitMq,
    program: PathBuf,
}

impl Services {
    /// Starts both servers.
    pub(crate) fn start() -> Self {
        let program = std::env::var_os("PICTOR_BENCH_PROGRAM").map(PathBuf::from);
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_pictor").into());
        Self { postgres: Postgres::private(), rabbit: RabbitMq::private(""), program }
    }
}

/// A process that ends when its value is dropped, or with the thread that started it.
struct Process(Child);

impl Process {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = File::create(log).expect("the disk has room");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        Self(command.spawn().expect("pictor starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that ends with the thread that starts it.
fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
    command
}

/// A server with a database and a virtual host of its own, and possibly workers.
pub(crate) struct Served {
    // In the order in which they are stopped.
    workers: Vec<Process>,
    server: Process,
    client: Client,
    /// `None` if the server works alone.
    database: Option<PgConnection>,
    url: String,
    token: String,
    folder: PathBuf,
    program: PathBuf,
}

impl Served {
    pub(crate) async fn start(services: &Services, name: &str) -> Self {
        Self::start_over(services, name, Queues::Classic).await
    }

    /// Starts a server whose queues are of this type.
    pub(crate) async fn start_over(services: &Services, name: &str, queues: Queues) -> Self {
        let folder = machine::fresh_folder(name);
        let (database, vhost) = (services.postgres.database(), services.rabbit.vhost_of(queues));
        Self::start_in(services, folder, Some((&database, &vhost))).await
    }

    /// Starts a server that works alone, with a worker of two slots, in a folder that may have a database.
    pub(crate) async fn alone(services: &Services, folder: PathBuf) -> Self {
        Self::start_in(services, folder, None).await
    }

    /// Starts a server in a folder, over a database and a virtual host if it is not to work alone.
    pub(crate) async fn start_in(
        services: &Services,
        folder: PathBuf,
        over: Option<(&str, &Vhost)>,
    ) -> Self {
        pictor_net::set_up_tls();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let listen = port.expect("there is a port").to_string();
        let url = format!("http://{listen}");
        let path = |name: &str| folder.join(name).display().to_string();
        let (data, artifacts) = (path("server"), path("artifacts"));
        let mut arguments = vec!["serve", "--listen", &listen, "--public-url", &url];
        arguments.extend(["--data", &data, "--artifacts", &artifacts]);
        if let Some((database, vhost)) = over {
            arguments.extend(["--no-worker", "--database", database, "--broker", &vhost.amqp_url]);
            arguments.extend(["--broker-management", &vhost.management_url]);
        } else {
            arguments.extend(["--slots", "2"]);
        }
        let server = command(&services.program, &arguments);
        let server = Process::start(server, &folder.join("server.log"));
        let client = Client::builder().build().expect("TLS is there");
        let database = match over {
            Some((url, _)) => Some(PgConnection::connect(url).await.expect("it answers")),
            None => None,
        };
        let program = services.program.clone();
        let (workers, token) = (Vec::new(), String::new());
        let mut farm = Self { workers, server, client, database, url, token, folder, program };
        farm.wait_until_ready().await;
        farm
    }

    /// The database of a farm.
    fn database(&mut self) -> &mut PgConnection {
        self.database.as_mut().expect("it does not work alone")
    }

    /// Makes a token of this role, for another client than the administrator.
    pub(crate) async fn token(&self, role: &str) -> String {
        let body = json!({ "name": "bench", "role": role, "account": "bench" });
        let answer = self.request(Method::POST, "/v1/tokens").json(&body).send().await;
        let answer: Json = answer.expect("the server answers").json().await.expect("JSON");
        answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The seconds that the answer to a question takes, and the answer.
    pub(crate) async fn timed(&self, path: &str) -> (f64, Json) {
        let started = Instant::now();
        let answer = self.request(Method::GET, path).send().await.expect("the server answers");
        let (status, answer) = (answer.status(), answer.bytes().await.expect("it answers"));
        let seconds = started.elapsed().as_secs_f64();
        assert!(status.is_success(), "{path}: {status}");
        (seconds, serde_json::from_slice(&answer).unwrap_or_default())
    }

    async fn wait_until_ready(&mut self) {
        let (file, end) = (self.folder.join("server/admin-token"), Instant::now() + LIMIT);
        loop {
            assert!(Instant::now() < end, "the server is not ready: {}", self.folder.display());
            sleep(LOOK).await;
            // A server that stands by may count as ready, too.
            let ready = match self.client.get(format!("{}/readyz", self.url)).send().await {
                Ok(answer) => {
                    answer.text().await.is_ok_and(|text| text.contains(r#""role":"owner""#))
                }
                Err(_) => false,
            };
            let token = std::fs::read_to_string(&file).unwrap_or_default();
            if !token.is_empty() && ready {
                token.trim().clone_into(&mut self.token);
                return;
            }
        }
    }

    /// Starts a worker with two slots, and waits until it is registered.
    pub(crate) async fn start_worker(&mut self) {
        let worker = self.worker("worker", 2);
        self.add(worker).await;
    }

    /// Starts a worker with one slot that has only these processors (in the format of `taskset`) and these networks,
    /// and waits until it is registered.
    pub(crate) async fn start_upscaler(&mut self, processors: &str, models: &Path) {
        let worker = self.worker(&format!("worker-{}", self.workers.len()), 1);
        let mut bound = Command::new("taskset");
        bound.args(["--cpu-list", processors]).arg(worker.get_program()).args(worker.get_args());
        bound.env("PICTOR_MODELS", models);
        self.add(bound).await;
    }

    fn worker(&self, name: &str, slots: u32) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let (data, token) = (path(name), path("server/admin-token"));
        let slots = slots.to_string();
        let arguments = [
            &["work", "--server", &self.url, "--name", name, "--slots", &slots][..],
            &["--data", &data, "--token-file", &token],
        ]
        .concat();
        command(&self.program, &arguments)
    }

    async fn add(&mut self, worker: Command) {
        let log = self.folder.join(format!("worker-{}.log", self.workers.len()));
        self.workers.push(Process::start(worker, &log));
        let end = Instant::now() + LIMIT;
        while self.workers_online().await < self.workers.len() {
            assert!(Instant::now() < end, "a worker does not come: {}", self.folder.display());
            sleep(LOOK).await;
        }
        // Once it has executed a task, it is connected to the broker.
        let (run, _) = self.submit(&pictor_benches::jobs::chain(1)).await;
        self.finished(&run, end, LOOK).await;
    }

    async fn workers_online(&self) -> usize {
        let answer = self.request(Method::GET, "/v1/workers").send().await;
        let answer: Json = answer.expect("the server answers").json().await.expect("JSON");
        let workers = answer["items"].as_array().unwrap_or_else(|| panic!("{answer}"));
        workers.iter().filter(|worker| worker["online"] == true).count()
    }

    /// Executes a job file as a user would from another machine: `pictor submit --wait --out`. Returns the seconds
    /// until its results are delivered.
    pub(crate) fn deliver(&self, job: &Path) -> f64 {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let (out, token) = (path("out"), path("server/admin-token"));
        let mut submit = Command::new(&self.program);
        submit.args(["submit", "--server", &self.url, "--token-file", &token]);
        submit.args(["--wait", "--out", &out]).arg(job);
        let started = Instant::now();
        run(&mut submit);
        started.elapsed().as_secs_f64()
    }

    /// A request by the farm's administrator.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_with(&self.token, method, path)
    }

    /// A request with a token.
    pub(crate) fn request_with(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).bearer_auth(token)
    }

    /// The URL of a path on the server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Submits a job; returns the run's id, and the seconds that the response took.
    pub(crate) async fn submit(&self, text: &str) -> (String, f64) {
        let body = json!({ "job": text });
        let started = Instant::now();
        let answer = self.request(Method::POST, "/v1/runs").json(&body).send().await;
        let answer: Json = answer.expect("the server answers").json().await.expect("JSON");
        let seconds = started.elapsed().as_secs_f64();
        let id = answer["run"]["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (id.to_owned(), seconds)
    }

    /// Waits until the run's success is committed; checks at most once per `look`.
    async fn finished(&mut self, run: &str, end: Instant, look: Duration) {
        let started = Instant::now();
        loop {
            let state = sqlx::query_scalar::<_, String>("SELECT state FROM run WHERE id = $1");
            let state = state.bind(run).fetch_one(self.database()).await;
            match &*state.expect("the run is stored") {
                "succeeded" => return,
                "running" if Instant::now() < end => {
                    sleep(look.max(started.elapsed() / 32)).await;
                }
                other => panic!("{run} is {other}: {}", self.folder.display()),
            }
        }
    }

    /// Submits a job and waits for its end; returns the run's id, and the seconds from the request to the moment at
    /// which its success is found in the database.
    pub(crate) async fn run(&mut self, text: &str) -> (String, f64) {
        let started = Instant::now();
        let (run, _) = self.submit(text).await;
        self.finished(&run, started + LIMIT, LOOK).await;
        (run, started.elapsed().as_secs_f64())
    }

    /// Executes a job, and returns the mean time in milliseconds between the end of one task and the next. It is read
    /// from history, so nobody has to check often whether the run has ended.
    pub(crate) async fn pace_ms(&mut self, text: &str) -> f64 {
        let (run, _) = self.submit(text).await;
        self.finished(&run, Instant::now() + LIMIT, Duration::from_millis(50)).await;
        let pace = "SELECT (max(time_ms) - min(time_ms))::float8 / (count(*) - 1) FROM attempt \
                    WHERE run = (SELECT number FROM run WHERE id = $1)";
        let pace = sqlx::query_scalar::<_, f64>(pace).bind(&run).fetch_one(self.database());
        pace.await.expect("the database works")
    }

    /// Number of rows in a run's history.
    pub(crate) async fn rows(&mut self, run: &str) -> i64 {
        let rows = "SELECT count(*) FROM attempt \
                    WHERE run = (SELECT number FROM run WHERE id = $1)";
        let rows = sqlx::query_scalar::<_, i64>(rows).bind(run).fetch_one(self.database());
        rows.await.expect("the database works")
    }

    /// Peak memory of the server in MB.
    pub(crate) fn server_megabytes(&self) -> f64 {
        machine_megabytes(self.server.0.id())
    }

    /// Processor time of the server so far, in seconds.
    pub(crate) fn server_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.server.0.id()));
        let stat = stat.expect("the server runs");
        let after = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: f64 = after.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
        // Linux counts in hundredths of a second on every machine.
        ticks / 100.0
    }
}

fn machine_megabytes(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux tells");
    let kib = line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
    kib.expect("a number of KiB") * 1024.0 / 1e6
}
