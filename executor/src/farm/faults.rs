//! Transfers over unreliable connections, to servers that come and go: a listener that responds as a test defines, and
//! closes the connection halfway where it says so.

use super::Tickets;
use super::api::{Api, client};
use super::logs::LogPost;
use super::store::{FarmStore, Wanted};
use crate::files::artifacts::Store as _;
use crate::files::cache::{Cache, Watch};
use crate::ground::log::{LogWriter, OpenLogs};
use crate::ground::progress::{Activity, Progress, Stopper};
use pictor_artifacts::{ExecutionKey, Stored};
use pictor_tasks::message::{Execution, Output, RunId, StepKey, Try, WorkerId};
use pictor_tasks::space::Value;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    /// The method and path: `PUT /x`.
    line: String,
    headers: String,
    body: Vec<u8>,
}

/// A response of the server.
#[derive(Clone, Debug, Default)]
struct Answer {
    status: u16,
    headers: &'static str,
    body: Vec<u8>,
    /// Closes the connection after that many bytes of the body.
    cut: Option<usize>,
}

fn ok(body: impl Into<Vec<u8>>) -> Answer {
    Answer { status: 200, body: body.into(), ..Answer::default() }
}

fn status(status: u16) -> Answer {
    let body = br#"{"type":"x","title":"x","status":400,"code":"x","detail":"no"}"#;
    Answer { status, body: body.to_vec(), ..Answer::default() }
}

/// A server that gives these responses, one after another.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (log, mut answers) = (asked.clone(), VecDeque::from(answers));
        tokio::spawn(async move {
            while let Some(answer) = answers.pop_front() {
                let (mut line, _) = listener.accept().await.unwrap();
                let request = read(&mut line).await;
                log.lock().unwrap().push(request);
                let Answer { status, headers, body, cut } = answer;
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
                );
                line.write_all(head.as_bytes()).await.unwrap();
                line.write_all(&body[..cut.unwrap_or(length)]).await.unwrap();
                line.shutdown().await.unwrap();
            }
        });
        Self { address, asked }
    }

    fn lines(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|asked| asked.line.clone()).collect()
    }

    fn asked(&self, number: usize) -> Asked {
        self.asked.lock().unwrap()[number].clone()
    }
}

async fn read(line: &mut TcpStream) -> Asked {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        assert!(line.read_buf(&mut bytes).await.unwrap() > 0, "a whole request");
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    while bytes.len() < end + length {
        assert!(line.read_buf(&mut bytes).await.unwrap() > 0, "a whole body");
    }
    let (first, headers) = head.split_once("\r\n").unwrap();
    let line = first.trim_end_matches(" http/1.1").to_owned();
    Asked { line, headers: headers.to_owned(), body: bytes[end..].to_vec() }
}

struct Bench {
    folder: TempDir,
    store: Arc<FarmStore>,
    key: StepKey,
    watch: Watch,
}

const TASK: Try = Try { index: 7, attempt: 1 };

impl Bench {
    fn new(servers: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = servers.iter().map(|server| (*server).to_owned()).collect();
        let api = Arc::new(Api::new(client(None).unwrap(), servers, "secret".into()));
        let cache = Cache::open(&folder.path().join("cache"), 1 << 20).unwrap();
        let tickets = Tickets(Arc::new(|_, _| None));
        let key = StepKey { run: RunId("r".into()), step: 0, generation: 0 };
        let watch = Watch { progress: Progress::new(Activity::new()).0, stop: Stopper::new().1 };
        Self {
            folder,
            store: Arc::new(FarmStore::new(api, WorkerId(3), tickets, cache)),
            key,
            watch,
        }
    }

    fn execution_key(&self) -> ExecutionKey<'_> {
        ExecutionKey { key: &self.key, step: "render", task: TASK, execution: Execution(255) }
    }

    async fn asset(&self, bytes: &[u8]) -> Result<Stored, pictor_tasks::message::Failure> {
        let digest = blake3::hash(bytes).to_hex().to_string();
        self.store
            .fetch(&Wanted::Asset(&digest), &self.folder.path().join("part"), &self.watch)
            .await
    }
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[tokio::test]
async fn a_download_goes_on_where_the_line_was_cut() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let cut = Answer { cut: Some(60_000), ..ok(bytes.clone()) };
    let rest = Answer {
        headers: "content-range: bytes 60000-99999/100000\r\n",
        status: 206,
        ..ok(&bytes[60_000..])
    };
    let server = Server::start(vec![cut, rest]).await;
    let bench = Bench::new(&[&server.address]);
    let fetched = bench.asset(&bytes).await.unwrap();
    assert_eq!(fetched, Stored { digest: digest(&bytes), size_bytes: 100_000 });
    assert_eq!(std::fs::read(bench.folder.path().join("part")).unwrap(), bytes);
    let second = server.asked(1);
    assert_eq!(second.line, format!("get /v1/workers/3/assets/{}", digest(&bytes)));
    assert!(second.headers.contains("range: bytes=60000-"), "{}", second.headers);
    assert!(second.headers.contains("authorization: bearer secret"), "{}", second.headers);
}

