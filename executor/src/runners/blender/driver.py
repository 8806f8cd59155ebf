"""pictor's warm Blender session: one process, one scene, many tasks.

Started as
    blender -b --factory-startup -Y|-y -noaudio --threads N -P driver.py -- '<options>'
options: {"scene": "/abs/x.blend", "tree": null|"/abs/folder of a packed scene",
  "baked": null|{"scene": "/abs/baked copy of it", "caches": null|"/abs/archive"}, "allow_missing": false, "allow_scripts": false, "device": null|"CPU"|"CUDA:0"|"OPTIX:0"|"HIP:0"}

Every line from here starts with "@pictor " and holds one JSON object; all other output is Blender's log.
First comes {"event":"loaded", ...inspection} or {"event":"failed","kind","message",...} (then exit 0).
Then one JSON request per line on stdin, one reply each: {"id","ok":true,...} or {"id","ok":false,"kind","message",...}.

  inspect  settings                        checks the settings against the scene; the inspection
  render   frame, region|null, tile|null, out, files, settings
           raw linear float32 EXR (ZIP): no compositor, sequencer, denoiser, stamp. `region` is [x0,y0,x1,y1] in pixels of
           the whole frame, origin top left, end exclusive. The reply's `region` says what the file contains: where pixels
           depend on neighbours it is up to 16 px larger on each side, and the caller crops. A scene that cannot be cut
           (frame.py says why) is rendered whole for `tile` 0 (`whole` is true), and not at all for the others (`nothing`).
           One that only Blender's own pipeline can finish is returned finished, with the files of its File Output nodes
           below the folder `files`. Multilayer when `finish` will need passes.
           -> path, region, width, height, frame_width, frame_height, whole, bordered, notes, files, seconds, multilayer,
              finish, device | nothing: true
  finish   frame, in, size, out, files, settings   the scene's denoiser and compositor over the merged multilayer EXR of `size`
           -> path, width, height, files, seconds | unchanged: true (nothing to do, nothing written). With passes `all`: `path` is
              the compositor's result or null, `denoised` {layer: path}, `drop` the prefixes of passes to leave out
  bake     frame|null, folder, settings    bakes the simulations up to that frame into `folder`; the session cannot be used afterwards
           -> scene: the baked .blend|null (nothing to bake), caches: an archive beside it|null
  develop  frame, in, size, out, format, settings   EXR -> png|jpeg|tiff by the scene's view transform, with its stamp
           -> path, width, height
  ping, quit
Events while rendering: {"event":"progress","id","sample","samples","layer"}, at most four per second; while baking `frame`, `frames`.

settings (all optional): width, height, samples, seed, camera, view_layer, view, engine (cycles|eevee|workbench),
  passes (auto|all|combined), denoise, compositor, sequencer, border (null = the scene's|false),
  simulate (refuse|bake|ignore: how to treat simulations that are not baked),
  set {data path: value}, state (a JSON file of such pairs, or with them under "set"; applied after `set`). Paths start at
  bpy.data and take precedence over animation.

kinds: scene_missing not_a_blend missing_files scripts no_camera several_views unknown_view no_denoiser device_missing
  unknown_view_layer unknown_camera unknown_engine bad_settings bad_set_path bad_request bad_input out_of_memory disk_full
  unsupported_compositor unbaked_simulation bake_failed render_failed
"""
import bpy
import ctypes
import json
import os
import re
import sys
import time

sys.pycache_prefix = None  # compiled files of our own modules are beside them, and are removed with them
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compositor import op_develop, op_finish  # noqa: E402
from files import file_format, redirect, render_to, written_below  # noqa: E402
from frame import (bordered, check, composites, denoises, direct_reasons, frame_size, inspection, margin, notes, picture_size,  # noqa: E402
                   repeats, sequences, views, whole_reasons)
from packed import relocate  # noqa: E402
import simulation  # noqa: E402
from scene import Fail, failure, load  # noqa: E402
from settings import apply, put, restore  # noqa: E402

SAID = set()
CURRENT = {}
DEVICE = TREE = None


def emit(body):
    # Flush C's stdout buffer first, so that progress lines come before the reply; the leading newline ends a partial
    # line.
    ctypes.CDLL(None).fflush(None)
    sys.stdout.write("\n@pictor " + json.dumps(body) + "\n")
    sys.stdout.flush()


def watch(*stats):
    """Emits sample counts as events: what Blender itself logs differs from version to version, and the module logs nothing."""
    found = re.search(r"Sample (\d+)/(\d+)", str(stats[0])) if CURRENT else None
    if found and (found[1] == found[2] or time.monotonic() - CURRENT.get("told", 0) > 0.25):
        CURRENT["told"] = time.monotonic()
        layer = re.search(r"\| [^|]*, ([^|]+?) \| Sample", str(stats[0]))
        emit({"event": "progress", "id": CURRENT["id"], "sample": int(found[1]), "samples": int(found[2]), "layer": layer and layer[1]})


