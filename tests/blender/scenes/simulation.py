"""What depends on the frames before: baked, and not. Blender itself does not simulate on while it renders an animation in
the background, so what pictor bakes is compared with what Blender bakes."""
import bpy

from stage import Absent, Compositor, bake_caches, feature, geometry, since, strips, surface

UNBAKED = {"frames": "3-6", "compare": [], "refused": True}
BAKE = {"frames": "3-6", "run": True, "bake": True, "render": {"simulate": "bake"}}


def begin(s, last=6):
    s.scene.frame_start, s.scene.frame_end = 1, last


def cloth(s):
    begin(s)
    item = s.add(bpy.ops.mesh.primitive_grid_add, x_subdivisions=10, y_subdivisions=10, size=3, location=(0, 0, 2))
    item.modifiers.new("Cloth", "CLOTH").point_cache.frame_end = 6
    s.cube.modifiers.new("Collision", "COLLISION")


@feature("Cloth, not baked", "Simulation", short=2, **UNBAKED)
def cloth_unbaked(s):
    cloth(s)


@feature("Cloth, baked by pictor", "Simulation", short=1, **BAKE)
def cloth_by_pictor(s):
    cloth(s)


@feature("Cloth, not baked and ignored", "Simulation", frames="5", note="not baked", render={"simulate": "ignore"})
def cloth_ignored(s):
    cloth(s)


@feature("Cloth, baked", "Simulation", frames="4-6", short=1)
def cloth_baked(s):
    cloth(s)
    bake_caches()


def soft_body(s):
    begin(s)
    s.cube.location.z = 2
    s.cube.modifiers.new("Softbody", "SOFT_BODY").point_cache.frame_end = 6


@feature("Soft body, not baked", "Simulation", **UNBAKED)
def soft_body_unbaked(s):
    soft_body(s)


@feature("Soft body, baked by pictor", "Simulation", **BAKE)
def soft_body_by_pictor(s):
    soft_body(s)


@feature("Soft body, baked", "Simulation", frames="4-6")
def soft_body_baked(s):
    soft_body(s)
    bake_caches()


def rigid_body(s):
    begin(s)
    s.cube.location, s.cube.rotation_euler = (0, 0, 1), (0.5, 0.4, 0)
    s.select(s.cube)
    bpy.ops.rigidbody.object_add()
    s.select(s.floor)
    bpy.ops.rigidbody.object_add(type="PASSIVE")
    s.scene.rigidbody_world.point_cache.frame_end = 6


@feature("Rigid bodies, not baked", "Simulation", short=1, **UNBAKED)
def rigid_body_unbaked(s):
    rigid_body(s)


@feature("Rigid bodies, baked by pictor", "Simulation", **BAKE)
def rigid_body_by_pictor(s):
    rigid_body(s)


@feature("Rigid bodies, baked", "Simulation", frames="4-6")
def rigid_body_baked(s):
    rigid_body(s)
    bake_caches()


def particles(s):
    begin(s)
    s.cube.modifiers.new("Particles", "PARTICLE_SYSTEM")
    system = s.cube.particle_systems[0]
    settings = system.settings
    settings.count, settings.frame_start, settings.frame_end, settings.lifetime = 60, 1, 6, 50
    settings.render_type, settings.particle_size = "HALO" if bpy.app.version < (2, 90) else "OBJECT", 0.1
    item = s.add(bpy.ops.mesh.primitive_ico_sphere_add, subdivisions=1, location=(0, 0, -5))
    settings.instance_object = item
    system.point_cache.frame_end = 6


@feature("Particles, not baked", "Simulation", **UNBAKED)
def particles_unbaked(s):
    particles(s)


@feature("Particles, baked by pictor", "Simulation", **BAKE)
def particles_by_pictor(s):
    particles(s)


@feature("Particles, baked", "Simulation", frames="4-6")
def particles_baked(s):
    particles(s)
    bake_caches()


def zone(s):
    """A simulation zone that lifts the cube a little in each frame."""
    since(3, 6)
    begin(s)
    tree, start, end, modifier = geometry(s.cube)
    first, last = tree.nodes.new("GeometryNodeSimulationInput"), tree.nodes.new("GeometryNodeSimulationOutput")
    first.pair_with_output(last)
    move = tree.nodes.new("GeometryNodeTransform")
    move.inputs["Translation"].default_value = (0.2, 0, 0.2)
    tree.links.new(start.outputs[0], first.inputs["Geometry"])
    tree.links.new(first.outputs["Geometry"], move.inputs["Geometry"])
    tree.links.new(move.outputs[0], last.inputs["Geometry"])
    tree.links.new(last.outputs["Geometry"], end.inputs[0])
    return modifier


@feature("Simulation zone, not baked", "Simulation", **UNBAKED)
def simulation_zone_unbaked(s):
    zone(s)


@feature("Simulation zone, baked by pictor", "Simulation", **BAKE)
def simulation_zone_by_pictor(s):
    zone(s)


@feature("Simulation zone, baked", "Simulation", frames="4-6")
def simulation_zone_baked(s):
    modifier = zone(s)
    s.save()
    setattr(modifier, "bake_directory" if hasattr(modifier, "bake_directory") else "simulation_bake_directory", "//zone")
    s.select(s.cube)
    bpy.ops.object.simulation_nodes_cache_bake(selected=False)


