//! The warm Blender sessions of one slot: few, and within a share of the machine's memory. The least recently used one
//! is ended first.

use super::choice::{Choice, choose, saved_by};
use super::keep_bytecode;
use super::session::{Baked, Session, Start, memory_of};
use crate::files::cache::Kept;
use crate::ground::failure::failure;
use crate::programs::Confinement;
use crate::programs::process::output;
use crate::programs::version_cache::Program;
use crate::task::TaskContext;
use pictor_artifacts::digest;
use pictor_tasks::blend::Release;
use pictor_tasks::body::{Scene, Simulate};
use pictor_tasks::message::{Failure, FailureKind, FileRef, Input};
use std::fs::File;
use std::io::ErrorKind;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use tokio::process::Command;
use tokio::time::Duration;

/// The most sessions of one slot: for the current scene and the one before.
const SESSIONS_MAX: usize = 2;
/// For how many scenes it is remembered which release saved them, and which Blenders cannot do them.
const SAVED_MAX: usize = 8;
/// Compiles the driver's files, and how long it may take with all that Blender itself compiles.
const COMPILE: &str = "import compileall, os, sys; sys.pycache_prefix = None; \
                       compileall.compile_dir(os.environ['PICTOR_DRIVER'], quiet=1)";
const COMPILING: Duration = Duration::from_mins(1);
/// The Python files.
const DRIVER: [(&str, &str); 8] = [
    ("driver.py", include_str!("driver.py")),
    ("scene.py", include_str!("scene.py")),
    ("frame.py", include_str!("frame.py")),
    ("compositor.py", include_str!("compositor.py")),
    ("files.py", include_str!("files.py")),
    ("packed.py", include_str!("packed.py")),
    ("settings.py", include_str!("settings.py")),
    ("simulation.py", include_str!("simulation.py")),
];

/// The Blender processes of one slot. Dropping this ends them.
#[derive(Debug, Default)]
pub struct Sessions {
    /// Ordered from the least recently used one.
    live: Vec<Live>,
    /// The release that saved a scene, by the digest of its content; only for the latest scenes.
    saved: Vec<(String, Release)>,
    /// Scenes that a Blender has reported it cannot do with these settings; only the latest ones.
    unable: Vec<(Wish, PathBuf)>,
}

/// What determines whether a build of Blender can do a scene: the scene's content, and whether the job wants its
/// denoiser and its compositor.
type Wish = (String, Option<bool>, Option<bool>);

#[derive(Debug)]
struct Live {
    start: Start,
    /// The digest of the scene file, and that of its baked copy.
    digests: Vec<String>,
    /// The folder of its run.
    place: PathBuf,
    session: Session,
    /// Keeps the files from removal that Blender may still read.
    _scene: Option<Kept>,
}

impl Sessions {
    /// The session that has the scene loaded: a warm one, or a new one.
    pub(super) async fn get(
        &mut self,
        ctx: &TaskContext,
        scene: &Scene,
    ) -> Result<&mut Session, Failure> {
        let file = ctx.file(&scene.scene)?;
        let saved = self.saved_by(ctx, file).await?;
        let choice = choose(ctx, saved, &self.unable(&wish(scene, file)))?;
        let start = start(ctx, scene, file, choice);
        let baked = ["baked", "caches"].map(|name| baked(ctx, scene, name));
        let digests = baked.iter().flatten().map(|input| &input.output.digest);
        let digests: Vec<String> = [&file.digest].into_iter().chain(digests).cloned().collect();
        self.live.retain_mut(|live| live.session.is_usable());
        let same = |live: &Live| live.start == start && live.digests == digests;
        self.live.retain(|live| !live.start.allow_scripts || same(live));
        let live = match self.live.iter().position(same) {
            Some(warm) => self.live.remove(warm),
            None => self.open(ctx, start, (file, baked), digests).await?,
        };
        self.live.push(live);
        while self.live.len() > 1 && self.memory() > share_of_memory(ctx) {
            self.live.remove(0);
        }
        Ok(&mut self.live.last_mut().expect("pushed above").session)
    }

    /// Ends those in which scripts of a scene run: these may write to the folder of any task of the run.
    pub(crate) fn end_scripts(&mut self) {
        self.live.retain(|live| !live.start.allow_scripts);
    }

