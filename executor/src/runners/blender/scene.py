"""The scene of a pictor session: opened, examined, and checked before any time is spent on it."""
import bpy
import errno
import glob
import json
import os
import re
import sys

OUT_OF_MEMORY = re.compile(r"out of (gpu |device |host |system )?memory|memoryerror|cumem|bad_alloc|calloc returns null|malloc returns null", re.I)
ELEMENTS_MAX = 10_000  # pictures of one strip whose existence is checked
SCRIPTS_RUN = False  # whether the job allows the scene's Python
DISK_FULL = re.compile(r"no space left|disk full|quota exceeded|file too large", re.I)


class Fail(Exception):
    def __init__(self, kind, message, **more):
        super().__init__(message)
        self.body = {"kind": kind, "message": message, **more}


def failure(error):
    if isinstance(error, Fail):
        return error.body
    if isinstance(error, json.JSONDecodeError):
        return {"kind": "bad_request", "message": f"This is not JSON: {error}."}
    text = str(error).strip() or type(error).__name__
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        return {"kind": "out_of_memory", "message": f"The render ran out of memory: {text}. Use a larger device or simplify the scene."}
    if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or DISK_FULL.search(text):
        return {"kind": "disk_full", "message": f"The disk of this worker is full: {text}. Free some space and retry."}
    return {"kind": "render_failed", "message": f"{type(error).__name__}: {text.splitlines()[-1]}"}


def version(numbers):
    return ".".join(str(n) for n in numbers[:2]) if numbers else "?"


# ---- loading ------------------------------------------------------------------------------------------------------------

def load(path, allow_missing, allow_scripts, opened=lambda: None):
    """Opens the scene. `opened` is called before its files are located."""
    global SCRIPTS_RUN
    SCRIPTS_RUN = allow_scripts
    if not os.path.isfile(path):
        raise Fail("scene_missing", f"There is no scene file at {path}. Check the path in the job file.")
    problem = ""
    try:
        bpy.ops.wm.open_mainfile(filepath=path, load_ui=False, use_scripts=allow_scripts)
    except RuntimeError as error:  # also raised for warnings, such as a missing library
        problem = str(error).strip()
    if not bpy.data.filepath or os.path.realpath(bpy.data.filepath) != os.path.realpath(path):
        raise Fail("not_a_blend", f"Blender {bpy.app.version_string} cannot read {path}: {problem or 'no reason given'}. "
                   "Is the file complete, and not from a newer Blender?")
    refuse_scripts()
    opened()
    lacking = [item for item in missing_files() if item["kind"] != "sound"]  # a sound is not in the picture
    if lacking and not allow_missing:
        names = ", ".join(f"{item['kind']} {item['name']!r} ({item['path']})" for item in lacking[:5])
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise Fail("missing_files", f"{path} uses files that are not here, or outside of what its task may read: {names}{more}. Pack them into the .blend "
                   "(File > External Data > Pack Resources) or make their paths right, then submit again. `allow_missing: true` renders without them.", missing=lacking)


def present(path, pattern=False):
    """Whether a file exists, or with `pattern` any frame of its numbered sequence."""
    if os.path.exists(path):
        return True
    folder, name = os.path.split(path)
    if not pattern or not re.search(r"\d", name):
        return False
    wild = re.sub(r"(\d+)(?!.*\d)", "*", glob.escape(name))
    return any(glob.iglob(os.path.join(glob.escape(folder), wild)))


def node_trees():
    for owners in (bpy.data.materials, bpy.data.worlds, bpy.data.lights, bpy.data.scenes, bpy.data.textures):
        yield from (owner.node_tree for owner in owners if getattr(owner, "node_tree", None))
    yield from bpy.data.node_groups


