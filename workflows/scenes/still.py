"""A square still life for 4x4 tiles, with a compositor: glare, colour balance, vignette.

blender -b --factory-startup -P workflows/scenes/still.py -- still.blend
"""
import os
import random
import sys
from math import cos, pi, radians, sin

import bpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import studio

scene = studio.start(640, 640, 64)
studio.world((0.02, 0.022, 0.035))
dice = random.Random(11)

stone = studio.material("Stone", (0.05, 0.055, 0.065), roughness=0.4)
nodes, links = stone.node_tree.nodes, stone.node_tree.links
noise, bump = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeBump")
noise.inputs["Scale"].default_value, noise.inputs["Detail"].default_value = 9, 8
bump.inputs["Strength"].default_value = 0.25
links.new(noise.outputs[0], bump.inputs["Height"])
links.new(bump.outputs[0], nodes["Principled BSDF"].inputs["Normal"])
brass = studio.material("Brass", (0.95, 0.60, 0.24), metallic=1.0, roughness=0.2)
copper = studio.material("Copper", (0.95, 0.40, 0.25), metallic=1.0, roughness=0.28)
petrol = studio.material("Petrol", (0.01, 0.16, 0.20), roughness=0.25, clearcoat=1.0)
ivory = studio.material("Ivory", (0.72, 0.66, 0.55), roughness=0.45)
glass = studio.material("Glass", (0.9, 1.0, 0.96), transmission=1.0, roughness=0.0, ior=1.45)
ember = studio.material("Ember", (1.0, 0.3, 0.05), emission=(1.0, 0.36, 0.08, 1), emission_strength=18)

studio.shape("plane", "Ground", stone, size=30, smooth=False)
# A phyllotaxis of pillars, like a sunflower's head, higher towards its rim: detail in every tile
for i in range(1, 190):
    angle, radius = i * radians(137.508), 0.26 * i ** 0.5
    if radius < 0.95:
        continue
    height = 0.10 + 0.13 * (radius - 0.95) ** 1.5 + 0.07 * dice.random()
    where = (radius * cos(angle), radius * sin(angle), height / 2)
    studio.shape("cylinder", f"Pillar {i}", dice.choice((petrol, petrol, ivory, copper, brass)), radius=0.105, depth=height, location=where,
                 vertices=32, smooth=False, bevel=0.02)
    if i % 13 == 0:
        studio.shape("uv_sphere", f"Ember {i}", ember, radius=0.07, location=(where[0], where[1], height + 0.07), segments=24, ring_count=12)
studio.shape("uv_sphere", "Orb", glass, radius=0.62, location=(0, 0, 0.72), segments=96, ring_count=48)
studio.shape("uv_sphere", "Seed", ember, radius=0.10, location=(0, 0, 0.72), segments=32, ring_count=16)
for i, tilt in enumerate(((90, 0, 15), (60, 50, 0), (20, -35, 0))):
    studio.shape("torus", f"Ring {i}", brass, major_radius=0.78 + 0.07 * i, minor_radius=0.02, location=(0, 0, 0.78),
                 rotation=[radians(a) for a in tilt], major_segments=128, minor_segments=16)

studio.area("Key", (-4, -3, 6), (0, 0, 0.3), (2.5, 2.5), 420, (1.0, 0.92, 0.82))
studio.area("Rim", (4, 5, 3), (0, 0, 0.3), (4, 1.2), 420, (0.45, 0.68, 1.0))
studio.camera((0.0, -6.0, 4.3), (0, 0, 0.30), lens=52, fstop=2.0, focus=(0, -0.4, 0.7))

# The compositor. Blender 5 keeps its tree in a node group and its settings in sockets; 3 and 4 in the scene and in properties.
if hasattr(scene, "compositing_node_group"):
    tree = scene.compositing_node_group = bpy.data.node_groups.new("Compositing", "CompositorNodeTree")
    tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
else:
    scene.use_nodes = True
    tree = scene.node_tree
    tree.nodes.clear()


def node(kind, **values):
    made = tree.nodes.new(f"CompositorNode{kind}")
    for name, value in values.items():
        slot, prop = made.inputs.get(name.replace("_", " ").title()), made.bl_rna.properties.get(name)
        try:
            if slot and hasattr(slot, "default_value"):
                slot.default_value = value
            elif prop and not prop.is_readonly and name != "type":
                setattr(made, name, value)
        except TypeError:  # the other version's way of saying it
            continue
    return made


def socket(made, *names):
    return next(item for item in made.inputs if item.name in names and item.enabled)


layers = node("RLayers")
glare = node("Glare", glare_type="FOG_GLOW", type="Fog Glow", quality="HIGH" if bpy.app.version < (5, 0) else "High", threshold=1.2, size=7 if bpy.app.version < (4, 4) else 0.4, mix=-0.25)
balance = node("ColorBalance", correction_method="LIFT_GAMMA_GAIN")
if hasattr(balance, "lift"):
    balance.lift, balance.gamma, balance.gain = (0.97, 0.99, 1.04), (1.0, 1.0, 1.02), (1.06, 1.0, 0.93)
else:
    for name, value in (("Lift", (0.97, 0.99, 1.04, 1)), ("Gamma", (1.0, 1.0, 1.02, 1)), ("Gain", (1.06, 1.0, 0.93, 1))):
        next(item for item in balance.inputs if item.name == name and item.type == "RGBA").default_value = value
mask = node("EllipseMask", width=0.92, height=0.92, mask_width=0.92, mask_height=0.92, size=(0.92, 0.92))
soft = node("Blur", filter_type="FAST_GAUSS", size_x=150, size_y=150)
if hasattr(socket(soft, "Size"), "dimensions"):
    socket(soft, "Size").default_value = (150, 150)
if bpy.app.version < (5, 0):
    vignette = node("MixRGB", blend_type="MULTIPLY")
    a, b, factor, mixed = vignette.inputs[1], vignette.inputs[2], vignette.inputs[0], vignette.outputs[0]
    end = tree.nodes.new("CompositorNodeComposite")
else:
    vignette = tree.nodes.new("ShaderNodeMix")
    vignette.data_type, vignette.blend_type = "RGBA", "MULTIPLY"
    factor, a, b, mixed = vignette.inputs[0], vignette.inputs[6], vignette.inputs[7], vignette.outputs[2]
    end = tree.nodes.new("NodeGroupOutput")
factor.default_value = 0.75
for source, target in ((layers.outputs["Image"], socket(glare, "Image")), (glare.outputs[0], socket(balance, "Image", "Color")),
                       (balance.outputs[0], a), (mask.outputs[0], socket(soft, "Image")), (soft.outputs[0], b), (mixed, end.inputs[0])):
    tree.links.new(source, target)
studio.save()
