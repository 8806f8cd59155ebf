//! What the tests of the command share: a folder for each test, the real binary with a time limit, scenes and pictures
//! made by plain Blender, and the history as it is stored on disk.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(dead_code, reason = "each test binary uses its part")]
#![expect(clippy::disallowed_methods, reason = "what runs here has real time limits")]

pub(crate) mod farm;
pub(crate) mod pictures;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Time limit for every program that these tests start, after which it counts as hung.
const LIMIT: Duration = Duration::from_secs(100);

/// The folder of one test, with the data folder `data` and the output folder `out` in it.
pub(crate) struct TestDir(TempDir);

impl TestDir {
    pub(crate) fn new() -> Self {
        let dir = Self(tempfile::Builder::new().prefix("pictor-test-").tempdir().unwrap());
        std::fs::create_dir(dir.shared("")).unwrap();
        dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A path in the only folder outside of their own that the programs of jobs can write to.
    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.path("shared").join(name)
    }

    /// Writes a file into the folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `pictor` with these arguments, in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pictor"));
        command.args(arguments).current_dir(self.0.path());
        command.env("PICTOR_DATA", self.path("data")).env_remove("PICTOR_LOG");
        command.env("PICTOR_SANDBOX_WRITE", self.shared(""));
        for variable in ["PICTOR_SERVER", "PICTOR_TOKEN", "PICTOR_TOKEN_FILE"] {
            command.env_remove(variable);
        }
        command.env("XDG_DATA_HOME", self.path("share"));
        command.env("XDG_CONFIG_HOME", self.path("config")).env("XDG_CACHE_HOME", cache());
        command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").env("USER", "tester");
        command
    }

    /// Starts `pictor`, with arguments as a shell takes them, on a terminal of its own of so many columns (by `script`).
    pub(crate) fn on_terminal(&self, columns: usize, arguments: &str) -> Running {
        let program = env!("CARGO_BIN_EXE_pictor");
        let line = format!("stty cols {columns} rows 40; exec '{program}' {arguments}");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(self.path(""));
        for (name, value) in self.command(&[]).get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        Running::start(script.env("TERM", "xterm"))
    }

    /// Runs `pictor` to its end.
    pub(crate) fn pictor(&self, arguments: &[&str]) -> Said {
        Running::start(&mut self.command(arguments)).finish()
    }

    /// Runs `pictor`, which must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Said {
        let said = self.pictor(arguments);
        assert_eq!(said.code, Some(0), "pictor {arguments:?}\n{said}");
        said
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// Runs `job.yaml`, with results in `out`.
    pub(crate) fn run(&self, more: &[&str]) -> Said {
        self.pictor(&[&["run", "job.yaml", "--out", "out"], more].concat())
    }

    /// The one JSON value that a command prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Json {
        let said = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}\n{said}"))
    }

    /// The ends of attempts in the stored history.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        attempts(&self.path("data/pictor.sqlite"))
    }

    /// The files in the output folder, by their path in it.
    pub(crate) fn results(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.path("out"))
    }

    /// Processes that were started for this test (its data folder is in their arguments).
    pub(crate) fn processes(&self, program: &str) -> Vec<i32> {
        let data = self.path("data").display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&data) && line.split(' ').next().unwrap_or("").ends_with(program) {
                found.push(id);
            }
        }
        found
    }
}

/// The arguments of all processes of this machine, each with a NUL between them.
pub(crate) fn command_lines() -> impl Iterator<Item = String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Every file under a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// One ended attempt, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) step: i64,
    pub(crate) task: i64,
    pub(crate) number: i64,
    /// Code of the outcome: 1 succeeded, 2 failed, 3 cancelled, 4 lost.
    pub(crate) outcome: i64,
}

fn attempts(file: &Path) -> Vec<Attempt> {
    use sqlx::{ConnectOptions, Row, sqlite::SqliteConnectOptions};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut database = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
        let rows =
            sqlx::query("SELECT step, task, attempt, outcome FROM attempt ORDER BY run, seq")
                .fetch_all(&mut database)
                .await
                .unwrap();
        let attempt = |row: &sqlx::sqlite::SqliteRow| Attempt {
            step: row.get(0),
            task: row.get(1),
            number: row.get(2),
            outcome: row.get(3),
        };
        rows.iter().map(attempt).collect()
    })
}

/// Asserts that every task of these has succeeded exactly once; returns the number of tasks.
pub(crate) fn assert_one_success_each(attempts: &[Attempt]) -> usize {
    let mut successes: BTreeMap<(i64, i64), u32> = BTreeMap::new();
    for attempt in attempts.iter().filter(|attempt| attempt.outcome == 1) {
        *successes.entry((attempt.step, attempt.task)).or_default() += 1;
    }
    assert!(successes.values().all(|count| *count == 1), "{successes:?}");
    successes.len()
}

/// What a program has printed, and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {:?}\n--- stdout\n{}--- stderr\n{}", self.code, self.out, self.err)
    }
}

impl Said {
    /// Asserts the exit status, and that all these texts are in what was printed.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, parts: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{self}");
        let all = format!("{}{}", self.out, self.err);
        for part in parts {
            assert!(all.contains(part), "`{part}` is not in:\n{self}");
        }
        assert!(!all.contains("panicked"), "{self}");
        self
    }

    /// The id of the run that was started.
    pub(crate) fn run_id(&self) -> String {
        let first = self.out.lines().find_map(|line| line.split_once(": results land in"));
        first.unwrap_or_else(|| panic!("no run in:\n{self}")).0.to_owned()
    }
}

