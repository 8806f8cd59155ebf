"""How a frame of the scene can be rendered so that it equals Blender's own: cut into tiles, with a margin, only as a whole, or
only by Blender's own pipeline from end to end; and what the user is told about it."""
import ctypes

import bpy

from scene import Fail, blocked_scripts, camera_names, missing_files, nodes_within, strips, version
from settings import curves

MARGIN = 16  # pixels; adaptive sampling and volume guiding depend on neighbours: only this border of a region differs
VIDEOS = ("FFMPEG", "AVI_JPEG", "AVI_RAW", "H264", "XVID", "THEORA")
WRITTEN = ("PNG", "JPEG", "TIFF", "OPEN_EXR", "OPEN_EXR_MULTILAYER")  # what frames and previews can be
# Types that can catch a shadow; the light in Blender's default file has that flag set, too.
SOLID = ("MESH", "CURVE", "SURFACE", "META", "FONT", "CURVES", "HAIR", "POINTCLOUD", "VOLUME", "GREASEPENCIL")
STROKES = ("GPENCIL", "GREASEPENCIL")  # before Blender 4.3, and since
# Those of the render's passes that are always there.
GIVEN_PASSES = ("use_pass_combined", "use_pass_cryptomatte_accurate")


# # ---- requirements of the scene
# ------------------------------------------------------------------------------------------

def tree_of(scene):
    if hasattr(scene, "compositing_node_group"):  # Blender 5
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def composites(scene, settings):
    """The compositor's tree, if it is in use."""
    tree = tree_of(scene)
    if settings.get("compositor") is False or not scene.render.use_compositing or not tree:
        return None
    return tree if list(tree.nodes) else None


def ends(tree):
    """Whether the compositor has an output for the picture."""
    return any(node.type in ("COMPOSITE", "GROUP_OUTPUT") and not node.mute and any(socket.is_linked for socket in node.inputs)
               for node in tree.nodes)


def denoises(scene, settings):
    return (scene.render.engine == "CYCLES" and scene.cycles.use_denoising and settings.get("denoise") is not False
            and any(layer.cycles.use_denoising for layer in scene.view_layers if layer.use))


def sequences(scene, settings):
    """Whether the frames come from the video sequencer."""
    return bool(settings.get("sequencer") is not False and scene.render.use_sequencer and any(not strip.mute for strip in strips(scene)))


def bordered(scene, settings):
    return scene.render.use_border and settings.get("border") is not False


def views(scene):
    """The names of the views that the scene renders, if there are several."""
    if not scene.render.use_multiview:
        return []
    if scene.render.views_format == "STEREO_3D":
        return ["left", "right"]
    return [view.name for view in scene.render.views if view.use]


def with_sets(scene):
    """The scene, its background set, the set of that one, and so on."""
    found = []
    while scene and scene not in found:
        found.append(scene)
        scene = scene.background_set
    return found


def shown_scenes(scene, settings):
    """Every scene that contributes to the frame: background sets, scenes read by the compositor, scenes shown by the sequencer."""
    found, waiting = [], [scene]
    while waiting:
        for item in with_sets(waiting.pop()):
            if item in found:
                continue
            found.append(item)
            own = settings if item == scene else {}  # the job's settings are for the scene that it renders
            tree = composites(item, own)
            waiting += [node.scene for node in (nodes_within(tree) if tree else ())
                        if node.type in ("R_LAYERS", "CRYPTOMATTE_V2") and not node.mute and node.scene]
            if sequences(item, own):
                waiting += [strip.scene for strip in strips(item) if strip.type == "SCENE" and not strip.mute and strip.scene]
    return found


def rendered_objects(scene):
    """What may be in the picture: the objects of the scene and its sets, and those of the collections that they instance."""
    seen, waiting = set(), [item for part in with_sets(scene) for item in part.objects]
    while waiting:
        item = waiting.pop()
        if item.name_full in seen or item.hide_render:
            continue
        seen.add(item.name_full)
        yield item
        if item.instance_collection:
            waiting += item.instance_collection.all_objects
        if any(modifier.type == "NODES" for modifier in item.modifiers):  # its nodes may instance any object
            waiting += [other for other in bpy.data.objects if other.name_full not in seen]


