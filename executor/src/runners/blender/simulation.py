"""Simulations: finds what in a scene is simulated and not baked, and bakes it into a copy of the scene.

A frame of a simulation needs the frame before it, and a farm renders frames in any order. A baked copy is one .blend,
and an archive beside it for the kinds that Blender only stores in files. As its path differs from the scene's, all of
the scene's own relative paths are made absolute in it; only those of its caches begin with `//`.
"""
import bpy
import ctypes
import glob
import os
import shutil
import struct
import zipfile

from frame import shown_scenes
from packed import leave, relocate, settle
from scene import Fail, nodes_within
from settings import put, restore

NAMED = 8  # simulations named in a message
ARCHIVE_BYTES_MAX = 1 << 40
DYNAMICS = {"NEWTON": "particles", "BOIDS": "boids", "FLUID": "fluid particles"}  # other physics need no earlier frame
RIGID, HAIR, PAINT, ZONE, SMOKE = "rigid bodies", "hair dynamics", "dynamic paint", "simulation zone", "smoke or fluid"
FILES_ONLY = (RIGID, PAINT)  # if they are in files: Blender stores paint nowhere else, and crashes when this is changed for rigid bodies


class Found:
    """One simulation: its first frame, whether it is baked, and how it is stored: in a point cache, a zone's bake, or neither."""

    def __init__(self, owner, kind, start, baked, cache=None, modifier=None, bake=None):
        self.owner, self.kind, self.start, self.baked = owner, kind, start, baked
        self.cache, self.modifier, self.bake = cache, modifier, bake

    def __str__(self):
        return f"{self.kind} of {self.owner.name!r}"


# # ---- finding simulations
# ------------------------------------------------------------------------------------------------

def unbaked(scene, settings):
    """Simulations that are not baked and that affect the picture."""
    shown = shown_scenes(scene, settings)
    found = [item for item in simulations(scene, shown) if not item.baked]
    if not found:
        return []
    seen = visible(shown)
    return [item for item in found if shows(item.owner, shown, seen)]


def simulations(scene, shown):
    for part in shown:
        world = part.rigidbody_world
        if world and world.enabled and world.collection and world.point_cache and bodies(part):
            cache = world.point_cache
            yield Found(part, RIGID, cache.frame_start, has(cache, part), cache)
    for item in bpy.data.objects:
        for modifier in item.modifiers:
            if modifier.show_render:
                yield from of_modifier(scene, item, modifier)


def bodies(owner):
    """The objects that a simulation moves: all rigid bodies of a scene, or a single object."""
    if not isinstance(owner, bpy.types.Scene):
        return [owner]
    return [item for item in owner.rigidbody_world.collection.all_objects if item.rigid_body and item.rigid_body.type == "ACTIVE"]


def of_modifier(scene, item, modifier):
    kind = modifier.type
    if kind in ("CLOTH", "SOFT_BODY"):
        cache = modifier.point_cache
        yield Found(item, "cloth" if kind == "CLOTH" else "soft body", cache.frame_start, has(cache, item), cache, modifier)
    elif kind == "PARTICLE_SYSTEM" and modifier.particle_system:
        system = modifier.particle_system
        what, cache = system.settings, system.point_cache
        if what.type == "HAIR" and system.use_hair_dynamics:
            yield Found(item, HAIR, cache.frame_start, has(cache, item), cache, modifier)
        elif what.type == "EMITTER" and what.physics_type in DYNAMICS:
            yield Found(item, DYNAMICS[what.physics_type], int(what.frame_start), has(cache, item), cache, modifier)
    elif kind == "DYNAMIC_PAINT" and modifier.canvas_settings:
        for surface in modifier.canvas_settings.canvas_surfaces:
            if surface.is_active and surface.surface_format == "VERTEX":  # the other format writes pictures, and reads none
                yield Found(item, PAINT, surface.frame_start, has(surface.point_cache, item), surface.point_cache, modifier)
    elif kind == "FLUID" and modifier.fluid_type == "DOMAIN" and modifier.domain_settings:
        domain = modifier.domain_settings
        yield Found(item, SMOKE, domain.cache_frame_start, domain.has_cache_baked_data, modifier=modifier)
    elif kind == "NODES" and modifier.node_group:
        zones = [node for node in nodes_within(modifier.node_group) if node.bl_idname == "GeometryNodeSimulationOutput"]
        bakes = [bake for bake in getattr(modifier, "bakes", ()) if bake.node and bake.node.bl_idname == "GeometryNodeSimulationOutput"]
        for bake in bakes:
            start = bake.frame_start if bake.use_custom_simulation_frame_range else scene.frame_start
            yield Found(item, ZONE, start, holds(item, modifier, bake), modifier=modifier, bake=bake)
        if zones and not hasattr(modifier, "bakes"):  # Blender 3.6 and 4.0
            folder = modifier.simulation_bake_directory or f"{cache_folder(item)}/{item.name}_{modifier.name}"
            yield Found(item, ZONE, scene.frame_start, on_disk(folder, item), modifier=modifier)