# ---- operations ---------------------------------------------------------------------------------------------------------

def op_inspect(scene, request, settings):
    apply(scene, settings)
    check(scene, settings)
    told = None if settings.get("simulate") == "bake" else simulation.refuse(scene, settings, settings.get("frame"))
    found = inspection(scene, settings, DEVICE)
    return {**found, "notes": found["notes"] + ([told] if told else [])}


def op_bake(scene, request, settings):
    apply(scene, settings)
    path, caches = simulation.bake(scene, settings, request["folder"], TREE, request.get("frame"), baking)
    return {"scene": path, "caches": caches}


def baking(frame, frames):
    if time.monotonic() - CURRENT.get("told", 0) > 0.25:
        CURRENT["told"] = time.monotonic()
        emit({"event": "progress", "id": CURRENT["id"], "frame": frame, "frames": frames})


def op_render(scene, request, settings):
    started = time.monotonic()
    apply(scene, settings, request["frame"])
    check(scene, settings)
    told = simulation.refuse(scene, settings, request["frame"])
    render, passes, said = scene.render, settings.get("passes") or "auto", notes(scene, settings) + ([told] if told else [])
    width, height = frame_size(render)
    x0, y0, x1, y1 = region = list(request.get("region") or [0, 0, width, height])
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise Fail("bad_request", f"Region {region} is not inside the frame of {width}x{height}.")
    whole, direct, region_of_scene = whole_reasons(scene, settings), bool(direct_reasons(scene, settings)), bordered(scene, settings)
    if request.get("region") and whole:
        if request.get("tile"):
            return {"nothing": True}  # the first tile's task renders the whole frame
        said.append(f"Frames are rendered whole, not in tiles: {'; '.join(whole)}.")
    finish, denoise = not direct and bool(composites(scene, settings) or denoises(scene, settings)), denoises(scene, settings)
    multilayer = passes == "all" or (passes == "auto" and finish)
    put(render, "use_stamp", False)
    choose_view(scene, settings.get("view"))
    if settings.get("denoise") is False and render.engine == "CYCLES":
        put(scene.cycles, "use_denoising", False)
    if whole:
        picture = picture_size(scene, settings)
        x0, y0, x1, y1 = 0, 0, *picture
        width, height = picture
    if not direct:
        if render.engine == "CYCLES":
            put(scene.cycles, "use_denoising", False)
            for layer in scene.view_layers if denoise and multilayer else ():
                put(layer.cycles, "denoising_store_passes", True)
        put(render, "use_compositing", False)
        put(render, "use_sequencer", False)
    else:
        if settings.get("compositor") is False:
            put(render, "use_compositing", False)
        elif composites(scene, settings):
            redirect(composites(scene, settings), request["files"], request["frame"])
        put(render, "use_sequencer", sequences(scene, settings))
    if not region_of_scene:
        put(render, "use_border", False)
    if not whole:
        more = margin(scene)
        x0, y0, x1, y1 = max(x0 - more, 0), max(y0 - more, 0), min(x1 + more, width), min(y1 + more, height)
        if [x0, y0, x1, y1] != [0, 0, width, height]:
            crop(render, (x0, y0, x1, y1), (width, height))
    file_format(scene, "OPEN_EXR_MULTILAYER" if multilayer else "OPEN_EXR")
    render_to(scene, request["out"])
    files = written_below(request["files"]) if direct and request.get("files") else []
    return {"path": request["out"], "region": [x0, y0, x1, y1], "width": x1 - x0, "height": y1 - y0, "frame_width": width, "frame_height": height,
            "whole": bool(whole), "bordered": region_of_scene, "notes": news(said), "files": files,
            "seconds": round(time.monotonic() - started, 3), "multilayer": multilayer, "finish": finish, "device": DEVICE or "CPU"}


def crop(render, region, size):
    """Restricts the render to a part of the frame, given in pixels from the top left."""
    (x0, y0, x1, y1), (width, height) = region, size
    put(render, "use_border", True)
    put(render, "use_crop_to_border", True)
    # A quarter of a pixel inside: truncating and rounding then give the same pixel. Blender counts rows from the
    # bottom.
    put(render, "border_min_x", (x0 + 0.25) / width)
    put(render, "border_max_x", min((x1 + 0.25) / width, 1))
    put(render, "border_min_y", (height - y1 + 0.25) / height)
    put(render, "border_max_y", min((height - y0 + 0.25) / height, 1))


