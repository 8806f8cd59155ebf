"""Film, passes and view layers."""
import bpy

from stage import denoise, feature, half_red, material, surface

WHY = "OpenImageDenoise itself varies in the last bits"


@feature("Transparent film", "Film and passes")
def film_transparent(s):
    s.render.film_transparent = True
    s.render.image_settings.color_mode = "RGBA"


@feature("Transparent film, transparent glass", "Film and passes")
def film_glass(s):
    film_transparent(s)
    s.cycles.film_transparent_glass = True
    surface(s.cube, "ShaderNodeBsdfGlass")


@feature("Film exposure", "Film and passes")
def film_exposure(s):
    s.cycles.film_exposure = 1.7


@feature("Shadow catcher", "Film and passes", short=1)
def shadow_catcher(s):
    film_transparent(s)
    s.floor.is_shadow_catcher = True


@feature("Shadow catcher with denoiser", "Film and passes", short=2, within=1e-5, levels=1, why=WHY)
def shadow_catcher_denoise(s):
    shadow_catcher(s)
    denoise(s)


@feature("Shadow catcher in the background set, with denoiser", "Film and passes", within=1e-5, levels=1, why=WHY)
def shadow_catcher_in_set(s):
    shadow_catcher_denoise(s)
    s.scene.background_set = bpy.data.scenes.new("Set")
    s.move_to(s.scene.background_set, s.floor)


@feature("Holdout", "Film and passes", short=1)
def holdout(s):
    film_transparent(s)
    s.cube.is_holdout = True


@feature("Holdout as a material", "Film and passes")
def holdout_material(s):
    film_transparent(s)
    surface(s.cube, "ShaderNodeHoldout")


@feature("Collections held out, excluded, indirect only", "Film and passes")
def layer_collections(s):
    film_transparent(s)
    for i, name in enumerate(("holdout", "indirect_only", "exclude")):
        made = bpy.data.collections.new(name)
        s.scene.collection.children.link(made)
        copy = s.cube.copy()
        copy.location = (i * 2.5 - 3, 2, 0)
        made.objects.link(copy)
        setattr(s.layer.layer_collection.children[name], name, True)


def all_passes(s):
    for name in ("z", "mist", "position", "normal", "vector", "uv", "object_index", "material_index", "diffuse_direct", "diffuse_indirect",
                 "diffuse_color", "glossy_direct", "glossy_indirect", "glossy_color", "transmission_direct", "transmission_indirect",
                 "transmission_color", "emit", "environment", "shadow", "ambient_occlusion", "subsurface_direct", "subsurface_color",
                 "cryptomatte_object", "cryptomatte_material", "cryptomatte_asset"):
        if hasattr(s.layer, f"use_pass_{name}"):
            setattr(s.layer, f"use_pass_{name}", True)
    s.layer.cycles.pass_debug_sample_count = s.layer.cycles.use_pass_volume_direct = True
    s.cube.pass_index = 3


@feature("All passes", "Film and passes", compare=["layers"], short=1)
def passes(s):
    all_passes(s)


@feature("All passes and the picture in `exr`", "Film and passes")
def passes_exr(s):
    all_passes(s)


@feature("Passes as files beside the picture", "Film and passes", compare=["exr"], output={"passes": True})
def passes_files(s):
    s.layer.use_pass_z = s.layer.use_pass_normal = True


@feature("Passes of the denoiser", "Film and passes", compare=["layers"], within=1e-5, levels=1, why=WHY)
def passes_denoising(s):
    s.layer.cycles.denoising_store_passes = True


@feature("Adaptive sampling with passes", "Film and passes", compare=["layers"])
def passes_adaptive(s):
    all_passes(s)
    s.cycles.use_adaptive_sampling, s.cycles.samples = True, 16


@feature("Cryptomatte passes", "Film and passes", compare=["layers"], short=1)
def cryptomatte(s):
    s.layer.use_pass_cryptomatte_object = s.layer.use_pass_cryptomatte_material = s.layer.use_pass_cryptomatte_asset = True
    s.layer.pass_cryptomatte_depth = 4


@feature("AOVs", "Film and passes", compare=["layers"], short=1)
def aovs(s):
    for name, kind in (("Mask", "VALUE"), ("Tint", "COLOR")):
        made = s.layer.aovs.add()
        made.name, made.type = name, kind
        tree = (s.cube.data.materials[0] if s.cube.data.materials[0] else material(s.cube)[0]).node_tree
        node = tree.nodes.new("ShaderNodeOutputAOV")
        if hasattr(node, "aov_name"):
            node.aov_name = name
        else:
            node.name = name
        node.inputs["Value"].default_value, node.inputs["Color"].default_value = 0.7, (0.2, 0.8, 0.1, 1)


@feature("Several view layers", "Film and passes", compare=["layers"], short=1)
def view_layers(s):
    second = s.scene.view_layers.new("Second")
    second.use_pass_z = True
    second.layer_collection.exclude = False
    third = s.scene.view_layers.new("Off")
    third.use = False
    second.samples = 2


@feature("Several view layers, the picture", "Film and passes")
def view_layers_picture(s):
    view_layers(s)


@feature("View layer with a material of its own", "Film and passes", compare=["layers"])
def view_layer_override(s):
    made = bpy.data.materials.new("Clay")
    second = s.scene.view_layers.new("Clay")
    second.material_override = made


@feature("Multilayer, denoised and composited", "Film and passes", compare=["layers"], short=2, within=1e-5, levels=1, why=WHY)
def multilayer_finished(s):
    denoise(s)
    half_red(s)


@feature("Multilayer, composited", "Film and passes", compare=["layers"], short=1)
def multilayer_composited(s):
    half_red(s)


@feature("Multilayer, stereoscopic", "Film and passes", compare=["layers"])
def multilayer_stereo(s):
    s.render.use_multiview = True
