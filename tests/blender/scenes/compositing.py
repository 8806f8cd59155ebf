"""The compositor."""
import os

import bpy

from stage import Absent, Compositor, denoise, feature, half_red, offer, picture

WHY = "OpenImageDenoise itself varies in the last bits"


@feature("Alpha over", "Compositor")
def alpha_over(s):
    half_red(s)


@feature("Exposure that is animated", "Compositor", frames="2-6", short=2)
def compositor_animated(s):
    s.scene.frame_end = 9
    c = Compositor(s.scene)
    socket = c.through("CompositorNodeExposure").inputs["Exposure"]
    for frame, value in ((1, 0.0), (10, 9.0)):
        socket.default_value = value
        socket.keyframe_insert("default_value", frame=frame)
    c.end()


@feature("Exposure that is animated, in any order", "Compositor", frames="2-6", order="preview", tiles="1x1")
def compositor_animated_order(s):
    compositor_animated(s)


@feature("Exposure that follows a driver", "Compositor", frames="2-3")
def compositor_driver(s):
    c = Compositor(s.scene)
    c.through("CompositorNodeExposure").inputs["Exposure"].driver_add("default_value").driver.expression = "frame / 2"
    c.end()


@feature("A group of nodes", "Compositor", short=1)
def compositor_group(s):
    c = Compositor(s.scene)
    inner = bpy.data.node_groups.new("Inner", "CompositorNodeTree")
    if hasattr(inner, "interface"):
        for way in ("INPUT", "OUTPUT"):
            inner.interface.new_socket("Image", in_out=way, socket_type="NodeSocketColor")
    else:
        inner.inputs.new("NodeSocketColor", "Image")
        inner.outputs.new("NodeSocketColor", "Image")
    start, blur, end = (inner.nodes.new(kind) for kind in ("NodeGroupInput", "CompositorNodeBlur", "NodeGroupOutput"))
    blur_size(blur, 5)
    inner.links.new(start.outputs[0], blur.inputs["Image"])
    inner.links.new(blur.outputs[0], end.inputs[0])
    node = c.new("CompositorNodeGroup")
    node.node_tree = inner
    c.link(c.image, node.inputs[0])
    c.image = node.outputs[0]
    c.end()


def blur_size(node, size):
    if hasattr(node, "size_x"):
        node.size_x = node.size_y = size
    else:
        node.inputs["Size"].default_value = (size, size)


@feature("Blur over the tiles' borders", "Compositor", short=1)
def compositor_blur(s):
    c = Compositor(s.scene)
    blur_size(c.through("CompositorNodeBlur"), 12)
    c.end()


@feature("Glare", "Compositor", short=1)
def glare(s):
    c = Compositor(s.scene)
    node = c.through("CompositorNodeGlare")
    if hasattr(node, "glare_type"):
        node.glare_type = "FOG_GLOW"
    else:
        node.inputs["Type"].default_value = "Fog Glow"
    offer(node, "threshold", 0.2)
    c.end()


@feature("Lens distortion", "Compositor")
def lens_distortion(s):
    c = Compositor(s.scene)
    node = c.through("CompositorNodeLensdist")
    next(socket for socket in node.inputs if socket.name in ("Distort", "Distortion")).default_value = 0.3
    c.end()


@feature("Vector blur", "Compositor", frames="2")
def vector_blur(s):
    s.layer.use_pass_vector = s.layer.use_pass_z = True
    s.move(s.cube)
    c = Compositor(s.scene)
    node = c.through("CompositorNodeVecBlur")
    for socket in node.inputs:
        if socket.name in ("Z", "Depth"):
            c.link(c.layers.outputs["Depth"], socket)
        elif socket.name in ("Speed", "Vector"):
            c.link(c.layers.outputs["Vector"], socket)
    c.end()


@feature("Defocus", "Compositor")
def defocus(s):
    s.layer.use_pass_z = True
    c = Compositor(s.scene)
    node = c.through("CompositorNodeDefocus")
    node.use_zbuffer, node.f_stop = True, 5
    node.scene = s.scene
    c.link(c.layers.outputs["Depth"], node.inputs["Z"])
    c.end()


@feature("Depth and mist in the picture", "Compositor")
def depth_mist(s):
    s.layer.use_pass_mist = True
    c = Compositor(s.scene)
    node = c.new("CompositorNodeSetAlpha")
    c.link(c.image, node.inputs["Image"])
    c.link(c.layers.outputs["Mist"], node.inputs["Alpha"])
    c.image = node.outputs[0]
    c.end()


