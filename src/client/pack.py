"""Lists the files that a scene needs beside itself, for `pictor submit`.

blender -b --factory-startup -Y -P pack.py -- SCENE ANSWER.json
"""
import json
import os
import re
import sys

import bpy

SCENE, ANSWER = sys.argv[sys.argv.index("--") + 1:][:2]
# What is not in the picture, or only perhaps, may be missing.
OPTIONAL = ("sound", "strip", "multilayer cache")
references = []


def full(path, library=None):
    """The absolute path that Blender makes of one in a data block. After `//` there may be backslashes."""
    if path.startswith("//"):
        path = path.replace("\\", "/")
    return os.path.normpath(bpy.path.abspath(path, library=library))


def owner(item):
    """The .blend file in which a data block is stored; empty for the scene itself."""
    library = getattr(item, "library", None)
    return full(library.filepath) if library else ""


def users(item):
    """`of material Oak, world Sky`: who misses the file."""
    try:
        found = bpy.data.user_map(subset={item}).get(item, ())
    except (TypeError, ValueError):
        return ""
    names = sorted(f"{other.bl_rna.name.lower()} `{other.name}`" for other in found if other != item)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" of {', '.join(names[:3])}{more}" if names else ""


def add(kind, item, path, files, lacking=(), note="", owners=None, needed=True):
    """A reference: the files that are there, and the paths of those that are not."""
    if not path.startswith("//") and not os.path.isabs(path):
        # It depends on the folder in which Blender is started.
        files, lacking = [], [path]
    files = sorted(set(files))
    lacking = sorted(set(lacking))
    data_block = isinstance(item, bpy.types.ID)
    user = f"{kind} `{item.name}`{users(item) if lacking and data_block else ''}"
    references.append({
        "kind": kind, "user": user, "relative": path.startswith("//"), "files": files, "missing": lacking, "note": note,
        "owners": [owner(item)] if owners is None else owners, "needed": needed and kind not in OPTIONAL,
    })


def one(kind, item, path, library=None, **more):
    """A reference to one file."""
    if not path or path.startswith("<"):
        return
    path_here = full(path, library or getattr(item, "library", None))
    there = os.path.isfile(path_here)
    add(kind, item, path, [path_here] if there else [], [] if there else [path_here], **more)


LISTS = {}


def names_in(folder):
    """The names in a folder, by what remains of each when its last number before the dot is taken out."""
    if folder not in LISTS:
        LISTS[folder] = {}
        try:
            names = os.listdir(folder)
        except OSError:
            names = []
        for name in names:
            key, number = frame_of(name)
            LISTS[folder].setdefault(key, []).append((number, name))
    return LISTS[folder]


def frame_of(name):
    """`smoke_0012.vdb`: ((`smoke_`, `.vdb`), 12). Without a number: (the name, None)."""
    stem, extension = os.path.splitext(name)
    found = re.search(r"\d+(?=\D*$)", stem)
    if not found:
        return name, None
    return (stem[:found.start()], stem[found.end():] + extension), int(found.group())


def sequence(kind, item, path):
    """A reference to every file of a numbered sequence."""
    if not path:
        return
    first = full(path, item.library)
    folder, name = os.path.split(first)
    key, number = frame_of(name)
    if number is None:
        return one(kind, item, path)
    found = sorted(names_in(folder).get(key, ()))
    numbers = [number for number, _ in found]
    files = [os.path.join(folder, name) for _, name in found]
    gaps = sorted(set(range(numbers[0], numbers[-1] + 1)).difference(numbers)) if numbers and numbers[-1] - numbers[0] < 10 ** 6 else []
    note = f"the sequence {os.path.join(folder, '#'.join(key))} has no frame {ranges(gaps)}" if gaps else ""
    add(kind, item, path, files, [] if files else [first], note)


def ranges(numbers):
    """`3, 5-7 and more`."""
    spans = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans[:5])
    return shown + (" and more" if len(spans) > 5 else "")


def folder(kind, item, path, wanted, library=None):
    """A reference to everything in a folder. One that is not wanted may be missing."""
    if not path:
        return
    top = full(path, library or getattr(item, "library", None))
    files = [os.path.join(at, name) for at, _, names in os.walk(top) for name in names]
    if files or wanted:
        add(kind, item, path, files, [] if files else [top])


# ---- what a scene can refer to ------------------------------------------------------------------------------------------

