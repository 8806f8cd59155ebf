//! The rules of packing, and a scene of a real Blender with every kind of external file.

use super::*;
use crate::client::digests::Digests;
use std::collections::BTreeMap;

fn reference(kind: &str, relative: bool, file: &str, owner: &str) -> Reference {
    Reference {
        kind: kind.into(),
        user: format!("{kind} `x`"),
        relative,
        files: vec![file.into()],
        owners: vec![owner.into()],
        needed: true,
        ..Reference::default()
    }
}

/// The paths in the packed scene, and the file at each.
fn places(scene: &str, references: Vec<Reference>) -> (String, BTreeMap<String, String>) {
    let layout = layout(Path::new(scene), &PackReport { problem: None, references }).unwrap();
    let files = layout.files.iter().map(|(path, file)| (path.clone(), file.display().to_string()));
    (layout.scene.clone(), files.collect())
}

fn names(places: &(String, BTreeMap<String, String>)) -> Vec<&str> {
    places.1.keys().map(String::as_str).collect()
}

#[test]
fn a_scene_without_anything_else_is_one_file() {
    let packed = places("/p/s.blend", Vec::new());
    assert_eq!(packed.0, "s.blend");
    assert_eq!(names(&packed), ["s.blend"]);
    assert_eq!(places("/p/x/../s.blend", Vec::new()).1["s.blend"], "/p/s.blend");
}

#[test]
fn relative_files_keep_their_place_and_the_root_is_above_all_of_them() {
    let packed = places(
        "/p/scenes/a/s.blend",
        vec![
            reference("image", true, "/p/scenes/a/wood.png", ""),
            reference("image", true, "/p/textures/../textures/oak.png", ""),
        ],
    );
    assert_eq!(packed.0, "scenes/a/s.blend");
    assert_eq!(names(&packed), ["scenes/a/s.blend", "scenes/a/wood.png", "textures/oak.png"]);
}

#[test]
fn absolute_files_lie_apart_under_their_whole_path() {
    let packed = places(
        "/p/s.blend",
        vec![
            reference("image", false, "/nas/wood.png", ""),
            reference("image", false, "/p/near.png", ""),
            reference("image", true, "/p/near.png", ""),
        ],
    );
    assert_eq!(packed.0, "s.blend");
    assert_eq!(names(&packed), ["_abs/nas/wood.png", "_abs/p/near.png", "near.png", "s.blend"]);
}

#[test]
fn what_a_library_refers_to_lies_beside_the_library() {
    let far = "/nas/lib/tree.blend";
    let inner = "/nas/lib/leaf.blend";
    let packed = places(
        "/p/s.blend",
        vec![
            // The inner library is listed before the one that links it.
            reference("library", true, inner, far),
            reference("library", false, far, ""),
            reference("image", true, "/nas/textures/bark.png", far),
            reference("image", true, "/nas/lib/leaf.png", inner),
            reference("library", true, "/p/near.blend", ""),
            reference("image", true, "/p/near.png", "/p/near.blend"),
        ],
    );
    assert_eq!(
        names(&packed),
        [
            "_abs/nas/lib/leaf.blend",
            "_abs/nas/lib/leaf.png",
            "_abs/nas/lib/tree.blend",
            "_abs/nas/textures/bark.png",
            "near.blend",
            "near.png",
            "s.blend",
        ]
    );
}

#[test]
fn a_library_that_is_reached_in_two_ways_lies_in_both_places() {
    let mut shared = reference("library", true, "/p/shared.blend", "");
    shared.owners = vec!["/p/a.blend".into(), "/p/b.blend".into()];
    let packed = places(
        "/p/s.blend",
        vec![
            reference("library", false, "/p/a.blend", ""),
            reference("library", true, "/p/b.blend", ""),
            shared,
            reference("image", true, "/p/x.png", "/p/shared.blend"),
        ],
    );
    assert_eq!(
        names(&packed),
        [
            "_abs/p/a.blend",
            "_abs/p/shared.blend",
            "_abs/p/x.png",
            "b.blend",
            "s.blend",
            "shared.blend",
            "x.png",
        ]
    );
}

#[test]
fn a_folder_of_the_user_with_our_name_is_not_mistaken() {
    let packed = places(
        "/p/q/s.blend",
        vec![
            reference("image", true, "/p/q/_abs/a.png", ""),
            reference("image", false, "/a.png", ""),
        ],
    );
    assert_eq!(packed.0, "q/s.blend");
    assert_eq!(names(&packed), ["_abs/a.png", "q/_abs/a.png", "q/s.blend"]);
}

