"""Makes the scenes of the hostile suite: `-- FOLDER ELSEWHERE`, where FOLDER has the scripts that go into them."""
import bpy
import glob
import os
import shutil
import sys

out, elsewhere = sys.argv[sys.argv.index("--") + 1:]


def fresh():
    bpy.ops.wm.read_factory_settings()
    render = bpy.context.scene.render
    cycles = bpy.context.scene.cycles
    render.engine, cycles.samples, cycles.use_denoising = "CYCLES", 1, False
    render.resolution_x, render.resolution_y, render.resolution_percentage = 32, 18, 100
    return bpy.context.scene


def save(name):
    bpy.ops.wm.save_as_mainfile(filepath=os.path.join(out, name + ".blend"), copy=True, relative_remap=False)


def text(name):
    text = bpy.data.texts.new(name)
    with open(os.path.join(out, name)) as file:
        text.write(file.read())
    return text


def there(name):
    return os.path.join(elsewhere, name)


scene = fresh()
save("plain")

scene.render.use_freestyle = True
settings = bpy.context.view_layer.freestyle_settings
settings.mode = "SCRIPT"
settings.modules.new().script = text("style.py")
save("style")

fresh()
text("module.py").use_module = True
save("module")

# Everything that runs in a Blender of the user.
scene = fresh()
touch = "__import__('os').system('touch %s')" % there("ran")
scene.objects["Cube"].driver_add("location", 0).driver.expression = touch
handler = bpy.data.texts.new("handler.py")
handler.write("import bpy\nbpy.app.handlers.render_pre.append(lambda *_: open(%r, 'w'))\n" % there("ran"))
handler.use_module = True
save("quiet")

# Open Shading Language, also where this Blender has none.
scene = fresh()
scene.cycles.shading_system = True
script = bpy.data.texts.new("shader.osl")
script.write("shader s(output color c = 0) {}")
tree = bpy.data.materials["Material"].node_tree
tree.nodes.new("ShaderNodeScript").script = script
save("osl")

# Files elsewhere, of all kinds.
image = bpy.data.images.new("green", 4, 4)
image.generated_color = (0, 1, 0, 1)
for name in ("green.png", "frame_0001.png"):
    image.filepath_raw, image.file_format = there(name), "PNG"
    image.save()
bpy.data.libraries.write(there("library.blend"), {bpy.data.meshes["Cube"]})
fonts = glob.glob(os.path.join(bpy.utils.system_resource("DATAFILES"), "fonts", "*.*tf"))
fonts += glob.glob("/usr/share/fonts/**/*.ttf", recursive=True)
shutil.copy(fonts[0], there("font.ttf"))
for name in ("light.ies", "points.abc", "smoke.vdb", "mesh.mdd"):
    with open(there(name), "w") as file:
        file.write("the content of somebody else")

scene = fresh()
tree = scene.world.node_tree
sky = tree.nodes.new("ShaderNodeTexEnvironment")
sky.image = bpy.data.images.load(there("green.png"))
tree.links.new(sky.outputs["Color"], tree.nodes["Background"].inputs["Color"])
tree.nodes["Background"].inputs["Strength"].default_value = 1
scene.objects["Cube"].hide_render = True
save("sky")
sequence = bpy.data.images.load(there("frame_0001.png"))
sequence.source, sequence.use_fake_user = "SEQUENCE", True
bpy.data.movieclips.load(there("frame_0001.png")).use_fake_user = True
bpy.data.fonts.load(there("font.ttf")).use_fake_user = True
with bpy.data.libraries.load(there("library.blend"), link=True) as (_, to):
    to.meshes = ["Cube"]
scene.objects["Cube"].data = to.meshes[0]
save("outside")

scene = fresh()
lamp = scene.objects["Light"].data
lamp.use_nodes = True
profile = lamp.node_tree.nodes.new("ShaderNodeTexIES")
profile.mode, profile.filepath = "EXTERNAL", there("light.ies")
bpy.ops.cachefile.open(filepath=there("points.abc"))
bpy.data.cache_files[0].use_fake_user = True
volume = bpy.data.volumes.new("smoke")
volume.filepath, volume.use_fake_user = there("smoke.vdb"), True
cache = scene.objects["Cube"].modifiers.new("mesh", "MESH_CACHE")
cache.filepath = there("mesh.mdd")
save("more")

# What writes elsewhere.
scene = fresh()
scene.render.filepath = there("written_")
scene.use_nodes = True
tree = scene.node_tree
output = tree.nodes.new("CompositorNodeOutputFile")
output.base_path = there("written")
tree.links.new(tree.nodes["Render Layers"].outputs["Image"], output.inputs[0])
domain = scene.objects["Cube"].modifiers.new("fluid", "FLUID")
domain.fluid_type = "DOMAIN"
settings = domain.domain_settings
settings.cache_directory, settings.cache_type, settings.resolution_max = there("fluid"), "REPLAY", 8
bpy.ops.mesh.primitive_ico_sphere_add(radius=0.4)
flow = bpy.context.object.modifiers.new("fluid", "FLUID")
flow.fluid_type = "FLOW"
flow.flow_settings.flow_behavior = "INFLOW"
scene.frame_set(1)
save("writer")
shutil.rmtree(there("fluid"), ignore_errors=True)