def images():
    for image in bpy.data.images:
        packed = image.packed_file or len(getattr(image, "packed_files", ()))
        if packed or not image.users or not image.filepath or image.source in ("GENERATED", "VIEWER"):
            continue
        if image.source == "TILED":
            tiles(image)
        elif image.source == "SEQUENCE":
            sequence("image", image, image.filepath)
        elif image.use_multiview and image.views_format == "INDIVIDUAL":
            views(image)
        else:
            one("image", image, image.filepath)


def tiles(image):
    paths = []
    for tile in image.tiles:
        u, v = (tile.number - 1001) % 10 + 1, (tile.number - 1001) // 10 + 1
        path = image.filepath.replace("<UDIM>", str(tile.number)).replace("<UVTILE>", f"u{u}_v{v}")
        paths.append(full(path, image.library))
    there = [path for path in paths if os.path.isfile(path)]
    add("image", image, image.filepath, there, set(paths).difference(there))


def views(image):
    base, extension = os.path.splitext(full(image.filepath, image.library))
    for view in bpy.context.scene.render.views:
        base = base[:-len(view.file_suffix)] if view.file_suffix and base.endswith(view.file_suffix) else base
    paths = [base + view.file_suffix + extension for view in bpy.context.scene.render.views if view.use]
    there = [path for path in paths if os.path.isfile(path)]
    add("image", image, image.filepath, there, [] if there else paths)


def libraries():
    known = [item for item in bpy.data.libraries if not getattr(item, "packed_file", None) and not getattr(item, "is_archive", False)]
    linked_by = {item: set() for item in known}
    for item, who in bpy.data.user_map().items():
        if item.library in linked_by:
            linked_by[item.library].update(other.library for other in who if other.library != item.library)
    for item in known:
        parents = linked_by[item] or {item.parent}
        one("library", item, item.filepath, owners=sorted(full(p.filepath) if p else "" for p in parents))


def files_of_data():
    for kind, items in (("font", bpy.data.fonts), ("movie clip", bpy.data.movieclips), ("sound", bpy.data.sounds),
                        ("cache", bpy.data.cache_files), ("volume", getattr(bpy.data, "volumes", ()))):
        for item in items:
            if not item.users or getattr(item, "packed_file", None):
                continue
            if getattr(item, "is_sequence", False) or getattr(item, "source", "") == "SEQUENCE":
                sequence(kind, item, item.filepath)
            else:
                one(kind, item, item.filepath)
            for layer in getattr(item, "layers", ()) if kind == "cache" else ():
                one("cache", item, layer.filepath)
            if kind == "cache":
                usd_layers(item)


def usd_layers(item):
    """What a USD file refers to itself."""
    path = full(item.filepath, item.library)
    if not path.lower().endswith((".usd", ".usda", ".usdc", ".usdz")) or not os.path.isfile(path):
        return
    try:
        from pxr import UsdUtils  # part of newer builds of Blender
        layers, assets, missing = UsdUtils.ComputeAllDependencies(path)
        found = [layer.realPath for layer in layers] + list(assets)
        add("cache", item, item.filepath, [p for p in found if os.path.isfile(p)], missing)
        return
    except Exception:
        pass
    with open(path, "rb") as file:
        text = file.read()
    if text.startswith(b"#usda"):
        named = [name.decode("utf-8", "replace") for name in set(re.findall(rb"@([^@\n]+)@", text))]
        found = [os.path.normpath(os.path.join(os.path.dirname(path), name)) for name in named]
        there = [name for name in found if os.path.isfile(name)]
        add("cache", item, item.filepath, there, set(found).difference(there), needed=False)
    elif not path.lower().endswith(".usdz"):
        add("cache", item, item.filepath, [], note=f"this Blender cannot tell to which other files {path} refers: they are not packed")


def blend_cache(item):
    """The folder of caches beside a .blend file."""
    path = owner(item) or SCENE
    return "//blendcache_" + os.path.splitext(os.path.basename(path))[0]


def point_caches():
    for world in (scene.rigidbody_world for scene in bpy.data.scenes if scene.rigidbody_world):
        if world.point_cache:
            yield bpy.context.scene, world.point_cache
    for item in bpy.data.objects:
        for system in item.particle_systems:
            yield item, system.point_cache
        for modifier in item.modifiers:
            if modifier.type in ("CLOTH", "SOFT_BODY"):
                yield item, modifier.point_cache
            elif modifier.type == "DYNAMIC_PAINT" and modifier.canvas_settings:
                yield from ((item, surface.point_cache) for surface in modifier.canvas_settings.canvas_surfaces)


