"""Post-processing of a rendered frame: the scene's denoiser, its compositor, its view transform."""
import bpy
import os
import time

from files import file_format, redirect, render_to, written_below
from frame import check, check_denoiser, composites, denoises, direct_reasons, ends, nodes_within
from scene import Fail
from settings import apply, curves, put

# Nodes that evaluate the scene at the frame's time, in addition to what is animated in the tree itself.
TIMED = {"DEFOCUS", "MASK", "MOVIECLIP", "TEXTURE", "TRACKPOS", "STABILIZE2D", "MOVIEDISTORTION", "KEYINGSCREEN", "PLANETRACKDEFORM"}


class Copy:
    """A temporary copy of the scene with its own compositor tree. It contains no 3D work: nothing in it renders."""

    def __init__(self, scene, path, keep_tree):
        if not os.path.isfile(path):
            raise Fail("bad_input", f"There is no picture at {path}.")
        self.image, self.scene, self.group, self.action = bpy.data.images.load(path), scene.copy(), None, None
        self.size = tuple(self.image.size)  # 0x0 for a multilayer image, whose pixels belong to its passes
        if self.image.type == "MULTILAYER":
            self.size = None
        elif not self.size[0]:
            self.close()
            raise Fail("bad_input", f"{path} cannot be read as a picture.")
        if hasattr(scene, "compositing_node_group"):
            own = scene.compositing_node_group
            self.group = own.copy() if keep_tree and own else bpy.data.node_groups.new("pictor", "CompositorNodeTree")
            self.scene.compositing_node_group = self.tree = self.group
            if not keep_tree:
                self.group.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        else:
            self.scene.use_nodes = True
            self.tree = self.scene.node_tree
        self.action = own_action(self.tree)
        if not keep_tree and not self.group:
            self.tree.nodes.clear()
        # The metadata stamp contains the name of the scene.
        self.name, scene.name = scene.name, "pictor's original"
        self.original, self.scene.name = scene, self.name

    def resize(self, size):
        """Sets the size of the result, in pixels."""
        self.size, render = tuple(size), self.scene.render
        render.use_compositing, render.use_border, render.resolution_percentage = True, False, 100
        render.use_sequencer = render.use_multiview = False
        render.resolution_x, render.resolution_y = self.size

    def source(self, layer):
        """An Image node that provides the passes of one view layer as Render Layers would."""
        node = self.tree.nodes.new("CompositorNodeImage")
        node.image = self.image
        if node.has_layers:
            try:
                node.layer = layer
            except TypeError:
                self.tree.nodes.remove(node)
                raise Fail("bad_input", f"{self.image.filepath} has no view layer {layer!r}. Render with `passes: auto`.") from None
        return node

    def sink(self):
        return self.tree.nodes.new("NodeGroupOutput" if self.group else "CompositorNodeComposite").inputs[0]

    def close(self):
        bpy.data.scenes.remove(self.scene)
        bpy.data.images.remove(self.image)
        if hasattr(self, "original"):
            self.original.name = self.name
        if self.group:
            bpy.data.node_groups.remove(self.group)
        if self.action:
            bpy.data.actions.remove(self.action)


def own_action(tree):
    """Gives a copied tree its own keyframes: removing a node removes its keyframes, which copies would share."""
    animation = tree.animation_data
    if not animation or not animation.action:
        return None
    slot = getattr(animation, "action_slot", None)
    animation.action = animation.action.copy()
    if slot:
        animation.action_slot = next((one for one in animation.action.slots if one.identifier == slot.identifier), None)
    return animation.action


def output_of(node, *names):
    return next((socket for name in names for socket in node.outputs if name in (socket.name, socket.identifier) and socket.enabled), None)


def denoise_node(scene, tree, source):
    """The compositor's Denoise node, with the settings of Cycles' own denoiser."""
    node, cycles = tree.nodes.new("CompositorNodeDenoise"), scene.cycles
    if hasattr(node, "prefilter"):
        node.prefilter = cycles.denoising_prefilter
    else:
        node.inputs["Prefilter"].default_value = cycles.denoising_prefilter.title()
    quality = getattr(cycles, "denoising_quality", None)
    if quality and hasattr(node, "quality"):
        node.quality = quality
    elif quality and "Quality" in node.inputs:
        node.inputs["Quality"].default_value = quality.title()
    tree.links.new(output_of(source, "Combined", "Image"), node.inputs["Image"])
    for name in ("Albedo", "Normal"):
        guide = output_of(source, f"Denoising {name}")
        if guide and name.upper() in cycles.denoising_input_passes:
            tree.links.new(guide, node.inputs[name])
    return node.outputs[0]


def see_the_time(scene, tree, frame):
    """Evaluates what the compositor uses at the frame. A render does that for the scene that it renders, but not in every version
    for the compositor of a copy. It costs an evaluation of the whole scene, so it is only done where something can change."""
    def changes(owner):
        return owner is not None and any(True for _ in curves(owner))
    trees = {tree, *(node.node_tree for node in nodes_within(tree) if getattr(node, "node_tree", None))}
    if any(changes(one) for one in trees) or any(node.type in TIMED for node in nodes_within(tree)) or changes(scene):
        scene.frame_set(frame)


