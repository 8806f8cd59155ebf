//! The servers are real, they can be killed and frozen, and nothing of them stays behind, however their users end.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "processes end in real time")]

use pictor_test_servers::{Postgres, RabbitMq, S3};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_mins(2);

/// Waits for something outside this process that cannot notify us.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "waited too long until {what}");
        sleep(Duration::from_millis(20));
    }
}

/// Every process that works in a folder, as all processes of an instance do.
fn processes_in(folder: &Path) -> Vec<i32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let inside = all.filter(|entry| {
        fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    });
    inside.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn gone(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(')').next().unwrap().trim_start().starts_with('Z')
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[test]
fn postgres_gives_each_test_a_database() {
    let postgres = Postgres::start();
    let (one, two) = (postgres.database(), postgres.database());
    postgres.query(&one, "CREATE TABLE frame (number bigint)");
    postgres.query(&one, "INSERT INTO frame VALUES (7)");
    assert_eq!(postgres.query(&one, "SELECT number, 'x' FROM frame").trim(), "7|x");
    assert_eq!(postgres.query(&two, "SELECT to_regclass('frame') IS NULL").trim(), "t");
    let durable = "SELECT current_setting('fsync'), current_setting('synchronous_commit')";
    assert_eq!(postgres.query(&two, durable).trim(), "on|on");
}

#[test]
fn rabbitmq_gives_each_test_a_virtual_host() {
    let rabbit = RabbitMq::start();
    let (one, two) = (rabbit.vhost(), rabbit.vhost());
    let queue = |vhost: &str| format!("/api/queues/{vhost}/frames");
    rabbit.manage("PUT", &queue(&one.name), r#"{"durable":true}"#);
    let message = r#"{"properties":{},"routing_key":"frames","payload":"frame 7",
                      "payload_encoding":"string"}"#;
    let publish = format!("/api/exchanges/{}/amq.default/publish", one.name);
    assert_eq!(rabbit.manage("POST", &publish, message), r#"{"routed":true}"#);
    let get = r#"{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}"#;
    let got = rabbit.manage("POST", &format!("{}/get", queue(&one.name)), get);
    assert!(got.contains("frame 7"), "{got}");
    assert_eq!(rabbit.manage("GET", &format!("/api/queues/{}", two.name), ""), "[]");
    assert!(one.amqp_url.ends_with(&format!("@127.0.0.1:{}/{}", rabbit.port(), one.name)));
}

/// A client of S3 that signs its requests.
fn client(s3: &S3, bucket: &str, secret_key: &str) -> opendal::Operator {
    let _ = rustls::crypto::ring::default_provider().install_default();
    opendal_http_transport_reqwest::install_default();
    let service = opendal::services::S3::default().endpoint(s3.endpoint()).bucket(bucket);
    let service = service.access_key_id(s3.access_key()).secret_access_key(secret_key);
    opendal::Operator::new(service.region(s3.region())).unwrap()
}

#[tokio::test]
async fn s3_stores_checks_signatures_and_lets_presigned_urls_expire() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let mine = client(&s3, &bucket, s3.secret_key());
    mine.write("frames/0007.exr", "pixels").await.unwrap();
    assert_eq!(mine.read("frames/0007.exr").await.unwrap().to_vec(), b"pixels");

    let forged = client(&s3, &bucket, "guessed").read("frames/0007.exr").await.unwrap_err();
    assert_eq!(forged.kind(), opendal::ErrorKind::PermissionDenied);

    let long = mine.presign_read("frames/0007.exr", Duration::from_mins(1)).await.unwrap();
    let short = mine.presign_read("frames/0007.exr", Duration::from_secs(1)).await.unwrap();
    let get = async |url: String| reqwest::get(url).await.unwrap().status().as_u16();
    assert_eq!(get(long.uri().to_string()).await, 200);
    let start = Instant::now();
    while get(short.uri().to_string()).await != 403 {
        assert!(start.elapsed() < LIMIT, "a presigned URL of one second works for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(long.uri().to_string()).await, 200);
}

/// Whether `work` takes longer than a second, as everything frozen does.
fn hangs(work: impl FnOnce() + Send + 'static) -> bool {
    let (sender, receiver) = channel();
    spawn(move || {
        work();
        let _ = sender.send(());
    });
    receiver.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout)
}

#[test]
fn a_private_postgres_survives_what_is_done_to_it_and_ends_with_its_value() {
    let postgres = Postgres::private();
    let url = postgres.database();
    postgres.query(&url, "CREATE TABLE frame AS SELECT 7 AS number");
    for down in [Postgres::kill9, Postgres::stop] {
        let pids = postgres.pids();
        assert!(pids.len() > 3, "{pids:?}");
        down(&postgres);
        assert!(pids.iter().all(|pid| gone(*pid)), "{pids:?}");
        postgres.start_again();
        assert_eq!(postgres.query(&url, "SELECT number FROM frame").trim(), "7");
    }
    postgres.freeze();
    let (other, asked) = (postgres.clone(), url.clone());
    assert!(hangs(move || drop(other.query(&asked, "SELECT 1"))));
    postgres.thaw();
    assert_eq!(postgres.query(&url, "SELECT 1").trim(), "1");

    let pids = postgres.pids();
    // The thread above holds its clone until it gets an answer.
    drop(postgres);
    wait_until("Postgres ends", || pids.iter().all(|pid| gone(*pid)));
}

#[test]
#[ignore = "long, and about the tests' own servers: `make soak` runs it"]
fn a_private_rabbitmq_survives_what_is_done_to_it_and_ends_with_its_value() {
    let rabbit = RabbitMq::private("consumer_timeout = 12345");
    let vhost = rabbit.vhost();
    let queue = format!("/api/queues/{}/frames", vhost.name);
    rabbit.manage("PUT", &queue, r#"{"durable":true}"#);
    let pids = rabbit.pids();
    rabbit.kill9();
    assert!(pids.iter().all(|pid| gone(*pid)), "{pids:?}");
    rabbit.start_again();
    assert!(rabbit.manage("GET", &queue, "").contains("frames"));

    rabbit.freeze();
    let (other, path) = (rabbit.clone(), queue.clone());
    assert!(hangs(move || drop(other.manage("GET", &path, ""))));
    rabbit.thaw();
    rabbit.manage("GET", &queue, "");

    let pids = rabbit.pids();
    drop(rabbit);
    wait_until("RabbitMQ ends", || pids.iter().all(|pid| gone(*pid)));
}

/// A target folder of its own: a process that works in it shares servers with nobody else.
struct Target(PathBuf);

impl Target {
    fn new(name: &str) -> Self {
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        let target = target.join(format!("servers-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&target).unwrap();
        Self(target.canonicalize().unwrap())
    }

    /// Starts a process that uses the shared servers.
    fn user(&self) -> Child {
        let mut user = Command::new(env!("CARGO_BIN_EXE_pictor-with-servers"));
        user.args(["postgres", "rabbitmq", "--", "sh", "-c", "touch \"$0\"; exec sleep 1000"]);
        user.arg(self.0.join("started")).env("CARGO_TARGET_DIR", &self.0);
        let _ = fs::remove_file(self.0.join("started"));
        let user = user.stdin(Stdio::null()).spawn().unwrap();
        wait_until("a user has its servers", || self.0.join("started").exists());
        user
    }

    /// The process of a shared server.
    fn server(&self, name: &str) -> i32 {
        let folder = fs::read_to_string(self.0.join(format!("servers/{name}.current"))).unwrap();
        let pid = fs::read_to_string(Path::new(&folder).join("pid")).unwrap();
        pid.trim().parse().unwrap()
    }

    fn parent(pid: i32) -> i32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
#[ignore = "long, and about the tests' own servers: `make soak` runs it"]
fn shared_servers_outlive_one_killed_user_and_end_after_the_last() {
    let target = Target::new("users");
    let (mut first, mut second) = (target.user(), target.user());
    let before = (target.server("postgres"), target.server("rabbitmq"));
    assert!(processes_in(&target.0).len() > 8, "{:?}", processes_in(&target.0));

    first.kill().unwrap();
    first.wait().unwrap();
    let mut third = target.user();
    assert_eq!((target.server("postgres"), target.server("rabbitmq")), before);

    // A frozen server must end, too.
    kill(before.0, Signal::STOP);
    for user in [&mut second, &mut third] {
        user.kill().unwrap();
        user.wait().unwrap();
    }
    wait_until("all servers are gone", || processes_in(&target.0).is_empty());
    let folders = || fs::read_dir(target.0.join("servers")).unwrap().flatten();
    wait_until("their folders are gone", || folders().all(|entry| entry.path().is_file()));
}

#[test]
#[ignore = "long, and about the tests' own servers: `make soak` runs it"]
fn servers_end_when_their_keepers_are_killed() {
    let target = Target::new("keepers");
    let mut user = target.user();
    for server in ["postgres", "rabbitmq"] {
        kill(Target::parent(target.server(server)), Signal::KILL);
    }
    // What is left are the keepers' `flock`, which wait for the user.
    user.kill().unwrap();
    user.wait().unwrap();
    wait_until("all servers are gone", || processes_in(&target.0).is_empty());
}
