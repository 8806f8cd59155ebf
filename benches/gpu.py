"""Renders one tile cold and warm, and frames, with one of Cycles' ways to compute: `make gpu-check`.

Started as  blender -b --factory-startup -Y SCENE -P gpu.py -- '{"way", "out", "frames", "width", "height", "samples"}'
Prints "@gpu " and one JSON object a line: {"tile": "cold"|"warm", "seconds"}, {"frame", "seed", "seconds", "path"}, or {"problem"}.
The processors also render each frame with another seed: the noise that Q measures differences by.
"""
import bpy
import json
import os
import sys
import time

SEED = 7


def say(**body):
    sys.stdout.write("\n@gpu " + json.dumps(body) + "\n")
    sys.stdout.flush()


def choose(scene, way):
    scene.cycles.device = "CPU" if way == "CPU" else "GPU"
    if way == "CPU":
        return True
    preferences = bpy.context.preferences.addons["cycles"].preferences
    preferences.compute_device_type = way
    preferences.refresh_devices() if hasattr(preferences, "refresh_devices") else preferences.get_devices()
    for device in preferences.devices:
        device.use = device.type == way
    return any(device.use for device in preferences.devices)


def timed(scene, path):
    scene.render.filepath = path
    started = time.monotonic()
    bpy.ops.render.render(write_still=True)
    return round(time.monotonic() - started, 3)


def main():
    wanted = json.loads(sys.argv[sys.argv.index("--") + 1])
    scene, way = bpy.context.scene, wanted["way"]
    if not choose(scene, way):
        say(problem=f"{way} sees no GPU")
        return
    render, image = scene.render, scene.render.image_settings
    render.engine, render.use_persistent_data, render.use_compositing, render.use_sequencer = "CYCLES", True, False, False
    render.resolution_x, render.resolution_y, render.resolution_percentage = wanted["width"], wanted["height"], 100
    image.file_format, image.color_depth, render.use_file_extension = "OPEN_EXR", "32", False
    cycles = scene.cycles
    cycles.samples, cycles.seed, cycles.use_denoising, cycles.use_adaptive_sampling = wanted["samples"], SEED, False, False
    out = wanted["out"]
    scene.frame_set(wanted["frames"][0])
    render.use_border = render.use_crop_to_border = True
    render.border_min_x, render.border_max_x, render.border_min_y, render.border_max_y = 0, 0.5, 0.5, 1
    for state in ("cold", "warm"):
        say(tile=state, seconds=timed(scene, os.path.join(out, f"{way}-{state}.exr")))
    render.use_border = False
    for seed in (SEED, SEED + 1) if way == "CPU" else (SEED,):
        cycles.seed = seed
        for frame in wanted["frames"]:
            scene.frame_set(frame)
            path = os.path.join(out, f"{way}-{seed}-{frame}.exr")
            say(frame=frame, seed=seed, seconds=timed(scene, path), path=path)


try:
    main()
except Exception as error:
    say(problem=(str(error).strip() or type(error).__name__).splitlines()[-1][:300])
os._exit(0)