def subdivides_adaptively(scene):
    if scene.render.engine != "CYCLES":
        return False
    experimental = getattr(scene.cycles, "feature_set", "") == "EXPERIMENTAL"
    for item in rendered_objects(scene):
        for modifier in item.modifiers:
            if modifier.type == "SUBSURF" and modifier.show_render and (
                    getattr(modifier, "use_adaptive_subdivision", False)
                    or experimental and getattr(getattr(item, "cycles", None), "use_adaptive_subdivision", False)):
                return True
    return False


def has_hair(scene):
    return any(item.type in ("CURVES", "HAIR") or any(system.settings.type == "HAIR" for system in item.particle_systems)
               for item in rendered_objects(scene))


def has_volumes(scene):
    def of(tree):
        return tree and any(node.bl_idname in ("ShaderNodeOutputMaterial", "ShaderNodeOutputWorld") and node.inputs["Volume"].is_linked
                            for node in tree.nodes)
    return (any(item.type == "VOLUME" for item in rendered_objects(scene)) or of(scene.world and scene.world.node_tree)
            or any(of(material.node_tree) for material in bpy.data.materials if material.users))


def repeats(scene):
    """Whether a warm session renders a frame bit for bit like a fresh one when the scene's data is kept between renders. Hair and
    adaptive subdivision differ depending on what was rendered before, Blender 4.5 forgets that a view layer has its own number of
    samples, and animated render settings (Simplify) keep their values of the first frame."""
    return not (has_hair(scene) or subdivides_adaptively(scene) or any(layer.samples for layer in scene.view_layers if layer.use)
                or animated_settings(scene))


def animated_settings(scene):
    return sorted({curve.data_path.removeprefix("render.") for curve in curves(scene) if curve.data_path.startswith("render.")})


# # ---- ways to render it
# --------------------------------------------------------------------------------------------------

def whole_reasons(scene, settings):
    """Reasons why a frame cannot be assembled from tiles."""
    render, reasons = scene.render, []
    if render.engine != "CYCLES":
        name = "EEVEE" if "EEVEE" in render.engine else render.engine.replace("BLENDER_", "").title()
        reasons.append(f"{name} draws the parts of a frame differently from the whole")
    else:
        if getattr(scene.cycles, "use_guiding", False):
            reasons.append("path guiding learns from the whole frame")
        if scene.cycles.time_limit > 0:
            reasons.append("Cycles' time limit is for a whole frame")
        if subdivides_adaptively(scene):
            reasons.append("adaptive subdivision depends on the whole frame")
    if render.use_freestyle and any(layer.use_freestyle for layer in scene.view_layers if layer.use):
        reasons.append("Freestyle's strokes run across the whole frame")
    if bordered(scene, settings):
        reasons.append("the scene has a render region")
    return reasons + direct_reasons(scene, settings)


def direct_reasons(scene, settings):
    """Reasons why Blender must go from the scene to the finished frame in one step."""
    reasons = []
    if sequences(scene, settings):
        reasons.append("the frames come from the video sequencer")
    if denoises(scene, settings):
        if any(item.is_shadow_catcher and item.type in SOLID for item in rendered_objects(scene)):
            reasons.append("Cycles' denoiser works inside a shadow catcher")
        if any(item.type in STROKES for item in rendered_objects(scene)):
            reasons.append("Cycles' denoiser works before Grease Pencil's strokes are drawn")
        if scene.render.use_freestyle and any(layer.use_freestyle for layer in scene.view_layers if layer.use):
            reasons.append("Cycles' denoiser works before Freestyle's strokes are drawn")
        if bordered(scene, settings) and not scene.render.use_crop_to_border:
            reasons.append("Cycles' denoiser works on the render region alone")
        if scene.cycles.denoiser == "OPTIX":
            reasons.append("the OptiX denoiser works inside Cycles")
    tree = composites(scene, settings)
    if tree and bpy.app.version < (4, 5) and bordered(scene, settings) and not scene.render.use_crop_to_border:
        reasons.append("the compositor works on the render region alone")
    top = set(tree.nodes) if tree else ()
    for node in nodes_within(tree) if tree else ():
        if node.mute:
            continue
        if node.type == "R_LAYERS" and (node.scene not in (None, scene) or node not in top) and any(s.is_linked for s in node.outputs):
            reasons.append("the compositor reads the render of another scene" if node.scene not in (None, scene) else
                           "a group of the compositor reads the render")
        elif node.type == "CRYPTOMATTE_V2" and node.source == "RENDER":
            reasons.append("the compositor takes Cryptomatte mattes from the render")
    return list(dict.fromkeys(reasons))


