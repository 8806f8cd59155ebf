"""Makes a scene of every kind of simulation that this Blender has, not baked and baked, and the frames of the baked one.

blender -b --factory-startup -P simulations.py -- FOLDER KIND…     -> FOLDER/KIND/{scene,baked}.blend, FOLDER/KIND/plain/0001.exr …
"""
import os
import sys

import bpy

out, *kinds = sys.argv[sys.argv.index("--") + 1:]
LAST = 6


def empty():
    bpy.ops.wm.read_factory_settings()
    scene = bpy.context.scene
    render, cycles, image = scene.render, scene.cycles, scene.render.image_settings
    render.engine, cycles.samples, cycles.seed = "CYCLES", 2, 3
    cycles.use_adaptive_sampling = cycles.use_denoising = False
    render.resolution_x, render.resolution_y, render.resolution_percentage = 48, 27, 100
    scene.frame_start, scene.frame_end = 1, LAST
    scene.gravity = (0, 0, -60)
    image.file_format, image.color_mode, image.color_depth = "OPEN_EXR", "RGBA", "32"
    bpy.ops.mesh.primitive_plane_add(size=20, location=(0, 0, -1))
    return scene, bpy.data.objects["Cube"]


def grid(height, points=10):
    bpy.ops.mesh.primitive_grid_add(x_subdivisions=points, y_subdivisions=points, size=3, location=(0, 0, height))
    return bpy.context.object


def moving(item):
    for frame, x in ((1, -2), (LAST, 2)):
        item.location.x = x
        item.keyframe_insert("location", frame=frame)


def cloth(scene, cube):
    cube.modifiers.new("Collision", "COLLISION")
    grid(2).modifiers.new("Cloth", "CLOTH")


def cage(scene, cube):
    """Cloth that is not rendered and has more points in rendering, and a surface that follows it."""
    item = grid(2, 6)
    divided = item.modifiers.new("Subdivision", "SUBSURF")
    divided.levels = divided.render_levels = 1
    item.modifiers.new("Cloth", "CLOTH")
    follower = grid(2.02)
    deform = follower.modifiers.new("Deform", "SURFACE_DEFORM")
    deform.target = item
    with bpy.context.temp_override(object=follower, active_object=follower):
        bpy.ops.object.surfacedeform_bind(modifier="Deform")
    item.hide_render = True


def soft(scene, cube):
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=2, location=(0, 0, 3))
    bpy.context.object.modifiers.new("Softbody", "SOFT_BODY")
    bpy.context.object.soft_body.use_goal = False


def rigid(scene, cube):
    bpy.context.view_layer.objects.active = cube
    bpy.ops.rigidbody.object_add(type="PASSIVE")
    for place in range(3):
        bpy.ops.mesh.primitive_cube_add(size=0.7, location=(0.3 * place - 0.5, 0.2 * place, 1.5 + place), rotation=(0.3 * place, 0.2, 0.1))
        bpy.ops.rigidbody.object_add(type="ACTIVE")


def particles(scene, cube):
    bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=1, radius=0.15, location=(30, 0, 0))
    ball, item = bpy.context.object, grid(2)
    item.modifiers.new("Particles", "PARTICLE_SYSTEM")
    system = item.particle_systems[0].settings
    system.count, system.frame_end, system.brownian_factor = 200, LAST, 3
    system.render_type, system.instance_object, system.particle_size = "OBJECT", ball, 1


def hair(scene, cube):
    cube.modifiers.new("Hair", "PARTICLE_SYSTEM")
    system = cube.particle_systems[0]
    system.settings.type, system.settings.count, system.settings.hair_length, system.settings.root_radius = "HAIR", 40, 2, 8
    system.use_hair_dynamics = True
    system.point_cache.frame_end = LAST
    moving(cube)