def has(cache, owner):
    """Whether the frames of a point cache exist: a bake on disk is no more than its files."""
    if cache.use_external:
        return any(files(cache.filepath, owner, f"{cache.name}_*.bphys"))
    return cache.is_baked and (not cache.use_disk_cache or any(files(cache_folder(owner), owner, "*.bphys")))


def cache_folder(owner):
    """The folder in which Blender stores the caches of a .blend file."""
    path = bpy.path.abspath(owner.library.filepath) if owner.library else bpy.data.filepath
    return "//blendcache_" + os.path.splitext(os.path.basename(path))[0]


def files(folder, owner, pattern):
    return glob.iglob(os.path.join(glob.escape(bpy.path.abspath(folder, library=owner.library)), pattern))


def holds(item, modifier, bake):
    """Whether a zone's frames exist, on disk or within the .blend."""
    if packed(bake):
        return True
    if bake.use_custom_path:
        return on_disk(bake.directory, item)
    return bool(modifier.bake_directory) and on_disk(f"{modifier.bake_directory}/{bake.bake_id}", item)


def on_disk(folder, item):
    return bool(folder) and any(files(folder, item, "meta/*.json")) or any(files(folder, item, "*/meta/*.json"))


def packed(bake):
    """Whether a bake is stored within the .blend. Python has no access to that, so its C structure is read, if it is the known
    one."""
    if not hasattr(bake, "bake_target"):  # before Blender 4.3 there are none
        return False
    known = struct.Struct("<i12xQii16xQ")
    number, _, start, end, data = known.unpack(ctypes.string_at(bake.as_pointer(), known.size))
    return (number, start, end) == (bake.bake_id, bake.frame_start, bake.frame_end) and data != 0


def visible(scenes):
    """The objects that are rendered themselves."""
    found = set()

    def walk(layer):
        if not layer.exclude and not layer.collection.hide_render:
            found.update(item for item in layer.collection.objects if not item.hide_render)
            for child in layer.children:
                walk(child)
    for layer in (layer for scene in scenes for layer in scene.view_layers):
        if layer.use:
            walk(layer.layer_collection)
    return found


def shows(owner, scenes, seen):
    """Whether this object is rendered, or used by something that is: a surface may follow cloth that is not rendered itself."""
    if isinstance(owner, bpy.types.Scene):
        return any(shows(item, scenes, seen) for item in bodies(owner))
    known, rest, worlds = set(), [owner], {scene.world for scene in scenes}
    if owner not in seen:
        users = bpy.data.user_map()
    while rest:
        item = rest.pop()
        if item in seen or item in worlds:
            return True
        if item not in known and not isinstance(item, (bpy.types.Scene, bpy.types.WindowManager, bpy.types.Screen)):
            known.add(item)
            rest.extend(users.get(item, ()))
    return False


# ---- the checks ---------------------------------------------------------------------------------------------------------

def refuse(scene, settings, frame):
    """Fails if this frame, or any frame, would be wrong. Returns a sentence about what is ignored."""
    found = [item for item in unbaked(scene, settings) if frame is None or int(frame) > item.start]
    if not found:
        return None
    what, simulate = f"Simulations that are not baked: {named(found)}.", settings.get("simulate")
    if simulate == "ignore":
        return f"{what} Frames are rendered in any order, so they may be wrong."
    if simulate == "bake":
        raise Fail("unbaked_simulation", f"{what} `simulate: bake` renders a scene in which a step has baked them: let this one need a `bake` step of "
                   f"the same scene, and let that bake up to frame {frame}.")
    raise Fail("unbaked_simulation", f"{what} Each frame of them needs the one before it, and frames are rendered in any order. Bake them in Blender "
               "and save the scene, or set `simulate: bake` to have pictor do so, or `simulate: ignore` to render them all the same.")


