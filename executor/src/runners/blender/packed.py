"""A packed scene: files that it names by an absolute path of the machine where it was packed are in its tree below `_abs`."""
import bpy
import glob
import os
import posixpath
import re

from scene import Fail

HERE = "/.pictor-scene"  # in a baked scene: the folder of the packed scene that it was made from
ROUNDS = 16  # libraries that link libraries that link libraries


def place(tree, path):
    """The path within the tree of a file that the scene names by this absolute path; None for any other path."""
    path = path.replace("\\", "/")
    if path.startswith(HERE + "/"):
        return os.path.join(tree, posixpath.normpath(path[len(HERE):]).lstrip("/"))
    drive = re.match(r"([A-Za-z]):/", path)
    if drive:
        path = f"/{drive[1].upper()}/{path[3:]}"
    elif not path.startswith("/") or path.startswith("//"):
        return None
    return os.path.join(tree, "_abs", posixpath.normpath(path).lstrip("/"))


def there(path):
    """Whether it exists: a file, a folder, or any of the tiles or frames that the name denotes."""
    if os.path.exists(path):
        return True
    folder, name = os.path.split(path)
    wild = re.sub(r"<UDIM>|<UVTILE>", "*", name) if "<" in name else re.sub(r"(\d+)(?!.*\d)", "\0", name)
    wild = "*".join(glob.escape(part) for part in re.split(r"[*\0]", wild))
    return wild != glob.escape(name) and any(glob.iglob(os.path.join(glob.escape(folder), wild)))


def relocate(tree):
    """Makes the scene find its files. Files in the tree take precedence over any others on this machine."""
    for _ in range(ROUNDS):
        moved = [library for library in bpy.data.libraries if move(tree, library, "filepath")]
        for library in moved:
            library.reload()
        if not moved:
            break
    for owner, name in paths():
        old = getattr(owner, name)
        if move(tree, owner, name) and name in ("bake_directory", "directory") and bpy.app.version < (5, 0):
            raise Fail("missing_files", f"Geometry nodes of {owner.id_data.name!r} are baked into the absolute folder {old}, and Blender "
                       f"{bpy.app.version_string} looks for a bake only where the scene was saved to have it. Make the folder relative to the scene "
                       "(//name) and save it, or have it rendered by Blender 5.0 or newer (`requires: { software: { blender: \">=5\" } }`).")


def settle():
    """Makes the scene's relative paths absolute, so that it can be saved elsewhere. Output paths are left alone."""
    for owner, name in (*((library, "filepath") for library in bpy.data.libraries), *paths()):
        old = getattr(owner, name)
        own = isinstance(owner, bpy.types.Library) or not owner.id_data.library
        if own and isinstance(old, str) and old.startswith("//") and getattr(owner, "bl_idname", "") != "CompositorNodeOutputFile":
            new = os.path.normpath(bpy.path.abspath(old.replace("\\", "/")))
            setattr(owner, name, new + "/" if old.endswith(("/", "\\")) else new)


def leave(tree):
    """Rewrites paths into the tree of a packed scene so that they hold for that tree on every machine."""
    for owner, name in (*((library, "filepath") for library in bpy.data.libraries), *paths()) if tree else ():
        old = getattr(owner, name)
        if isinstance(old, str) and old.startswith(tree.rstrip("/") + "/"):
            setattr(owner, name, HERE + old[len(tree.rstrip("/")):])


def paths():
    """Every property that names a file, except for those of libraries."""
    for owner in owners():
        for prop in owner.bl_rna.properties:
            if prop.type == "STRING" and prop.subtype in ("FILE_PATH", "DIR_PATH") and not prop.is_readonly:
                yield owner, prop.identifier
    for nodes in trees():
        for node in nodes.nodes:
            socket = node.inputs.get("Path") if node.bl_idname.startswith("GeometryNodeImport") else None
            if socket:
                yield socket, "default_value"


def move(tree, owner, name):
    old = getattr(owner, name)
    new = place(tree, old) if isinstance(old, str) and old and not old.startswith(tree) else None
    if not new or not there(new):
        return False
    setattr(owner, name, new + "/" if old.endswith(("/", "\\")) else new)
    return True


def trees():
    for items in (bpy.data.materials, bpy.data.worlds, bpy.data.lights, bpy.data.scenes, bpy.data.textures):
        yield from (item.node_tree for item in items if getattr(item, "node_tree", None))
    yield from bpy.data.node_groups


def owners():
    """Everything that may have a property that names a file."""
    for items in (bpy.data.images, bpy.data.fonts, bpy.data.movieclips, bpy.data.sounds, bpy.data.cache_files,
                  getattr(bpy.data, "volumes", ())):
        for item in items:
            if not getattr(item, "packed_file", None):
                yield item
            yield from getattr(item, "layers", ()) if isinstance(item, bpy.types.CacheFile) else ()
    for nodes in trees():
        yield from nodes.nodes
    for item in bpy.data.objects:
        for modifier in item.modifiers:
            yield from parts(modifier)
        yield from (system.point_cache for system in item.particle_systems)
    for scene in bpy.data.scenes:
        if scene.rigidbody_world and scene.rigidbody_world.point_cache:
            yield scene.rigidbody_world.point_cache
        editor = scene.sequence_editor
        yield from getattr(editor, "strips_all", getattr(editor, "sequences_all", ())) if editor else ()


def parts(modifier):
    yield modifier
    yield from getattr(modifier, "bakes", ())
    for name in ("domain_settings", "point_cache"):
        if getattr(modifier, name, None):
            yield getattr(modifier, name)
    canvas = getattr(modifier, "canvas_settings", None)
    yield from (surface.point_cache for surface in canvas.canvas_surfaces) if canvas else ()
