"""Finds out what Cycles of this Blender can render with, by rendering a few pixels of Blender's default scene in each way.

Started as  blender -b --factory-startup -Y -noaudio --threads N -P probe.py -- FOLDER WAY...   (CPU, CUDA, OPTIX)
Prints lines that start with "@pictor " and hold one JSON object each, in this order:
  {"denoiser": true, "kernels": ["kernel_sm_86.cubin.zst", ...]}
  {"way": "CUDA"}                                                   before the attempt, as a driver may crash Blender
  {"way": "CUDA", "ok": true, "seconds": 0.2} or {"way": "CUDA", "ok": false, "why": "..."}
  {"end": true}
"""
import bpy
import ctypes
import json
import math
import os
import sys
import time

SIZE = 16


def say(**body):
    ctypes.CDLL(None).fflush(None)
    sys.stdout.write("\n@pictor " + json.dumps(body) + "\n")
    sys.stdout.flush()


def choose(way):
    """Makes Cycles use only this way; returns the reason if that fails."""
    bpy.context.scene.cycles.device = "CPU" if way == "CPU" else "GPU"
    if way == "CPU":
        return None
    preferences = bpy.context.preferences.addons["cycles"].preferences
    try:
        preferences.compute_device_type = way
    except TypeError:
        return f"it was built without {way}"
    preferences.refresh_devices() if hasattr(preferences, "refresh_devices") else preferences.get_devices()
    for device in preferences.devices:
        device.use = device.type == way
    return None if any(device.use for device in preferences.devices) else f"{way} sees no GPU that it can use"


def render(path):
    """The mean of the picture; an error if there is no picture. Where kernels fail, some Blenders write black and report no
    error."""
    bpy.context.scene.render.filepath = path
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(path)
    values = list(image.pixels)
    bpy.data.images.remove(image)
    os.remove(path)
    if len(values) != SIZE * SIZE * 4 or not all(map(math.isfinite, values)):
        raise RuntimeError("the picture has no pixels, or some that are no numbers")
    colours = [value for at, value in enumerate(values) if at % 4 != 3]
    mean = sum(colours) / len(colours)
    if mean <= 0.001:
        raise RuntimeError("the picture is black")
    return mean


def attempt(way, folder, means):
    why = choose(way)
    if why:
        return {"ok": False, "why": why}
    started = time.monotonic()
    try:
        means[way] = render(os.path.join(folder, f"{way}.exr"))
    except Exception as error:
        return {"ok": False, "why": (str(error).strip() or type(error).__name__).splitlines()[-1][:300]}
    if abs(means[way] - means.get("CPU", means[way])) > 0.1:
        return {"ok": False, "why": "the picture is not the one that the processors render"}
    return {"ok": True, "seconds": round(time.monotonic() - started, 3)}


def kernels():
    import cycles
    folder = os.path.join(os.path.dirname(cycles.__file__), "lib")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(name for name in names if name.startswith(("kernel_sm_", "kernel_compute_", "kernel_optix.")))[:64]


def main():
    folder, *ways = sys.argv[sys.argv.index("--") + 1:]
    import _cycles
    say(denoiser=bool(getattr(_cycles, "with_openimagedenoise", False)), kernels=kernels())
    scene = bpy.context.scene
    frame, scene.render.engine = scene.render, "CYCLES"
    frame.resolution_x = frame.resolution_y = SIZE
    frame.resolution_percentage, frame.use_file_extension, frame.image_settings.file_format = 100, False, "OPEN_EXR"
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.use_adaptive_sampling = 4, False, False
    means = {}
    for way in ways:
        say(way=way)
        say(way=way, **attempt(way, folder, means))
    say(end=True)


main()
sys.stdout.flush()
os._exit(0) if bpy.app.background else None
