//! Workers of a farm: `pictor work` beside `pictor serve`, with a real Postgres, RabbitMQ and S3.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "what runs here has real time limits")]

mod support;

use pictor_test_servers::{Postgres, RabbitMq, S3};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{Running, Said, TestDir, blender, command_lines, until};

/// A `pictor` that runs until it is stopped, and a file with its output.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), log }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until this text is in its output.
    fn until_said(&self, part: &str) {
        until(part, || self.said().contains(part));
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended successfully.
    fn ended(&mut self) {
        until("it ends", || !self.is_running());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.said());
    }

    fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.said());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server, its services, and a folder for everything.
struct TestFarm {
    server: Option<Daemon>,
    dir: TestDir,
    serve: Vec<String>,
    environment: Vec<(&'static str, String)>,
    url: String,
    _services: (Postgres, RabbitMq, Option<S3>),
}

impl TestFarm {
    /// Starts a farm whose results are stored in object storage (`s3`), or else in a folder of the server.
    fn start(s3: bool) -> Self {
        let (dir, postgres, rabbit) = (TestDir::new(), Postgres::start(), RabbitMq::start());
        let (vhost, s3) = (rabbit.vhost(), s3.then(S3::start));
        let mut serve = vec!["serve".to_owned(), "--no-worker".to_owned()];
        let mut say = |flag: &str, value: String| serve.extend([flag.to_owned(), value]);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        say("--listen", format!("127.0.0.1:{port}"));
        say("--data", dir.path("server").display().to_string());
        say("--database", postgres.database());
        say("--broker", vhost.amqp_url);
        say("--broker-management", vhost.management_url);
        let mut environment = Vec::new();
        if let Some(s3) = &s3 {
            let (bucket, endpoint, region) = (s3.bucket(), s3.endpoint(), s3.region());
            say("--artifacts", format!("s3://{bucket}/farm?endpoint={endpoint}&region={region}"));
            environment.push(("PICTOR_S3_KEY_ID", s3.access_key().to_owned()));
            environment.push(("PICTOR_S3_SECRET", s3.secret_key().to_owned()));
        }
        let url = format!("http://127.0.0.1:{port}");
        let services = (postgres, rabbit, s3);
        let mut farm = Self { server: None, dir, serve, environment, url, _services: services };
        farm.start_server();
        until("the server has made a token", || farm.dir.path("server/admin-token").exists());
        until("the server owns the farm", || farm.pictor(&["workers"]).code == Some(0));
        let token = farm.ok(&["token", "add", "machines", "--role", "worker"]).out;
        farm.dir.write("enrolment", &token);
        farm
    }

    fn start_server(&mut self) {
        let arguments: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        let mut command = self.dir.command(&arguments);
        command.env_remove("PICTOR_DATA").envs(self.environment.iter().cloned());
        self.server = Some(Daemon::start(&mut command, self.dir.path("server.log")));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.dir.command(arguments);
        command.env("PICTOR_SERVER", &self.url);
        command.env("PICTOR_TOKEN_FILE", self.dir.path("server/admin-token"));
        command
    }

    fn pictor(&self, arguments: &[&str]) -> Said {
        Running::start(&mut self.command(arguments)).finish()
    }

    fn ok(&self, arguments: &[&str]) -> Said {
        let said = self.pictor(arguments);
        assert_eq!(said.code, Some(0), "pictor {arguments:?}\n{said}");
        said
    }

