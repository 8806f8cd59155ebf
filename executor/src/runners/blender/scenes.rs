//! Fixtures for the tests of this module: tiny scenes made by Blender itself, the pictures that plain Blender renders
//! of them, and a worker with one slot.

use super::{Sessions, run};
use crate::files::artifacts::Artifacts;
use crate::ground::log::LogWriter;
use crate::ground::progress::{Activity, Progress, Stopper};
use crate::task::TaskContext;
use crate::{Config, merge};
use exr::image::FlatSamples;
use pictor_tasks::body::{Body, Merge, Render, Scene, Tiles};
use pictor_tasks::message::{
    Brief, Execution, Failure, FileRef, Input, Output, Products, RunId, StepKey, Try,
};
use pictor_tasks::space::{Axis, Coordinates, Space, Values};
use pictor_tasks::units::Grid;
use pictor_tasks::worker::{Blender, Inventory};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tempfile::TempDir;

/// The script that makes the scenes.
const SCENES: &str = r#"
import bpy, os, sys
out = sys.argv[sys.argv.index("--") + 1]

def save(name):
    bpy.ops.wm.save_as_mainfile(filepath=os.path.join(out, name + ".blend"), copy=True)

bpy.ops.wm.read_factory_settings()
scene = bpy.context.scene
render, cycles = scene.render, scene.cycles
render.engine, cycles.samples, cycles.seed = "CYCLES", 4, 3
cycles.use_adaptive_sampling, cycles.use_denoising = False, False
render.resolution_x, render.resolution_y, render.resolution_percentage = 80, 45, 200
scene.frame_start, scene.frame_end, scene.frame_step = 2, 9, 3
cube = bpy.data.objects["Cube"]
cube.keyframe_insert("location", frame=1)
cube.location.x = 2
cube.keyframe_insert("location", frame=9)
bpy.ops.mesh.primitive_plane_add(size=20, location=(0, 0, -1))
scene.frame_set(5)
save("plain")
render.use_border = render.use_crop_to_border = True
render.border_max_x = 0.5
save("bordered")
render.use_border = render.use_crop_to_border = False
cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, 0.2
cycles.adaptive_min_samples, cycles.samples = 2, 16
save("adaptive")
cycles.use_adaptive_sampling, cycles.samples = False, 4
layer = bpy.context.view_layer
layer.use_pass_z = layer.use_pass_normal = layer.use_pass_cryptomatte_object = True
save("passes")
scene.use_nodes = True
nodes, links = scene.node_tree.nodes, scene.node_tree.links
bright = nodes.new("CompositorNodeExposure")
bright.inputs["Exposure"].default_value = 1
links.new(nodes["Render Layers"].outputs["Image"], bright.inputs["Image"])
links.new(bright.outputs["Image"], nodes["Composite"].inputs["Image"])
save("composited")
scene.use_nodes = False
text = bpy.data.texts.new("run.py")
text.write("open(%r, 'w')" % os.path.join(out, "ran"))
text.use_module = True
save("script")
bpy.data.texts.remove(text)
style = bpy.data.texts.new("style.py")
style.write("print('the style runs')\ntry: open(%r, 'w')\nexcept OSError: pass" % os.path.join(out, "ran"))
render.use_freestyle, layer.freestyle_settings.mode = True, "SCRIPT"
layer.freestyle_settings.modules.new().script = style
save("freestyle")
render.use_freestyle = False
save("freestyle_off")
layer.freestyle_settings.modules.remove(layer.freestyle_settings.modules[0])
layer.freestyle_settings.mode = "EDITOR"
bpy.data.texts.remove(style)
render.engine = "BLENDER_EEVEE"
save("eevee")
render.engine = "CYCLES"
image = bpy.data.images.new("wood", 4, 4)
image.filepath_raw, image.file_format = os.path.join(out, "wood.png"), "PNG"
image.save()
image.source = "FILE"
nodes = bpy.data.materials["Material"].node_tree
node = nodes.nodes.new("ShaderNodeTexImage")
node.image = image
nodes.links.new(node.outputs["Color"], nodes.nodes["Principled BSDF"].inputs["Base Color"])
save("texture")
os.remove(os.path.join(out, "wood.png"))
nodes.nodes.remove(node)
bpy.data.images.remove(image)
camera, scene.camera = scene.camera, None
save("blind")
scene.camera = camera
bpy.data.libraries.write(os.path.join(out, "library.blend"), {bpy.data.meshes["Cube"]})
with bpy.data.libraries.load(os.path.join(out, "library.blend"), link=True) as (_, to):
    to.meshes = ["Cube"]
cube.data = to.meshes[0]
save("linked")
os.remove(os.path.join(out, "library.blend"))
"#;