/// A `pictor` process in the background.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<(bool, String)>,
    said: Said,
    limit: Instant,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let errors = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(out)
                .lines()
                .map_while(Result::ok)
                .all(|l| sender.send((true, l)).is_ok())
        });
        std::thread::spawn(move || {
            BufReader::new(err)
                .lines()
                .map_while(Result::ok)
                .all(|l| errors.send((false, l)).is_ok())
        });
        let said = Said { code: None, out: String::new(), err: String::new() };
        Self { child, lines, said, limit: Instant::now() + LIMIT }
    }

    /// Raises the time limit for something that takes longer than anything else.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = Instant::now() + limit;
        self
    }

    pub(crate) fn id(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.id()).unwrap(), signal).unwrap();
    }

    /// The next line. Returns `None` if the program has ended, or has closed its output.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(self.limit.saturating_duration_since(Instant::now())) {
            Ok((of_out, line)) => {
                let text = if of_out { &mut self.said.out } else { &mut self.said.err };
                *text += &line;
                text.push('\n');
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.child.kill().unwrap();
                panic!("it hangs:\n{}", self.said);
            }
        }
    }

    /// Waits for a line that contains this text.
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        loop {
            match self.line() {
                Some(line) if line.contains(part) => return line,
                Some(_) => {}
                None => panic!("it ended without `{part}`:\n{}", self.said),
            }
        }
    }

    /// Waits until the program ends.
    pub(crate) fn finish(mut self) -> Said {
        while self.line().is_some() {}
        self.said.code = self.child.wait().unwrap().code();
        std::mem::take(&mut self.said)
    }

    /// Whether the program is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a condition holds; for files, processes and others that cannot notify us.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + if soak() { 4 * LIMIT } else { LIMIT };
    loop {
        let looked = Instant::now();
        if is_so() {
            return;
        }
        assert!(Instant::now() < end, "never: {what}");
        // Checking takes processor time from what is waited for.
        let pause =
            (4 * looked.elapsed()).clamp(Duration::from_millis(5), Duration::from_millis(200));
        std::thread::sleep(pause);
    }
}

/// Whether the slow, long forms of tests are requested.
pub(crate) fn soak() -> bool {
    std::env::var_os("PICTOR_SOAK").is_some_and(|value| value == "1")
}

/// The folder that all tests together use in place of the user's `~/.cache`.
pub(crate) fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The scenes of `scenes.py` and the pictures that plain Blender renders of them; kept for later runs.
pub(crate) fn scenes() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = root().join("tests/support/scenes.py");
        let text = std::fs::read_to_string(&script).unwrap();
        let version = text.bytes().fold(7_u64, |hash, b| hash.wrapping_mul(31) ^ u64::from(b));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scenes-{version:016x}"));
        std::fs::create_dir_all(&folder).unwrap();
        let _lock = lock(&folder);
        if !folder.join("done").exists() {
            blender(&script, &folder);
            std::fs::write(folder.join("done"), "").unwrap();
        }
        folder
    })
}

/// Runs a script in Blender, with one argument.
pub(crate) fn blender(script: &Path, argument: &Path) {
    let mut blender = Command::new("blender");
    blender.args(["-b", "--factory-startup", "-noaudio", "--python-exit-code", "1", "-P"]);
    // It starts in half the time if it need not compile the scripts that come with it.
    blender
        .env("PYTHONPYCACHEPREFIX", cache().join("python"))
        .env_remove("PYTHONDONTWRITEBYTECODE");
    let made = Running::start(blender.arg(script).arg("--").arg(argument)).finish();
    assert_eq!(made.code, Some(0), "{made}");
}

/// Locks a folder: nobody else makes files in it while the lock is held.
pub(crate) fn lock(folder: &Path) -> std::fs::File {
    let file = std::fs::File::create(folder.join("lock")).unwrap();
    file.lock().unwrap();
    file
}

/// A small job that renders a scene of [`scenes`].
pub(crate) fn render_job(scene: &str, more: &str) -> String {
    let scene = scenes().join(scene);
    format!(
        "pictor: v1\nname: job\nrender:\n  scene: {}\n  frames: 1\n  seed: 3\n{more}",
        scene.display()
    )
}

/// The example jobs, by name.
pub(crate) fn workflows() -> BTreeMap<String, PathBuf> {
    let jobs = std::fs::read_dir(root().join("workflows")).unwrap();
    jobs.map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect()
}

/// The folder of the public networks, which are downloaded once and kept for later runs of the tests. The executor's
/// tests use the same folder.
pub(crate) fn models() -> PathBuf {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("models");
    let folder = kept.join("folder");
    std::fs::create_dir_all(&folder).unwrap();
    let fetching = std::fs::File::create(kept.join("lock")).unwrap();
    fetching.lock().unwrap();
    let is_there = |name: &str| folder.join(name).exists();
    if !is_there("realesr-animevideov3-x2.json") || !is_there("libonnxruntime.so") {
        let mut pull = Command::new(env!("CARGO_BIN_EXE_pictor"));
        pull.args(["models", "pull"]).env("PICTOR_MODELS", &folder);
        assert!(pull.status().unwrap().success(), "the networks cannot be fetched");
    }
    folder
}

/// Builds the scenes of the workflows that are not built yet, or whose script is newer.
pub(crate) fn build_scenes() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = root().join("workflows/scenes");
        let built = folder.join("built");
        std::fs::create_dir_all(&built).unwrap();
        let _lock = lock(Path::new(env!("CARGO_TARGET_TMPDIR")));
        let age = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        for (name, _) in workflows() {
            let (script, scene) =
                (folder.join(format!("{name}.py")), built.join(format!("{name}.blend")));
            if script.exists() && age(&scene) < age(&script).max(age(&folder.join("studio.py"))) {
                blender(&script, &scene);
            }
        }
    });
}