def missing_files():
    found = []

    def look(kind, item, path, sequence=False, library=None):
        full = os.path.normpath(bpy.path.abspath(path, library=library))
        if path and not path.startswith("<") and not present(full, sequence):
            found.append({"kind": kind, "name": item.name, "path": full})

    for image in bpy.data.images:
        packed = image.packed_file or len(getattr(image, "packed_files", ()))
        if packed or not image.users or image.source in ("GENERATED", "VIEWER"):
            continue
        if image.source == "TILED":
            for tile in image.tiles:
                u, v = (tile.number - 1001) % 10 + 1, (tile.number - 1001) // 10 + 1
                path = image.filepath.replace("<UDIM>", str(tile.number)).replace("<UVTILE>", f"u{u}_v{v}")
                look("image", image, path, library=image.library)
        else:
            look("image", image, image.filepath, image.source == "SEQUENCE", image.library)
    for library in bpy.data.libraries:
        if not getattr(library, "packed_file", None):
            look("library", library, library.filepath)
    for kind, items in (("font", bpy.data.fonts), ("clip", bpy.data.movieclips), ("sound", bpy.data.sounds),
                        ("cache", bpy.data.cache_files), ("volume", getattr(bpy.data, "volumes", ()))):
        for item in items:
            if item.users and not getattr(item, "packed_file", None):
                sequence = getattr(item, "is_sequence", False) or getattr(item, "source", "") == "SEQUENCE"
                look(kind, item, item.filepath, sequence, item.library)
    for item in bpy.data.objects:
        for modifier in item.modifiers:
            if modifier.type == "MESH_CACHE":
                look("cache", item, modifier.filepath, library=item.library)
            elif modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN" and modifier.domain_settings:
                if modifier.domain_settings.has_cache_baked_any:
                    look("cache", item, modifier.domain_settings.cache_directory, library=item.library)
    for scene in bpy.data.scenes:
        for strip in strips(scene) if scene.render.use_sequencer else ():
            if strip.type == "MOVIE":
                look("clip", strip, strip.filepath, library=scene.library)
            elif strip.type == "IMAGE":
                for element in list(strip.elements)[:ELEMENTS_MAX]:
                    look("image", strip, os.path.join(strip.directory, element.filename), library=scene.library)
    for tree in node_trees():
        for node in tree.nodes:
            if node.bl_idname in ("ShaderNodeTexIES", "ShaderNodeScript") and node.mode == "EXTERNAL":
                look("light profile" if node.bl_idname == "ShaderNodeTexIES" else "script", node, node.filepath, library=tree.library)
    return found


def running_scripts():
    """What would run while rendering, although Blender runs no scripts on its own: Freestyle's and OSL's."""
    for scene in bpy.data.scenes:
        for layer in scene.view_layers:
            settings = layer.freestyle_settings
            if scene.render.use_freestyle and layer.use_freestyle and settings.mode == "SCRIPT":
                for module in settings.modules:
                    yield f"Freestyle script {(module.script.name if module.script else '?')!r} of view layer {layer.name!r}"
        if getattr(getattr(scene, "cycles", None), "shading_system", False):
            for tree in node_trees():
                for node in tree.nodes:
                    if node.bl_idname == "ShaderNodeScript":
                        yield f"OSL script {(node.script.name if node.script else node.filepath)!r} of {tree.name!r}"


def refuse_scripts():
    """Called before anything is rendered, as a job's settings may turn on what the scene had turned off."""
    names = [] if SCRIPTS_RUN else list(dict.fromkeys(running_scripts()))
    if names:
        raise Fail("scripts", f"The scene runs scripts while it is rendered: {', '.join(names[:5])}. Remove them, or set `allow_scripts: true`: "
                   "then they run in the sandbox of the worker.", scripts=names)


def blocked_scripts():
    if SCRIPTS_RUN:
        return None
    names = [f"text {text.name!r}" for text in bpy.data.texts if text.use_module]
    for prop in bpy.data.bl_rna.properties:
        for item in getattr(bpy.data, prop.identifier) if prop.type == "COLLECTION" else ():
            for owner in (item, getattr(item, "node_tree", None), getattr(item, "shape_keys", None)):
                animation = getattr(owner, "animation_data", None)
                for curve in animation.drivers if animation else ():
                    if curve.driver.type == "SCRIPTED" and not curve.driver.is_simple_expression:
                        names.append(f"driver of {item.name!r} {curve.data_path}")
    if bpy.app.autoexec_fail and not names:
        names.append(bpy.app.autoexec_fail_message)
    return ("Python inside the scene does not run on a farm; the picture may differ: " + ", ".join(names[:5])) if names else None


# # ---- its content
# --------------------------------------------------------------------------------------------------------

def nodes_within(tree, seen=None):
    """The nodes of a tree and of the groups in it."""
    seen = set() if seen is None else seen
    for node in tree.nodes:
        yield node
        inner = getattr(node, "node_tree", None)
        if inner and inner.name not in seen:
            seen.add(inner.name)
            yield from nodes_within(inner, seen)


def camera_names(scene):
    return [item.name for item in scene.objects if item.type == "CAMERA"]


def strips(scene):
    """The strips of the scene's video edit, including those in meta strips."""
    editor = scene.sequence_editor
    return list(getattr(editor, "strips_all", None) or getattr(editor, "sequences_all", ())) if editor else []