#[test]
fn what_is_missing_is_told_with_its_user_and_what_may_be_missing_is_a_note() {
    let lacks = |kind: &str, needed| Reference {
        files: Vec::new(),
        missing: vec!["/p/gone".into(), "/p/away".into()],
        needed,
        ..reference(kind, true, "", "")
    };
    let references = vec![lacks("image", true), lacks("image", true), lacks("sound", false)];
    let layout =
        layout(Path::new("/p/s.blend"), &PackReport { problem: None, references }).unwrap();
    let lines = ["image `x`: /p/away is not there", "image `x`: /p/gone is not there"];
    assert_eq!(layout.missing, lines);
    assert_eq!(layout.notes.len(), 2);
}

/// Makes a scene with every kind of external file. Below the given folder: `project/shots/scene.blend` and the files
/// around it, and `nas` for those that are referred to by absolute paths.
const SCENE: &str = r#"
import bpy, os, sys
out = sys.argv[sys.argv.index("--") + 1]

def at(*names):
    path = os.path.join(out, *names)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path

def picture(path):
    image = bpy.data.images.new("made", 2, 2)
    image.pixels = [len(path) % 7 / 7, hash(path) % 97 / 97, 0.5, 1] * 4
    image.filepath_raw, image.file_format = path, "PNG"
    image.save()
    bpy.data.images.remove(image)

def use(name, path, source="FILE"):
    """A material with a picture."""
    image = bpy.data.images.load(path)
    image.name, image.source = name, source
    material = bpy.data.materials.new("of " + name)
    material.use_nodes, material.use_fake_user = True, True
    node = material.node_tree.nodes.new("ShaderNodeTexImage")
    node.image = image
    return image

def save(path):
    bpy.ops.wm.save_as_mainfile(filepath=path, relative_remap=False)

def link(path, stored, kind, name):
    with bpy.data.libraries.load(path, link=True) as (_, to):
        setattr(to, kind, [name])
    item = getattr(to, kind)[0]
    bpy.data.libraries[os.path.basename(path)].filepath = stored
    return item

for path in (("project", "textures", "wood.png"), ("project", "shots", "near.png"), ("nas", "far.png"), ("nas", "lib", "bark.png"),
             ("project", "textures", "tile.1001.png"), ("project", "textures", "tile.1002.png"), ("project", "lib", "leaf.png"),
             ("project", "shots", "gone.png"), *(("project", "frames", f"f_{n:04}.png") for n in (1, 2, 3, 5)), ("project", "frames", "g_0001.png")):
    picture(at(*path))
for path in (("project", "shots", "voice.wav"), ("nas", "lamp.ies"), ("project", "caches", "smoke", "config_0001.uni"), ("project", "caches", "smoke", "data", "d_0001.vdb")):
    with open(at(*path), "wb") as file:
        file.write("/".join(path).encode())

# The innermost library, the one that links it, and one that is named by an absolute path.
bpy.ops.wm.read_factory_settings()
save(at("project", "lib", "leaf.blend"))
use("leaf", at("project", "lib", "leaf.png")).filepath = "//leaf.png"
save(at("project", "lib", "leaf.blend"))
bpy.ops.wm.read_factory_settings()
save(at("project", "lib", "tree.blend"))
leaf = link(at("project", "lib", "leaf.blend"), "//leaf.blend", "materials", "of leaf")
bpy.data.objects["Cube"].data.materials.append(leaf)
bpy.data.objects["Cube"].name = "Tree"
save(at("project", "lib", "tree.blend"))
bpy.ops.wm.read_factory_settings()
save(at("nas", "lib", "rock.blend"))
use("bark", at("nas", "lib", "bark.png")).filepath = "//bark.png"
save(at("nas", "lib", "rock.blend"))

bpy.ops.wm.read_factory_settings()
scene = bpy.context.scene
save(at("project", "shots", "scene.blend"))
use("wood", at("project", "textures", "wood.png")).filepath = "//../textures/wood.png"
use("near", at("project", "shots", "near.png")).filepath = "//near.png"
use("far", at("nas", "far.png"))
use("frames", at("project", "frames", "f_0001.png"), "SEQUENCE").filepath = "//../frames/f_0001.png"
tiled = use("tiled", at("project", "textures", "tile.1001.png"), "TILED")
tiled.tiles.new(1002)
tiled.filepath = "//../textures/tile.<UDIM>.png"
use("gone", at("project", "shots", "gone.png")).filepath = "//gone.png"
os.remove(at("project", "shots", "gone.png"))
packed = use("packed", at("project", "shots", "near.png"))
packed.pack()
packed.filepath = "//nowhere.png"
tree = link(at("project", "lib", "tree.blend"), "//../lib/tree.blend", "objects", "Tree")
scene.collection.objects.link(tree)
rock = link(at("nas", "lib", "rock.blend"), at("nas", "lib", "rock.blend"), "materials", "of bark")
bpy.data.objects["Cube"].data.materials.append(rock)
speaker = bpy.data.speakers.new("speaker")
speaker.sound = bpy.data.sounds.load(at("project", "shots", "voice.wav"))
speaker.sound.filepath = "//voice.wav"
scene.collection.objects.link(bpy.data.objects.new("speaker", speaker))
lamp = bpy.data.lights["Light"]
lamp.use_nodes = True
profile = lamp.node_tree.nodes.new("ShaderNodeTexIES")
profile.mode, profile.filepath = "EXTERNAL", at("nas", "lamp.ies")
domain = bpy.data.objects["Cube"].modifiers.new("fluid", "FLUID")
domain.fluid_type = "DOMAIN"
domain.domain_settings.cache_type = "ALL"  # or Blender simulates by itself
domain.domain_settings.cache_directory = "//../caches/smoke"
save(at("project", "shots", "scene.blend"))
"#;