def choose_view(scene, name):
    """Renders only one of the scene's views, if it has several."""
    render, known = scene.render, views(scene)
    put(render, "use_multiview", bool(name))
    if not name:
        return
    for view in render.views:
        put(view, "use", view.name == name)
        put(view, "file_suffix", "")
    put(render.image_settings, "views_format", "INDIVIDUAL")
    number = known.index(name)
    if number and render.engine == "CYCLES":  # different noise for each view, as when Cycles renders all of them
        cycles = scene.cycles
        seed = hashed(scene.frame_current, cycles.seed) if cycles.use_animated_seed else cycles.seed
        put(cycles, "use_animated_seed", False)
        put(cycles, "seed", (seed + hashed(seed, hashed(number * 0xDEADBEEF, 0))) & 0x7FFFFFFF)


def hashed(*words):
    """Bob Jenkins' lookup3 of two 32-bit words, as Cycles derives seeds with it (hash_uint2)."""
    a = b = c = 0xDEADBEEF + 8 + 13
    a, b = a + words[0], b + words[1]

    def mix(x, y, turn):
        y &= 0xFFFFFFFF
        return ((x ^ y) - (y << turn | y >> (32 - turn))) & 0xFFFFFFFF
    c = mix(c, b, 14)
    a = mix(a, c, 11)
    b = mix(b, a, 25)
    c = mix(c, b, 16)
    a = mix(a, c, 4)
    b = mix(b, a, 14)
    return mix(c, b, 24)


def news(sentences):
    """Those of the sentences that this session has not reported yet: it runs thousands of tasks."""
    new = [sentence for sentence in sentences if sentence not in SAID]
    SAID.update(new)
    return new


# ---- the session --------------------------------------------------------------------------------------------------------


def choose_device(wanted):
    """Selects Cycles' device for the session and returns its name. Without a request it is the CPU, which every machine has."""
    if not wanted or wanted == "CPU":
        return "CPU"
    backend, _, index = wanted.partition(":")
    preferences = bpy.context.preferences.addons["cycles"].preferences
    try:
        preferences.compute_device_type = backend
        preferences.refresh_devices() if hasattr(preferences, "refresh_devices") else preferences.get_devices()
    except TypeError:
        raise Fail("device_missing", f"This build of Blender {bpy.app.version_string} cannot use {backend}.") from None
    matching = [device for device in preferences.devices if device.type == backend]
    if int(index or 0) >= len(matching):
        raise Fail("device_missing", f"There is no device {wanted}: Blender sees {len(matching)} of {backend}.")
    for device in preferences.devices:
        device.use = device == matching[int(index or 0)]
    return wanted


OPS = {"inspect": op_inspect, "render": op_render, "finish": op_finish, "develop": op_develop, "bake": op_bake}


def answer(request):
    op = request.get("op")
    CURRENT.update(id=request.get("id"), told=0)
    if op in ("ping", "quit"):
        return {}
    if op not in OPS:
        raise Fail("bad_request", f"There is no operation {op!r}.")
    settings = request.get("settings") or {}
    try:
        return OPS[op](bpy.context.scene, request, settings)
    except KeyError as error:
        raise Fail("bad_request", f"Request {op!r} lacks {error}.") from None
    finally:
        restore()


def main():
    global DEVICE, TREE
    try:
        options = json.loads(sys.argv[sys.argv.index("--") + 1])
        DEVICE = choose_device(options.get("device"))
        tree = TREE = options.get("tree")
        baked = options.get("baked")
        path = simulation.lay_out(baked["scene"], baked["caches"], os.getcwd()) if baked else options["scene"]
        load(path, options.get("allow_missing", False), options.get("allow_scripts", False), lambda: relocate(tree) if tree else None)
        body = inspection(bpy.context.scene, {}, DEVICE)
    except Exception as error:
        emit({"event": "failed", **failure(error)})
        return
    for scene in bpy.data.scenes:
        # Keep the built scene between tasks: 0.05 s instead of 0.55 s per tile, measured as bit-identical where nothing
        # depends on history.
        scene.render.use_persistent_data = repeats(scene) and not simulation.remembers()
        if DEVICE:
            scene.cycles.device = "CPU" if DEVICE == "CPU" else "GPU"
    bpy.app.handlers.render_stats.append(watch)
    emit({"event": "loaded", **body})
    for line in iter(sys.stdin.readline, ""):
        if not line.strip():
            continue
        request = {}
        try:
            request = json.loads(line)
            reply = {"ok": True, **answer(request)}
        except Exception as error:  # the session outlives any task
            reply = {"ok": False, **failure(error)}
        emit({"id": request.get("id") if isinstance(request, dict) else None, **reply})
        if isinstance(request, dict) and request.get("op") == "quit":
            break


main()
sys.stdout.flush()
os._exit(0) if bpy.app.background else None  # without Blender's own clean-up, which can take seconds on large scenes
