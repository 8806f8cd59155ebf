"""Files: the scene's own, what it links, where it lies; and Python in it."""
import os

import bpy

from stage import feature, picture, texture


@feature("Compressed scene", "Files")
def compressed(s):
    return lambda: bpy.ops.wm.save_as_mainfile(filepath=s.at("scene.blend"), compress=True)


@feature("A data folder with braces in its name", "Files", data="data {frame} {x}", short=2)
def braces(s):
    pass


@feature("Texture in a folder with braces and spaces", "Files")
def braces_texture(s):
    made, tree, shader, node = texture(s.cube, "ShaderNodeTexImage")
    node.image = picture("wood", s.at("my {wood} #1/wood.png"))


@feature("Linked library", "Files", short=1)
def linked(s):
    bpy.data.libraries.write(s.at("library.blend"), {bpy.data.meshes["Cube"]})
    with bpy.data.libraries.load(s.at("library.blend"), link=True, relative=False) as (_, to):
        to.meshes = ["Cube"]
    s.cube.data = to.meshes[0]

    def save():
        s.save()
        bpy.ops.file.make_paths_relative()
        s.save()
    return save


@feature("Linked collection, overridden", "Files", frames="1-2")
def override(s):
    made = bpy.data.collections.new("Asset")
    made.objects.link(s.cube)
    bpy.data.libraries.write(s.at("asset.blend"), {made})
    bpy.data.objects.remove(s.cube)
    bpy.data.collections.remove(made)
    with bpy.data.libraries.load(s.at("asset.blend"), link=True) as (_, to):
        to.collections = ["Asset"]
    local = to.collections[0].override_hierarchy_create(s.scene, s.layer)
    item = next(item for item in local.all_objects)
    item.location.x = 0
    item.keyframe_insert("location", frame=1)
    item.location.x = 2
    item.keyframe_insert("location", frame=4)


@feature("Library that is missing", "Files", compare=[], refused=True)
def linked_missing(s):
    save = linked(s)

    def lose():
        save()
        os.remove(s.at("library.blend"))
    return lose


@feature("Fonts and sounds that are packed", "Files")
def packed(s):
    item = s.add(bpy.ops.object.text_add, location=(-2, -2, 0))
    item.data.body = "packed"
    picture("other", s.at("other.png")).pack()


@feature("Several scenes, the active one counts", "Files", short=1)
def several_scenes(s):
    other = bpy.data.scenes.new("Other")
    other.collection.objects.link(s.floor)
    other.render.resolution_x = 32


@feature("A driver that is simple", "Files", frames="1-2")
def driver(s):
    s.cube.driver_add("location", 0).driver.expression = "frame * 0.5"


@feature("A driver with a variable", "Files", frames="1-2")
def driver_variable(s):
    made = s.cube.driver_add("location", 2).driver
    variable = made.variables.new()
    variable.name, variable.targets[0].id, variable.targets[0].data_path = "x", s.light, "location.x"
    made.expression = "x / 4"
    s.move(s.light, frames=((1, (4, 1, 6)), (4, (0, 1, 6))))


@feature("A driver of Python", "Files", frames="1-2", compare=["exr"], note="does not run", short=2)
def driver_python(s):
    s.cube.driver_add("location", 0).driver.expression = "[0, 1, 2][int(frame) % 3] - 1"


@feature("A script that runs itself", "Files", compare=["exr"], note="does not run")
def script(s):
    text = bpy.data.texts.new("run.py")
    text.write("import bpy\nbpy.data.objects['Cube'].location.x = 3\n")
    text.use_module = True


@feature("Keyframes with noise and cycles", "Files", frames="1-3")
def curve_modifiers(s):
    s.move(s.cube)
    animation = s.cube.animation_data
    action = animation.action
    curves = action.fcurves if hasattr(action, "fcurves") else action.layers[0].strips[0].channelbag(animation.action_slot).fcurves
    for curve in curves:
        curve.modifiers.new("NOISE").strength = 2


@feature("NLA strips", "Files", frames="1-3")
def nla(s):
    s.move(s.cube)
    animation = s.cube.animation_data
    track, action = animation.nla_tracks.new(), animation.action
    strip = track.strips.new("move", 1, action)
    strip.scale = 0.5
    animation.action = None
