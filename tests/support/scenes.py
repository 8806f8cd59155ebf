"""Makes the scenes that the tests render, and what plain Blender makes of some of them.

blender -b --factory-startup -P scenes.py -- FOLDER
"""
import os
import sys

import bpy

out = sys.argv[sys.argv.index("--") + 1]
SIZE = (96, 54)


def at(name):
    return os.path.join(out, name)


def save(name):
    """A copy, not compressed: a test changes a header."""
    bpy.ops.wm.save_as_mainfile(filepath=at(name + ".blend"), copy=True, compress=False)


def plain(name, frame, kind):
    """Renders a frame of a saved scene as anybody would."""
    bpy.ops.wm.open_mainfile(filepath=at(name + ".blend"))
    scene = bpy.context.scene
    image = scene.render.image_settings
    image.file_format = kind
    image.color_depth = "8" if kind == "PNG" else "32"
    scene.frame_set(frame)
    scene.render.use_file_extension = False
    suffix = {"PNG": "png", "OPEN_EXR": "exr", "OPEN_EXR_MULTILAYER": "layers.exr"}[kind]
    scene.render.filepath = at(f"{name}-{frame}.{suffix}")
    bpy.ops.render.render(write_still=True)


bpy.ops.wm.read_factory_settings()
scene = bpy.context.scene
render, cycles = scene.render, scene.cycles
render.engine, cycles.samples, cycles.seed = "CYCLES", 4, 3
cycles.use_adaptive_sampling = cycles.use_denoising = False
render.resolution_x, render.resolution_y, render.resolution_percentage = *SIZE, 100
render.dither_intensity = 0
scene.frame_start, scene.frame_end = 1, 3
scene.view_settings.view_transform = "Filmic"
cube = bpy.data.objects["Cube"]
cube.keyframe_insert("location", frame=1)
cube.location.x = 2
cube.keyframe_insert("location", frame=9)
bpy.ops.mesh.primitive_plane_add(size=20, location=(0, 0, -1))
scene.frame_set(1)
save("plain")
cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, 0.2
cycles.adaptive_min_samples, cycles.samples = 2, 16
save("adaptive")
cycles.use_adaptive_sampling, cycles.samples = False, 4
layer = bpy.context.view_layer
layer.use_pass_z = layer.use_pass_normal = layer.use_pass_diffuse_direct = True
layer.use_pass_cryptomatte_object = True
second = scene.view_layers.new("Second")
second.use_pass_z = True
save("layers")
scene.view_layers.remove(second)
scene.use_nodes = True
nodes, links = scene.node_tree.nodes, scene.node_tree.links
blur, bright = nodes.new("CompositorNodeBlur"), nodes.new("CompositorNodeExposure")
blur.size_x = blur.size_y = 6
bright.inputs["Exposure"].default_value = 0.5
links.new(nodes["Render Layers"].outputs["Image"], blur.inputs["Image"])
links.new(blur.outputs["Image"], bright.inputs["Image"])
links.new(bright.outputs["Image"], nodes["Composite"].inputs["Image"])
save("composited")
scene.use_nodes = False

text = bpy.data.texts.new("run.py")
text.write(f"open({at('ran')!r}, 'w').write('a script of the scene ran')")
text.use_module = True
driver = cube.driver_add("location", 2).driver
driver.expression = f"open({at('drove')!r}, 'w').write('x')"
save("scripts")
cube.driver_remove("location", 2)
bpy.data.texts.remove(text)
for stray in ("ran", "drove"):
    if os.path.exists(at(stray)):
        os.remove(at(stray))

render.engine = "BLENDER_EEVEE"
save("eevee")
render.engine = "CYCLES"

image = bpy.data.images.new("wood", 4, 4)
image.filepath_raw, image.file_format = at("wood.png"), "PNG"
image.save()
image.source = "FILE"
tree = bpy.data.materials["Material"].node_tree
node = tree.nodes.new("ShaderNodeTexImage")
node.image = image
tree.links.new(node.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Base Color"])
save("texture")
os.remove(at("wood.png"))
tree.nodes.remove(node)
bpy.data.images.remove(image)

camera, scene.camera = scene.camera, None
save("blind")
scene.camera = camera

bpy.data.libraries.write(at("library.blend"), {bpy.data.meshes["Cube"]})
with bpy.data.libraries.load(at("library.blend"), link=True) as (_, to):
    to.meshes = ["Cube"]
cube.data = to.meshes[0]
save("linked")
os.remove(at("library.blend"))

for name in ("plain", "adaptive", "composited"):
    plain(name, 1, "OPEN_EXR")
    plain(name, 1, "PNG")
plain("plain", 2, "OPEN_EXR")
plain("layers", 1, "OPEN_EXR_MULTILAYER")

with open(at("plain.blend"), "rb") as file:
    head = file.read()
with open(at("newer.blend"), "wb") as file:
    file.write(head.replace(b"BLENDER-v304", b"BLENDER-v450", 1))
with open(at("text.blend"), "w", encoding="utf-8") as file:
    file.write("no scene at all")
