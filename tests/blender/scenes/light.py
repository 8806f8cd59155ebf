"""Lights and worlds."""
import math

import bpy

from stage import Absent, feature, picture, since, surface


@feature("Sun, spot, area", "Light")
def lights(s):
    for kind, place in (("SUN", (0, 0, 5)), ("SPOT", (2, -2, 4)), ("AREA", (-3, -2, 3))):
        light = s.object(bpy.data.lights.new(kind, kind), kind)
        light.location, light.data.energy = place, 3 if kind == "SUN" else 200


@feature("Sixty lamps", "Light")
def many_lights(s):
    for i in range(60):
        lamp = s.object(bpy.data.lights.new("Lamp", "POINT"), "Lamp")
        lamp.location = (i % 10 - 5, i // 10 - 3, 1 + i % 3)
        lamp.data.energy, lamp.data.color = 20, (1, i / 60, 0.3)


@feature("A mesh that shines", "Light")
def mesh_light(s):
    surface(s.cube, "ShaderNodeEmission", Color=(1, 0.5, 0.1, 1), Strength=5)


@feature("Light groups", "Light", short=1, compare=["layers"])
def light_groups(s):
    bpy.ops.scene.view_layer_add_lightgroup()
    group = s.layer.lightgroups[0]
    s.light.lightgroup = group.name
    s.scene.world.lightgroup = group.name


@feature("Light linking", "Light")
def light_linking(s):
    since(4, 0)
    lit = bpy.data.collections.new("Lit")
    lit.objects.link(s.cube)
    s.light.light_linking.receiver_collection = lit


@feature("Shadow linking", "Light")
def shadow_linking(s):
    since(4, 0)
    blockers = bpy.data.collections.new("Blockers")
    blockers.objects.link(s.floor)
    s.light.light_linking.blocker_collection = blockers


@feature("Caustics of a lamp", "Light")
def shadow_caustics(s):
    surface(s.cube, "ShaderNodeBsdfGlass", Roughness=0)
    s.light.data.cycles.is_caustics_light = True
    s.cube.cycles.is_caustics_caster = True
    s.floor.cycles.is_caustics_receiver = True


def world(s, kind):
    made = s.scene.world or bpy.data.worlds.new("World")
    s.scene.world = made
    made.use_nodes = True
    tree = made.node_tree
    node = tree.nodes.new(kind)
    background = next(node for node in tree.nodes if node.type == "BACKGROUND")
    tree.links.new(node.outputs[0], background.inputs["Color"])
    return node


@feature("World from a picture", "Light", short=1)
def environment(s):
    image = bpy.data.images.new("sky", 32, 16, float_buffer=True)
    image.pixels = [((i * 53) % 89) / 30 for i in range(32 * 16 * 4)]
    image.filepath_raw, image.file_format = s.at("sky.exr"), "OPEN_EXR"
    image.save()
    world(s, "ShaderNodeTexEnvironment").image = bpy.data.images.load(s.at("sky.exr"))


@feature("World from a picture that is packed", "Light")
def environment_packed(s):
    image = picture("sky", s.at("sky.png"))
    image.pack()
    world(s, "ShaderNodeTexEnvironment").image = image


@feature("Sky", "Light")
def sky(s):
    node = world(s, "ShaderNodeTexSky")
    for name in ("SINGLE_SCATTERING", "NISHITA"):
        try:
            node.sky_type = name
            break
        except TypeError:
            continue
    node.sun_elevation = math.radians(20)


@feature("Ambient occlusion of the world", "Light")
def world_mist(s):
    s.scene.world.light_settings.ao_factor = 0.7
    s.cycles.use_fast_gi = True
    s.cycles.fast_gi_method = "ADD"


@feature("Light profile (IES)", "Light")
def light_profile(s):
    rows = ["IESNA:LM-63-2002", "TILT=NONE", "1 1000 1 5 1 1 2 0 0 0", "1 1 100", "0 22.5 45 67.5 90", "0", "100 90 60 20 0"]
    with open(s.at("lamp.ies"), "w", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")
    s.light.data.use_nodes = True
    tree = s.light.data.node_tree
    node = tree.nodes.new("ShaderNodeTexIES")
    node.mode, node.filepath = "EXTERNAL", "//lamp.ies"
    emission = next((node for node in tree.nodes if node.type == "EMISSION"), None)
    if emission is None:
        raise Absent("no emission in a lamp's nodes")
    tree.links.new(node.outputs[0], emission.inputs["Strength"])


@feature("A lamp whose strength is animated", "Light", frames="1-3")
def animated_light(s):
    s.light.data.keyframe_insert("energy", frame=1)
    s.light.data.energy = 50
    s.light.data.keyframe_insert("energy", frame=4)
