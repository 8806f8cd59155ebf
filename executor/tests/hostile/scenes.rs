//! Scenes, with the Blender of this machine.

use crate::farm::{LIMIT, TestFarm, brief};
use pictor_pictures::exr_image::ExrImage;
use pictor_tasks::body::{Body, Render, Scene, Tiles};
use pictor_tasks::message::{Failure, FailureKind, FileRef, Outcome, Products};
use pictor_tasks::worker::Blender;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A worker with a Blender, the scenes that it gets, and what none of them may reach.
struct Place {
    farm: TestFarm,
    /// The scenes, in a folder of their own: what is beside it can be read as well.
    scenes: TempDir,
    /// Somebody else's files, which are those of other tests as well.
    elsewhere: PathBuf,
}

impl Place {
    fn new() -> Self {
        let said = Command::new("blender").arg("--version").output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let version = said.lines().find_map(|line| line.strip_prefix("Blender ")).unwrap();
        let version = version.trim().to_owned();
        let blender = Blender { version, path: "blender".into(), ..Blender::default() };
        let farm = TestFarm::start_with(|config| {
            config.inventory.blenders = vec![blender];
            config.cache = Some(cache());
        });
        let scenes = tempfile::Builder::new().prefix("pictor-hostile-").tempdir().unwrap();
        let made = made_scenes();
        let place = Self { farm, scenes, elsewhere: made.join("elsewhere") };
        std::fs::create_dir_all(place.of_scenes()).unwrap();
        for (path, bytes) in files(&made.join("scenes")) {
            std::fs::write(place.of_scenes().join(path.file_name().unwrap()), bytes).unwrap();
        }
        place
    }

    /// The folder of the scenes.
    fn of_scenes(&self) -> PathBuf {
        self.scenes.path().join("a/b")
    }

    /// A scene as a job names it, with further settings.
    fn scene(name: &str, settings: &Json) -> Scene {
        let mut all = json!({ "scene": name });
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    async fn task(&mut self, body: Body) -> Result<Products, Failure> {
        let name = body.scene().unwrap().scene.clone();
        let path = self.of_scenes().join(&name);
        let bytes = std::fs::read(&path).unwrap();
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let path = path.to_str().unwrap().to_owned();
        let mut brief = brief(body, 1);
        brief.files = [(name, FileRef { path, digest, size_bytes: 0 })].into();
        match self.farm.outcome(brief).await {
            Outcome::Succeeded(products) => Ok(products),
            Outcome::Failed(failure) => Err(failure),
            other => panic!("an end was expected: {other:?}"),
        }
    }

    /// Renders the first frame of a scene.
    async fn render(&mut self, name: &str, settings: Json) -> Result<Products, Failure> {
        let render = Render { scene: Self::scene(name, &settings), tiles: None::<Tiles> };
        self.task(Body::Blender(render)).await
    }

    fn picture(&self, products: &Products) -> ExrImage {
        ExrImage::read(&self.farm.artifact(&products.outputs[0])).unwrap()
    }

    /// The pixels of a scene in which nothing is wrong.
    async fn honest(&mut self) -> String {
        let products = self.render("plain.blend", json!({})).await.unwrap();
        self.picture(&products).pixel_digest()
    }

    /// Everything that the tasks have printed.
    fn log(&self) -> String {
        let logs = files(&self.farm.folder.path().join("data/logs"));
        logs.into_values().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    fn tell(&self, targets: &Json) {
        std::fs::write(self.of_scenes().join("targets.json"), targets.to_string()).unwrap();
    }
}

/// The folder with the scenes and the files that they refer to; made once and kept for later runs.
fn made_scenes() -> PathBuf {
    let scripts = [
        ("scenes.py", include_str!("scenes.py")),
        ("style.py", include_str!("style.py")),
        ("module.py", include_str!("module.py")),
    ];
    let version = blake3::hash(scripts.map(|(_, text)| text).concat().as_bytes()).to_hex();
    let folder = std::env::temp_dir().join(format!("pictor-hostile-{}", &version[..16]));
    let (scenes, elsewhere) = (folder.join("scenes"), folder.join("elsewhere"));
    for folder in [&scenes, &elsewhere] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let ready = std::fs::File::create(folder.join("lock")).unwrap();
    ready.lock().unwrap();
    if folder.join("ready").exists() {
        return folder;
    }
    for (name, script) in scripts {
        std::fs::write(scenes.join(name), script).unwrap();
    }
    let mut blender = Command::new("blender");
    blender.args(["-b", "--factory-startup", "--python-exit-code", "1", "-P"]);
    blender.arg(scenes.join("scenes.py")).arg("--").args([&scenes, &elsewhere]);
    let made = blender.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    std::fs::write(folder.join("ready"), "").unwrap();
    folder
}

/// The cache of the user, which all tests share.
fn cache() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("tmp/cache/pictor")
}

/// All files in a folder, by their path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).unwrap_or_default());
        }
    }
    found
}

