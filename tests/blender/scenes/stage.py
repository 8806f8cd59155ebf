"""What the scenes of the matrix share: one small stage, built anew for each feature, and where Blender's versions differ.

A feature is a function that changes the stage:

    @feature("Motion blur", "Camera", frames="1-2")
    def motion_blur(s): ...

It is saved as FOLDER/NAME/scene.blend. A feature that a version does not have raises Absent.
"""
import os

import bpy

SIZE = (96, 54)
FEATURES = []


class Absent(Exception):
    """This Blender does not have it; the message says since when, or why."""


def feature(title, group, **more):
    """How it is rendered and compared.

    frames: those to render; run: as one animation that begins at the scene's first; bake: after its simulations were. compare: what of plain Blender's is
    compared: exr, png, layers (multilayer), own (the scene's own format), files (of File Output nodes). within: how far
    linear values may differ, levels: how far those of ordinary pictures, and why. short: 1 = in `make test` on Debian's and on 5.0.1, 2 = on 4.5.15 as well.
    tiles, order, data (folder), output, render: of pictor's job. note: words that pictor must say. refused: it must refuse.
    rate: of the video."""
    def add(build):
        number = len(FEATURES)
        FEATURES.append({"name": build.__name__, "title": title, "group": group, "number": number, "build": build, **more})
        return build
    return add


class Stage:
    """A cube on a floor, a lamp, a camera; Cycles with 4 samples and nothing that depends on anything else."""

    def __init__(self, folder):
        bpy.ops.wm.read_factory_settings()
        bpy.context.preferences.edit.keyframe_new_interpolation_type = "LINEAR"
        self.folder = folder
        self.scene = scene = bpy.context.scene
        self.render, self.cycles, self.layer = scene.render, scene.cycles, bpy.context.view_layer
        self.cube, self.camera, self.light = (bpy.data.objects[name] for name in ("Cube", "Camera", "Light"))
        self.render.engine, self.cycles.samples, self.cycles.seed = "CYCLES", 4, 3
        self.cycles.use_adaptive_sampling = self.cycles.use_denoising = False
        self.render.resolution_x, self.render.resolution_y = SIZE
        self.render.resolution_percentage = 100
        scene.frame_start, scene.frame_end = 1, 4
        self.floor = self.add(bpy.ops.mesh.primitive_plane_add, size=20, location=(0, 0, -1))

    def add(self, operator, **more):
        operator(**more)
        return bpy.context.object

    def at(self, name):
        return os.path.join(self.folder, name)

    def select(self, *items):
        bpy.ops.object.select_all(action="DESELECT")
        for item in items:
            item.select_set(True)
        bpy.context.view_layer.objects.active = items[0]

    def link(self, item):
        self.scene.collection.objects.link(item)
        return item

    def move_to(self, scene, *items):
        """Takes items out of this scene, into another one."""
        for item in items:
            for collection in list(item.users_collection):
                collection.objects.unlink(item)
            scene.collection.objects.link(item)

    def object(self, data, name="Item"):
        return self.link(bpy.data.objects.new(name, data))

    def move(self, item, path="location", frames=((1, (0, 0, 0)), (4, (2, 1, 0.5)))):
        for frame, value in frames:
            setattr(item, path, value)
            item.keyframe_insert(path, frame=frame)

    def save(self):
        bpy.ops.wm.save_as_mainfile(filepath=self.at("scene.blend"), compress=False)


def since(major, minor=0):
    if bpy.app.version < (major, minor):
        raise Absent(f"since {major}.{minor}")


def until(major, minor=0):
    if bpy.app.version >= (major, minor):
        raise Absent(f"until {major}.{minor}")


def choose(owner, name, *values):
    """The first value that this version knows."""
    for value in values:
        try:
            setattr(owner, name, value)
            return value
        except TypeError:
            continue
    raise Absent(f"no {name} {values[0]}")


def offer(owner, name, value):
    """Sets a property, or the input of a node that it has become in a later version."""
    if hasattr(owner, name):
        setattr(owner, name, value)
        return
    title = name.replace("_", " ").title()
    owner.inputs[title].default_value = value.title() if isinstance(value, str) else value


def denoise(s):
    """Cycles' denoiser. A build that has none still keeps what the scene wants."""
    s.cycles.use_denoising = True
    if s.cycles.bl_rna.properties["denoiser"].enum_items:
        s.cycles.denoiser = "OPENIMAGEDENOISE"