    /// Remembers that the Blender used last lacks something for this scene, and returns its path if another one here is
    /// to be tried. Returns `None` if there is no other.
    pub(super) fn pass_over(&mut self, ctx: &TaskContext, scene: &Scene) -> Option<PathBuf> {
        let program = self.live.last()?.start.program.clone();
        let file = ctx.file(&scene.scene).ok()?;
        let (_, release) = self.saved.iter().find(|(digest, _)| *digest == file.digest)?;
        let wish = wish(scene, file);
        let mut unable = self.unable(&wish);
        unable.push(program.clone());
        choose(ctx, *release, &unable).ok()?;
        if self.unable.len() >= SAVED_MAX {
            self.unable.remove(0);
        }
        self.unable.push((wish, program.clone()));
        Some(program)
    }

    fn unable(&self, wish: &Wish) -> Vec<PathBuf> {
        let same = self.unable.iter().filter(|(other, _)| other == wish);
        same.map(|(_, program)| program.clone()).collect()
    }

    /// The release that saved a scene, because an older Blender must not even try to read it.
    async fn saved_by(&mut self, ctx: &TaskContext, file: &FileRef) -> Result<Release, Failure> {
        let known = self.saved.iter().find(|(digest, _)| *digest == file.digest);
        if let Some((_, release)) = known {
            return Ok(*release);
        }
        let kept = ctx.artifacts.scene(file, &ctx.watch()).await?;
        let path = kept.as_ref().map_or(Path::new(&file.path), |kept| &kept.path).to_owned();
        let read = tokio::task::spawn_blocking(move || saved_by(&path)).await;
        let release = read.map_err(|panic| failure(FailureKind::Failed, panic.to_string()))??;
        if self.saved.len() >= SAVED_MAX {
            self.saved.remove(0);
        }
        self.saved.push((file.digest.clone(), release));
        Ok(release)
    }

    async fn open(
        &mut self,
        ctx: &TaskContext,
        start: Start,
        (file, [baked, caches]): (&FileRef, [Option<&Input>; 2]),
        digests: Vec<String>,
    ) -> Result<Live, Failure> {
        while self.live.len() >= SESSIONS_MAX
            || (!self.live.is_empty() && self.memory() > share_of_memory(ctx))
        {
            self.live.remove(0);
        }
        let scene = ctx.artifacts.scene(file, &ctx.watch()).await?;
        let mut place = start.clone();
        match &scene {
            Some(Kept { path, tree, .. }) => {
                place.scene.clone_from(path);
                place.tree.clone_from(tree);
            }
            None => verify(ctx, file).await?,
        }
        if let Some(baked) = baked {
            let scene = ctx.input_path(baked).await?;
            let caches = match caches {
                Some(caches) => Some(ctx.input_path(caches).await?),
                None => None,
            };
            place.baked = Some(Baked { scene, caches });
        }
        write_driver(&start.driver)?;
        compile(&start).await;
        let session = Session::start(ctx, &place).await?;
        let place = ctx.scratch.ancestors().nth(2).unwrap_or(&ctx.scratch).to_owned();
        Ok(Live { start, digests, place, session, _scene: scene })
    }

    fn memory(&self) -> u64 {
        self.live.iter().map(|live| memory_of(live.session.id())).sum()
    }

    /// Whether one of them sees this folder of a run.
    pub(crate) fn uses(&self, place: &Path) -> bool {
        self.live.iter().any(|live| live.place == place)
    }

    /// The process ids, ordered from the least recently used session.
    #[cfg(test)]
    pub(super) fn ids(&self) -> Vec<u32> {
        self.live.iter().map(|live| live.session.id()).collect()
    }
}

/// The memory in bytes that idle and busy sessions of a slot may use together: half of it is reserved for rendering.
fn share_of_memory(ctx: &TaskContext) -> u64 {
    match ctx.config.inventory.memory_bytes {
        0 => u64::MAX,
        memory => memory / 2 / u64::from(ctx.config.slots.max(1)),
    }
}

fn wish(scene: &Scene, file: &FileRef) -> Wish {
    (file.digest.clone(), scene.denoise, scene.compositor)
}