#[tokio::test]
async fn a_server_that_cannot_go_on_starts_anew_and_one_that_is_away_is_waited_for() {
    let bytes = b"0123456789".to_vec();
    let cut = Answer { cut: Some(4), ..ok(bytes.clone()) };
    let server = Server::start(vec![cut, status(503), ok(bytes.clone())]).await;
    let bench = Bench::new(&["http://127.0.0.1:1", &server.address]);
    let fetched = bench.asset(&bytes).await.unwrap();
    assert_eq!(fetched.digest, digest(&bytes));
    assert_eq!(server.lines().len(), 3);
    assert_eq!(std::fs::read(bench.folder.path().join("part")).unwrap(), bytes);
}

#[tokio::test]
async fn a_file_that_the_server_does_not_have_is_no_reason_to_wait() {
    let server = Server::start(vec![status(404)]).await;
    let failure = Bench::new(&[&server.address]).asset(b"x").await.unwrap_err();
    assert!(failure.message.ends_with("no (404 x). Submit the job again."), "{failure:?}");
}

#[tokio::test]
async fn a_link_that_is_too_old_is_asked_for_again_and_others_never_see_the_token() {
    let bytes = b"frame".to_vec();
    let storage = Server::start(vec![status(403), ok(bytes.clone())]).await;
    let link = |name: &str| {
        let output = json!({"name": "image", "key": "runs/r/a.exr", "digest": digest(b"frame"),
                            "size_bytes": 5});
        let input =
            json!({"step": "s", "label": "frame=7,pass=depth", "index": 0, "output": output});
        let url = format!("{}/{name}", storage.address);
        let link = json!({"url": url, "headers": {"x-signed": name, "host": "y"}});
        ok(json!({"inputs": [{"input": input, "link": link}]}).to_string())
    };
    let server = Server::start(vec![link("old"), link("new")]).await;
    let bench = Bench::new(&[&server.address]);
    let inputs = bench.store.inputs(&bench.key, TASK).await.unwrap();
    // A server of an earlier version sends no coordinates.
    let values = [("frame", Value::Int(7)), ("pass", Value::Name("depth".into()))];
    let values = values.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(inputs[0].input.coordinates.0, values.into());
    let output: &Output = &inputs[0].input.output;
    let part = bench.folder.path().join("part");
    let fetched = bench
        .store
        .fetch(&Wanted::Input(bench.execution_key(), output), &part, &bench.watch)
        .await
        .unwrap();
    assert_eq!(fetched.digest, digest(b"frame"));
    assert_eq!(storage.lines(), ["get /old", "get /new"]);
    let headers = storage.asked(1).headers;
    assert!(headers.contains("x-signed: new"), "{headers}");
    assert!(!headers.contains("authorization") && !headers.contains("host: y"), "{headers}");
}