def denoised_layers(scene, settings):
    return {layer.name for layer in scene.view_layers if layer.use and layer.cycles.use_denoising} if denoises(scene, settings) else set()


def op_finish(scene, request, settings):
    started = time.monotonic()
    apply(scene, settings, request["frame"])
    check(scene, settings)
    tree, denoised = composites(scene, settings), denoised_layers(scene, settings)
    if not tree and not denoised or direct_reasons(scene, settings):
        return {"unchanged": True}
    everything, files = settings.get("passes") == "all", request.get("files")
    out, size, reply = request["out"], request["size"], {}
    layers = [layer.name for layer in scene.view_layers if layer.use]
    if everything:  # as in Blender's own multilayer file: each layer denoised, next to the compositor's result
        reply["denoised"] = {}
        for number, layer in enumerate(name for name in layers if name in denoised):
            path = f"{out}.layer{number}.exr"
            with_tree(scene, request, None, {layer}, layer, path)
            reply["denoised"][layer] = path
        own = {layer.name for layer in scene.view_layers if layer.cycles.denoising_store_passes}
        reply["drop"] = [f"{layer}.Denoising " for layer in layers if layer in denoised and layer not in own]
    if tree:
        see_the_time(scene, tree, request["frame"])
        with_tree(scene, request, tree, denoised, layers[0], out)
    elif not everything:
        with_tree(scene, request, None, denoised, layers[0], out)
    return {**reply, "path": out if tree or not everything else None, "width": size[0], "height": size[1],
            "files": written_below(files) if files else [], "seconds": round(time.monotonic() - started, 3)}


def with_tree(scene, request, tree, denoised, layer, out):
    """Runs the frame through the compositor's tree, or through the denoiser alone."""
    copy = Copy(scene, request["in"], tree is not None)
    try:
        copy.resize(request["size"])
        nodes, links = copy.tree.nodes, copy.tree.links
        if tree:
            replace_render_layers(copy, scene, denoised, request["in"])
            redirect(copy.tree, request["files"], request["frame"], throw_away=True)
            if not ends(copy.tree):  # it only writes files: the picture is passed through
                source = copy.source(layer)
                links.new(denoise_node(scene, copy.tree, source) if layer in denoised else output_of(source, "Combined", "Image"), copy.sink())
        else:
            source = copy.source(layer)
            links.new(denoise_node(scene, copy.tree, source) if layer in denoised else output_of(source, "Combined", "Image"), copy.sink())
        file_format(copy.scene, "OPEN_EXR", keep=False)
        copy.scene.render.use_stamp = False
        render_to(copy.scene, out)
    finally:
        copy.close()


def replace_render_layers(copy, scene, denoised, path):
    """Makes the tree read the frame from the file instead of the renderer."""
    nodes, links = copy.tree.nodes, copy.tree.links
    for node in [node for node in nodes if node.type == "R_LAYERS"]:
        used = [socket for socket in node.outputs if socket.is_linked]
        if used and scene.view_layers[node.layer].use:  # a layer that is off has no output, as in Blender
            source, name = copy.source(node.layer), node.layer
            source.mute = node.mute
            for socket in used:
                if socket.name == "Image" and name in denoised:
                    origin = denoise_node(scene, copy.tree, source)
                elif socket.name in ("Image", "Noisy Image"):
                    origin = output_of(source, "Combined", "Image")
                elif socket.name == "Alpha":
                    origin = output_of(source, "Alpha") or alpha_of(copy.tree, output_of(source, "Combined", "Image"))
                else:
                    origin = output_of(source, socket.name, socket.identifier)
                if not origin:
                    raise Fail("bad_input", f"{path} lacks pass {socket.name!r} of view layer {name!r}. Render with `passes: auto`.")
                for link in list(socket.links):
                    links.new(origin, link.to_socket)
        nodes.remove(node)


def alpha_of(tree, socket):
    node = tree.nodes.new("CompositorNodeSeparateColor")
    tree.links.new(socket, node.inputs[0])
    return node.outputs["Alpha"]


def op_develop(scene, request, settings):
    apply(scene, settings)
    check_denoiser(scene, settings)
    kind = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "tiff": "TIFF"}.get(request["format"])
    if not kind:
        raise Fail("bad_request", f"There is no format {request['format']!r}; use png, jpeg or tiff.")
    frame = int(request.get("frame", scene.frame_current))
    put(scene, "frame_current", frame)
    if any(curve.data_path.startswith(("view_settings", "render")) for curve in curves(scene)):
        scene.frame_set(frame)  # costs an evaluation of the whole scene, so only where exposure and the like are animated
    own = scene.render.image_settings
    mode, depth = (own.color_mode, own.color_depth) if own.file_format == kind else ("RGB", "8")
    out, layer = request["out"], next((layer.name for layer in scene.view_layers if layer.use), None)
    copy = Copy(scene, request["in"], False)
    try:
        copy.resize(request["size"])
        file_format(copy.scene, kind, mode, depth, keep=False)
        try:
            source = copy.source("Composite")
        except Fail:
            source = copy.source(settings.get("view_layer") or layer)
        copy.tree.links.new(output_of(source, "Combined", "Image"), copy.sink())
        render_to(copy.scene, out)
    finally:
        copy.close()
    return {"path": out, "width": copy.size[0], "height": copy.size[1]}