/// The samples of a channel of a picture.
fn channel(picture: &Path, name: &str) -> Vec<f32> {
    let image = exr::prelude::read_all_flat_layers_from_file(picture).unwrap();
    let list = image.layer_data.into_iter().flat_map(|layer| layer.channel_data.list);
    let mut found = list.filter(|channel| channel.name == *name);
    found.next().unwrap().sample_data.values_as_f32().collect()
}

/// The processes that have this text in their arguments.
fn processes(mark: &str) -> usize {
    let lives = |entry: &std::fs::DirEntry| {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(mark)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(lives).count()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story")]
async fn scripts_that_are_allowed_reach_nothing_and_leave_nothing() {
    let mut place = Place::new();
    let data = place.farm.folder.path().join("data").canonicalize().unwrap();
    let secret = |path: &str| {
        let path = data.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "the content of somebody else").unwrap();
        path
    };
    let mut secrets = vec![
        secret("worker.json"),
        secret("scratch/7/0/run-0/made/other/image.exr"),
        secret("scratch/7/0/run-0/fetched/other/image.exr"),
        secret("cache/files/0000"),
        secret("artifacts/runs/run-0/render/0/0/1-00/image.exr"),
        secret("artifacts/assets/0000"),
    ];
    let worker = std::process::id();
    secrets
        .extend(["/etc/shadow", "/etc/passwd", "/root/.profile", "/root/.bashrc"].map(Into::into));
    secrets
        .extend([format!("/proc/{worker}/environ"), format!("/proc/{worker}/mem")].map(Into::into));
    secrets.push(format!("/proc/{worker}/root/etc/passwd").into());
    secrets.push(place.elsewhere.join("light.ies"));
    // The folder for what is compiled exists only once a Blender has run.
    let honest = place.honest().await;
    let (tcp, udp) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let name = format!("pictor-hostile-{worker}");
    let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let socket = place.farm.folder.path().join("socket");
    let open = UnixListener::bind(&socket).unwrap();
    let mark = format!("the mark of {worker}");
    let driver = data.join("blender");
    place.tell(&json!({
        "secrets": secrets,
        "folders": [
            data, data.join("scratch/7/0/run-1"), data.join("scratch/7/0"), data.join("artifacts/runs/run-1"),
            data.join("cache"), place.of_scenes(), place.scenes.path(), place.elsewhere, cache(), driver,
            "/usr/lib", "/etc", "/root", "/opt", "/var/tmp", "/dev/shm",
        ],
        "executed": [driver, cache()],
        "made": data.join("scratch/7/0/run-1/made"),
        "tcp": tcp.local_addr().unwrap().port(),
        "udp": udp.local_addr().unwrap().port(),
        "abstract": name,
        "socket": socket,
        "worker": worker,
        "mark": mark,
    }));
    let scene = std::fs::read(place.of_scenes().join("style.blend")).unwrap();
    let products = place.render("style.blend", json!({ "allow_scripts": true })).await.unwrap();
    assert_eq!(place.picture(&products).size(), "32x18".parse().unwrap());

    let log = place.log();
    let reached: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("REACHED"))
        .filter(|line| {
            // Its own folders in memory have these names. What it wrote there is looked for below.
            !line.contains("REACHED write to")
        })
        .collect();
    assert_eq!(reached, [] as [&str; 0], "{log}");
    let tried =
        log.lines().find_map(|line| line.strip_prefix("TRIED ")).expect("it ran to its end");
    assert!(tried.parse::<u32>().unwrap() > 60, "{tried}");
    for listener in [&open, &hidden] {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
    }
    tcp.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();
    assert!(tcp.accept().is_err() && udp.recv_from(&mut [0]).is_err());
    assert_eq!(std::fs::read(place.of_scenes().join("style.blend")).unwrap(), scene);
    let ours = [data.clone(), place.scenes.path().into(), place.elsewhere.clone(), cache()];
    let system = ["/etc", "/root", "/opt", "/var/tmp", "/dev/shm", "/usr/lib"].map(PathBuf::from);
    for folder in &system {
        assert!(!folder.join("planted").exists(), "{}", folder.display());
    }
    for (path, bytes) in ours.iter().flat_map(|folder| files(folder)) {
        assert!(bytes != b"PLANTED" && !bytes.starts_with(b"PLANTED"), "{}", path.display());
    }
    for path in &secrets[..6] {
        assert_eq!(std::fs::read(path).unwrap(), b"the content of somebody else");
    }

    assert_eq!(place.honest().await, honest, "the next task is not disturbed");
    // Its Blender was ended for that task, with everything that it had started.
    let gone = async {
        while processes(&mark) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.expect("no process outlives its Blender");
    let left = files(&data.join("scratch/7/0/run-1"));
    assert!(left.is_empty(), "{:?}", left.keys());
}

#[tokio::test]
async fn what_a_scene_with_scripts_says_it_made_is_not_believed() {
    let mut place = Place::new();
    let honest = place.honest().await;
    let data = place.farm.folder.path().join("data").canonicalize().unwrap();
    // A whole picture, which would pass for a result.
    let others = data.join("scratch/7/0/run-0/made/other");
    std::fs::create_dir_all(&others).unwrap();
    let picture = others.join("image.exr");
    let mine = place.render("plain.blend", json!({ "samples": 2 })).await.unwrap();
    std::fs::copy(place.farm.artifact(&mine.outputs[0]), &picture).unwrap();
    let before = std::fs::read(&picture).unwrap();
    let allowed = json!({ "allow_scripts": true });
    for (how, why) in
        [("link", "but a link"), ("second name", "other names"), ("folder", "but a link")]
    {
        place.tell(&json!({ "result": how, "picture": picture }));
        let failure = place.render("module.blend", allowed.clone()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadOutput, "{how}: {failure:?}");
        assert!(failure.message.contains(why), "{how}: {failure:?}");
        // A Blender that was told something else has to be opened anew.
        assert_eq!(place.honest().await, honest, "{how}");
    }
    let bake = Body::Bake(Place::scene("module.blend", &allowed));
    let failure = place.task(bake).await.unwrap_err();
    assert!(failure.message.contains("is not in the task's folder"), "{failure:?}");
    assert!(place.log().contains("the text runs"), "{}", place.log());
    assert_eq!(std::fs::read(&picture).unwrap(), before);
}

#[tokio::test]
async fn without_permission_nothing_of_a_scene_runs_and_it_is_named() {
    let mut place = Place::new();
    let products = place.render("quiet.blend", json!({})).await.unwrap();
    let notes = products.notes.join("\n").replace('`', "'");
    for part in ["text 'handler.py'", "driver of 'Cube' location"] {
        assert!(notes.contains(part), "{notes}");
    }
    for (scene, name) in [
        ("style.blend", "Freestyle script 'style.py' of view layer"),
        ("osl.blend", "OSL script 'shader.osl' of"),
    ] {
        let failure = place.render(scene, json!({})).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");
        assert!(failure.message.contains(name), "{failure:?}");
    }
    // A job cannot turn on what the scene had turned off.
    let osl = json!({ "set": { "scenes[\"Scene\"].cycles.shading_system": true } });
    let failure = place.render("osl.blend", osl).await.unwrap_err();
    assert!(failure.message.contains("OSL script"), "{failure:?}");
    assert!(!place.elsewhere.join("ran").exists());
}

#[tokio::test]
async fn files_elsewhere_are_named_before_anything_is_rendered_and_never_seen() {
    let mut place = Place::new();
    let elsewhere = place.elsewhere.to_str().unwrap().to_owned();
    let seen = [
        ("outside.blend", ["image", "image", "library", "font", "clip"].as_slice()),
        ("more.blend", &["cache", "volume", "cache", "light profile"]),
    ];
    for (scene, kinds) in seen {
        let failure = place.render(scene, json!({})).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");
        let (_, list) = failure.message.split_once("of what its task may read: ").unwrap();
        let named = list.split(')').filter_map(|one| {
            let (kind, path) = one.trim_start_matches(", ").split_once(" (")?;
            path.starts_with(&elsewhere).then(|| kind.split(" '").next().unwrap().to_owned())
        });
        let (mut named, mut kinds) = (named.collect::<Vec<_>>(), kinds.to_vec());
        named.sort();
        kinds.sort_unstable();
        assert_eq!(named, kinds, "{failure:?}");
        assert!(!failure.message.contains("the content of somebody else"));
    }
    // The sky would be green.
    let missing = json!({ "allow_missing": true });
    let products = place.render("sky.blend", missing).await.unwrap();
    assert!(products.notes.iter().any(|note| note.contains("green.png")), "{:?}", products.notes);
    let [red, green] =
        ["R", "G"].map(|name| channel(&place.farm.artifact(&products.outputs[0]), name));
    assert!(!red.iter().zip(&green).any(|(red, green)| *green > 0.5 && *red < 0.1), "{green:?}");
}

#[tokio::test]
async fn nodes_and_caches_write_nothing_elsewhere() {
    let mut place = Place::new();
    let before = files(&place.elsewhere);
    let free = json!({ "simulate": "ignore", "allow_missing": true });
    place.render("writer.blend", free.clone()).await.unwrap();
    let bake = json!({ "simulate": "bake", "allow_missing": true });
    // Whatever becomes of it.
    let _ = place.task(Body::Bake(Place::scene("writer.blend", &bake))).await;
    assert_eq!(before, files(&place.elsewhere));
    assert!(!place.elsewhere.join("fluid").exists());
}
