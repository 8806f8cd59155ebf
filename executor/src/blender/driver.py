"""pictor's warm Blender session: one process, one scene, many tasks.

Started as
    blender -b --factory-startup -Y -noaudio --threads N -P driver.py -- '<options>'
options: {"scene": "/abs/x.blend", "tree": null|"/abs/folder of a packed scene", "allow_missing": false, "device": null|"CPU"|"CUDA:0"|"OPTIX:0"|"HIP:0"}

Every line from here starts with "@pictor " and holds one JSON object; all other output is Blender's log.
First comes {"event":"loaded", ...inspection} or {"event":"failed","kind","message",...} (then exit 0).
Then one JSON request per line on stdin, one reply each: {"id","ok":true,...} or {"id","ok":false,"kind","message",...}.

  inspect  settings                        checks the settings against the scene; the inspection
  render   frame, region|null, out, settings
           raw linear float32 EXR (ZIP): no compositor, sequencer, denoiser, stamp. `region` is [x0,y0,x1,y1] in pixels of
           the whole frame, origin top left, end exclusive. The reply's `region` says what the file holds: with adaptive
           sampling it is up to 16 px larger on each side and the caller crops. Multilayer when `finish` will need passes.
           -> path, region, width, height, frame_width, frame_height, seconds, multilayer, finish, device
  finish   frame, in, out, settings        the scene's denoiser and compositor over the merged multilayer EXR
           -> path, width, height, seconds | unchanged: true (nothing to do, nothing written)
  develop  frame, in, out, format, settings   EXR -> png|jpeg|tiff through the scene's view transform -> path, width, height
  ping, quit
While rendering: {"event":"progress","id","sample","samples"}, at most four a second.

settings (all optional): width, height, samples, seed, camera, view_layer, engine (cycles|eevee|workbench),
  passes (auto|all|combined), denoise (null = the scene's|false), compositor (null|false),
  set {data path: value}, state (a JSON file of such pairs, or with them under "set"; applied after `set`). Paths start at bpy.data and win over animation.

kinds: scene_missing not_a_blend newer_blender missing_files no_camera engine_needs_display no_denoiser device_missing
  unknown_view_layer unknown_camera unknown_engine bad_settings bad_set_path bad_request bad_input out_of_memory disk_full
  unsupported_compositor render_failed
"""
import bpy
import ctypes
import json
import os
import re
import struct
import sys
import time

sys.pycache_prefix = None  # what is compiled of our own modules lies beside them, and goes with them
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from packed import relocate  # noqa: E402
from scene import Fail, check, composites, denoises, failure, frame_size, inspection, load, nodes_within  # noqa: E402
from settings import UNDO, apply, curves, put, restore  # noqa: E402

MARGIN = 16  # adaptive sampling looks at neighbours: only this border of a region differs from the whole frame
CURRENT = {}
DEVICE = None


def emit(body):
    # C's stdout buffer first, so that progress lines come before the reply; the leading newline ends a half-written line.
    ctypes.CDLL(None).fflush(None)
    sys.stdout.write("\n@pictor " + json.dumps(body) + "\n")
    sys.stdout.flush()


def watch(*stats):
    """Sample counts as events: what Blender itself logs differs from version to version, and the module logs nothing."""
    found = re.search(r"Sample (\d+)/(\d+)", str(stats[0])) if CURRENT else None
    if found and (found[1] == found[2] or time.monotonic() - CURRENT.get("told", 0) > 0.25):
        CURRENT["told"] = time.monotonic()
        emit({"event": "progress", "id": CURRENT["id"], "sample": int(found[1]), "samples": int(found[2])})


def file_format(scene, kind, mode="RGBA", depth="32", keep=True):
    image = scene.render.image_settings
    for name in ("use_exr_interleave", "exr_codec", "color_depth", "color_mode", "file_format", "media_type"):  # undone from the last to the first
        if keep and hasattr(image, name):
            UNDO.append(lambda name=name, old=getattr(image, name): setattr(image, name, old))
    if hasattr(image, "media_type"):  # Blender 5 offers formats by media type
        image.media_type = "MULTI_LAYER_IMAGE" if kind == "OPEN_EXR_MULTILAYER" else "IMAGE"
    image.file_format = kind
    if kind != "OPEN_EXR_MULTILAYER":
        image.color_mode = mode
    image.color_depth = depth
    if hasattr(image, "use_exr_interleave"):
        image.use_exr_interleave = True  # one part with all channels, as older versions write, and not a part per pass
    if "EXR" in kind:
        image.exr_codec = "ZIP"


