//! One Blender process with a scene loaded, which takes one task after another over a pipe. The protocol is described
//! at the top of `driver.py`.

use super::{around, keep_bytecode, progress};
use crate::ground::failure::{failure, storage_failure};
use crate::ground::text_of;
use crate::programs::process::{Group, exit_sentence, spawn_failure};
use crate::programs::{Confinement, Device, Sandbox};
use crate::task::TaskContext;
use pictor_tasks::message::{Failure, FailureKind, RunId};
use pictor_tasks::units::Resolution;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, interval, timeout};

/// The prefix of the driver's lines; all others are Blender's log.
const PREFIX: &str = "@pictor ";
/// The longest line, in bytes.
const LINE_BYTES_MAX: u64 = 8 << 20;
/// The lines that are buffered before Blender has to wait.
const LINES_MAX: usize = 256;
/// How many lines of Blender's output a message quotes.
const LINES_QUOTED: usize = 3;
const QUOTED_CHARS_MAX: usize = 300;
/// The time limit for the last lines of a Blender that has ended.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The folder in which the GPU's driver keeps the kernels that it compiled, which takes it minutes.
const KERNELS: &str = "kernels";
/// How often a Blender that loads a scene is checked, and how long it may be completely idle.
const LOOK: Duration = Duration::from_secs(2);
const LOADING_IDLE_MAX: Duration = Duration::from_mins(2);

/// How to start a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The path of the Blender program.
    pub program: PathBuf,
    /// The path of `driver.py`.
    pub driver: PathBuf,
    pub scene: PathBuf,
    /// The tree of a packed scene, if it is one.
    pub tree: Option<PathBuf>,
    /// A baked copy, to be loaded in place of the scene.
    pub baked: Option<Baked>,
    /// Whether missing textures and libraries are tolerated.
    pub allow_missing: bool,
    /// Whether the scene's Python runs.
    pub allow_scripts: bool,
    /// Cycles' device: `CPU`, `OPTIX:0`.
    pub device: String,
    /// The GPU of that device.
    pub gpu: Option<Device>,
    /// The number of CPU threads.
    pub threads: u32,
    /// The run whose tasks it does: no Blender goes on with a scene of somebody else.
    pub run: RunId,
    /// The folder in which the session creates its own folder for temporary files.
    pub folder: PathBuf,
    /// The user's cache folder, whose content can be made again.
    pub cache: Option<PathBuf>,
}

/// A copy of a scene with all simulations baked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Baked {
    pub scene: PathBuf,
    /// An archive of the caches that Blender only stores in files.
    pub caches: Option<PathBuf>,
}

/// What the driver reports about a scene, before or after a job's settings are applied.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Inspection {
    pub frame_start: i64,
    pub frame_end: i64,
    pub frame_step: i64,
    /// The frame that was current when the scene was saved.
    pub frame_current: i64,
    pub width: u32,
    pub height: u32,
    /// Those that are rendered, in order.
    pub view_layers: Vec<String>,
    /// Notes for the user about the scene, as sentences.
    pub notes: Vec<String>,
    pub blender: String,
}

impl Start {
    /// The resources for all tasks that this Blender will run: their folders are next to that of this task, and so are
    /// those of their inputs, unless these are among the artifacts of the run.
    fn needs(&self, ctx: &TaskContext, folder: &Path) -> Confinement {
        let needs = Confinement { gpu: self.gpu.clone(), ..Confinement::default() };
        let driver = self.driver.parent().unwrap_or(&self.driver);
        let mut needs = needs.reads(driver).reads(ctx.artifacts_of_run()).writes(folder);
        match &self.tree {
            Some(tree) => needs.read.push(tree.clone()),
            None => needs.read.extend(around(&self.scene)),
        }
        needs.read.push(self.scene.clone());
        // Whoever could write there would decide what later Blenders execute.
        needs.read.extend(self.cache.clone());
        needs.read.extend(ctx.fetched.parent().map(Path::to_owned));
        needs.write.extend(ctx.scratch.parent().map(Path::to_owned));
        if self.gpu.is_some() {
            needs.write.push(self.folder.join(KERNELS));
        }
        needs
    }
}

