"""What Blender itself writes for the scenes of the matrix: blender -b --factory-startup -Y -P plain.py -- FOLDER

For each feature and each kind of file FOLDER/NAME/plain/KIND/…; FOLDER/NAME/plain/done when all are there, or `failed` with
Blender's words. A feature on which Blender has crashed twice is left alone: the next start continues with the one after it.
"""
import glob
import json
import os
import re
import shutil
import sys
import traceback

import bpy

FOLDER = sys.argv[sys.argv.index("--") + 1]
# Debian's 3.4 crashes now and then on a scene that it renders at other times.
STARTS = 2


def bake_zones(scene, place):
    """Bakes the simulation zones of geometry nodes, which needs a folder and a selection."""
    for item in scene.objects:
        for modifier in item.modifiers:
            if modifier.type == "NODES":
                name = "bake_directory" if hasattr(modifier, "bake_directory") else "simulation_bake_directory"
                setattr(modifier, name, os.path.join(place, "zone"))
                item.select_set(True)
                bpy.context.view_layer.objects.active = item
    bpy.ops.object.simulation_nodes_cache_bake(selected=False)


def numbers(text):
    for part in str(text).split(","):
        first, last, step = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?(?:x(\d+))?", part).groups()
        yield from range(int(first), int(last or first) + 1, int(step or 1))


def choose(image, kind):
    """The picture's format, in the scene that is open. PNG keeps the scene's colour mode and depth if it saves that."""
    if kind == "own":
        return
    own = image.file_format
    if hasattr(image, "media_type"):
        image.media_type = "MULTI_LAYER_IMAGE" if kind == "layers" else "IMAGE"
    if kind in ("exr", "layers"):
        image.file_format = "OPEN_EXR" if kind == "exr" else "OPEN_EXR_MULTILAYER"
        image.color_depth, image.exr_codec = "32", "ZIP"
        if kind == "exr":
            image.color_mode = "RGBA"
        if hasattr(image, "use_exr_interleave"):
            image.use_exr_interleave = True
    elif own != "PNG":
        image.file_format, image.color_mode, image.color_depth = "PNG", "RGB", "8"


def render(item, place):
    frames = list(numbers(item.get("frames", 1)))
    for kind in item.get("compare", ["exr", "png"]):
        out = os.path.join(place, "plain", kind)
        bpy.ops.wm.open_mainfile(filepath=os.path.join(place, "scene.blend"), load_ui=False)
        scene = bpy.context.scene
        begin, written = scene.frame_start, os.path.join(place, "written")
        choose(scene.render.image_settings, kind)
        scene.render.filepath, scene.frame_step = os.path.join(out, "####"), 1
        scene.render.use_persistent_data = False  # each frame as one that is rendered alone
        shutil.rmtree(written, ignore_errors=True)
        if item.get("bake"):
            bpy.ops.ptcache.bake_all(bake=True)
            if bpy.app.version >= (3, 6):
                bake_zones(scene, place)
        for first, last in [(begin, frames[-1])] if item.get("run") else [(frame, frame) for frame in frames]:
            scene.frame_start, scene.frame_end = first, last
            bpy.ops.render.render(animation=True)
        if item.get("run"):  # those before only lead up to the ones that are wanted
            for name in os.listdir(out):
                if int(re.match(r"-?\d+", name)[0]) not in frames:
                    os.remove(os.path.join(out, name))
        if kind == "files":  # what the scene's own nodes wrote
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(written, out)
        shutil.rmtree(written, ignore_errors=True)


for path in sorted(glob.glob(os.path.join(FOLDER, "*", "feature.json"))):
    with open(path, encoding="utf-8") as file:
        item = json.load(file)
    place = os.path.dirname(path)
    begun, done, failed = (os.path.join(place, "plain", name) for name in ("begun", "done", "failed"))
    times = os.path.getsize(begun) if os.path.exists(begun) else 0
    if "absent" in item or "broken" in item or os.path.exists(done) or os.path.exists(failed) or times == STARTS:
        continue
    shutil.rmtree(os.path.dirname(begun), ignore_errors=True)
    os.makedirs(os.path.dirname(begun))
    with open(begun, "w", encoding="utf-8") as file:
        file.write("." * (times + 1))
    print("rendering", item["name"], flush=True)
    try:
        render(item, place)
        open(done, "w").close()
    except Exception as error:
        traceback.print_exc()
        with open(failed, "w", encoding="utf-8") as file:
            file.write((str(error).strip() or type(error).__name__).splitlines()[-1])
sys.exit(0)  # what failed is told in its place; Blender would end with 1 if the last one did