def render_to(scene, out):
    """Renders to a name beside `out` and moves it there when it is whole."""
    part = f"{out}.{os.getpid()}.part"
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    scene.render.filepath = part
    try:
        bpy.ops.render.render(write_still=True, scene=scene.name)
        settle(part, out)
    finally:
        if os.path.exists(part):
            os.remove(part)


def whole(path):
    """Whether a picture is complete: on a full disk Blender leaves a short EXR and reports success."""
    size = os.path.getsize(path) if os.path.exists(path) else 0
    with open(path if size else os.devnull, "rb") as file:
        head = file.read(8)
        if head[:4] == b"\x89PNG":
            file.seek(max(size - 8, 0))
            return file.read(4) == b"IEND"
        if head[:2] == b"\xff\xd8":
            file.seek(max(size - 2, 0))
            return file.read(2) == b"\xff\xd9"
        if head[:4] != b"\x76\x2f\x31\x01" or len(head) < 8 or head[5] & 0x1A:  # not an EXR, or one with tiles or parts
            return size > 0

        def text():
            return b"".join(iter(lambda: file.read(1).strip(b"\0"), b""))
        height = 0
        while name := text():
            text()
            value = file.read(int.from_bytes(file.read(4), "little"))
            if name == b"dataWindow":
                _, top, _, bottom = struct.unpack("<4i", value)
                height = bottom - top + 1
        blocks = (height + 15) // 16  # of 16 lines, as ZIP has them
        table = file.read(8 * blocks)
        if len(table) < 8 * blocks or not blocks:
            return False
        last = max(struct.unpack(f"<{blocks}Q", table))
        file.seek(last + 4)
        return min(struct.unpack(f"<{blocks}Q", table)) > 0 and last + 8 + int.from_bytes(file.read(4), "little") <= size


def settle(part, out):
    if not whole(part):
        if not os.path.exists(part):
            raise Fail("render_failed", f"Blender finished without writing {out}. Its log says why.")
        raise Fail("disk_full", f"{out} came out cut short: the disk of this worker is full. Free some space and retry.")
    os.replace(part, out)


# ---- operations ---------------------------------------------------------------------------------------------------------

def op_inspect(scene, request, settings):
    apply(scene, settings)
    check(scene, settings)
    return inspection(scene, DEVICE)


def op_render(scene, request, settings):
    started = time.monotonic()
    apply(scene, settings, request["frame"])
    check(scene, settings)
    render, passes = scene.render, settings.get("passes") or "auto"
    finish, denoise = bool(composites(scene, settings) or denoises(scene, settings)), denoises(scene, settings)
    multilayer = passes == "all" or (passes == "auto" and finish)
    width, height = frame_size(render)
    x0, y0, x1, y1 = region = list(request.get("region") or [0, 0, width, height])
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise Fail("bad_request", f"Region {region} is not inside the frame of {width}x{height}.")
    if render.engine == "CYCLES":
        put(scene.cycles, "use_denoising", False)
        if scene.cycles.use_adaptive_sampling:
            x0, y0, x1, y1 = max(x0 - MARGIN, 0), max(y0 - MARGIN, 0), min(x1 + MARGIN, width), min(y1 + MARGIN, height)
        for layer in scene.view_layers if denoise and multilayer else ():
            put(layer.cycles, "denoising_store_passes", True)
    if [x0, y0, x1, y1] != [0, 0, width, height]:
        put(render, "use_border", True)
        put(render, "use_crop_to_border", True)
        # A quarter of a pixel inside: truncating and rounding then give the same pixel. Blender counts rows from below.
        put(render, "border_min_x", (x0 + 0.25) / width)
        put(render, "border_max_x", min((x1 + 0.25) / width, 1))
        put(render, "border_min_y", (height - y1 + 0.25) / height)
        put(render, "border_max_y", min((height - y0 + 0.25) / height, 1))
    put(render, "use_compositing", False)
    file_format(scene, "OPEN_EXR_MULTILAYER" if multilayer else "OPEN_EXR")
    render_to(scene, request["out"])
    return {"path": request["out"], "region": [x0, y0, x1, y1], "width": x1 - x0, "height": y1 - y0, "frame_width": width, "frame_height": height,
            "seconds": round(time.monotonic() - started, 3), "multilayer": multilayer, "finish": finish, "device": DEVICE or "CPU"}