/// A running Blender. Dropping it kills it with all its child processes.
#[derive(Debug)]
pub(super) struct Session {
    group: Group,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
    _folder: Folder,
    /// The inspection of the scene as it was loaded.
    pub inspection: Inspection,
    /// A request has not been answered yet: if nobody waits for it any more, the session must not be used again.
    busy: bool,
    questions: u64,
}

impl Session {
    /// Starts Blender and loads the scene, which takes seconds to minutes. A Blender that neither computes nor reads
    /// nor prints anything for two minutes is considered stuck.
    pub(super) async fn start(ctx: &TaskContext, start: &Start) -> Result<Self, Failure> {
        if start.allow_scripts && matches!(Sandbox::current(), Sandbox::Nothing(_)) {
            let message =
                "The scene's scripts are allowed, but this worker has no sandbox to run them in.";
            return Err(failure(FailureKind::Unsupported, message));
        }
        if ctx.config.artifacts().is_dir() {
            // Blender sees what the folder will hold, but not a folder that is made later.
            std::fs::create_dir_all(ctx.artifacts_of_run())
                .map_err(|error| storage_failure("The run's folder cannot be made", &error))?;
        }
        let folder = Folder::new(&start.folder)?;
        let command = command(start, &folder.0)?;
        let pipes = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
        let mut group = Group::spawn(&command, &start.needs(ctx, &folder.0), pipes)
            .map_err(|e| spawn_failure(&command, &e))?;
        let child = group.child();
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(failure(FailureKind::Failed, "Blender started without its pipes."));
        };
        let (sender, lines) = mpsc::channel(LINES_MAX);
        tokio::spawn(pump(stdout, sender.clone(), true));
        tokio::spawn(pump(stderr, sender, false));
        ctx.progress.report(0.0, "loading the scene");
        let mut session = Self {
            group,
            stdin,
            lines,
            _folder: folder,
            inspection: Inspection::empty(),
            busy: true,
            questions: 0,
        };
        let doing = format!("loading {}", start.scene.display());
        let program = session.group.find_program();
        let loaded = tokio::select! {
            answer = session.answer(ctx, &doing) => answer?,
            idle = idle(ctx, program) => return Err(idle),
        };
        if loaded.get("event").and_then(Value::as_str) != Some("loaded") {
            return Err(failure_of(&loaded, ctx));
        }
        session.inspection = read_as(loaded)?;
        session.busy = false;
        ctx.log.line(&format!(
            "pictor: Blender {} (process {}) has loaded {}",
            session.inspection.blender,
            session.id(),
            start.scene.display()
        ));
        Ok(session)
    }

    /// Whether it can take another task.
    pub(super) fn is_usable(&mut self) -> bool {
        !self.busy && matches!(self.group.child().try_wait(), Ok(None))
    }

    /// The process id.
    pub(super) fn id(&self) -> u32 {
        self.group.program()
    }

    /// Marks the session as used up, because its scene is no longer the one that was loaded.
    pub(super) fn spend(&mut self) {
        self.busy = true;
    }

    /// Sends a request and waits for the reply. `doing` completes "Blender crashed while …".
    pub(super) async fn ask(
        &mut self,
        ctx: &TaskContext,
        doing: &str,
        mut question: Map<String, Value>,
    ) -> Result<Map<String, Value>, Failure> {
        self.busy = true;
        self.questions += 1;
        question.insert("id".into(), self.questions.into());
        let mut line = Value::Object(question).to_string();
        line.push('\n');
        // If Blender is gone, the end of its output says why.
        let _ = self.stdin.write_all(line.as_bytes()).await;
        let answer = loop {
            let answer = self.answer(ctx, doing).await?;
            // A line with an event is never the reply, whatever its id.
            if answer.contains_key("event") {
                let layers = &self.inspection.view_layers;
                if let Some((done, message)) = progress::of_event(&answer, layers) {
                    ctx.progress.report(done, &message);
                }
            } else if answer.get("id").and_then(Value::as_u64) == Some(self.questions) {
                break answer;
            }
        };
        self.busy = false;
        self.group.end_strays();
        match answer.get("ok") {
            Some(Value::Bool(true)) => Ok(answer),
            Some(Value::Bool(false)) => Err(failure_of(&answer, ctx)),
            _ => {
                let answer = shortened(&Value::Object(answer).to_string());
                let message = format!("Blender's answer while {doing} makes no sense: {answer}");
                Err(failure(FailureKind::Failed, message))
            }
        }
    }

    /// The driver's next line. All other lines go to the log.
    async fn answer(
        &mut self,
        ctx: &TaskContext,
        doing: &str,
    ) -> Result<Map<String, Value>, Failure> {
        loop {
            let line = tokio::select! {
                biased;
                _ = ctx.stop.stopped() => {
                    self.group.stop(Duration::ZERO).await;
                    return Err(ctx.stop.failure());
                }
                line = self.lines.recv() => line,
                _ = self.group.wait(), if self.lines.is_empty() => {
                    timeout(LAST_LINES, self.lines.recv()).await.unwrap_or_default()
                }
            };
            let Some(line) = line else {
                return Err(self.died(ctx, doing).await);
            };
            if let Some(answer) = line.strip_prefix(PREFIX) {
                return serde_json::from_str(answer).map_err(|error| {
                    failure(
                        FailureKind::Failed,
                        format!("Blender's answer makes no sense: {error}."),
                    )
                });
            }
            if line.is_empty() {
                continue;
            }
            ctx.log.line(&line);
            if let Some((done, message)) = progress::parse(&line, &self.inspection.view_layers) {
                ctx.progress.report(done, &message);
            }
        }
    }

    async fn died(&mut self, ctx: &TaskContext, doing: &str) -> Failure {
        self.group.stop(LAST_LINES).await;
        let how = match self.group.wait().await {
            Ok(status) => exit_sentence(status),
            Err(error) => format!("ended ({error})"),
        };
        failure(FailureKind::Failed, format!("Blender {how} while {doing}.{}", last_lines(ctx)))
    }
}

