"""Everything that has a shape."""
import bpy

from stage import Absent, denoise, displace, feature, geometry, since, surface


def ball(s, **more):
    return s.add(bpy.ops.mesh.primitive_uv_sphere_add, **{"location": (-2, 0, 1), **more})


@feature("Subdivision", "Shapes")
def subdivision(s):
    s.cube.modifiers.new("Subdivision", "SUBSURF").render_levels = 3


def adaptive(s, item):
    modifier = item.modifiers.new("Subdivision", "SUBSURF")
    if hasattr(modifier, "use_adaptive_subdivision"):
        modifier.use_adaptive_subdivision = True
    else:
        s.cycles.feature_set = "EXPERIMENTAL"
        item.cycles.use_adaptive_subdivision = True
    s.cycles.dicing_rate = 4


@feature("Adaptive subdivision", "Shapes", short=1)
def adaptive_subdivision(s):
    adaptive(s, s.cube)


@feature("Adaptive subdivision, moving camera", "Shapes", frames="1-3", short=1)
def adaptive_moving(s):
    adaptive(s, displace(s))
    s.move(s.camera, frames=((1, (7, -7, 5)), (4, (4, -8, 3))))


@feature("Adaptive subdivision, dicing camera", "Shapes", frames="2")
def adaptive_dicing_camera(s):
    adaptive_moving(s)
    s.cycles.dicing_camera = s.object(s.camera.data.copy(), "Dicing")
    s.cycles.dicing_camera.matrix_world = s.camera.matrix_world.copy()


@feature("Hair of particles", "Shapes", short=1)
def hair_particles(s):
    item = ball(s)
    item.modifiers.new("Hair", "PARTICLE_SYSTEM")
    settings = item.particle_systems[0].settings
    settings.type, settings.count, settings.hair_length = "HAIR", 200, 0.8


@feature("Hair of particles with children", "Shapes", frames="1-2")
def hair_children(s):
    hair_particles(s)
    item = bpy.data.objects["Sphere"]
    settings = item.particle_systems[0].settings
    settings.count, settings.child_type = 20, "INTERPOLATED"
    if hasattr(settings, "rendered_child_count"):
        settings.rendered_child_count = 8
    s.cycles_curves = s.scene.cycles_curves
    s.cycles_curves.shape = "THICK"
    s.move(item)


@feature("Hair curves", "Shapes")
def hair_curves(s):
    bpy.ops.object.curves_random_add()
    bpy.context.object.location = (-2, 0, 1)


@feature("Hair shader", "Shapes")
def hair_shader(s):
    hair_particles(s)
    surface(bpy.data.objects["Sphere"], "ShaderNodeBsdfHairPrincipled")


@feature("Geometry nodes: scattered instances", "Shapes", short=1)
def scatter(s):
    tree, start, end, modifier = geometry(s.floor)
    points, copies = tree.nodes.new("GeometryNodeDistributePointsOnFaces"), tree.nodes.new("GeometryNodeInstanceOnPoints")
    cone, join = tree.nodes.new("GeometryNodeMeshCone"), tree.nodes.new("GeometryNodeJoinGeometry")
    cone.inputs["Vertices"].default_value = 5
    copies.inputs["Scale"].default_value = (0.3, 0.3, 0.3)
    tree.links.new(start.outputs[0], points.inputs["Mesh"])
    tree.links.new(points.outputs["Points"], copies.inputs["Points"])
    tree.links.new(cone.outputs["Mesh"], copies.inputs["Instance"])
    tree.links.new(start.outputs[0], join.inputs[0])
    tree.links.new(copies.outputs[0], join.inputs[0])
    tree.links.new(join.outputs[0], end.inputs[0])


@feature("Geometry nodes that read the time", "Shapes", frames="1-3")
def scene_time(s):
    tree, start, end, modifier = geometry(s.cube)
    time, combine, move = (tree.nodes.new(kind) for kind in ("GeometryNodeInputSceneTime", "ShaderNodeCombineXYZ", "GeometryNodeSetPosition"))
    tree.links.new(time.outputs["Seconds"], combine.inputs["Z"])
    tree.links.new(start.outputs[0], move.inputs["Geometry"])
    tree.links.new(combine.outputs[0], move.inputs["Offset"])
    tree.links.new(move.outputs[0], end.inputs[0])