@feature("Denoise node with guides", "Compositor", short=1, within=1e-5, levels=1, why=WHY)
def denoise_node(s):
    s.layer.cycles.denoising_store_passes = True
    c = Compositor(s.scene)
    node = c.through("CompositorNodeDenoise")
    for name in ("Albedo", "Normal"):
        c.link(c.layers.outputs[f"Denoising {name}"], node.inputs[name])
    c.end()


@feature("Denoiser and its noisy image", "Compositor", within=1e-5, levels=1, why=WHY)
def noisy_image(s):
    denoise(s)
    c = half_red(s)
    over = c.image.node
    c.link(c.layers.outputs["Noisy Image"], [socket for socket in over.inputs if socket.type == "RGBA"][1])


@feature("Cryptomatte node that reads the render", "Compositor", short=2)
def cryptomatte_node(s):
    s.layer.use_pass_cryptomatte_object = True
    c = Compositor(s.scene)
    node = c.through("CompositorNodeCryptomatteV2")
    node.source, node.matte_id = "RENDER", "Cube"
    c.end()


@feature("Mask of an object's index", "Compositor")
def index_mask(s):
    s.cube.pass_index, s.layer.use_pass_object_index = 2, True
    c = Compositor(s.scene)
    mask = c.new("CompositorNodeIDMask")
    offer(mask, "index", 2)
    index = next(socket for socket in c.layers.outputs if socket.name in ("IndexOB", "Object Index"))
    c.link(index, mask.inputs[0])
    node = c.new("CompositorNodeSetAlpha")
    c.link(c.image, node.inputs["Image"])
    c.link(mask.outputs[0], node.inputs["Alpha"])
    c.image = node.outputs[0]
    c.end()


@feature("Two view layers, one over the other", "Compositor", short=1)
def compositor_layers(s):
    s.render.film_transparent = True
    s.scene.view_layers.new("Second")
    c = Compositor(s.scene)
    second, over = c.new("CompositorNodeRLayers"), c.new("CompositorNodeAlphaOver")
    second.layer = "Second"
    colours = [socket for socket in over.inputs if socket.type == "RGBA"]
    c.link(c.image, colours[0])
    c.link(second.outputs["Image"], colours[1])
    c.image = over.outputs[0]
    c.end()


@feature("The render of another scene", "Compositor", short=1)
def other_scene(s):
    other = bpy.data.scenes.new("Other")
    for item in (s.camera, s.light, s.floor):
        other.collection.objects.link(item)
    other.camera, other.render.engine = s.camera, "CYCLES"
    other.cycles.samples, other.cycles.use_denoising, other.cycles.use_adaptive_sampling = 2, False, False
    other.render.resolution_x, other.render.resolution_y = 96, 54
    c = Compositor(s.scene)
    node, over = c.new("CompositorNodeRLayers"), c.new("CompositorNodeAlphaOver")
    node.scene = other
    colours = [socket for socket in over.inputs if socket.type == "RGBA"]
    next(socket for socket in over.inputs if socket.type == "VALUE").default_value = 0.5
    c.link(node.outputs["Image"], colours[0])
    c.link(c.image, colours[1])
    c.image = over.outputs[0]
    c.end()


@feature("A picture behind", "Compositor")
def image_behind(s):
    s.render.film_transparent = True
    c = Compositor(s.scene)
    image, over = c.new("CompositorNodeImage"), c.new("CompositorNodeAlphaOver")
    image.image = picture("back", s.at("back.png"), size=64)
    colours = [socket for socket in over.inputs if socket.type == "RGBA"]
    c.link(image.outputs[0], colours[0])
    c.link(c.image, colours[1])
    c.image = over.outputs[0]
    c.end()


@feature("Scale", "Compositor")
def scale(s):
    c = Compositor(s.scene)
    node = c.through("CompositorNodeScale")
    for name in ("X", "Y"):
        node.inputs[name].default_value = 0.5
    c.end()


@feature("Crop", "Compositor")
def crop(s):
    c = Compositor(s.scene)
    node = c.through("CompositorNodeCrop")
    if hasattr(node, "min_x"):
        node.use_crop_size, node.min_x, node.max_x, node.min_y, node.max_y = False, 10, 60, 40, 5
    else:
        for name, value in (("X", 10), ("Y", 5), ("Width", 50), ("Height", 35), ("Alpha Crop", False)):
            node.inputs[name].default_value = value
    c.end()


