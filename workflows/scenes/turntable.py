"""A 24-frame turntable: a glass knot, a gold gyroscope and a lacquered sphere on a marble stand.

blender -b --factory-startup -P workflows/scenes/turntable.py -- turntable.blend
"""
import os
import sys
from math import cos, pi, radians, sin

import bpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import studio

scene = studio.start(1280, 720, 64, (1, 24), exposure=0.0)
# Few samples must do: what is left of the noise is where nobody looks.
scene.cycles.sample_clamp_indirect, scene.cycles.blur_glossy = 1.5, 1.0
studio.world((0.012, 0.016, 0.028))

# Materials
glass = studio.material("Glass", (0.86, 0.97, 1.0), transmission=1.0, roughness=0.0, ior=1.46)
gold = studio.material("Gold", (1.0, 0.62, 0.22), metallic=1.0, roughness=0.16)
chrome = studio.material("Steel", (0.72, 0.74, 0.78), metallic=1.0, roughness=0.08)
lacquer = studio.material("Lacquer", (0.50, 0.012, 0.02), roughness=0.10)
dark = studio.material("Ebony", (0.012, 0.012, 0.015), roughness=0.18)

marble = studio.material("Marble", roughness=0.12)
nodes, links = marble.node_tree.nodes, marble.node_tree.links
place, warp, veins, ramp = (nodes.new(f"ShaderNode{kind}") for kind in ("TexCoord", "TexNoise", "TexWave", "ValToRGB"))
warp.inputs["Scale"].default_value, warp.inputs["Detail"].default_value = 1.1, 5
veins.inputs["Scale"].default_value, veins.inputs["Distortion"].default_value = 1.0, 7
veins.inputs["Detail"].default_value = 4
for stop, color in zip(ramp.color_ramp.elements, ((0.035, 0.05, 0.06), (0.62, 0.62, 0.60))):
    stop.color = (*color, 1)
ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.0, 0.42
links.new(place.outputs["Object"], warp.inputs["Vector"])
links.new(warp.outputs["Color"], veins.inputs["Vector"])
links.new(veins.outputs[0], ramp.inputs[0])
links.new(ramp.outputs[0], nodes["Principled BSDF"].inputs["Base Color"])

# A generated and packed picture for the stage floor: rings and spokes of a turntable.
size = 512
pixels = [0.0] * (size * size * 4)
for y in range(size):
    for x in range(size):
        u, v = (x + 0.5) / size * 2 - 1, (y + 0.5) / size * 2 - 1
        radius = (u * u + v * v) ** 0.5
        ring = 0.5 + 0.5 * cos(radius * pi * 17)
        value = 0.020 + 0.055 * ring ** 6
        at = (y * size + x) * 4
        pixels[at:at + 4] = (value * 0.9, value, value * 1.25, 1.0)
picture = bpy.data.images.new("Floor", size, size, float_buffer=False)
picture.colorspace_settings.name = "Non-Color"
picture.pixels.foreach_set(pixels)
picture.pack()
floor = studio.material("Floor", roughness=0.30)
texture = floor.node_tree.nodes.new("ShaderNodeTexImage")
texture.image = picture
floor.node_tree.links.new(texture.outputs[0], floor.node_tree.nodes["Principled BSDF"].inputs["Base Color"])

# The stage: a cove, so that there is no horizon, and the disc with the picture
profile = [(-9.0, 0.0), (4.0, 0.0)] + [(4.0 + 3.5 * sin(a), 3.5 - 3.5 * cos(a)) for a in (radians(5 * i) for i in range(1, 19))] + [(7.5, 14.0)]
mesh = bpy.data.meshes.new("Cove")
mesh.from_pydata([(x, y, z) for y, z in profile for x in (-22.0, 22.0)], [], [(2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2) for i in range(len(profile) - 1)])
mesh.materials.append(studio.material("Cove", (0.030, 0.040, 0.062), roughness=0.55))
for face in mesh.polygons:
    face.use_smooth = True
