"""Materials, textures and volumes."""
import os

import bpy

from stage import displace, feature, geometry, material, picture, since, surface, texture


@feature("Procedural textures", "Shading")
def procedural(s):
    texture(s.cube, "ShaderNodeTexNoise")
    texture(s.floor, "ShaderNodeTexVoronoi")


@feature("Checker, wave, brick, gradient", "Shading")
def patterns(s):
    texture(s.cube, "ShaderNodeTexBrick")
    made, tree, shader, wave = texture(s.floor, "ShaderNodeTexWave")
    checker = tree.nodes.new("ShaderNodeTexChecker")
    tree.links.new(wave.outputs[0], checker.inputs["Color1"])
    tree.links.new(checker.outputs[0], shader.inputs["Base Color"])


@feature("Bump", "Shading")
def bump(s):
    made, tree, shader, noise = texture(s.cube, "ShaderNodeTexNoise")
    node = tree.nodes.new("ShaderNodeBump")
    tree.links.new(noise.outputs[0], node.inputs["Height"])
    tree.links.new(node.outputs[0], shader.inputs["Normal"])


@feature("Normal map", "Shading")
def normal_map(s):
    made, tree, shader, image = texture(s.cube, "ShaderNodeTexImage")
    image.image = picture("normals")
    image.image.pack()
    node = tree.nodes.new("ShaderNodeNormalMap")
    tree.links.new(image.outputs[0], node.inputs["Color"])
    tree.links.new(node.outputs[0], shader.inputs["Normal"])


@feature("Displacement", "Shading")
def displacement(s):
    displace(s)


@feature("Glass and caustics", "Shading")
def glass(s):
    surface(s.cube, "ShaderNodeBsdfGlass", IOR=1.4)
    s.cycles.caustics_refractive = s.cycles.caustics_reflective = True


@feature("Subsurface scattering", "Shading")
def subsurface(s):
    surface(s.cube, "ShaderNodeSubsurfaceScattering", Scale=0.5)


@feature("Principled: coat, sheen, metal", "Shading")
def principled(s):
    made, tree, shader = material(s.cube)
    shader.inputs["Metallic"].default_value = 0.6
    for name in ("Coat Weight", "Clearcoat", "Sheen Weight", "Sheen"):
        if name in shader.inputs:
            shader.inputs[name].default_value = 0.7


@feature("Toon, translucent, velvet", "Shading")
def toon(s):
    surface(s.cube, "ShaderNodeBsdfToon")
    surface(s.floor, "ShaderNodeBsdfTranslucent")


@feature("Transparent shadows", "Shading")
def transparent_shadows(s):
    surface(s.cube, "ShaderNodeBsdfTransparent", Color=(1, 0.4, 0.4, 1))


@feature("Ambient occlusion and bevel nodes", "Shading")
def occlusion(s):
    made, tree, shader, node = texture(s.floor, "ShaderNodeAmbientOcclusion")
    made, tree, shader, node = texture(s.cube, "ShaderNodeBevel", "Normal")
    node.inputs["Radius"].default_value = 0.2


@feature("Vertex colours", "Shading")
def vertex_colours(s):
    layer = s.cube.data.color_attributes.new("Paint", "FLOAT_COLOR", "CORNER")
    for i, item in enumerate(layer.data):
        item.color = (i % 3 / 2, i % 5 / 4, 0.3, 1)
    made, tree, shader, node = texture(s.cube, "ShaderNodeAttribute")
    node.attribute_name = "Paint"


@feature("Custom properties in materials", "Shading", frames="1-2")
def custom_properties(s):
    made, tree, shader, node = texture(s.cube, "ShaderNodeAttribute", out=2)
    node.attribute_type, node.attribute_name = "OBJECT", "worn"
    s.cube["worn"] = 0.1
    s.cube.keyframe_insert('["worn"]', frame=1)
    s.cube["worn"] = 0.9
    s.cube.keyframe_insert('["worn"]', frame=4)


@feature("Random of each object", "Shading")
def object_random(s):
    made, tree, shader, node = texture(s.cube, "ShaderNodeObjectInfo", out=5)
    for i in range(5):
        copy = s.link(s.cube.copy())
        copy.location, copy.scale = (i * 1.2 - 3, 2, 0), (0.4, 0.4, 0.4)


@feature("Light path", "Shading")
def light_path(s):
    made, tree, shader, node = texture(s.cube, "ShaderNodeLightPath")


@feature("Open Shading Language that is off", "Shading")
def osl_off(s):
    text = bpy.data.texts.new("red.osl")
    text.write("shader red(output color C = color(1, 0, 0)) {}")
    made, tree, shader = material(s.cube)
    tree.nodes.new("ShaderNodeScript").script = text


