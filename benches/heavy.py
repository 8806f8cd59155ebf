"""A scene that takes long to load: a forest of many trees, each a mesh of its own, as scattered and baked sets are.

blender -b --factory-startup -P benches/heavy.py -- heavy.blend TREES
"""
import sys
from math import cos, pi, sin
from random import Random

import bpy

path, trees = sys.argv[sys.argv.index("--") + 1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
scene, random = bpy.context.scene, Random(7)
scene.render.engine = "CYCLES"
scene.render.resolution_x, scene.render.resolution_y = 640, 360
scene.cycles.samples, scene.cycles.seed = 4, 7
scene.cycles.use_denoising = scene.cycles.use_adaptive_sampling = False
scene.render.dither_intensity = 0

bark = bpy.data.materials.new("Bark")
bark.use_nodes = True
bark.node_tree.nodes["Principled BSDF"].inputs["Base Color"].default_value = (0.05, 0.25, 0.06, 1)
ROUND, RINGS = 24, 40


def tree(number):
    """A fir: rings of vertices round a trunk, all displaced a little, so that no two trees share a mesh."""
    points, faces = [], []
    for ring in range(RINGS):
        height = ring / (RINGS - 1)
        for i in range(ROUND):
            angle = 2 * pi * i / ROUND
            r = (1.02 - height) * (0.5 + 0.3 * (ring % 2)) * random.uniform(0.8, 1.2)
            points.append((r * cos(angle), r * sin(angle), 3 * height))
    for ring in range(RINGS - 1):
        for i in range(ROUND):
            j = (i + 1) % ROUND
            faces.append((ring * ROUND + i, ring * ROUND + j, (ring + 1) * ROUND + j, (ring + 1) * ROUND + i))
    mesh = bpy.data.meshes.new(f"Tree {number}")
    mesh.from_pydata(points, [], faces)
    mesh.materials.append(bark)
    item = bpy.data.objects.new(f"Tree {number}", mesh)
    item.location = (random.uniform(-60, 60), random.uniform(0, 160), 0)
    scene.collection.objects.link(item)


for number in range(int(trees)):
    tree(number)
sun = bpy.data.objects.new("Sun", bpy.data.lights.new("Sun", "SUN"))
sun.rotation_euler = (0.7, 0.2, 0.4)
sun.data.energy = 3
camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
camera.location, camera.rotation_euler = (0, -12, 6), (1.35, 0, 0)
for item in (sun, camera):
    scene.collection.objects.link(item)
scene.camera = camera
bpy.context.preferences.filepaths.save_version = 0
bpy.ops.wm.save_as_mainfile(filepath=path, compress=True)