def named(found):
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(str(item) for item in found[:NAMED]) + more


def remembers():
    """Whether frames depend on what Blender has evaluated before although all is baked, as is the case for dynamic hair."""
    return any(system.use_hair_dynamics and system.settings.type == "HAIR" for item in bpy.data.objects for system in item.particle_systems)


# ---- baking -------------------------------------------------------------------------------------------------------------

def bake(scene, settings, folder, tree, last, progress):
    """Bakes what is not baked into `folder`. Returns the .blend and the archive, as far as either is needed.

    This changes the scene: the session cannot be used afterwards."""
    last = scene.frame_end if last is None else int(last)
    found, shown = [item for item in unbaked(scene, settings) if item.start < last], shown_scenes(scene, settings)
    if not found:
        return None, None
    linked = [item for item in found if item.owner.library]
    if linked:
        raise Fail("unbaked_simulation", f"Linked from {linked[0].owner.library.filepath}, and not baked: {named(linked)}. What is linked cannot be "
                   "baked into the scene. Bake it there and save that file.")
    as_rendered(shown, found)
    for part in shown:
        put(part, "frame_end", last)
        put(part, "use_preview_range", False)
    bpy.context.preferences.filepaths.save_version = 0
    current, path = scene.frame_current, os.path.join(folder, "scene.blend")
    keep_disk_caches(scene, shown, folder)
    settle()
    bpy.ops.wm.save_as_mainfile(filepath=path, relative_remap=False)
    told, rest = watch(scene, last, progress), found
    try:
        for part, layer in [(part, layer) for part in shown for layer in part.view_layers if layer.use]:
            with bpy.context.temp_override(scene=part, view_layer=layer):
                here = [item for item in rest if any(body.name in layer.objects for body in bodies(item.owner))]
                rest = [item for item in rest if item not in here]
                points([item for item in here if item.cache and not item.cache.is_baked], last)
                zones([item for item in here if item.kind == ZONE])
                fluids([item for item in here if item.kind == SMOKE], last)
    finally:
        bpy.app.handlers.frame_change_post.remove(told)
    scene.frame_set(current)
    restore()
    leave(tree)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=path, load_ui=False, use_scripts=False)  # what is not in the file does not count as baked
    relocate(tree) if tree else None
    left = [item for item in unbaked(bpy.context.scene, settings) if item.start < last]
    if left:
        raise Fail("bake_failed", f"Blender {bpy.app.version_string} could not bake {named(left)}. Bake it in Blender and save the scene, "
                   "or set `simulate: ignore`.")
    return path, archive(folder)


def as_rendered(scenes, found):
    """Blender bakes what the viewport shows: makes that show all that is rendered. What it shows in addition takes part, too."""
    layers = [layer for scene in scenes for layer in scene.view_layers]
    for item in visible(scenes).union(item.owner for item in found if not isinstance(item.owner, bpy.types.Scene)):
        put(item, "hide_viewport", False)
        for layer in layers:
            if item.name in layer.objects:
                item.hide_set(False, view_layer=layer)
        for modifier in item.modifiers:
            put(modifier, "show_viewport", modifier.show_render)
            if hasattr(modifier, "render_levels"):
                put(modifier, "levels", modifier.render_levels)
    for render in (scene.render for scene in scenes):
        put(render, "simplify_subdivision", render.simplify_subdivision_render)
        put(render, "simplify_child_particles", render.simplify_child_particles_render)

    def walk(layer):
        if not layer.exclude and not layer.collection.hide_render:
            put(layer, "hide_viewport", False)
            put(layer.collection, "hide_viewport", False)
            for child in layer.children:
                walk(child)
    for layer in layers:
        walk(layer.layer_collection)