cove = bpy.data.objects.new("Cove", mesh)
bpy.context.collection.objects.link(cove)
studio.shape("circle", "Disc", floor, smooth=False, radius=3.1, location=(0, 0, 0.004), vertices=128, fill_type="NGON")
studio.shape("torus", "Edge", gold, major_radius=3.1, minor_radius=0.018, location=(0, 0, 0.01), major_segments=160)
table = bpy.data.objects.new("Table", None)
bpy.context.collection.objects.link(table)
parts = [
    studio.shape("cylinder", "Plinth", dark, radius=1.95, depth=0.16, location=(0, 0, 0.08), vertices=128, smooth=False, bevel=0.03),
    studio.shape("cylinder", "Stand", marble, radius=1.78, depth=0.22, location=(0, 0, 0.27), vertices=128, smooth=False, bevel=0.04),
    studio.shape("torus", "Trim", gold, major_radius=1.80, minor_radius=0.022, location=(0, 0, 0.165), major_segments=128),
]


def knot(name, p, q, radius, tube, steps=260):
    """A torus knot as a bevelled curve."""
    curve = bpy.data.curves.new(name, "CURVE")
    curve.dimensions, curve.bevel_depth, curve.bevel_resolution, curve.resolution_u = "3D", tube, 8, 3
    line = curve.splines.new("NURBS")
    line.points.add(steps - 1)
    line.use_cyclic_u = True
    for i, point in enumerate(line.points):
        t = 2 * pi * i / steps
        r = radius * (1 + 0.42 * cos(q * t))
        point.co = (r * cos(p * t), r * sin(p * t), radius * 0.62 * sin(q * t), 1)
    item = bpy.data.objects.new(name, curve)
    bpy.context.collection.objects.link(item)
    item.data.materials.append(glass)
    return item


heart = knot("Knot", 2, 3, 0.44, 0.135)
heart.location = (-0.55, -0.35, 1.04)
heart.rotation_euler = (radians(72), radians(12), 0)
parts.append(heart)

# A gyroscope of rings round a polished core
centre = (0.62, 0.55, 1.22)
for i, (radius, tilt) in enumerate(((0.78, (78, 0, 20)), (0.64, (38, 62, 0)), (0.50, (8, 24, 0)))):
    parts.append(studio.shape("torus", f"Ring {i}", gold, major_radius=radius, minor_radius=0.042, location=centre,
                              rotation=[radians(a) for a in tilt], major_segments=128, minor_segments=24))
parts.append(studio.shape("uv_sphere", "Core", chrome, radius=0.30, location=centre, segments=64, ring_count=32))
parts.append(studio.shape("cylinder", "Foot", dark, radius=0.26, depth=0.10, location=(centre[0], centre[1], 0.43), vertices=96, smooth=False, bevel=0.02))

parts.append(studio.shape("uv_sphere", "Ball", lacquer, radius=0.33, location=(0.55, -0.88, 0.71), segments=64, ring_count=32))
for i in range(7):  # pearls along the back rim
    angle = radians(118 + 24 * i)
    parts.append(studio.shape("uv_sphere", f"Pearl {i}", (gold, chrome, dark)[i % 3], radius=0.10,
                              location=(1.50 * cos(angle), 1.50 * sin(angle), 0.48), segments=32, ring_count=16))
for part in parts:
    part.parent = table
studio.turn(table, 1, 24)

# Light: a large soft key, a cool rim behind, a warm kicker, a strip above that the glass and the metal mirror
studio.area("Key", (-4.2, -3.6, 5.2), (0, 0, 0.9), (2.6, 2.6), 520, (1.0, 0.94, 0.86))
studio.area("Rim", (3.6, 4.4, 3.4), (0, 0, 0.9), (3.4, 1.2), 450, (0.55, 0.72, 1.0))
studio.area("Kicker", (4.6, -2.2, 1.8), (0, 0, 0.8), (1.0, 2.6), 130, (1.0, 0.58, 0.30))
studio.area("Strip", (0.0, 0.6, 5.0), (0, 0, 0.8), (4.2, 0.5), 150, (0.9, 0.95, 1.0))

studio.camera((0.0, -7.6, 3.05), (0, 0, 0.82), lens=58, fstop=1.6, focus=(-0.3, -0.8, 0.95))
studio.save()