/// Opens the scene of a packed tree and prints which files Blender finds in it.
const LOOK: &str = r#"
import bpy, os, sys
scene, answer = sys.argv[sys.argv.index("--") + 1:]
bpy.ops.wm.open_mainfile(filepath=scene, use_scripts=False)
found = bpy.utils.blend_paths(absolute=True, packed=False)
with open(answer, "w") as file:
    file.write("\n".join(os.path.normpath(path) for path in found if os.path.isfile(path)))
"#;

fn blender(folder: &Path, script: &str, arguments: &[&Path]) {
    let path = folder.join("script.py");
    std::fs::write(&path, script).unwrap();
    let mut blender = std::process::Command::new("blender");
    blender.args(["-b", "--factory-startup", "-noaudio", "--python-exit-code", "1", "-P"]);
    let said = blender.arg(&path).arg("--").args(arguments).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

#[tokio::test]
async fn blender_tells_everything_that_a_scene_needs() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().canonicalize().unwrap();
    blender(&folder, SCENE, &[&folder]);
    let scene = folder.join("project/shots/scene.blend");
    let layout = lay_out(&scene, Path::new("blender"), None).await.unwrap();
    let nas = format!("_abs{}/nas", folder.display());
    let expected = [
        format!("{nas}/far.png"),
        format!("{nas}/lamp.ies"),
        format!("{nas}/lib/bark.png"),
        format!("{nas}/lib/rock.blend"),
        "caches/smoke/config_0001.uni".into(),
        "caches/smoke/data/d_0001.vdb".into(),
        "frames/f_0001.png".into(),
        "frames/f_0002.png".into(),
        "frames/f_0003.png".into(),
        "frames/f_0005.png".into(),
        "lib/leaf.blend".into(),
        "lib/leaf.png".into(),
        "lib/tree.blend".into(),
        "shots/near.png".into(),
        "shots/scene.blend".into(),
        "shots/voice.wav".into(),
        "textures/tile.1001.png".into(),
        "textures/tile.1002.png".into(),
        "textures/wood.png".into(),
    ];
    assert_eq!(layout.files.keys().cloned().collect::<Vec<_>>(), expected);
    assert_eq!(layout.scene, "shots/scene.blend");
    let gone = folder.join("project/shots/gone.png").display().to_string();
    let line = format!("image `gone` of material `of gone`: {gone} is not there");
    assert_eq!(layout.missing, [line]);
    assert_eq!(layout.notes.len(), 1, "{:?}", layout.notes);
    assert!(layout.notes[0].ends_with("has no frame 4"), "{:?}", layout.notes);
    laid_out_elsewhere_it_is_whole(&folder, &layout);
}

/// A tree of the packed files, without the originals, is a complete scene.
fn laid_out_elsewhere_it_is_whole(folder: &Path, layout: &Layout) {
    let digests = Digests::default().of(&layout.sources(), &|_| ()).unwrap();
    let pack = layout.pack(&digests).unwrap();
    let manifest = PackManifest::from_json(&pack.manifest).unwrap();
    let tree = folder.join("tree");
    for file in &manifest.files {
        let to = tree.join(&file.path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&pack.files[&file.digest].0, to).unwrap();
    }
    std::fs::rename(folder.join("project"), folder.join("moved")).unwrap();
    let answer = folder.join("found");
    blender(folder, LOOK, &[&tree.join(&manifest.scene), &answer]);
    let found = std::fs::read_to_string(answer).unwrap();
    for name in ["lib/tree.blend", "lib/leaf.blend", "lib/leaf.png", "textures/wood.png"] {
        let path = tree.join(name).display().to_string();
        assert!(found.lines().any(|line| line == path), "{path} in {found}");
    }
    // The same files give the same digest, wherever it is computed.
    assert_eq!(pack.digest, layout.pack(&digests).unwrap().digest);
}

#[tokio::test]
async fn a_file_that_is_no_scene_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let scene = folder.path().join("s.blend");
    std::fs::write(&scene, "no scene at all").unwrap();
    let error = lay_out(&scene, Path::new("blender"), None).await.unwrap_err().to_string();
    assert!(error.contains("cannot read it"), "{error}");
    let error = lay_out(&scene, Path::new("no-such-blender"), None).await.unwrap_err();
    assert!(format!("{error:#}").contains("start no-such-blender"), "{error:#}");
}