class Copy:
    """A throw-away copy of the scene with a compositor tree of its own. It holds no 3D work: nothing in it renders."""

    def __init__(self, scene, path, keep_tree):
        if not os.path.isfile(path):
            raise Fail("bad_input", f"There is no picture at {path}.")
        self.image, self.scene, self.group = bpy.data.images.load(path), scene.copy(), None
        self.size = tuple(self.image.size)  # 0x0 for a multilayer image, whose pixels belong to its passes
        if self.image.type == "MULTILAYER":
            self.size = frame_size(scene.render)
        elif not self.size[0]:
            self.close()
            raise Fail("bad_input", f"{path} cannot be read as a picture.")
        if hasattr(scene, "compositing_node_group"):
            own = scene.compositing_node_group
            self.group = own.copy() if keep_tree and own else bpy.data.node_groups.new("pictor", "CompositorNodeTree")
            self.scene.compositing_node_group = self.tree = self.group
            if not keep_tree:
                self.group.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        else:
            self.scene.use_nodes = True
            self.tree = self.scene.node_tree
            if not keep_tree:
                self.tree.nodes.clear()
        render = self.scene.render
        render.use_compositing, render.use_border, render.resolution_percentage = True, False, 100
        render.resolution_x, render.resolution_y = self.size

    def source(self, layer):
        """An Image node that gives the passes of one view layer as Render Layers would."""
        node = self.tree.nodes.new("CompositorNodeImage")
        node.image = self.image
        if node.has_layers:
            try:
                node.layer = layer
            except TypeError:
                raise Fail("bad_input", f"{self.image.filepath} has no view layer {layer!r}. Render with `passes: auto`.") from None
        return node

    def sink(self):
        return self.tree.nodes.new("NodeGroupOutput" if self.group else "CompositorNodeComposite").inputs[0]

    def close(self):
        bpy.data.scenes.remove(self.scene)
        bpy.data.images.remove(self.image)
        if self.group:
            bpy.data.node_groups.remove(self.group)


def output_of(node, *names):
    return next((socket for name in names for socket in node.outputs if name in (socket.name, socket.identifier) and socket.enabled), None)


def denoise_node(scene, tree, source):
    """The compositor's Denoise with the settings of Cycles' own."""
    node, cycles = tree.nodes.new("CompositorNodeDenoise"), scene.cycles
    if hasattr(node, "prefilter"):
        node.prefilter = cycles.denoising_prefilter
    else:
        node.inputs["Prefilter"].default_value = cycles.denoising_prefilter.title()
    tree.links.new(output_of(source, "Combined", "Image"), node.inputs["Image"])
    for name in ("Albedo", "Normal"):
        guide = output_of(source, f"Denoising {name}")
        if guide and name.upper() in cycles.denoising_input_passes:
            tree.links.new(guide, node.inputs[name])
    return node.outputs[0]