impl Inspection {
    /// The size of a frame.
    pub(super) fn size(&self) -> Resolution {
        Resolution { width: self.width, height: self.height }
    }

    fn empty() -> Self {
        Self {
            frame_start: 0,
            frame_end: 0,
            frame_step: 1,
            frame_current: 0,
            width: 0,
            height: 0,
            view_layers: Vec::new(),
            notes: Vec::new(),
            blender: String::new(),
        }
    }
}

/// A folder that is removed when this is dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> Result<Self, Failure> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| {
            let message = format!("The folder {} cannot be made: {error}.", path.display());
            failure(FailureKind::Storage, message)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Temporary files that are left over only take disk space.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn command(start: &Start, folder: &Path) -> Result<Command, Failure> {
    let baked = match &start.baked {
        Some(Baked { scene, caches }) => {
            let caches = caches.as_deref().map(text_of).transpose()?;
            Some(json!({ "scene": text_of(scene)?, "caches": caches }))
        }
        None => None,
    };
    let options = json!({
        "scene": text_of(&start.scene)?,
        "tree": start.tree.as_deref().map(text_of).transpose()?,
        "baked": baked,
        "allow_missing": start.allow_missing,
        "allow_scripts": start.allow_scripts,
        "device": start.device,
    });
    let mut command = Command::new(&start.program);
    command
        .args(["-b", "--factory-startup", if start.allow_scripts { "-y" } else { "-Y" }])
        .args(["-noaudio", "--threads"])
        .arg(start.threads.to_string())
        .arg("-P")
        .arg(&start.driver)
        .args(["--", &options.to_string()])
        // Keep out the settings and add-ons of the user who runs the worker.
        .env("BLENDER_USER_RESOURCES", folder)
        .env("BLENDER_USER_CONFIG", folder)
        .env("BLENDER_USER_SCRIPTS", folder)
        .env("TMPDIR", folder)
        .env("PYTHONUNBUFFERED", "1");
    if start.gpu.is_some() {
        let kernels = start.folder.join(KERNELS);
        std::fs::create_dir_all(&kernels)
            .map_err(|error| storage_failure("A folder for kernels cannot be made", &error))?;
        command.env("CUDA_CACHE_PATH", &kernels).env("OPTIX_CACHE_PATH", &kernels);
    }
    keep_bytecode(&mut command, start.cache.as_deref());
    Ok(command)
}