#[tokio::test]
async fn an_upload_is_hashed_on_the_way_and_tried_again() {
    let upload = || {
        let link = json!({"url": "/v1/workers/3/artifacts/k", "headers": {"pictor-link": "1"}});
        ok(json!({"key": "k", "link": link}).to_string())
    };
    let server = Server::start(vec![upload(), status(503), upload(), status(201)]).await;
    let bench = Bench::new(&[&server.address]);
    let path = bench.folder.path().join("frame.exr");
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::write(&path, &bytes).unwrap();
    let stored =
        bench.store.put(bench.execution_key(), "frame.exr", &path, &bench.watch).await.unwrap();
    assert_eq!(stored, ("k".into(), Stored { digest: digest(&bytes), size_bytes: 1_000_000 }));
    let asked: serde_json::Value = serde_json::from_slice(&server.asked(0).body).unwrap();
    let expected = json!({
        "key": {"run": "r", "step": 0, "generation": 0}, "task": {"index": 7, "attempt": 1},
        "execution": 255, "ticket": null, "step": "render", "file": "frame.exr",
        "size_bytes": 1_000_000,
    });
    assert_eq!(asked, expected);
    let sent = server.asked(3);
    assert_eq!(sent.line, "put /v1/workers/3/artifacts/k");
    assert_eq!(sent.body, bytes);
    assert!(sent.headers.contains("pictor-link: 1"), "{}", sent.headers);
    // A later task of this worker finds it in the cache.
    assert_eq!(bench.store.cache.size_bytes(), 1_000_000);
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_not_repeated_for_ever() {
    let storage = Server::start(vec![status(500), status(412)]).await;
    let place = || {
        let link = json!({"url": format!("{}/k", storage.address), "headers": {}});
        ok(json!({"key": "k", "link": link}).to_string())
    };
    let server = Server::start(vec![place(), place()]).await;
    let bench = Bench::new(&[&server.address]);
    let path = bench.folder.path().join("frame.exr");
    std::fs::write(&path, b"pixels").unwrap();
    let stored =
        bench.store.put(bench.execution_key(), "frame.exr", &path, &bench.watch).await.unwrap();
    assert_eq!(stored, ("k".into(), Stored { digest: digest(b"pixels"), size_bytes: 6 }));
    assert_eq!(storage.lines(), ["put /k", "put /k"]);
}

#[tokio::test]
async fn logs_are_sent_piece_by_piece_and_what_cannot_be_sent_waits() {
    let server =
        Server::start(vec![status(204), status(503), status(204), status(409), status(204)]).await;
    let bench = Bench::new(&[&server.address]);
    let (data, open) = (bench.folder.path(), Arc::<OpenLogs>::default());
    let mut post = LogPost::new(bench.store.api.clone(), WorkerId(3), data, open.clone());
    let path = data.join("logs/r/render/7/1-00000000000000ff.log");
    let log = LogWriter::new(path.clone(), Activity::new(), Some(open.clone()));
    post.send_all().await.unwrap();
    log.line("one");
    post.send_all().await.unwrap();
    log.line("two");
    assert!(post.send_all().await.unwrap_err().is_retryable());
    post.send_all().await.unwrap();
    let body = |number: usize| String::from_utf8(server.asked(number).body).unwrap();
    assert_eq!([body(0), body(1), body(2)], ["one\n", "two\n", "two\n"]);
    let line = "put /v1/workers/3/logs/r/render/7/1-00000000000000ff?offset=";
    assert_eq!(server.lines(), [0, 4, 4].map(|offset| format!("{line}{offset}")));
    assert!(path.exists());
    // A server that has lost its data gets everything again.
    log.line("three");
    drop(log);
    post.send_all().await.unwrap();
    assert_eq!([body(3), body(4)], ["three\n", "one\ntwo\nthree\n"]);
    assert_eq!(server.lines()[3..], [8, 0].map(|offset| format!("{line}{offset}&whole=true")));
    assert!(!path.exists() && !data.join("logs/r").exists());
    // Logs that an earlier process left are sent, too.
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "left\n").unwrap();
    let server = Server::start(vec![status(204)]).await;
    let bench = Bench::new(&[&server.address]);
    let mut post = LogPost::new(bench.store.api.clone(), WorkerId(3), data, open);
    post.send_all().await.unwrap();
    assert_eq!(server.asked(0).body, b"left\n");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_log_stays_here_until_all_of_it_is_stored() {
    let answers = [204, 503, 409, 503, 204].map(status);
    let server = Server::start(answers.to_vec()).await;
    let bench = Bench::new(&[&server.address]);
    let (data, open) = (bench.folder.path(), Arc::<OpenLogs>::default());
    let path = data.join("logs/r/render/7/1-00000000000000ff.log");
    let log = LogWriter::new(path.clone(), Activity::new(), Some(open.clone()));
    let mut post = LogPost::new(bench.store.api.clone(), WorkerId(3), data, open.clone());
    log.line("all");
    post.send_all().await.unwrap();
    // One server has all of it, but has neither been told that it is complete nor stored it.
    drop(log);
    assert!(post.send_all().await.unwrap_err().is_retryable());
    assert!(path.exists());
    // The next server has nothing, and cannot store it either.
    assert!(post.send_all().await.unwrap_err().is_retryable());
    assert!(path.exists());
    // A restarted worker begins anew.
    let mut post = LogPost::new(bench.store.api.clone(), WorkerId(3), data, open);
    post.send_all().await.unwrap();
    assert!(!path.exists());
    let line = "put /v1/workers/3/logs/r/render/7/1-00000000000000ff?offset=";
    let ends = ["0", "4&whole=true", "4&whole=true", "0&whole=true", "0&whole=true"];
    assert_eq!(server.lines(), ends.map(|end| format!("{line}{end}")));
    let bodies = [0, 1, 2, 3, 4].map(|number| server.asked(number).body);
    assert_eq!(bodies, [&b"all\n"[..], b"", b"", b"all\n", b"all\n"]);
}

#[tokio::test]
async fn a_server_that_took_the_farm_over_gets_a_log_that_does_not_grow() {
    let server = Server::start([204, 409, 204].map(status).to_vec()).await;
    let bench = Bench::new(&[&server.address]);
    let (data, open) = (bench.folder.path(), Arc::<OpenLogs>::default());
    let path = data.join("logs/r/render/7/1-00000000000000ff.log");
    let log = LogWriter::new(path.clone(), Activity::new(), Some(open.clone()));
    let mut post = LogPost::new(bench.store.api.clone(), WorkerId(3), data, open);
    log.line("one");
    post.send_all().await.unwrap();
    post.send_all().await.unwrap();
    assert_eq!(server.lines().len(), 1, "there is nothing new to say");
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    tokio::time::resume();
    post.send_all().await.unwrap();
    let bodies = [0, 1, 2].map(|number| server.asked(number).body);
    assert_eq!(bodies, [&b"one\n"[..], b"", b"one\n"]);
    post.send_all().await.unwrap();
    assert_eq!(server.lines().len(), 3);
    assert!(path.exists());
}