/// The output of a bake step for this scene among the inputs; `None` if there was nothing to bake.
fn baked<'a>(ctx: &'a TaskContext, scene: &Scene, name: &str) -> Option<&'a Input> {
    let mut inputs = ctx.inputs.iter();
    inputs.find(|input| scene.simulate == Simulate::Bake && input.output.name == name)
}

fn start(ctx: &TaskContext, scene: &Scene, file: &FileRef, choice: Choice) -> Start {
    let Choice { program, device, gpu } = choice;
    let folder = ctx.config.data.join("blender");
    let mut version = blake3::Hasher::new();
    for (_, text) in DRIVER {
        version.update(text.as_bytes());
    }
    let version = &version.finalize().to_hex()[..16];
    let cpus = u32::try_from(available_parallelism().map_or(1, NonZero::get)).unwrap_or(1);
    Start {
        program,
        driver: folder.join(format!("driver-{version}")).join("driver.py"),
        scene: PathBuf::from(&file.path),
        tree: None,
        baked: None,
        allow_missing: scene.allow_missing,
        allow_scripts: scene.allow_scripts,
        device,
        gpu,
        run: ctx.key.run.clone(),
        threads: (cpus / ctx.config.slots.max(1)).max(1),
        folder,
        cache: ctx.config.cache.clone(),
    }
}

/// Checks that the scene is the one that was submitted: frames of two versions must not end up in one film.
async fn verify(ctx: &TaskContext, file: &FileRef) -> Result<(), Failure> {
    let (path, progress, stop) = (file.path.clone(), ctx.progress.clone(), ctx.stop.clone());
    let hash = tokio::task::spawn_blocking(move || {
        digest(File::open(path)?, |_| {
            progress.report(0.0, "checking the scene");
            stop.reason().is_none()
        })
    });
    let path = &file.path;
    match hash.await.map_err(std::io::Error::other).and_then(|found| found) {
        Ok(found) if found.digest == file.digest => Ok(()),
        Ok(_) => {
            let message =
                format!("The scene {path} changed since the run was submitted; submit it again.");
            Err(failure(FailureKind::Invalid, message))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message =
                format!("There is no scene file at {path}. Check the path in the job file.");
            Err(failure(FailureKind::Invalid, message))
        }
        Err(_) if ctx.stop.reason().is_some() => Err(ctx.stop.failure()),
        Err(error) => {
            let message = format!("The scene {path} cannot be read: {error}.");
            Err(failure(FailureKind::Storage, message))
        }
    }
}

/// Makes a Blender compile its own scripts and ours once, before it has opened anything: with a scene, it may not store
/// what others execute later. If this fails, each Blender compiles them again.
async fn compile(start: &Start) {
    let Some(program) = Program::find(&start.program) else { return };
    let done = start.driver.with_file_name(format!("compiled-by-{}", program.folder_name()));
    if done.exists() {
        return;
    }
    let mut command = Command::new(&start.program);
    command.args(["-b", "--factory-startup", "-Y", "-noaudio", "--python-expr", COMPILE]);
    let folder = start.driver.parent().unwrap_or(&start.driver);
    command.env("PICTOR_DRIVER", folder).env_remove("PYTHONPATH");
    for name in ["BLENDER_USER_RESOURCES", "BLENDER_USER_CONFIG", "BLENDER_USER_SCRIPTS"] {
        command.env(name, folder);
    }
    keep_bytecode(&mut command, start.cache.as_deref());
    match output(&command, &Confinement::trusted(), COMPILING).await {
        Ok(_) => drop(std::fs::write(done, "")),
        Err(error) => tracing::debug!(%error, "Blender's scripts are not compiled in advance"),
    }
}

/// Writes the driver's files to a folder that Blender can read, unless they are there.
fn write_driver(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = |(name, text): (&str, &str)| {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(());
        }
        // Other slots may be writing the same file.
        let part = format!("{}-{:?}.part", std::process::id(), std::thread::current().id());
        let part = path.with_extension(part);
        std::fs::create_dir_all(folder)?;
        std::fs::write(&part, text)?;
        std::fs::rename(&part, &path)
    };
    DRIVER.into_iter().try_for_each(write).map_err(|error| {
        crate::ground::failure::storage_failure("Blender's driver cannot be written", &error)
    })
}