def fluid(s):
    begin(s, 4)
    domain = s.add(bpy.ops.mesh.primitive_cube_add, size=4, location=(0, 0, 1))
    domain.modifiers.new("Fluid", "FLUID").fluid_type = "DOMAIN"
    settings = domain.modifiers["Fluid"].domain_settings
    settings.domain_type, settings.resolution_max = "LIQUID", 12
    settings.cache_frame_start, settings.cache_frame_end = 1, 4
    settings.cache_directory = "//fluid"
    settings.use_mesh = True
    flow = s.cube.modifiers.new("Fluid", "FLUID")
    flow.fluid_type = "FLOW"
    flow.flow_settings.flow_type, flow.flow_settings.flow_behavior = "LIQUID", "GEOMETRY"
    s.cube.scale = (0.5, 0.5, 0.5)
    s.cube.hide_render = True
    return domain, settings


def needs_solver():
    if not bpy.app.binary_path:
        raise Absent("PyPI's module has no working solver for fluids")


@feature("Fluid, not baked", "Simulation", **UNBAKED)
def fluid_unbaked(s):
    fluid(s)


@feature("Fluid, baked", "Simulation", frames="3-4")
def fluid_baked(s):
    needs_solver()
    domain, settings = fluid(s)
    settings.cache_type = "ALL"
    s.save()
    s.select(domain)
    bpy.ops.fluid.bake_all()


def smoke(s):
    begin(s, 4)
    domain = s.add(bpy.ops.mesh.primitive_cube_add, size=4, location=(0, 0, 1))
    domain.modifiers.new("Fluid", "FLUID").fluid_type = "DOMAIN"
    settings = domain.modifiers["Fluid"].domain_settings
    settings.domain_type, settings.resolution_max = "GAS", 12
    settings.cache_frame_start, settings.cache_frame_end = 1, 4
    settings.cache_directory = "//smoke"
    surface(domain, "ShaderNodeVolumePrincipled")
    flow = s.cube.modifiers.new("Fluid", "FLUID")
    flow.fluid_type = "FLOW"
    flow.flow_settings.flow_type, flow.flow_settings.flow_behavior = "SMOKE", "INFLOW"
    s.cube.scale = (0.5, 0.5, 0.5)
    return domain, settings


@feature("Smoke, baked", "Simulation", frames="3-4")
def smoke_baked(s):
    needs_solver()
    domain, settings = smoke(s)
    settings.cache_type = "ALL"
    s.save()
    s.select(domain)
    bpy.ops.fluid.bake_all()


def dynamic_paint(s):
    begin(s)
    canvas = s.add(bpy.ops.mesh.primitive_grid_add, x_subdivisions=20, y_subdivisions=20, size=6, location=(0, 0, -0.5))
    paint = canvas.modifiers.new("Paint", "DYNAMIC_PAINT")
    s.select(canvas)
    bpy.ops.dpaint.type_toggle(type="CANVAS")
    surface = paint.canvas_settings.canvas_surfaces[0]
    surface.surface_type, surface.frame_start, surface.frame_end = "WAVE", 1, 6
    brush = s.cube.modifiers.new("Paint", "DYNAMIC_PAINT")
    s.select(s.cube)
    brush.ui_type = "BRUSH"
    bpy.ops.dpaint.type_toggle(type="BRUSH")
    s.move(s.cube, frames=((1, (-2, 0, -0.5)), (6, (2, 0, -0.5))))
    return canvas


@feature("Dynamic paint, not baked", "Simulation", **UNBAKED)
def dynamic_paint_unbaked(s):
    dynamic_paint(s)


@feature("Dynamic paint, baked by pictor", "Simulation", **BAKE)
def dynamic_paint_by_pictor(s):
    dynamic_paint(s)


@feature("Dynamic paint, baked", "Simulation", frames="4-6")
def dynamic_paint_baked(s):
    dynamic_paint(s)
    bake_caches()


@feature("Hair dynamics, not baked", "Simulation", **UNBAKED)
def hair_dynamics_unbaked(s):
    begin(s)
    item = s.add(bpy.ops.mesh.primitive_uv_sphere_add, location=(-2, 0, 1))
    item.modifiers.new("Hair", "PARTICLE_SYSTEM")
    system = item.particle_systems[0]
    system.settings.type, system.settings.count, system.settings.hair_length = "HAIR", 60, 1
    system.use_hair_dynamics = True
    s.move(item)


def cloth_elsewhere(s):
    """Cloth in a scene of its own, which can be rendered as it is."""
    cloth(s)
    other = bpy.data.scenes.new("Other")
    item = next(item for item in s.scene.objects if item.modifiers.get("Cloth"))
    s.move_to(other, item)
    s.select(s.cube)
    for item in (s.camera, s.light):
        other.collection.objects.link(item)
    other.camera, other.render.engine, other.cycles.samples, other.cycles.use_denoising = s.camera, "CYCLES", 2, False
    other.render.resolution_x, other.render.resolution_y, other.frame_end = 96, 54, 6
    return other


@feature("Cloth in the background set, not baked", "Simulation", short=1, **UNBAKED)
def cloth_in_set(s):
    s.scene.background_set = cloth_elsewhere(s)


@feature("Cloth in the background set, baked by pictor", "Simulation", **BAKE)
def cloth_in_set_by_pictor(s):
    s.scene.background_set = cloth_elsewhere(s)


@feature("Cloth in a scene that the compositor reads, not baked", "Simulation", **UNBAKED)
def cloth_in_compositor(s):
    c, other = Compositor(s.scene), cloth_elsewhere(s)
    c.layers.scene = other
    c.end()


@feature("Cloth in a scene that the edit shows, not baked", "Simulation", **UNBAKED)
def cloth_in_edit(s):
    strips(s.scene).new_scene("shot", cloth_elsewhere(s), 1, 1)


@feature("Cloth in a scene that nothing shows, not baked", "Simulation", frames="5")
def cloth_nowhere(s):
    cloth_elsewhere(s)