@feature("Geometry nodes that look through the camera", "Shapes", frames="1-2")
def active_camera(s):
    since(4, 1)
    tree, start, end, modifier = geometry(s.cube)
    camera, info, move = (tree.nodes.new(kind) for kind in ("GeometryNodeInputActiveCamera", "GeometryNodeObjectInfo", "GeometryNodeTransform"))
    info.transform_space = "RELATIVE"
    tree.links.new(camera.outputs[0], info.inputs["Object"])
    tree.links.new(start.outputs[0], move.inputs["Geometry"])
    tree.links.new(info.outputs["Rotation"], move.inputs["Rotation"])
    tree.links.new(move.outputs[0], end.inputs[0])
    s.move(s.camera, frames=((1, (7, -7, 5)), (4, (4, -8, 3))))


@feature("Point cloud", "Shapes")
def point_cloud(s):
    tree, start, end, modifier = geometry(s.cube)
    points = tree.nodes.new("GeometryNodeMeshToPoints")
    points.inputs["Radius"].default_value = 0.4
    tree.links.new(start.outputs[0], points.inputs["Mesh"])
    tree.links.new(points.outputs[0], end.inputs[0])


@feature("Shape keys", "Shapes", frames="1-2")
def shape_keys(s):
    s.cube.shape_key_add(name="Basis")
    key = s.cube.shape_key_add(name="Tall")
    for point in key.data:
        point.co.z *= 2
    key.value = 0
    key.keyframe_insert("value", frame=1)
    key.value = 1
    key.keyframe_insert("value", frame=4)


@feature("Armature", "Shapes", frames="1-2")
def armature(s):
    bones = s.add(bpy.ops.object.armature_add)
    s.select(s.cube, bones)
    bpy.context.view_layer.objects.active = bones
    bpy.ops.object.parent_set(type="ARMATURE_AUTO")
    bone = bones.pose.bones[0]
    bone.rotation_mode = "XYZ"
    bone.keyframe_insert("rotation_euler", frame=1)
    bone.rotation_euler = (0.5, 0.3, 0)
    bone.keyframe_insert("rotation_euler", frame=4)


@feature("Collections as instances", "Shapes")
def instances(s):
    made = bpy.data.collections.new("Group")
    made.objects.link(s.cube)
    for i in range(3):
        copy = s.object(None, f"Copy{i}")
        copy.instance_type, copy.instance_collection = "COLLECTION", made
        copy.location, copy.scale = (i * 2 - 3, 3, i), (0.5, 0.5, 0.5)


@feature("Instances on faces and vertices", "Shapes")
def instances_faces(s):
    item = ball(s, segments=8, ring_count=6)
    item.instance_type, item.use_instance_faces_scale = "FACES", True
    s.cube.scale = (0.2, 0.2, 0.2)
    s.cube.parent = item


@feature("Text", "Shapes")
def text(s):
    item = s.add(bpy.ops.object.text_add, location=(-2, -2, 0))
    item.data.body, item.data.extrude, item.data.bevel_depth = "pictor", 0.2, 0.03
    item.rotation_euler = (1.2, 0, 0.5)


@feature("Metaballs", "Shapes")
def metaballs(s):
    for x in (-2, -1):
        s.add(bpy.ops.object.metaball_add, location=(x, 0, 1))


@feature("Curves with a profile", "Shapes")
def curves(s):
    item = s.add(bpy.ops.curve.primitive_bezier_circle_add, location=(-2, 0, 1))
    item.data.bevel_depth = 0.3


@feature("Grease pencil", "Shapes")
def grease_pencil(s):
    operator = bpy.ops.object.gpencil_add if bpy.app.version < (4, 3) else bpy.ops.object.grease_pencil_add
    operator(type="MONKEY", location=(-1, -1, 1))


@feature("Grease pencil with denoiser", "Shapes", within=1e-5, levels=1, why="OpenImageDenoise itself varies in the last bits")
def grease_pencil_denoise(s):
    grease_pencil(s)
    denoise(s)