def margin(scene):
    """The pixels around a region that must be rendered with it."""
    if scene.render.engine != "CYCLES":
        return 0
    return MARGIN if scene.cycles.use_adaptive_sampling or bpy.app.version >= (5, 0) and has_volumes(scene) else 0


def frame_size(render):
    return render.resolution_x * render.resolution_percentage // 100, render.resolution_y * render.resolution_percentage // 100


def picture_size(scene, settings):
    """Width and height of a frame's picture: those of the render region if it is cropped to that."""
    width, height = frame_size(scene.render)
    if not (bordered(scene, settings) and scene.render.use_crop_to_border):
        return width, height
    render = scene.render

    def between(low, high, size):  # in single precision, like Blender: only there 0.7 of 100 pixels is 70
        low, high = (int(ctypes.c_float(part * size).value) for part in (low, high))
        return high - low
    return between(render.border_min_x, render.border_max_x, width), between(render.border_min_y, render.border_max_y, height)


# # ---- messages to the user
# -----------------------------------------------------------------------------------------------

def check(scene, settings):
    """Fails if something would stop this scene from rendering, before any time is spent on it."""
    if not scene.camera and not sequences(scene, settings) and not any(marker.camera for marker in scene.timeline_markers):
        raise Fail("no_camera", f"Scene {scene.name!r} has no active camera. Set one in Blender or name one with `camera:`"
                   + (f" (it has {', '.join(camera_names(scene))})." if camera_names(scene) else "."))
    seen = views(scene)
    if seen and not settings.get("view"):
        raise Fail("several_views", f"Scene {scene.name!r} renders {len(seen)} views of each frame ({', '.join(seen)}), and a frame of this job has "
                   f"one. Say `views: [{', '.join(seen)}]` in the job for all of them, or name one.")
    for name in (settings.get("view") or "").split(","):  # an inspection asks for all of them
        if name and name not in seen:
            raise Fail("unknown_view", f"Scene {scene.name!r} has no view {name!r}; it has {', '.join(seen) or 'only one'}.")
    check_denoiser(scene, settings)


def check_denoiser(scene, settings):
    """Fails if the scene uses a denoiser that this build lacks. Checked at every step, so that one Blender makes all of a frame."""
    tree = composites(scene, settings)
    node = next((n.name for n in nodes_within(tree) if n.type == "DENOISE" and not n.mute), None) if tree else None
    if denoises(scene, settings) or node:
        import _cycles
        if not _cycles.with_openimagedenoise:
            what = f"compositor node {node!r}" if node else "Cycles denoiser"
            raise Fail("no_denoiser", f"Scene {scene.name!r} uses a denoiser ({what}), and this build of Blender {bpy.app.version_string} has no "
                       f"OpenImageDenoise. Set `{'compositor' if node else 'denoise'}: false`, or have it rendered by a Blender that has: one from blender.org "
                       "or from `pictor setup-blender`, with `requires: { software: { blender: \">=4\" } }` in the job.")


def passes_of(scene):
    """The passes that the scene renders besides the picture, as `VIEW LAYER.PASS`."""
    found = []
    for layer in scene.view_layers:
        if not layer.use:
            continue
        for owner in (layer, layer.cycles if scene.render.engine == "CYCLES" else layer.eevee):
            found += [f"{layer.name}.{prop.name}" for prop in owner.bl_rna.properties
                      if prop.identifier.startswith("use_pass_") and prop.identifier not in GIVEN_PASSES and getattr(owner, prop.identifier) is True]
        found += [f"{layer.name}.{aov.name}" for aov in layer.aovs]
        found += [f"{layer.name}.{group.name}" for group in getattr(layer, "lightgroups", ())]
    return found


def listed(names, most=5):
    more = len(names) - most
    return ", ".join(str(name)[:300] for name in names[:most]) + (f" and {more} more" if more > 0 else "")


