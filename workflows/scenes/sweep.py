"""One ball whose material "Sweep" a job varies: set materials["Sweep"].node_tree.nodes["Principled BSDF"].inputs["Roughness"].default_value.

blender -b --factory-startup -P workflows/scenes/sweep.py -- sweep.blend
"""
import os
import sys

import bpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import studio

studio.start(320, 320, 48)
studio.world((0.03, 0.035, 0.05))
floor = studio.material("Floor", roughness=0.35)
nodes, links = floor.node_tree.nodes, floor.node_tree.links
place, checker = nodes.new("ShaderNodeTexCoord"), nodes.new("ShaderNodeTexChecker")
checker.inputs["Scale"].default_value = 1.6
checker.inputs["Color1"].default_value, checker.inputs["Color2"].default_value = (0.30, 0.31, 0.33, 1), (0.035, 0.04, 0.05, 1)
links.new(place.outputs["Object"], checker.inputs["Vector"])
links.new(checker.outputs[0], nodes["Principled BSDF"].inputs["Base Color"])
studio.shape("plane", "Ground", floor, size=40, smooth=False)
studio.shape("uv_sphere", "Ball", studio.material("Sweep", (0.90, 0.42, 0.20), metallic=1.0, roughness=0.3), radius=1.0, location=(0, 0, 1.0),
             segments=96, ring_count=48)
studio.area("Key", (-3.5, -3.0, 4.5), (0, 0, 1), (1.6, 1.6), 320, (1.0, 0.95, 0.88))
studio.area("Rim", (3.2, 2.6, 2.6), (0, 0, 1), (0.8, 2.6), 200, (0.5, 0.7, 1.0))
studio.area("Fill", (3.4, -3.4, 1.6), (0, 0, 1), (0.6, 2.4), 60, (1.0, 0.75, 0.55))
studio.camera((0.0, -5.4, 2.3), (0, 0, 0.92), lens=62)
studio.save()