def op_finish(scene, request, settings):
    started = time.monotonic()
    apply(scene, settings, request["frame"])
    check(scene, settings)
    tree, denoise = composites(scene, settings), denoises(scene, settings)
    if not tree and not denoise:
        return {"unchanged": True}
    copy = Copy(scene, request["in"], tree is not None)
    try:
        nodes, links = copy.tree.nodes, copy.tree.links
        denoised = {layer.name for layer in scene.view_layers if denoise and layer.cycles.use_denoising}
        if not tree:
            layer = next(layer.name for layer in scene.view_layers if layer.use)
            source = copy.source(layer)
            links.new(denoise_node(scene, copy.tree, source) if layer in denoised else output_of(source, "Combined", "Image"), copy.sink())
        for node in list(nodes_within(copy.tree)):
            if node.type == "OUTPUT_FILE" and not node.mute:  # a scene does not choose where a farm writes
                nodes.remove(node) if node.id_data == copy.tree else put(node, "mute", True)
            elif node.type == "CRYPTOMATTE_V2" and node.source == "RENDER" and not node.mute:
                raise Fail("unsupported_compositor", f"Compositor node {node.name!r} reads Cryptomatte from the render. Give it an image instead, "
                           "or set `compositor: false`.")
        for node in [node for node in nodes if node.type == "R_LAYERS"]:
            used = [socket for socket in node.outputs if socket.is_linked]
            if used and node.scene not in (None, scene, copy.scene):
                raise Fail("unsupported_compositor", f"Compositor node {node.name!r} reads the render of another scene ({node.scene.name!r}). Render "
                           "that scene to an image first and use an Image node, or set `compositor: false`.")
            if used and scene.view_layers[node.layer].use:  # a layer that is off gives nothing, as in Blender
                source, name = copy.source(node.layer), node.layer
                source.mute = node.mute
                for socket in used:
                    if socket.name == "Image" and name in denoised:
                        origin = denoise_node(scene, copy.tree, source)
                    elif socket.name in ("Image", "Noisy Image"):
                        origin = output_of(source, "Combined", "Image")
                    else:
                        origin = output_of(source, socket.name, socket.identifier)
                    if not origin:
                        raise Fail("bad_input", f"{request['in']} lacks pass {socket.name!r} of view layer {name!r}. Render with `passes: auto`.")
                    for link in list(socket.links):
                        links.new(origin, link.to_socket)
            nodes.remove(node)
        file_format(copy.scene, "OPEN_EXR", keep=False)
        render_to(copy.scene, request["out"])
        width, height = copy.size
    finally:
        copy.close()
    return {"path": request["out"], "width": width, "height": height, "seconds": round(time.monotonic() - started, 3)}


def op_develop(scene, request, settings):
    apply(scene, settings)
    kind = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "tiff": "TIFF"}.get(request["format"])
    if not kind:
        raise Fail("bad_request", f"There is no format {request['format']!r}; use png, jpeg or tiff.")
    frame = int(request.get("frame", scene.frame_current))
    if any(curve.data_path.startswith("view_settings") for curve in curves(scene)):
        scene.frame_set(frame)  # costs an evaluation of the whole scene, so only where exposure and the like are animated
    own = scene.render.image_settings
    mode, depth = (own.color_mode, own.color_depth) if own.file_format == kind else ("RGB", "8")
    out, layer = request["out"], next((layer.name for layer in scene.view_layers if layer.use), None)
    copy = Copy(scene, request["in"], False)
    part = f"{out}.{os.getpid()}.part"
    try:
        width, height = copy.size
        file_format(copy.scene, kind, mode, depth, keep=False)
        if copy.image.type == "MULTILAYER":
            source = copy.source(settings.get("view_layer") or layer)
            copy.tree.links.new(output_of(source, "Combined", "Image"), copy.sink())
            copy.scene.render.dither_intensity = 0
            render_to(copy.scene, out)
        else:
            os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
            copy.image.save_render(part, scene=copy.scene)
            settle(part, out)
    finally:
        copy.close()
        if os.path.exists(part):
            os.remove(part)
    return {"path": out, "width": width, "height": height}


# ---- the session --------------------------------------------------------------------------------------------------------


def choose_device(wanted):
    """Cycles' device for the session; returns its name. Nothing asked for: the processor, which every machine has."""
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


OPS = {"inspect": op_inspect, "render": op_render, "finish": op_finish, "develop": op_develop}


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
    global DEVICE
    try:
        options = json.loads(sys.argv[sys.argv.index("--") + 1])
        DEVICE = choose_device(options.get("device"))
        tree = options.get("tree")
        load(options["scene"], options.get("allow_missing", False), lambda: relocate(tree) if tree else None)
        body = inspection(bpy.context.scene, DEVICE)
    except Exception as error:
        emit({"event": "failed", **failure(error)})
        return
    for scene in bpy.data.scenes:  # keeps the built scene between tasks; measured bit-identical, 0.05 s instead of 0.55 s a tile
        scene.render.use_persistent_data = True
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