@feature("Crop that changes the size", "Compositor")
def crop_size(s):
    crop(s)
    tree = s.scene.compositing_node_group if hasattr(s.scene, "compositing_node_group") else s.scene.node_tree
    node = next(node for node in tree.nodes if node.type == "CROP")
    if hasattr(node, "use_crop_size"):
        node.use_crop_size = True
    else:
        node.inputs["Alpha Crop"].default_value = True


def needs_whole_edges():
    if (4, 0) <= bpy.app.version < (4, 5):
        raise Absent("plain Blender itself writes left-over memory at the edges of a turned picture, values up to 1e34")


@feature("Transform and flip", "Compositor", short=1)
def transform(s):
    needs_whole_edges()
    c = Compositor(s.scene)
    c.through("CompositorNodeTransform").inputs["Angle"].default_value = 0.3
    c.through("CompositorNodeFlip")
    c.end()


@feature("Transform", "Compositor")
def transform_alone(s):
    needs_whole_edges()
    c = Compositor(s.scene)
    c.through("CompositorNodeTransform").inputs["Angle"].default_value = 0.3
    c.end()


@feature("Rotate, then translate", "Compositor")
def rotate(s):
    needs_whole_edges()
    c = Compositor(s.scene)
    next(socket for socket in c.through("CompositorNodeRotate").inputs if socket.type == "VALUE").default_value = 0.3
    c.through("CompositorNodeTranslate").inputs["X"].default_value = 7.5
    c.end()


@feature("Flip", "Compositor")
def flip(s):
    c = Compositor(s.scene)
    c.through("CompositorNodeFlip")
    c.end()


@feature("Colour balance, curves, hue", "Compositor")
def grading(s):
    c = Compositor(s.scene)
    c.through("CompositorNodeColorBalance")
    curve = c.through("CompositorNodeCurveRGB")
    curve.mapping.curves[3].points.new(0.5, 0.7)
    node = c.through("CompositorNodeHueSat")
    node.inputs["Saturation"].default_value = 1.5
    c.end()


@feature("Compositing that is off", "Compositor")
def compositing_off(s):
    half_red(s)
    s.render.use_compositing = False


@feature("A compositor without an output", "Compositor", note="leads to no picture")
def compositor_no_output(s):
    c = Compositor(s.scene)
    c.link(c.image, c.new("CompositorNodeViewer").inputs[0])


@feature("File Output nodes", "Compositor", compare=["exr", "files"], short=2)
def file_output(s):
    s.layer.use_pass_z = True
    c = Compositor(s.scene)
    c.end()
    node = c.new("CompositorNodeOutputFile")
    if hasattr(node, "file_output_items"):
        node.directory, node.file_name = "//written/", "depth"
        node.format.media_type = "IMAGE"
        node.file_output_items.new("FLOAT", "Depth")
    else:
        node.base_path = "//written/"
        node.file_slots[0].path = "depth"
    node.format.file_format, node.format.color_depth = "OPEN_EXR", "32"
    c.link(c.layers.outputs["Depth"], node.inputs[0])


@feature("File Output node, one multilayer file", "Compositor", compare=["exr", "files"])
def file_output_layers(s):
    s.layer.use_pass_z = True
    c = Compositor(s.scene)
    c.end()
    node = c.new("CompositorNodeOutputFile")
    if hasattr(node, "file_output_items"):
        node.format.media_type = "MULTI_LAYER_IMAGE"
        node.directory, node.file_name = "//written/", "all"
        node.file_output_items.new("RGBA", "Image")
        node.file_output_items.new("FLOAT", "Depth")
    else:
        node.format.file_format = "OPEN_EXR_MULTILAYER"
        node.base_path = "//written/all"
        node.layer_slots.new("Depth")
    c.link(c.image, node.inputs[0])
    c.link(c.layers.outputs["Depth"], node.inputs[1])


@feature("File Output node with a path outside", "Compositor", compare=["exr"])
def file_output_outside(s):
    c = Compositor(s.scene)
    c.end()
    node = c.new("CompositorNodeOutputFile")
    setattr(node, "directory" if hasattr(node, "directory") else "base_path", os.path.join(s.folder, "outside"))
    if hasattr(node, "file_output_items"):
        node.file_output_items.new("RGBA", "Image")
    c.link(c.image, node.inputs[0])