@feature("Hair in the background set", "Shapes", frames="1-3")
def hair_in_set(s):
    item, other = ball(s), bpy.data.scenes.new("Set")
    item.modifiers.new("Hair", "PARTICLE_SYSTEM")
    hair = item.particle_systems[0].settings
    hair.type, hair.count, hair.hair_length = "HAIR", 200, 0.8
    s.move(item)
    s.move_to(other, item)
    s.scene.background_set = other


@feature("Line art", "Shapes")
def line_art(s):
    old = bpy.app.version < (4, 3)
    operator = bpy.ops.object.gpencil_add if old else bpy.ops.object.grease_pencil_add
    operator(type="LRT_SCENE" if bpy.app.version < (4, 2) else "LINEART_SCENE")


@feature("Array, bevel, boolean, mirror", "Shapes")
def modifiers(s):
    s.cube.modifiers.new("Bevel", "BEVEL").width = 0.2
    s.cube.modifiers.new("Array", "ARRAY").count = 2
    cut = s.cube.modifiers.new("Boolean", "BOOLEAN")
    cut.object = ball(s, location=(1, -1, 1))
    cut.object.hide_render = True


@feature("Waves and an ocean (modifiers of time)", "Shapes", frames="1-2")
def ocean(s):
    if not bpy.app.build_options.mod_oceansim:
        raise Absent("its build has no ocean")
    sea = s.floor.modifiers.new("Ocean", "OCEAN")
    sea.resolution = sea.viewport_resolution = 4
    sea.time = 1
    sea.keyframe_insert("time", frame=1)
    sea.time = 3
    sea.keyframe_insert("time", frame=4)
    item = s.add(bpy.ops.mesh.primitive_grid_add, size=4, location=(0, 0, 2))
    item.modifiers.new("Wave", "WAVE")


@feature("Build modifier", "Shapes", frames="2")
def build_modifier(s):
    build = ball(s).modifiers.new("Build", "BUILD")
    build.frame_start, build.frame_duration = 0, 6


@feature("Constraints and a path", "Shapes", frames="1-3")
def constraints(s):
    path = s.add(bpy.ops.curve.primitive_bezier_circle_add, radius=3)
    path.data.use_path, path.data.path_duration = True, 4
    follow = s.cube.constraints.new("FOLLOW_PATH")
    follow.target = path
    path.data.eval_time = 0
    path.data.keyframe_insert("eval_time", frame=1)
    path.data.eval_time = 3
    path.data.keyframe_insert("eval_time", frame=4)
    track = s.camera.constraints.new("TRACK_TO")
    track.target = s.cube


@feature("Far away from the origin", "Shapes")
def far_away(s):
    for item in list(s.scene.objects):
        item.location.x += 20000
        item.location.y += 70000


@feature("Mirrored and nested scales", "Shapes")
def negative_scale(s):
    parent = s.object(None, "Parent")
    parent.scale, s.cube.parent = (-1, 2, 0.5), parent


@feature("Objects hidden from rendering or from rays", "Shapes")
def visibility(s):
    item = ball(s)
    item.visible_camera, s.cube.visible_shadow = False, False
    ball(s, location=(2, 0, 1)).hide_render = True


@feature("Visibility that is animated", "Shapes", frames="1-3")
def animated_visibility(s):
    s.cube.hide_render = False
    s.cube.keyframe_insert("hide_render", frame=1)
    s.cube.hide_render = True
    s.cube.keyframe_insert("hide_render", frame=2)


@feature("Mesh cache of another program", "Shapes", frames="1-2")
def mesh_cache(s):
    import struct
    points = [tuple(vertex.co) for vertex in s.cube.data.vertices]
    with open(s.at("cube.pc2"), "wb") as file:
        file.write(struct.pack("<12siiffi", b"POINTCACHE2\0", 1, len(points), 0.0, 1.0, 4))
        for frame in range(4):
            for x, y, z in points:
                file.write(struct.pack("<3f", x, y, z * (1 + 0.3 * frame)))
    modifier = s.cube.modifiers.new("Cache", "MESH_CACHE")
    modifier.cache_format, modifier.filepath = "PC2", "//cube.pc2"
