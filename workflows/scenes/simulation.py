"""Balls in a tray. Where they are comes from a state file per frame: step_simulation.py makes it, the render step applies it (`state`).

blender -b --factory-startup -P workflows/scenes/simulation.py -- simulation.blend
"""
import os
import sys
from colorsys import hsv_to_rgb

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import studio
from step_simulation import HALF, initial

studio.start(480, 270, 32, (1, 48))
studio.world((0.05, 0.055, 0.07))
studio.shape("plane", "Ground", studio.material("Ground", (0.06, 0.065, 0.08), roughness=0.4), size=60, smooth=False)
tray = studio.material("Tray", (0.55, 0.53, 0.50), roughness=0.35)
wall = HALF + 0.08
for i, (x, y, w, d) in enumerate(((0, wall, 2 * wall + 0.16, 0.16), (0, -wall, 2 * wall + 0.16, 0.16), (wall, 0, 0.16, 2 * wall), (-wall, 0, 0.16, 2 * wall))):
    side = studio.shape("cube", f"Side {i}", tray, smooth=False, bevel=0.03, size=1, location=(x, y, 0.12))
    side.scale = (w, d, 0.24)
balls = initial()
for i, ball in enumerate(balls):
    color = hsv_to_rgb(i / len(balls), 0.75, 0.8)
    surface = studio.material(f"Ball {i}", color, roughness=0.25, clearcoat=1.0) if i % 3 else studio.material(f"Ball {i}", color, metallic=1.0, roughness=0.18)
    studio.shape("uv_sphere", f"Ball.{i:03}", surface, radius=ball["radius"], location=ball["at"], segments=48, ring_count=24)
studio.area("Key", (-4, -4, 6), (0, 0, 0.5), (2.5, 2.5), 600, (1.0, 0.95, 0.88))
studio.area("Rim", (4, 5, 3.5), (0, 0, 0.5), (3, 1.2), 350, (0.6, 0.75, 1.0))
studio.camera((0.0, -8.6, 4.6), (0, 0, 0.75), lens=46)
studio.save()