/// Forwards the lines of a pipe. Only standard output can contain lines of the driver.
async fn pump(pipe: impl AsyncRead + Unpin, lines: mpsc::Sender<String>, is_driver: bool) {
    let (mut reader, mut line) = (BufReader::new(pipe), Vec::new());
    // A pipe that cannot be read counts as closed.
    while (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let text = if is_driver { text } else { text.replace(PREFIX, "") };
        if lines.send(text).await.is_err() {
            break;
        }
        line.clear();
    }
}

/// Resolves when the process has been idle for too long: no computing, no reading. As long as it does either, the task
/// counts as alive.
async fn idle(ctx: &TaskContext, program: impl Fn() -> u32) -> Failure {
    let (mut ticks, mut last, mut since) = (interval(LOOK), work_of(program()), Instant::now());
    loop {
        ticks.tick().await;
        let now = work_of(program());
        if now != last {
            (last, since) = (now, Instant::now());
            ctx.progress.report(0.0, "loading the scene");
        } else if since.elapsed() > LOADING_IDLE_MAX {
            let message = "Blender has done nothing for two minutes while it loaded the scene. \
                           Is the disk that the scene or its textures lie on reachable?";
            return failure(FailureKind::TimedOut, message);
        }
    }
}

/// CPU time and bytes read so far; `None` where the system does not tell.
fn work_of(id: u32) -> Option<[String; 3]> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The fields after the program's name, which may contain anything: user and system time are 11 and 12.
    let mut times = stat.rsplit_once(") ")?.1.split(' ').skip(11).map(str::to_owned);
    let io = std::fs::read_to_string(format!("/proc/{id}/io")).unwrap_or_default();
    let read = io.lines().next().unwrap_or_default().to_owned();
    Some([times.next()?, times.next()?, read])
}

/// The memory in bytes that a process uses now; 0 where the system does not tell.
pub(super) fn memory_of(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Deserializes an answer.
pub(super) fn read_as<T: for<'de> Deserialize<'de>>(
    answer: Map<String, Value>,
) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(answer)).map_err(|error| {
        failure(FailureKind::Failed, format!("Blender's answer lacks something: {error}."))
    })
}

/// The last lines that Blender printed, as the end of a message.
fn last_lines(ctx: &TaskContext) -> String {
    let tail = ctx.log.tail();
    let lines: Vec<_> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    match &lines[lines.len().saturating_sub(LINES_QUOTED)..] {
        [] => " It printed nothing.".to_owned(),
        [line] => format!(" Its last line: {}", shortened(line)),
        lines => {
            let lines: Vec<_> = lines.iter().map(|line| shortened(line)).collect();
            format!(" Its last lines:\n{}", lines.join("\n"))
        }
    }
}

/// A line of another program's output, in a form that fits into a message.
fn shortened(line: &str) -> String {
    match line.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Translates the driver's kind of failure.
fn failure_of(answer: &Map<String, Value>, ctx: &TaskContext) -> Failure {
    let text = |name| answer.get(name).and_then(Value::as_str);
    let kind = match text("kind").unwrap_or_default() {
        "scene_missing"
        | "not_a_blend"
        | "missing_files"
        | "scripts"
        | "no_camera"
        | "several_views"
        | "unknown_view"
        | "unknown_view_layer"
        | "unknown_camera"
        | "unknown_engine"
        | "bad_settings"
        | "bad_set_path"
        | "unsupported_compositor"
        | "unbaked_simulation"
        | "bake_failed" => FailureKind::Invalid,
        // Another worker may have what is missing here.
        "no_denoiser" | "device_missing" => FailureKind::Unsupported,
        "out_of_memory" => FailureKind::OutOfMemory,
        "disk_full" => FailureKind::Storage,
        _ => FailureKind::Failed,
    };
    let unsaid = || format!("Blender failed without a reason.{}", last_lines(ctx));
    failure(kind, text("message").map_or_else(unsaid, str::to_owned))
}