@feature("Values that are no numbers", "Shading")
def not_a_number(s):
    made, tree, shader, node = texture(s.cube, "ShaderNodeMath")
    node.operation = "LOGARITHM"
    node.inputs[0].default_value = -1
    shader.inputs["Roughness"].default_value = 0
    power = tree.nodes.new("ShaderNodeMath")
    power.operation = "DIVIDE"
    power.inputs[1].default_value = 0
    tree.links.new(power.outputs[0], shader.inputs["Alpha"])


# ---- textures in files ----------------------------------------------------------------------------------------------------


def with_image(s, image):
    made, tree, shader, node = texture(s.cube, "ShaderNodeTexImage")
    node.image = image
    return node


@feature("Texture in a file", "Textures", short=1)
def texture_file(s):
    with_image(s, picture("wood", s.at("wood.png")))


@feature("Texture that is packed", "Textures")
def texture_packed(s):
    image = picture("wood", s.at("wood.png"))
    image.pack()
    with_image(s, image)
    os.remove(s.at("wood.png"))


@feature("Texture that Blender generates", "Textures")
def texture_generated(s):
    image = bpy.data.images.new("grid", 64, 64)
    image.generated_type = "COLOR_GRID"
    with_image(s, image)


@feature("UDIM tiles", "Textures", short=1)
def udim(s):
    for number in (1001, 1002):
        picture(f"part{number}", s.at(f"skin/skin.{number}.png"), seed=number)
    image = bpy.data.images.load(s.at("skin/skin.1001.png"))
    image.source, image.filepath = "TILED", "//skin/skin.<UDIM>.png"
    if not any(tile.number == 1002 for tile in image.tiles):
        image.tiles.new(1002)
    for point in s.cube.data.uv_layers[0].data:
        point.uv.x *= 2
    with_image(s, image)


@feature("Sequence of pictures", "Textures", frames="1-3", short=1)
def image_sequence(s):
    for number in range(1, 5):
        picture(f"frame{number}", s.at(f"seq/frame{number:04}.png"), seed=number)
    image = bpy.data.images.load(s.at("seq/frame0001.png"))
    image.source = "SEQUENCE"
    node = with_image(s, image)
    node.image_user.frame_duration, node.image_user.frame_start = 4, 1
    node.image_user.use_auto_refresh = True


@feature("Texture that is missing", "Textures", compare=[], refused=True, short=1)
def texture_missing(s):
    texture_file(s)
    os.remove(s.at("wood.png"))


@feature("Texture that is missing, allowed", "Textures", render={"allow_missing": True}, note="not here")
def texture_missing_allowed(s):
    texture_missing(s)


# ---- volumes --------------------------------------------------------------------------------------------------------------


@feature("Volume in an object", "Volumes", short=2)
def volume_object(s):
    made, tree, shader = surface(s.cube, "ShaderNodeVolumePrincipled")
    noise = tree.nodes.new("ShaderNodeTexNoise")
    tree.links.new(noise.outputs[0], shader.inputs["Density"])


@feature("Volume of the world", "Volumes")
def volume_world(s):
    world = s.scene.world
    world.use_nodes = True
    tree = world.node_tree
    fog = tree.nodes.new("ShaderNodeVolumeScatter")
    fog.inputs["Density"].default_value = 0.05
    output = next(node for node in tree.nodes if node.type == "OUTPUT_WORLD")
    tree.links.new(fog.outputs[0], output.inputs["Volume"])


@feature("Fire and smoke, without a file", "Volumes")
def volume_emission(s):
    made, tree, shader = surface(s.cube, "ShaderNodeVolumePrincipled")
    for name, value in (("Density", 2), ("Emission Strength", 1), ("Blackbody Intensity", 1)):
        shader.inputs[name].default_value = value


@feature("Points to volume (geometry nodes)", "Volumes")
def volume_points(s):
    tree, start, end, modifier = geometry(s.cube)
    node = tree.nodes.new("GeometryNodeMeshToVolume")
    tree.links.new(start.outputs[0], node.inputs["Mesh"])
    tree.links.new(node.outputs[0], end.inputs[0])
    made, shade, shader = surface(s.cube, "ShaderNodeVolumePrincipled")
    setter = tree.nodes.new("GeometryNodeSetMaterial")
    setter.inputs["Material"].default_value = made
    tree.links.new(node.outputs[0], setter.inputs["Geometry"])
    tree.links.new(setter.outputs[0], end.inputs[0])


@feature("Volume with ray marching, biased", "Volumes")
def volume_biased(s):
    since(5, 0)
    volume_object(s)
    s.cycles.volume_biased = True