def caches():
    for item, cache in point_caches():
        if cache.use_external:
            folder("cache", item, cache.filepath, True)
        elif cache.use_disk_cache:
            folder("cache", item, blend_cache(item), cache.is_baked)
    for item in bpy.data.objects:
        for modifier in item.modifiers:
            if modifier.type == "MESH_CACHE":
                one("cache", item, modifier.filepath)
            elif modifier.type == "OCEAN" and modifier.is_cached:
                folder("cache", item, modifier.filepath, True)
            elif modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN" and modifier.domain_settings:
                settings = modifier.domain_settings
                folder("cache", item, settings.cache_directory, settings.has_cache_baked_any)
            elif modifier.type == "NODES":
                bakes(item, modifier)


def bakes(item, modifier):
    """Simulations and bakes of geometry nodes, where Blender has them and where they lie on disk."""
    own = getattr(modifier, "bake_directory", getattr(modifier, "simulation_bake_directory", None))
    if own is None:
        return
    folder("cache", item, own or blend_cache(item), False)
    for bake in getattr(modifier, "bakes", ()):
        if bake.use_custom_path:
            folder("cache", item, bake.directory, True)


def strips():
    for scene in bpy.data.scenes:
        editor = scene.sequence_editor
        found = getattr(editor, "strips_all", getattr(editor, "sequences_all", ())) if editor else ()
        for strip in found if scene.render.use_sequencer else ():
            if strip.type == "IMAGE":
                paths = [full(os.path.join(strip.directory, element.filename), scene.library) for element in strip.elements]
                there = [path for path in paths if os.path.isfile(path)]
                add("strip", strip, strip.directory, there, set(paths).difference(there), owners=[owner(scene)])
            elif strip.type == "MOVIE":
                one("strip", strip, strip.filepath, scene.library, owners=[owner(scene)])


def node_trees():
    for owners in (bpy.data.materials, bpy.data.worlds, bpy.data.lights, bpy.data.scenes, bpy.data.textures):
        yield from (item.node_tree for item in owners if getattr(item, "node_tree", None))
    yield from bpy.data.node_groups


def nodes():
    for tree in node_trees():
        for node in tree.nodes:
            more = {"library": tree.library, "owners": [owner(tree)]}
            if node.bl_idname in ("ShaderNodeTexIES", "ShaderNodeScript") and node.mode == "EXTERNAL":
                one("light profile" if node.bl_idname == "ShaderNodeTexIES" else "script", node, node.filepath, **more)
            elif node.bl_idname.startswith("GeometryNodeImport"):
                socket = node.inputs.get("Path")
                if socket and not socket.is_linked:
                    one("import", node, socket.default_value, **more)


def others():
    """What Blender knows of and this script does not: packed if it is there."""
    seen = {path for reference in references for path in reference["files"]}
    seen.update(full(text.filepath, text.library) for text in bpy.data.texts if text.filepath)
    stored = bpy.utils.blend_paths(absolute=False, packed=False, local=False)
    found = bpy.utils.blend_paths(absolute=True, packed=False, local=False)
    for path, here in zip(stored, map(os.path.normpath, found)):
        if here not in seen and os.path.isfile(here):
            seen.add(here)
            add("file", bpy.context.scene, path, [here], owners=[""])


def load():
    try:
        bpy.ops.wm.open_mainfile(filepath=SCENE, load_ui=False, use_scripts=False)
    except RuntimeError as error:  # also raised for mere warnings, such as a missing library
        if not bpy.data.filepath or os.path.realpath(bpy.data.filepath) != os.path.realpath(SCENE):
            return f"Blender {bpy.app.version_string} cannot read it: {str(error).strip()}"
    if tuple(bpy.data.version[:2]) > bpy.app.version[:2]:
        wrote = ".".join(str(number) for number in bpy.data.version[:2])
        return f"it was saved by Blender {wrote}, and the one here is {bpy.app.version_string}"
    return None


def text(value):
    """Names that are not UTF-8 cannot be sent; the file will be told as missing."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


problem = load()
if not problem:
    for look in (images, libraries, files_of_data, caches, strips, nodes, others):
        look()
for reference in references:
    reference.update({key: [text(v) for v in value] if isinstance(value, list) else text(value) for key, value in reference.items()})
with open(ANSWER, "w", encoding="utf-8") as file:
    json.dump({"problem": problem, "references": references}, file)
