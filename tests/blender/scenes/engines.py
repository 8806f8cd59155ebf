"""Render engines, and how Cycles samples."""
import bpy

from stage import choose, denoise, feature, since, surface

EEVEE = ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE")


@feature("Cycles", "Engines", short=2)
def cycles(s):
    pass


@feature("Cycles, Blender's own factory scene", "Engines")
def factory(s):
    """As somebody begins: adaptive sampling and denoiser as the version has them, few samples."""
    bpy.ops.wm.read_factory_settings()
    s.scene = bpy.context.scene
    s.scene.render.engine, s.scene.cycles.samples, s.scene.cycles.use_denoising = "CYCLES", 4, False
    s.scene.render.resolution_x, s.scene.render.resolution_y = 96, 54


@feature("EEVEE, in tiles", "Engines", short=1)
def eevee(s):
    choose(s.render, "engine", *EEVEE)
    s.scene.eevee.taa_render_samples = 4


@feature("EEVEE, whole frames", "Engines", tiles="1x1")
def eevee_whole(s):
    eevee(s)


@feature("EEVEE: bloom, shadows, motion blur", "Engines", frames="2")
def eevee_effects(s):
    eevee(s)
    for name in ("use_bloom", "use_ssr", "use_raytracing", "use_gtao", "use_motion_blur", "use_soft_shadows"):
        if hasattr(s.scene.eevee, name):
            setattr(s.scene.eevee, name, True)
    s.render.use_motion_blur = True
    s.move(s.cube)


@feature("Workbench", "Engines")
def workbench(s):
    s.render.engine = "BLENDER_WORKBENCH"


@feature("Workbench: shadow, cavity, outline", "Engines")
def workbench_effects(s):
    s.render.engine = "BLENDER_WORKBENCH"
    shading = s.scene.display.shading
    shading.light, shading.show_shadows, shading.show_cavity, shading.show_object_outline = "STUDIO", True, True, True
    shading.cavity_type = "BOTH"


@feature("Freestyle", "Engines", short=1)
def freestyle(s):
    s.render.use_freestyle, s.render.line_thickness, s.layer.use_freestyle = True, 2, True
    if not s.layer.freestyle_settings.linesets:
        bpy.ops.scene.freestyle_lineset_add()


@feature("Freestyle as a pass of its own", "Engines")
def freestyle_pass(s):
    freestyle(s)
    s.layer.freestyle_settings.as_render_pass = True


@feature("Freestyle with denoiser", "Engines", within=1e-5, levels=1, why="OpenImageDenoise itself varies in the last bits")
def freestyle_denoise(s):
    freestyle(s)
    denoise(s)


@feature("Adaptive sampling", "Sampling", short=1)
def adaptive_sampling(s):
    s.cycles.use_adaptive_sampling, s.cycles.adaptive_threshold = True, 0.2
    s.cycles.adaptive_min_samples, s.cycles.samples = 2, 16


@feature("Denoiser", "Sampling", short=1, within=1e-5, levels=1, why="OpenImageDenoise itself varies in the last bits")
def denoiser(s):
    denoise(s)


@feature("Denoiser with animation, albedo only", "Sampling", frames="1-2", within=1e-5, levels=1, why="OpenImageDenoise itself varies in the last bits")
def denoiser_albedo(s):
    denoise(s)
    s.cycles.denoising_input_passes, s.cycles.denoising_prefilter = "RGB_ALBEDO", "FAST"
    s.move(s.cube)


@feature("Denoiser with film transparent", "Sampling", within=1e-5, levels=1, why="OpenImageDenoise itself varies in the last bits")
def denoiser_transparent(s):
    denoise(s)
    s.render.film_transparent = True


@feature("Path guiding", "Sampling", short=1)
def path_guiding(s):
    since(3, 4)
    s.cycles.use_guiding, s.cycles.samples = True, 32


@feature("Time limit of a frame", "Sampling", short=1)
def time_limit(s):
    """Long enough for all samples: plain Blender's frame is then always the same."""
    s.cycles.time_limit = 100


@feature("Seed from a driver (#frame)", "Sampling", frames="1-2", short=1)
def seed_driver(s):
    s.cycles.driver_add("seed").driver.expression = "frame"


@feature("Animated seed", "Sampling", frames="2-3")
def seed_animated(s):
    s.cycles.use_animated_seed = True


@feature("Light tree off", "Sampling")
def light_tree_off(s):
    since(3, 5)
    s.cycles.use_light_tree = False


@feature("Sobol pattern", "Sampling")
def sobol(s):
    choose(s.cycles, "sampling_pattern", "TABULATED_SOBOL", "SOBOL")


@feature("Blue noise pattern", "Sampling")
def blue_noise(s):
    since(4, 2)
    choose(s.cycles, "sampling_pattern", "BLUE_NOISE")


@feature("Scrambling distance", "Sampling")
def scrambling(s):
    s.cycles.scrambling_distance = 0.5
    choose(s.cycles, "sampling_pattern", "TABULATED_SOBOL", "SOBOL")


@feature("Cycles' own tiles", "Sampling")
def auto_tile(s):
    s.cycles.use_auto_tile, s.cycles.tile_size = True, 32


@feature("Sample offset", "Sampling")
def sample_offset(s):
    s.cycles.sample_offset = 8


@feature("Clamping and glossy filter", "Sampling")
def clamping(s):
    s.cycles.sample_clamp_direct = s.cycles.sample_clamp_indirect = 0.5
    s.cycles.blur_glossy = 2
    surface(s.cube, "ShaderNodeBsdfGlossy" if bpy.app.version < (4, 0) else "ShaderNodeBsdfAnisotropic", Roughness=0.1)


@feature("Pixel filter, wide", "Sampling", short=1)
def pixel_filter(s):
    s.cycles.pixel_filter_type, s.cycles.filter_width = "GAUSSIAN", 6


@feature("Fast global illumination", "Sampling")
def fast_gi(s):
    s.cycles.use_fast_gi = True
    s.cycles.ao_bounces_render = 1


@feature("Simplify", "Sampling")
def simplify(s):
    s.render.use_simplify, s.render.simplify_subdivision_render = True, 1
    s.cube.modifiers.new("Subdivision", "SUBSURF").render_levels = 4


@feature("Persistent data", "Sampling", frames="1-3", short=1)
def persistent_data(s):
    s.render.use_persistent_data = True
    s.move(s.cube)


@feature("Persistent data, hair that moves", "Sampling", frames="1-3", order="preview")
def persistent_hair(s):
    persistent_data(s)
    s.add(bpy.ops.mesh.primitive_uv_sphere_add, location=(-2, 0, 1))
    ball = bpy.context.object
    ball.modifiers.new("Hair", "PARTICLE_SYSTEM")
    settings = ball.particle_systems[0].settings
    settings.type, settings.count, settings.hair_length = "HAIR", 150, 0.8
    s.move(ball)