    /// The values that a command prints, one a line.
    fn json(&self, arguments: &[&str]) -> Vec<Json> {
        let said = self.ok(&[arguments, &["--json"]].concat());
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Starts a worker with one slot that runs commands. Returns when the farm knows it.
    fn worker(&self, name: &str, more: &[&str]) -> Daemon {
        let worker = self.start_worker(name, Some("enrolment"), more);
        worker.until_said(&format!("worker `{name}`"));
        until("the worker is heard of", || self.worker_of(name)["online"] == true);
        worker
    }

    /// Starts a worker without waiting for it. Each counts as a machine of its own.
    fn start_worker(&self, name: &str, token: Option<&str>, more: &[&str]) -> Daemon {
        let data = self.dir.path(name).display().to_string();
        let arguments = ["work", "--data", &data, "--name", name, "--slots", "1"];
        let all = [&arguments[..], &["--allow-commands", "--server", &self.url], more].concat();
        let mut command = self.dir.command(&all);
        command.env_remove("PICTOR_DATA").env("TZ", "UTC");
        command.env("XDG_DATA_HOME", self.dir.path(&format!("{name}/share")));
        if let Some(token) = token {
            command.env("PICTOR_TOKEN_FILE", self.dir.path(token));
        }
        Daemon::start(&mut command, self.dir.path(&format!("{name}.log")))
    }

    fn worker_of(&self, name: &str) -> Json {
        let mut workers = self.json(&["workers"]).into_iter();
        workers.find(|worker| worker["name"] == name).unwrap_or_default()
    }

    fn submit(&self, job: &str) -> String {
        self.dir.write("job.yaml", job);
        self.json(&["submit", "job.yaml"])[0]["id"].as_str().unwrap().to_owned()
    }

    fn until_succeeded(&self, run: &str) {
        until("the run ends", || {
            let state = self.json(&["show", run])[0]["state"].take();
            assert!(
                state == "running" || state == "succeeded",
                "{state}: {}",
                self.ok(&["show", run])
            );
            state == "succeeded"
        });
    }

    /// Programs that append a line to `executed` and wait for the file `gate`.
    fn gated(&self, count: u32) -> String {
        let path = |name| self.dir.shared(name).display().to_string();
        let script = format!(
            "echo >> {}; while [ ! -e {} ]; do sleep 0.05; done",
            path("executed"),
            path("gate")
        );
        format!(
            "pictor: v1\nname: gated\ndims: {{ i: {{ count: {count} }} }}\nsteps:\n- name: wait\n  \
             over: [i]\n  command: {{ run: [sh, -c, '{script}'] }}\n"
        )
    }

    /// How many programs have begun.
    fn executed(&self) -> usize {
        std::fs::read_to_string(self.dir.shared("executed")).unwrap_or_default().lines().count()
    }

    /// How many of them still run.
    fn executing(&self) -> usize {
        let script = format!("/sh\0-c\0echo >> {}", self.dir.shared("executed").display());
        command_lines().filter(|line| line.contains(&script) && !line.contains("bwrap")).count()
    }

    fn until_executed(&self, count: usize) {
        until("tasks have begun", || self.executed() >= count);
    }

    fn open_gate(&self) {
        self.dir.write("shared/gate", "");
    }
}

/// A scene with a texture beside it, one by its absolute path, and a library.
const SCENE: &str = r#"
import bpy, os, sys
out = sys.argv[sys.argv.index("--") + 1]
for folder in ("shot/textures", "far"):
    os.makedirs(f"{out}/{folder}", exist_ok=True)

def picture(path, colour):
    image = bpy.data.images.new("x", 8, 8)
    image.pixels = list(colour + (1.0,)) * 64
    image.filepath_raw, image.file_format = path, "PNG"
    image.save()
    bpy.data.images.remove(image)

bpy.ops.wm.read_factory_settings()
picture(f"{out}/shot/textures/near.png", (1.0, 0.1, 0.1))
picture(f"{out}/far/far.png", (0.1, 0.2, 1.0))
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples = "CYCLES", 4
scene.cycles.use_adaptive_sampling, scene.cycles.use_denoising = False, False
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 96, 64, 100
bpy.ops.wm.save_as_mainfile(filepath=f"{out}/shot/a.blend")
for x, path in ((-2, "//textures/near.png"), (2, f"{out}/far/far.png")):
    bpy.ops.mesh.primitive_plane_add(size=3, location=(x, 0, 1))
    material = bpy.data.materials.new("m")
    material.use_nodes = True
    nodes = material.node_tree
    node = nodes.nodes.new("ShaderNodeTexImage")
    node.image = bpy.data.images.load(bpy.path.abspath(path))
    node.image.filepath = path
    nodes.links.new(node.outputs["Color"], nodes.nodes["Principled BSDF"].inputs["Base Color"])
    bpy.context.object.data.materials.append(material)
bpy.ops.wm.save_mainfile()
"#;

#[test]
fn a_render_travels_through_workers_that_have_nothing_of_its_scene() {
    let farm = TestFarm::start(true);
    let source = farm.dir.path("source");
    std::fs::create_dir_all(&source).unwrap();
    blender(&farm.dir.write("scene.py", SCENE), &source);
    let job = "pictor: v1\nname: travel\nrender:\n  scene: source/shot/a.blend\n  frames: 1-3\n  \
               tiles: 2x1\n  seed: 5\n  output: { format: exr, preview: png }\n";
    farm.dir.write("job.yaml", job);
    let here = farm.dir.ok(&["run", "job.yaml", "--out", "here"]).run_id();
    let run = farm.submit(job);
    // From now on the scene exists only in the farm.
    std::fs::rename(&source, farm.dir.path("elsewhere")).unwrap();
    let _workers = [farm.worker("one", &[]), farm.worker("two", &[])];
    farm.until_succeeded(&run);
    farm.ok(&["download", &run, "--out", "there"]);
    let names = |folder: &str| {
        let all = support::files(&farm.dir.path(folder));
        let pictures =
            all.into_keys().filter(|name| name.ends_with("exr") || name.ends_with("png"));
        pictures.collect::<Vec<_>>()
    };
    assert_eq!(names("there"), names("here"), "{here}");
    assert_eq!(names("here").len(), 6);
    for name in names("here") {
        let (made, plain) = (farm.dir.path("there").join(&name), farm.dir.path("here").join(&name));
        if name.ends_with("exr") {
            support::pictures::assert_same(&made, &plain);
        } else {
            assert_eq!(support::pictures::png(&made), support::pictures::png(&plain), "{name}");
        }
    }
    // Blender's output is stored by the farm, and no longer by the workers.
    let log = "inspect";
    until("the log is there", || farm.pictor(&["logs", &run, log]).out.contains("has loaded"));
    for name in ["one", "two"] {
        until("logs were sent", || {
            support::files(&farm.dir.path(name).join("worker/logs")).is_empty()
        });
    }
    let telemetry = farm.worker_of("one");
    assert!(telemetry["machine"]["memory_available_bytes"].as_u64() > Some(0), "{telemetry}");
    assert!(telemetry["inventory"]["software"]["blender"].is_string(), "{telemetry}");
}

#[test]
fn a_sequence_is_upscaled_by_workers_that_hold_or_get_the_network() {
    let farm = TestFarm::start(false);
    let models = |home: &str| {
        std::fs::create_dir_all(farm.dir.path(&format!("{home}/pictor"))).unwrap();
        let to = farm.dir.path(&format!("{home}/pictor/models"));
        std::os::unix::fs::symlink(support::models(), to).unwrap();
    };
    let source = farm.dir.path("source");
    std::fs::create_dir_all(&source).unwrap();
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg
        .args("-v error -f lavfi -i testsrc=size=100x70:rate=5 -frames:v 4 s_%04d.png".split(' '));
    ffmpeg.current_dir(&source);
    assert!(ffmpeg.status().unwrap().success());
    let job = "pictor: v1\nname: larger\nupscale:\n  input: source/s_%04d.png\n  \
               model: realesr-animevideov3-x2\n  tile: 64\n  frames: 2-4\n";
    farm.dir.write("job.yaml", job);
    models("share");
    let here = farm.dir.ok(&["run", "job.yaml", "--out", "here"]).run_id();
    let made = |folder: &str| support::files(&farm.dir.path(folder));
    let left = |folder: &str, run: &str| {
        let left = made(&format!("{folder}/artifacts/runs/{run}")).into_keys();
        left.filter(|key| !key.starts_with('_')).map(|key| key[..5].to_owned()).collect::<Vec<_>>()
    };
    let results = ["probe", "stitc", "stitc", "stitc"];
    assert_eq!(left("data", &here), results, "tiles go when they are stitched");
    // Three pictures and their list; frame 1 is not uploaded. After that the others exist only in the farm.
    let said = farm.ok(&["submit", "job.yaml"]);
    said.expect(0, &["sent 4 files"]);
    let run = said.out.split(':').next().unwrap().to_owned();
    std::fs::rename(&source, farm.dir.path("elsewhere")).unwrap();
    let _bare = farm.worker("bare", &[]);
    let why = "no worker has model `realesr-animevideov3-x2`: `pictor models pull` fetches";
    let tasks = |state: &str| farm.ok(&["tasks", &run, "--state", state]).out;
    until("the tiles wait", || tasks("ready").contains(why));
    models("bare/share");
    until("it has noticed", || tasks("succeeded").contains("upscale"));
    let _able = (models("able/share"), farm.worker("able", &[]));
    farm.until_succeeded(&run);
    farm.ok(&["download", &run, "--out", "there"]);
    assert!(made("here").into_keys().eq([2, 3, 4].map(|frame| format!("frames/000{frame}.png"))));
    assert!(made("here") == made("there"), "the same bytes");
    assert_eq!(support::pictures::png(&farm.dir.path("there/frames/0002.png")).0, (200, 140));
    until("tiles are deleted", || left("server", &run) == results);
    assert_eq!(farm.json(&["tasks", &run, "--step", "upscale"]).len(), 3 * 4);
}

#[test]
fn a_worker_that_is_told_to_end_finishes_what_it_does_and_comes_back_as_itself() {
    let farm = TestFarm::start(false);
    let mut worker = farm.worker("one", &[]);
    let id = farm.worker_of("one")["id"].clone();
    let run = farm.submit(&farm.gated(2));
    farm.until_executed(1);
    worker.signal(Signal::TERM);
    worker.until_said("shutting down");
    until("the farm knows", || farm.worker_of("one")["accepts"] == false);
    assert!(worker.is_running() && farm.executing() == 1);
    farm.open_gate();
    worker.ended();
    assert!(worker.said().contains("left the farm"), "{}", worker.said());
    until("the worker is gone", || farm.worker_of("one")["online"] == false);
    // Without a token, because it is registered. It begins with the tasks that it had not begun.
    let again = farm.start_worker("one", None, &[]);
    again.until_said("worker `one`");
    farm.until_succeeded(&run);
    assert_eq!(farm.worker_of("one")["id"], id);
    assert_eq!(farm.executed(), 2, "nothing was done twice");
}

#[test]
fn a_worker_in_a_hurry_hands_its_work_to_another() {
    let farm = TestFarm::start(false);
    let mut one = farm.worker("one", &[]);
    let run = farm.submit(&farm.gated(1));
    farm.until_executed(1);
    let _two = farm.worker("two", &["--drain-timeout", "0"]);
    one.signal(Signal::TERM);
    one.until_said("shutting down");
    let asked = Instant::now();
    one.signal(Signal::TERM);
    one.ended();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    farm.until_executed(2);
    assert_eq!(farm.executing(), 1);
    farm.open_gate();
    farm.until_succeeded(&run);
    assert_eq!(farm.executed(), 2);
}

#[test]
fn a_cancelled_task_ends_on_its_worker_within_two_seconds() {
    let farm = TestFarm::start(false);
    let _worker = farm.worker("one", &[]);
    let run = farm.submit(&farm.gated(1));
    farm.until_executed(1);
    let asked = Instant::now();
    farm.ok(&["cancel", &run]);
    until("the process is gone", || farm.executing() == 0);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn outside_of_its_hours_a_worker_takes_nothing_and_says_why() {
    let farm = TestFarm::start(false);
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    // 1970-01-01 was a Thursday; far enough from today that midnight changes nothing.
    let day =
        ["thu", "fri", "sat", "sun", "mon", "tue", "wed"][usize::try_from((days + 3) % 7).unwrap()];
    let _resting = farm.worker("resting", &["--schedule", &format!("{day} 10:00-12:00")]);
    until("it says so", || farm.worker_of("resting")["accepts"] == false);
    let reason = farm.worker_of("resting")["reason"].clone();
    assert_eq!(reason, format!("outside of its working hours ({day} 10:00-12:00)"));
    farm.open_gate();
    let run = farm.submit(&farm.gated(3));
    let _working = farm.worker("working", &[]);
    farm.until_succeeded(&run);
    let worked = |name: &str| farm.dir.path(name).join("worker/logs").exists();
    assert!(!worked("resting"));
}

#[test]
fn a_worker_out_of_service_hands_its_work_back_until_it_is_in_service_again() {
    let farm = TestFarm::start(false);
    let worker = farm.worker("one", &[]);
    let id = farm.worker_of("one")["id"].to_string();
    let run = farm.submit(&farm.gated(1));
    farm.until_executed(1);
    farm.ok(&["workers", &id, "--set", "disabled"]);
    until("it ends", || farm.executing() == 0);
    worker.until_said("hands its work back: its operator has taken it out of service");
    farm.open_gate();
    farm.ok(&["workers", &id, "--set", "enabled"]);
    farm.until_succeeded(&run);
    assert_eq!(farm.executed(), 2);
}

#[test]
fn what_a_worker_finished_while_no_server_answered_is_not_lost() {
    let mut farm = TestFarm::start(false);
    let worker = farm.worker("one", &[]);
    let job = "pictor: v1\nname: kept\nsteps:\n- name: make\n  command:\n    run: [sh, -c, 'echo >> \
               EXECUTED; while [ ! -e GATE ]; do sleep 0.05; done; echo made > {output.text}']\n    \
               outputs: { text: made.txt }\n  deliver: { text: made.txt }\n";
    let path = |name| farm.dir.shared(name).display().to_string();
    let job = job.replace("EXECUTED", &path("executed")).replace("GATE", &path("gate"));
    let run = farm.submit(&job);
    farm.until_executed(1);
    farm.server.as_mut().unwrap().kill9();
    farm.open_gate();
    worker.until_said("a server does not answer");
    until("it has ended", || farm.executing() == 0);
    farm.start_server();
    farm.until_succeeded(&run);
    worker.until_said("a server answers again");
    assert_eq!(farm.executed(), 1, "it was done once");
    farm.ok(&["download", &run, "--out", "there"]);
    assert_eq!(std::fs::read_to_string(farm.dir.path("there/made.txt")).unwrap(), "made\n");
}

#[test]
fn a_worker_whose_token_was_revoked_enrols_anew_if_it_may() {
    let farm = TestFarm::start(false);
    let worker = farm.worker("one", &[]);
    let id = farm.worker_of("one")["id"].clone();
    let tokens = farm.json(&["token", "list"]).into_iter();
    let token = { tokens }.find(|token| token["name"] == "worker one").unwrap();
    farm.ok(&["token", "revoke", token["id"].as_str().unwrap()]);
    worker.until_said("enrolling anew");
    until("it is heard of", || worker.said().matches("worker `one`").count() == 2);
    assert_eq!(farm.worker_of("one")["id"], id);
    farm.open_gate();
    farm.until_succeeded(&farm.submit(&farm.gated(2)));
}

#[test]
fn what_cannot_work_is_told_at_once() {
    let dir = TestDir::new();
    let work = |more: &[&str]| {
        let mut command = dir.command(&[&["work", "--data", "w"], more].concat());
        Running::start(&mut command).finish()
    };
    work(&[]).expect(1, &["which farm?", "--server URL"]);
    let server = ["--server", "http://127.0.0.1:9"];
    let with = |more: &[&str]| work(&[&server[..], more].concat());
    with(&[]).expect(1, &["enrol this worker: a token is needed once", "--token-file"]);
    with(&["--schedule", "moon"]).expect(1, &["`moon` is not a day"]);
    with(&["--name", "a b"]).expect(1, &["`a b` cannot be a worker's name"]);
    with(&["--ca", "/nowhere"]).expect(1, &["use /nowhere: No such file"]);
    with(&["--config", "/nowhere"]).expect(1, &["read the configuration /nowhere"]);
    let farm = TestFarm::start(false);
    farm.dir.write("viewer", &farm.ok(&["token", "add", "v", "--role", "viewer"]).out);
    let mut refused = farm.start_worker("one", Some("viewer"), &[]);
    until("it ends", || !refused.is_running());
    assert!(refused.said().contains("the farm refuses this worker"), "{}", refused.said());
    let _first = farm.worker("two", &[]);
    let mut second = farm.start_worker("two", Some("enrolment"), &[]);
    until("it ends", || !second.is_running());
    assert!(second.said().contains("another worker works in"), "{}", second.said());
    assert!(Path::new(&farm.dir.path("two/worker.json")).exists());
}