/// Renders frame 5 without pictor.
const PLAIN: &str = r#"
import bpy, sys
out = sys.argv[sys.argv.index("--") + 1]
for name in ("plain", "adaptive", "passes", "composited"):
    bpy.ops.wm.open_mainfile(filepath=f"{out}/{name}.blend")
    scene = bpy.context.scene
    image = scene.render.image_settings
    for kind in ("OPEN_EXR", "OPEN_EXR_MULTILAYER", "PNG"):
        image.file_format = kind
        image.color_depth = "8" if kind == "PNG" else "32"
        scene.render.filepath = f"{out}/{name}.{kind}"
        scene.render.use_file_extension = False
        bpy.ops.render.render(write_still=True)
"#;

/// The folder with the scenes and plain Blender's pictures; made once and kept for later runs.
pub(super) fn scenes() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let version = blake3::hash(format!("{SCENES}{PLAIN}").as_bytes()).to_hex();
        let folder = std::env::temp_dir().join(format!("pictor-scenes-{}", &version[..16]));
        if !folder.exists() {
            let part = tempfile::tempdir().unwrap();
            for (name, script) in [("scenes.py", SCENES), ("plain.py", PLAIN)] {
                let path = part.path().join(name);
                std::fs::write(&path, script).unwrap();
                let mut blender = Command::new("blender");
                blender.args(["-b", "--factory-startup", "--python-exit-code", "1", "-P"]);
                let made = blender.arg(path).arg("--").arg(part.path()).output().unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
            }
            std::fs::write(part.path().join("text.blend"), "no scene at all").unwrap();
            // Another process may have been faster.
            let _ = std::fs::rename(part.keep(), &folder);
        }
        folder
    })
}

/// `tmp/cache` beside the folder that this test was built in: the tests of the command line use it in place of the
/// user's `~/.cache`.
fn cache() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().join("tmp/cache/pictor")
}

/// The Blender of this machine.
pub(super) fn blender() -> Blender {
    static HERE: OnceLock<Blender> = OnceLock::new();
    HERE.get_or_init(|| blender_at(Path::new("blender"))).clone()
}

/// The Blender at a path.
pub(super) fn blender_at(program: &Path) -> Blender {
    let said = Command::new(program).arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let version = said.lines().find_map(|line| line.strip_prefix("Blender ")).unwrap();
    let version = version.trim().to_owned();
    Blender { version, path: program.to_str().unwrap().to_owned(), ..Blender::default() }
}

pub(super) fn scene(name: &str) -> Scene {
    serde_json::from_value(json!({ "scene": name })).unwrap()
}

static EXECUTIONS: AtomicU64 = AtomicU64::new(1);

/// A task to run, and the channel ends that its slot would hold.
pub(super) struct Work {
    pub(super) ctx: TaskContext,
    pub(super) stopper: Stopper,
    pub(super) progress: tokio::sync::watch::Receiver<Option<(f32, String)>>,
}

impl Work {
    pub(super) async fn on(&self, sessions: &mut Sessions) -> Result<Products, Failure> {
        let mut products = match self.ctx.brief.body {
            Body::Merge(_) => merge::run(&self.ctx).await,
            _ => run(&self.ctx, sessions).await,
        }?;
        products.notes.append(&mut self.ctx.notes.lock().unwrap());
        Ok(products)
    }
}

pub(super) struct Bench {
    folder: TempDir,
    pub(super) config: Arc<Config>,
    artifacts: Artifacts,
}