def keep_disk_caches(scene, shown, folder):
    """Keeps bakes that the scene stores in files beside it: in the .blend, or, where Blender cannot do that, in the folder."""
    for item in simulations(scene, shown):
        if not item.baked or item.owner.library:
            continue
        if item.cache and item.cache.use_disk_cache and not item.cache.use_external:
            if item.kind in FILES_ONLY:
                beside = os.path.join(folder, "blendcache_scene")
                os.makedirs(beside, exist_ok=True)
                for path in files(cache_folder(item.owner), item.owner, "*.bphys"):
                    shutil.copyfile(path, os.path.join(beside, os.path.basename(path)))
            else:
                item.cache.use_disk_cache = False


def watch(scene, last, progress):
    first = scene.frame_start

    def told(now, *_):
        progress(max(now.frame_current - first + 1, 0), last - first + 1)
    bpy.app.handlers.frame_change_post.append(told)
    return told


def points(found, last):
    """Cloth, soft and rigid bodies, particles, paint: all at once, since they interact."""
    for item in found:
        cache = item.cache
        if cache.use_external:
            cache.use_external = False
        if cache.use_disk_cache and item.kind not in FILES_ONLY:
            cache.use_disk_cache = False
        if cache.frame_step != 1:
            cache.frame_step = 1
        if cache.frame_end > last and item.kind != HAIR:  # whose roots would be distributed anew
            cache.frame_end = last
    if found:
        bpy.ops.ptcache.bake_all(bake=True)
    for item in found:
        if not item.cache.is_baked:  # `bake_all` skips hair
            with bpy.context.temp_override(object=item.owner, active_object=item.owner, point_cache=item.cache):
                bpy.ops.ptcache.bake(bake=True)


def zones(found):
    """Bakes each zone by stepping through all frames, with all that the zone depends on."""
    for number, item in enumerate(found):
        one, folder = item.bake, f"//zones/{number}"
        if not one:  # Blender 3.6 and 4.0
            item.modifier.simulation_bake_directory = folder
            with bpy.context.temp_override(object=item.owner, active_object=item.owner, selected_objects=[item.owner]):
                bpy.ops.object.simulation_nodes_cache_bake(selected=True)
            continue
        if hasattr(one, "bake_target"):
            one.bake_target = "PACKED"
        else:
            one.use_custom_path, one.directory = True, folder
        bpy.ops.object.geometry_node_bake_single(session_uid=item.owner.session_uid, modifier_name=item.modifier.name, bake_id=one.bake_id)


def fluids(found, last):
    if found and not solver():
        raise Fail("bake_failed", f"{named(found)} cannot be baked: the fluid solver of this build of Blender {bpy.app.version_string} does not "
                   "work. Bake it with a Blender from blender.org, or set `simulate: ignore`.")
    for number, item in enumerate(found):
        domain = item.modifier.domain_settings
        domain.cache_directory = f"//fluids/{number}"  # before the type, which may clear what lies there
        domain.cache_type = "ALL"
        domain.cache_frame_end = max(min(domain.cache_frame_end, last), domain.cache_frame_start)
        with bpy.context.temp_override(object=item.owner, active_object=item.owner):
            bpy.ops.fluid.bake_all()


def solver():
    """Whether this Blender can simulate fluids. As a Python module it crashes in the attempt (4.2, 4.5 and 5.0 do)."""
    return bpy.app.build_options.fluid and bool(bpy.app.binary_path)


def archive(folder):
    """All files beside the .blend as one archive; None if there are none."""
    names = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    names = sorted(name for name in names if os.path.relpath(name, folder) != "scene.blend")
    if not names:
        return None
    path = os.path.join(folder, "caches.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
        for name in names:
            file.write(name, os.path.relpath(name, folder))
    return path


# ---- loading ------------------------------------------------------------------------------------------------------------

def lay_out(scene, caches, folder):
    """Places a baked scene and its caches beside each other in `folder`. Returns the path to open."""
    path = os.path.join(folder, "scene.blend")
    try:
        os.link(scene, path)
    except OSError:
        shutil.copyfile(scene, path)
    if caches:
        with zipfile.ZipFile(caches) as file:
            if sum(item.file_size for item in file.infolist()) > min(ARCHIVE_BYTES_MAX, os.path.getsize(caches)):
                raise Fail("bad_input", f"{caches} is no archive of caches as pictor writes it. Reset the task that made it.")
            file.extractall(folder)  # leaves `..` and leading slashes out
    return path