def paint(scene, cube):
    for item, kind in ((grid(1, 40), "CANVAS"), (cube, "BRUSH")):
        modifier = item.modifiers.new("Paint", "DYNAMIC_PAINT")
        modifier.ui_type = kind
        with bpy.context.temp_override(object=item, active_object=item):
            bpy.ops.dpaint.type_toggle(type=kind)
        if kind == "CANVAS":
            modifier.canvas_settings.canvas_surfaces[0].surface_type = "WAVE"
    cube.location.z = 1
    moving(cube)


def smoke(scene, cube):
    cube.scale, cube.location = (2, 2, 2), (0, 0, 1.5)
    domain = cube.modifiers.new("Fluid", "FLUID")
    domain.fluid_type = "DOMAIN"
    domain.domain_settings.resolution_max = 16
    domain.domain_settings.cache_directory = "//smoke"
    domain.domain_settings.cache_frame_end = LAST
    nodes = bpy.data.materials["Material"].node_tree
    volume = nodes.nodes.new("ShaderNodeVolumePrincipled")
    volume.inputs["Density"].default_value = 30
    end = nodes.nodes["Material Output"]
    nodes.links.remove(end.inputs["Surface"].links[0])
    nodes.links.new(volume.outputs[0], end.inputs["Volume"])
    bpy.ops.mesh.primitive_ico_sphere_add(radius=0.5, location=(0, 0, 0.6))
    flow = bpy.context.object.modifiers.new("Fluid", "FLUID")
    flow.fluid_type = "FLOW"
    flow.flow_settings.flow_type, flow.flow_settings.flow_behavior = "SMOKE", "INFLOW"


def zone(scene, cube):
    modifier = cube.modifiers.new("Zone", "NODES")
    modifier.node_group = tree = bpy.data.node_groups.new("Zone", "GeometryNodeTree")
    for side in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=side, socket_type="NodeSocketGeometry")
    names = ("NodeGroupInput", "GeometryNodeSimulationInput", "GeometryNodeTransform", "GeometryNodeSimulationOutput", "NodeGroupOutput")
    source, first, move, last, sink = [tree.nodes.new(name) for name in names]
    first.pair_with_output(last)
    move.inputs["Translation"].default_value = (0.25, 0, 0.1)

    def geometry(sockets):
        return next(socket for socket in sockets if socket.type == "GEOMETRY")
    for one, other in ((source, first), (first, move), (move, last), (last, sink)):
        tree.links.new(geometry(one.outputs), geometry(other.inputs))


def still(scene, cube):
    """What needs no earlier frame: hair, particles without physics, paint that only writes pictures, a simulation that nobody sees."""
    for kind in ("HAIR", "EMITTER"):
        cube.modifiers.new("Particles", "PARTICLE_SYSTEM")
        system = cube.particle_systems[-1].settings
        system.type, system.physics_type, system.count = kind, "NO", 20
    unseen = grid(2)
    unseen.modifiers.new("Cloth", "CLOTH")
    unseen.hide_render = True


def bake():
    """As the buttons do."""
    scene = bpy.context.scene
    bpy.ops.ptcache.bake_all(bake=True)
    for item in scene.objects:
        with bpy.context.temp_override(object=item, active_object=item):
            for system in item.particle_systems:
                if system.use_hair_dynamics:
                    with bpy.context.temp_override(point_cache=system.point_cache):
                        bpy.ops.ptcache.bake(bake=True)
            for modifier in item.modifiers:
                if modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
                    modifier.domain_settings.cache_type = "ALL"
                    bpy.ops.fluid.bake_all()
                for one in getattr(modifier, "bakes", ()):
                    bpy.ops.object.geometry_node_bake_single(session_uid=item.session_uid, modifier_name=modifier.name, bake_id=one.bake_id)


for kind in kinds:
    folder = os.path.join(out, kind)
    os.makedirs(folder)
    globals()[kind](*empty())
    bpy.ops.wm.save_as_mainfile(filepath=os.path.join(folder, "scene.blend"))
    bpy.ops.wm.save_as_mainfile(filepath=os.path.join(folder, "baked.blend"))
    bake()
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=bpy.data.filepath)
    bpy.context.scene.render.filepath = os.path.join(folder, "plain", "####")
    bpy.ops.render.render(animation=True)
