"""What the example scenes share: an empty Cycles scene, materials, area lights, a camera, saving."""
import os
import sys
from math import radians

import bpy
from mathutils import Vector


def start(width, height, samples, frames=(1, 1), exposure=0.0, look="Medium High Contrast"):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.render.fps = 24
    scene.frame_start, scene.frame_end = frames
    scene.render.image_settings.file_format = "PNG"
    scene.render.dither_intensity = 0  # the same bytes whoever writes the picture
    cycles = scene.cycles
    cycles.samples, cycles.seed, cycles.max_bounces = samples, 7, 7
    cycles.diffuse_bounces, cycles.glossy_bounces, cycles.transmission_bounces = 2, 3, 7
    cycles.light_sampling_threshold = 0.03
    cycles.use_denoising = cycles.use_adaptive_sampling = False
    cycles.sample_clamp_indirect = 4.0  # fireflies would need far more samples
    cycles.blur_glossy = 0.6
    cycles.caustics_reflective = cycles.caustics_refractive = False
    for name in ("Filmic", "AgX", "Standard"):
        try:
            scene.view_settings.view_transform = name
            break
        except TypeError:
            continue
    for name in (look, f"{scene.view_settings.view_transform} - {look}"):
        try:
            scene.view_settings.look = name
            break
        except TypeError:
            continue
    scene.view_settings.exposure = exposure
    return scene


def world(color, strength=1.0):
    background = bpy.data.worlds.new("World")
    bpy.context.scene.world = background
    background.use_nodes = True
    node = background.node_tree.nodes["Background"]
    node.inputs["Color"].default_value = (*color, 1)
    node.inputs["Strength"].default_value = strength


def material(name, color=(0.8, 0.8, 0.8), **inputs):
    """A Principled material; inputs by name with _ for spaces, `transmission` under its old and its new name."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    node = made.node_tree.nodes["Principled BSDF"]
    node.inputs["Base Color"].default_value = (*color, 1)
    renamed = {"Transmission": "Transmission Weight", "Clearcoat": "Coat Weight", "Clearcoat Roughness": "Coat Roughness", "Sheen": "Sheen Weight",
               "Emission": "Emission Color", "Specular": "Specular IOR Level"}
    for key, value in inputs.items():
        key = key.replace("_", " ").title().replace("Ior", "IOR")
        node.inputs[key if key in node.inputs else renamed[key]].default_value = value
    return made


def shape(kind, name, surface, smooth=True, bevel=0.0, **where):
    """A mesh primitive with a material."""
    getattr(bpy.ops.mesh, f"primitive_{kind}_add")(**where)
    item = bpy.context.object
    item.name = item.data.name = name
    item.data.materials.append(surface)
    if bevel:
        modifier = item.modifiers.new("Bevel", "BEVEL")
        modifier.width, modifier.segments = bevel, 4
        modifier.limit_method = "ANGLE"
    if smooth:
        for face in item.data.polygons:
            face.use_smooth = True
    return item


def aim(item, target):
    item.rotation_euler = (Vector(target) - item.location).to_track_quat("-Z", "Y").to_euler()


def area(name, location, target, size, power, color=(1, 1, 1)):
    light = bpy.data.lights.new(name, "AREA")
    light.shape, light.size, light.size_y = "RECTANGLE", *size
    light.energy, light.color = power, color
    item = bpy.data.objects.new(name, light)
    bpy.context.collection.objects.link(item)
    item.location = location
    aim(item, target)
    return item


def camera(location, target, lens=50.0, fstop=None, focus=None):
    data = bpy.data.cameras.new("Camera")
    data.lens = lens
    item = bpy.data.objects.new("Camera", data)
    bpy.context.collection.objects.link(item)
    item.location = location
    aim(item, target)
    if fstop:
        data.dof.use_dof, data.dof.aperture_fstop = True, fstop
        data.dof.focus_distance = (Vector(focus or target) - item.location).length
    bpy.context.scene.camera = item
    return item


def turn(item, first, last, degrees=360.0):
    """A loop: the frame after the last is the first again."""
    item.rotation_euler.z = 0
    item.keyframe_insert("rotation_euler", index=2, frame=first)
    item.rotation_euler.z = radians(degrees)
    item.keyframe_insert("rotation_euler", index=2, frame=last + 1)
    action = item.animation_data.action
    curves = action.fcurves if hasattr(action, "fcurves") else action.layers[0].strips[0].channelbags[0].fcurves
    for curve in curves:
        for key in curve.keyframe_points:
            key.interpolation = "LINEAR"


def save():
    out = sys.argv[sys.argv.index("--") + 1]
    bpy.context.preferences.filepaths.save_version = 0  # no .blend1 beside it
    bpy.ops.wm.save_as_mainfile(filepath=os.path.abspath(out), compress=True)