impl Bench {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inventory = Inventory { blenders: vec![blender()], ..Inventory::default() };
        let mut config = Config::new(folder.path().to_owned(), inventory);
        config.cache = Some(cache());
        let artifacts = Artifacts::in_folder(&folder.path().join("artifacts")).unwrap();
        Self { folder, config: Arc::new(config), artifacts }
    }

    /// Task `index` of a step over these dimensions, such as `("frame", "1-9")`.
    pub(super) fn work(
        &self,
        body: Body,
        dims: &[(&str, &str)],
        index: u32,
        inputs: Vec<Input>,
    ) -> Work {
        let name = body.scene().map_or(String::new(), |scene| scene.scene.clone());
        let path = scenes().join(&name);
        let digest = std::fs::read(&path).map(|bytes| blake3::hash(&bytes).to_hex().to_string());
        let file = FileRef {
            path: path.to_str().unwrap().into(),
            digest: digest.unwrap_or_default(),
            size_bytes: 0,
        };
        self.task(body, dims, index, (file, inputs))
    }

    /// The first task of a step whose scene is `file`.
    pub(super) fn work_with(&self, body: Body, dims: &[(&str, &str)], file: FileRef) -> Work {
        self.task(body, dims, 0, (file, Vec::new()))
    }

    fn task(
        &self,
        body: Body,
        dims: &[(&str, &str)],
        index: u32,
        (file, inputs): (FileRef, Vec<Input>),
    ) -> Work {
        let axis = |&(name, values): &(&str, &str)| Axis {
            name: name.into(),
            values: Values::Ints(values.parse().unwrap()),
            bound: None,
        };
        let name = body.scene().map_or(String::new(), |scene| scene.scene.clone());
        let brief = Brief {
            step: "render".into(),
            space: Space { axes: dims.iter().map(axis).collect() },
            body,
            timeout: None,
            stalled: None,
            files: [(name, file)].into(),
            folder: String::new(),
            has_inputs: !inputs.is_empty(),
            binds: vec!["frame".into()],
            blender: None,
        };
        let (stopper, stop) = Stopper::new();
        let (progress, latest) = Progress::new(Activity::new());
        // As in a slot: all tasks of a run are in one place, which a Blender sees that stays loaded.
        let execution = EXECUTIONS.fetch_add(1, Ordering::Relaxed);
        let [scratch, fetched] = ["made", "fetched"].map(|part| {
            let folder = self.folder.path().join("r").join(part).join(execution.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            folder
        });
        let ctx = TaskContext {
            brief: Arc::new(brief),
            key: StepKey { run: RunId("r".into()), step: 0, generation: 0 },
            task: Try { index, attempt: 1 },
            execution: Execution(execution),
            slot: 0,
            device: None,
            inputs,
            log: LogWriter::new(scratch.join("log"), progress.activity.clone(), None),
            scratch,
            fetched,
            artifacts: self.artifacts.clone(),
            progress,
            stop,
            config: self.config.clone(),
            brought: Mutex::default(),
            notes: Mutex::default(),
        };
        Work { ctx, stopper, progress: latest }
    }

    /// Renders frame 5 in tiles and merges them.
    pub(super) async fn merged(
        &self,
        sessions: &mut Sessions,
        scene: &Scene,
        grid: Grid,
    ) -> Output {
        let tiles = Tiles { grid, dim: "render.tile".into() };
        let last = format!("0-{}", grid.tiles() - 1);
        let dims = [("frame", "5"), ("render.tile", last.as_str())];
        let mut inputs = Vec::new();
        for index in 0..grid.tiles() {
            let render = Render { scene: scene.clone(), tiles: Some(tiles.clone()) };
            let work = self.work(Body::Blender(render), &dims, index, Vec::new());
            let coordinates = work.ctx.brief.space.coordinates(index);
            let products = work.on(sessions).await.unwrap();
            inputs.push(input(coordinates, index, products));
        }
        let work = self.work(Body::Merge(Merge { tiles }), &[("frame", "5")], 0, inputs);
        work.on(sessions).await.unwrap().outputs.remove(0)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn path(&self, output: &Output) -> PathBuf {
        self.folder.path().join("artifacts").join(&output.key)
    }
}

fn input(coordinates: Coordinates, index: u32, mut products: Products) -> Input {
    let output = products.outputs.remove(0);
    assert_eq!(output.name, "image");
    Input { step: "render".into(), label: String::new(), index, coordinates, output }
}

/// The bits of every channel. `Composite` is the compositor's result, which tiles do not have.
fn channels(path: &Path) -> BTreeMap<String, Vec<u32>> {
    let image = exr::prelude::read_all_flat_layers_from_file(path).unwrap();
    let list = image.layer_data.into_iter().flat_map(|layer| layer.channel_data.list);
    let bits = list.map(|channel| {
        let bits = match channel.sample_data {
            FlatSamples::F16(values) => values.iter().map(|v| v.to_bits().into()).collect(),
            FlatSamples::F32(values) => values.iter().map(|v| v.to_bits()).collect(),
            FlatSamples::U32(values) => values,
        };
        (channel.name.to_string(), bits)
    });
    bits.filter(|(name, _)| !name.starts_with("Composite.")).collect()
}

pub(super) fn assert_same_pixels(ours: &Path, plain: &str, what: &str) {
    assert_same_as(ours, &scenes().join(plain), what);
}

/// The same, for a picture that was made elsewhere.
pub(super) fn assert_same_as(ours: &Path, plain: &Path, what: &str) {
    let (ours, plain) = (channels(ours), channels(plain));
    let names = |image: &BTreeMap<String, Vec<u32>>| image.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&plain), "{what}");
    for (name, bits) in &ours {
        let different = bits.iter().zip(&plain[name]).filter(|(a, b)| a != b).count();
        assert_eq!((different, bits.len()), (0, plain[name].len()), "{what}, channel {name}");
    }
}
