//! Packed scenes with a real Blender: everything that the scene refers to is found in the tree.

use super::Sessions;
use super::scenes::{Bench, assert_same_as, scene};
use pictor_tasks::body::{Body, Render};
use pictor_tasks::message::FileRef;
use pictor_tasks::pack::{PackManifest, PackedFile, absolute_path};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a scene that refers to files in every possible way, and renders it.
const SCRIPT: &str = r#"
import bpy, os, shutil, sys
out = sys.argv[sys.argv.index("--") + 1]
for folder in ("shot/scenes", "shot/textures", "far/maps", "far/frames", "far/library"):
    os.makedirs(f"{out}/{folder}", exist_ok=True)

def picture(path, colour):
    image = bpy.data.images.new("x", 8, 8)
    image.pixels = list(colour + (1.0,)) * 64
    image.filepath_raw, image.file_format = path, "PNG"
    image.save()
    bpy.data.images.remove(image)

def plane(x, path, source="FILE"):
    bpy.ops.mesh.primitive_plane_add(size=2, location=(x, 0, 0))
    material = bpy.data.materials.new("m")
    material.use_nodes = True
    nodes = material.node_tree
    node = nodes.nodes.new("ShaderNodeTexImage")
    node.image = bpy.data.images.load(path.replace("<UDIM>", "1001"))
    node.image.source = source
    if source == "TILED":
        node.image.filepath = path
    if source == "SEQUENCE":
        node.image_user.frame_duration = 9
        node.image_user.use_auto_refresh = True
    emission = nodes.nodes.new("ShaderNodeEmission")
    nodes.links.new(node.outputs["Color"], emission.inputs["Color"])
    nodes.links.new(emission.outputs[0], nodes.nodes["Material Output"].inputs["Surface"])
    bpy.context.object.data.materials.append(material)
    return bpy.context.object

def empty():
    bpy.ops.wm.read_factory_settings(use_empty=True)

empty()
picture(f"{out}/shot/textures/near.png", (1.0, 0.1, 0.1))
picture(f"{out}/far/maps/far.png", (0.1, 1.0, 0.1))
picture(f"{out}/far/maps/tile.1001.png", (1.0, 1.0, 0.1))
picture(f"{out}/far/library/inner.png", (0.1, 0.1, 1.0))
for frame in range(1, 4):
    picture(f"{out}/far/frames/f_{frame:04}.png", (frame / 4, 0.5, frame / 4))

# A library that is linked by an absolute path and has a texture beside it.
thing = plane(4, f"{out}/far/library/inner.png")
thing.name = "Thing"
bpy.data.images["inner.png"].filepath = "//inner.png"
bpy.data.libraries.write(f"{out}/far/library/things.blend", {thing})
shutil.copy(f"{out}/far/library/things.blend", f"{out}/shot/textures/things.blend")

empty()
scene = bpy.context.scene
scene.render.engine, scene.cycles.samples, scene.cycles.seed = "CYCLES", 2, 1
scene.cycles.use_adaptive_sampling, scene.cycles.use_denoising = False, False
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 96, 32, 100
camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
camera.data.type, camera.data.ortho_scale, camera.location = "ORTHO", 14, (0, 0, 5)
scene.collection.objects.link(camera)
scene.camera = camera
bpy.ops.wm.save_as_mainfile(filepath=f"{out}/shot/scenes/a.blend")
plane(-6, f"{out}/shot/textures/near.png").active_material.node_tree.nodes["Image Texture"].image.filepath = "//../textures/near.png"
plane(-3, f"{out}/far/maps/far.png")
plane(-1, f"{out}/far/frames/f_0001.png", "SEQUENCE")
plane(1.5, f"{out}/far/maps/tile.<UDIM>.png", "TILED")
with bpy.data.libraries.load(f"{out}/far/library/things.blend", link=True) as (_, to):
    to.objects = ["Thing"]
scene.collection.objects.link(to.objects[0])
scene.frame_set(2)
bpy.ops.wm.save_mainfile()

bpy.ops.wm.open_mainfile(filepath=f"{out}/shot/scenes/a.blend")
scene, image = bpy.context.scene, bpy.context.scene.render.image_settings
image.file_format, image.color_depth = "OPEN_EXR", "32"
scene.render.filepath, scene.render.use_file_extension = f"{out}/plain.exr", False
bpy.ops.render.render(write_still=True)
"#;