def material(item, name="Made"):
    """A new material for an object: its tree, its nodes and its surface shader."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    item.data.materials.clear()
    item.data.materials.append(made)
    nodes = made.node_tree.nodes
    shader = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    return made, made.node_tree, shader


def surface(item, kind, **inputs):
    """A material of one shader."""
    made, tree, old = material(item)
    tree.nodes.remove(old)
    shader = tree.nodes.new(kind)
    for name, value in inputs.items():
        shader.inputs[name.replace("_", " ")].default_value = value
    output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    tree.links.new(shader.outputs[0], output.inputs["Volume" if "Volume" in kind else "Surface"])
    return made, tree, shader


def texture(item, kind, into="Base Color", out=0):
    """A material with a texture node in one of its inputs."""
    made, tree, shader = material(item)
    node = tree.nodes.new(kind)
    tree.links.new(node.outputs[out], shader.inputs[into])
    return made, tree, shader, node


def picture(name, path=None, size=8, seed=1):
    """A small picture of coloured squares; in a file if there is a path."""
    image = bpy.data.images.new(name, size, size)
    image.pixels = [((i * 37 + seed * 91) % 97) / 97 if i % 4 < 3 else 1.0 for i in range(size * size * 4)]
    if path:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        image.filepath_raw, image.file_format = path, "PNG"
        image.save()
    return image


def displace(s):
    """A ball whose material moves its surface."""
    ball = s.add(bpy.ops.mesh.primitive_uv_sphere_add, segments=64, ring_count=32, location=(-2, 0, 1))
    made, tree, shader, noise = texture(ball, "ShaderNodeTexNoise")
    owner = made if hasattr(made, "displacement_method") and bpy.app.version >= (4, 1) else made.cycles
    owner.displacement_method = "DISPLACEMENT"
    node = tree.nodes.new("ShaderNodeDisplacement")
    tree.links.new(noise.outputs[0], node.inputs["Height"])
    output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    tree.links.new(node.outputs[0], output.inputs["Displacement"])
    return ball


class Compositor:
    """The scene's compositor tree, empty but for Render Layers."""

    def __init__(self, scene):
        if hasattr(scene, "compositing_node_group"):
            self.tree = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
            scene.compositing_node_group = self.tree
            self.tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
            self.sink = self.tree.nodes.new("NodeGroupOutput").inputs[0]
        else:
            scene.use_nodes = True
            self.tree = scene.node_tree
            self.tree.nodes.clear()
            self.sink = self.tree.nodes.new("CompositorNodeComposite").inputs["Image"]
        self.layers = self.new("CompositorNodeRLayers")
        self.image = self.layers.outputs["Image"]

    def new(self, kind):
        return self.tree.nodes.new(kind)

    def link(self, source, target):
        self.tree.links.new(source, target)

    def through(self, kind, **values):
        """Puts a node between the image and the sink."""
        node = self.new(kind)
        for name, value in values.items():
            offer(node, name, value)
        colour = next((socket for socket in node.inputs if socket.name == "Image"), None)
        self.link(self.image, colour or next(socket for socket in node.inputs if socket.type == "RGBA"))
        self.image = node.outputs[0]
        return node

    def end(self):
        self.link(self.image, self.sink)


def half_red(s):
    c = Compositor(s.scene)
    node = c.new("CompositorNodeAlphaOver")
    colours = [socket for socket in node.inputs if socket.type == "RGBA"]
    factor = next(socket for socket in node.inputs if socket.type == "VALUE")
    factor.default_value = 0.5
    colours[1].default_value = (1, 0, 0, 1)
    c.link(c.image, colours[0])
    c.image = node.outputs[0]
    c.end()
    return c


def geometry(item, name="Nodes"):
    """A geometry nodes modifier: its tree, its input and its output node."""
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    if hasattr(tree, "interface"):
        tree.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
        tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    else:
        tree.inputs.new("NodeSocketGeometry", "Geometry")
        tree.outputs.new("NodeSocketGeometry", "Geometry")
    start, end = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    modifier = item.modifiers.new(name, "NODES")
    modifier.node_group = tree
    return tree, start, end, modifier


def bake_caches():
    bpy.ops.ptcache.bake_all(bake=True)


def strips(scene):
    editor = scene.sequence_editor_create()
    return editor.strips if hasattr(editor, "strips") else editor.sequences