def notes(scene, settings):
    """Notes on where the result differs from what an artist may expect of the scene."""
    found, render = [], scene.render
    blocked, missing = blocked_scripts(), missing_files()
    if blocked:
        found.append(blocked)
    if missing:
        found.append("The scene uses files that are not here: " + listed([f"{item['kind']} `{item['name']}` ({item['path']})" for item in missing]) + ".")
    passes = passes_of(scene)
    if passes and settings.get("passes") != "all":
        found.append(f"The scene renders passes that this job does not keep ({listed(passes)}): `output: {{ passes: true }}` delivers each as a file "
                     "of its own, `output: { format: exr_multilayer }` all in one.")
    found += saved_otherwise(render.image_settings, settings)
    tree = composites(scene, settings)
    if tree and not ends(tree):
        found.append("The scene's compositor leads to no picture, of which Blender makes black frames. The frames of this job are what was rendered.")
    if render.use_stamp:
        found.append("The scene burns its metadata into the pictures: this job does so in previews and videos, and leaves the OpenEXR frames clean.")
    moved = [name for name in animated_settings(scene) if "simplify" not in name]
    if moved:
        found.append(f"The scene animates render settings ({listed(moved)}). The frames of this job follow that; Blender renders all frames of an "
                     "animation as it finds them at its start.")
    if settings.get("sequencer") is False and any(not strip.mute for strip in strips(scene)):
        found.append("The video sequencer's edit is left out, as the job says; frames are what the camera sees.")
    if not sequences(scene, {}) and strips(scene) and not render.use_sequencer:
        found.append("The scene has a video edit and does not use it (Post Processing > Sequencer is off).")
    if settings.get("border") is False and render.use_border:
        found.append("The scene's render region is left out, as the job says.")
    if settings.get("compositor") is False and composites(scene, {}):
        found.append("The scene's compositor is left out, as the job says.")
    if settings.get("denoise") is False and denoises(scene, {}):
        found.append("The scene's denoiser is left out, as the job says.")
    if render.engine == "CYCLES" and scene.cycles.time_limit > 0:
        found.append(f"Cycles stops after {scene.cycles.time_limit:g} s (the scene's time limit), so faster machines make less noisy frames.")
    return found


def saved_otherwise(image, settings):
    """Notes on a format that the scene is set to save and this job does not write."""
    kind, depth = image.file_format, image.color_depth
    if kind in ("JPEG", "TIFF"):
        return [f"The scene saves {kind} pictures: this job makes OpenEXR frames, and such pictures where its `output` says "
                f"`preview: {kind.lower()}`."]
    if kind == "OPEN_EXR_MULTILAYER" and settings.get("passes") != "all":
        return ["The scene saves multilayer OpenEXR: `output: { format: exr_multilayer }` does so, too. The frames of this job have the picture alone."]
    if kind.startswith("OPEN_EXR") and image.color_mode == "BW":
        return ["The scene saves greyscale OpenEXR: the frames of this job have the colours."]
    if kind.startswith("OPEN_EXR") and bpy.app.version < (4, 5) and getattr(image, "color_management", "") == "OVERRIDE":
        return [f"The scene saves OpenEXR in {image.linear_colorspace_settings.name}: the frames of this job are in Blender's own linear colours."]
    if kind.startswith("OPEN_EXR") and depth != "32":
        return [f"The scene saves OpenEXR of {depth} bits: the frames of this job have 32."]
    if kind in WRITTEN:
        return []
    what = "a video" if kind in VIDEOS else kind
    return [f"The scene is set to write {what}; this job writes OpenEXR frames, and previews and videos as its `output` says."]


def inspection(scene, settings, device):
    render, cycles = scene.render, scene.cycles
    is_cycles, (width, height) = render.engine == "CYCLES", picture_size(scene, settings)
    try:
        import resource
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    except ImportError:
        memory = None
    return {
        "blender": bpy.app.version_string, "file_version": version(bpy.data.version),
        "scenes": [item.name for item in bpy.data.scenes], "scene": scene.name, "engine": render.engine,
        "frame_start": scene.frame_start, "frame_end": scene.frame_end, "frame_step": scene.frame_step, "frame_current": scene.frame_current,
        "fps": render.fps, "fps_base": render.fps_base,
        "width": width, "height": height, "cameras": camera_names(scene), "camera": scene.camera.name if scene.camera else None,
        "view_layers": [layer.name for layer in scene.view_layers if layer.use], "views": views(scene), "passes": passes_of(scene),
        "samples": cycles.samples if is_cycles else scene.eevee.taa_render_samples, "seed": cycles.seed if is_cycles else None,
        "adaptive_sampling": is_cycles and cycles.use_adaptive_sampling, "uses_compositor": composites(scene, settings) is not None,
        "uses_denoiser": denoises(scene, settings), "denoiser": cycles.denoiser if denoises(scene, settings) else None,
        "uses_sequencer": sequences(scene, settings), "whole_frames_because": whole_reasons(scene, settings),
        "missing_files": missing_files(), "scripts_message": blocked_scripts(), "notes": notes(scene, settings),
        "peak_memory_bytes": memory, "device": device,
    }