/// Packs the scene: files around it by their relative paths, others by their absolute ones.
fn pack(from: &Path, assets: &Path) -> FileRef {
    let add = |path: PathBuf, place: String| {
        let bytes = std::fs::read(&path).unwrap();
        let digest = blake3::hash(&bytes).to_hex().to_string();
        std::fs::write(assets.join(&digest), &bytes).unwrap();
        PackedFile { path: place, digest, size_bytes: bytes.len() as u64 }
    };
    let names = |folder: &str| {
        let entries = std::fs::read_dir(from.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let mut files = vec![
        add(from.join("shot/scenes/a.blend"), "scenes/a.blend".into()),
        add(from.join("shot/textures/near.png"), "textures/near.png".into()),
    ];
    for path in ["far/maps", "far/frames", "far/library"].into_iter().flat_map(names) {
        let place = absolute_path(path.to_str().unwrap()).unwrap();
        files.push(add(path, place));
    }
    let list = PackManifest::new("scenes/a.blend".into(), files).unwrap().to_json();
    let digest = blake3::hash(&list).to_hex().to_string();
    std::fs::write(assets.join(&digest), &list).unwrap();
    FileRef { path: "a.blend".into(), digest, size_bytes: list.len() as u64 }
}

#[tokio::test]
async fn a_packed_scene_is_rendered_as_it_would_have_been_where_it_was_packed() {
    let source = tempfile::tempdir().unwrap();
    let from = source.path().canonicalize().unwrap();
    let script = from.join("build.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let mut blender = Command::new("blender");
    blender.args(["-b", "--factory-startup", "--python-exit-code", "1", "-P"]);
    let made = blender.arg(&script).arg("--").arg(&from).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    let bench = Bench::new();
    let assets = bench.folder().join("artifacts/assets");
    std::fs::create_dir_all(&assets).unwrap();
    let file = pack(&from, &assets);
    let plain = bench.folder().join("plain.exr");
    std::fs::copy(from.join("plain.exr"), &plain).unwrap();
    // No file is at its original path, except for one with different content, which must not be used.
    std::fs::remove_dir_all(from.join("shot")).unwrap();
    std::fs::remove_dir_all(from.join("far")).unwrap();
    std::fs::create_dir_all(from.join("far/maps")).unwrap();
    std::fs::copy("../docs/turntable.png", from.join("far/maps/far.png")).unwrap();
    let mut sessions = Sessions::default();
    let body = Body::Blender(Render { scene: scene("a.blend"), tiles: None });
    for _ in 0..2 {
        let work = bench.work_with(body.clone(), &[("frame", "2")], file.clone());
        let products = work.on(&mut sessions).await.unwrap();
        assert_eq!(products.notes, [] as [String; 0]);
        assert_same_as(&bench.path(&products.outputs[0]), &plain, "packed");
    }
    assert_eq!(sessions.ids().len(), 1);
    // A scene in the tree of a packed scene cannot be changed.
    let tree = bench.folder().join("cache/trees").join(&file.digest);
    let meta = std::fs::metadata(tree.join("scenes/a.blend")).unwrap();
    assert!(meta.permissions().readonly());
    let from = absolute_path(from.join("far/maps/far.png").to_str().unwrap()).unwrap();
    assert!(tree.join(from).exists());
}

#[tokio::test]
async fn a_packed_scene_that_lacks_a_file_says_which() {
    let bench = Bench::new();
    let assets = bench.folder().join("artifacts/assets");
    std::fs::create_dir_all(&assets).unwrap();
    let bytes = std::fs::read(super::scenes::scenes().join("texture.blend")).unwrap();
    let digest = blake3::hash(&bytes).to_hex().to_string();
    std::fs::write(assets.join(&digest), &bytes).unwrap();
    let file = FileRef { path: "x".into(), digest: digest.clone(), size_bytes: 0 };
    let body = Body::Blender(Render { scene: scene("a.blend"), tiles: None });
    let mut sessions = Sessions::default();
    let work = bench.work_with(body.clone(), &[("frame", "2")], file.clone());
    let failure = work.on(&mut sessions).await.unwrap_err();
    assert!(failure.message.contains("image 'wood'"), "{failure:?}");
    // A list that names a file which is not in the store.
    let missing = PackedFile { path: "b.png".into(), digest: "0a".repeat(32), size_bytes: 1 };
    let blend = PackedFile { path: "a.blend".into(), digest, size_bytes: 1 };
    let list = PackManifest::new("a.blend".into(), vec![blend, missing]).unwrap().to_json();
    let digest = blake3::hash(&list).to_hex().to_string();
    std::fs::write(assets.join(&digest), &list).unwrap();
    let work = bench.work_with(body, &[("frame", "2")], FileRef { digest, ..file });
    let failure = work.on(&mut sessions).await.unwrap_err();
    assert!(failure.message.contains("An asset cannot be read"), "{failure:?}");
}
