"""What becomes of a picture: size, colours, file formats, time, the sequencer."""
import bpy

from stage import Absent, choose, denoise, feature, half_red, picture, since, strips

WHY = "OpenImageDenoise itself varies in the last bits"
STRIPS = "Blender saves strips of 8 bits without dithering, and a preview is made from linear values"


@feature("Render region, cropped", "Size", short=2)
def border_crop(s):
    s.render.use_border = s.render.use_crop_to_border = True
    s.render.border_min_x, s.render.border_max_x, s.render.border_min_y, s.render.border_max_y = 0.25, 0.75, 0.2, 0.8


@feature("Render region, not cropped", "Size", short=1)
def border(s):
    border_crop(s)
    s.render.use_crop_to_border = False


@feature("Render region, not cropped, with compositor", "Size")
def border_composited(s):
    border(s)
    half_red(s)


@feature("Render region that ends on a whole pixel only in single precision", "Size")
def border_rounding(s):
    s.render.resolution_x, s.render.resolution_y = 100, 60
    s.render.use_border = s.render.use_crop_to_border = True
    s.render.border_min_x, s.render.border_max_x, s.render.border_min_y, s.render.border_max_y = 0.3, 0.7, 0.1, 0.9


@feature("Render region, cropped, with denoiser", "Size", within=1e-5, levels=1, why=WHY)
def border_crop_denoise(s):
    border_crop(s)
    denoise(s)


@feature("Render region, not cropped, with denoiser", "Size", within=1e-5, levels=1, why=WHY)
def border_denoise(s):
    border(s)
    denoise(s)


@feature("Resolution in percent", "Size", short=1)
def percentage(s):
    s.render.resolution_x, s.render.resolution_y, s.render.resolution_percentage = 161, 91, 60


@feature("Pixels that are not square", "Size")
def pixel_aspect(s):
    s.render.pixel_aspect_x, s.render.pixel_aspect_y = 2, 1


@feature("An odd size, in 3x2 tiles", "Size", tiles="3x2", short=1)
def odd_size(s):
    s.render.resolution_x, s.render.resolution_y = 97, 53


@feature("Burnt-in stamp", "Output", short=2, note="leaves the OpenEXR frames clean", compare=["png"])
def stamp(s):
    fixed_stamp(s)


def fixed_stamp(s):
    """Only what is the same in every render."""
    for name in ("date", "time", "render_time", "memory", "hostname", "filename", "frame", "scene", "camera", "lens", "frame_range", "marker"):
        if hasattr(s.render, f"use_stamp_{name}"):
            setattr(s.render, f"use_stamp_{name}", name in ("frame", "camera"))
    s.render.use_stamp = s.render.use_stamp_note = True
    s.render.stamp_note_text = "shot 12"


@feature("Own format: JPEG", "Output", compare=["own"], output={"preview": "jpeg"}, short=1)
def own_jpeg(s):
    s.render.image_settings.file_format, s.render.image_settings.quality = "JPEG", 80


@feature("Own format: TIFF with 16 bits", "Output", compare=["own"], output={"preview": "tiff"})
def own_tiff(s):
    image = s.render.image_settings
    image.file_format, image.color_mode, image.color_depth = "TIFF", "RGBA", "16"


@feature("Own format: PNG with 16 bits and alpha", "Output", short=1)
def own_png16(s):
    s.render.film_transparent = True
    image = s.render.image_settings
    image.file_format, image.color_mode, image.color_depth = "PNG", "RGBA", "16"


@feature("Own format: PNG in grey", "Output")
def own_png_grey(s):
    image = s.render.image_settings
    image.file_format, image.color_mode = "PNG", "BW"


@feature("Own format: EXR with half floats", "Output", compare=["exr"])
def own_half(s):
    image = s.render.image_settings
    image.file_format, image.color_depth, image.exr_codec = "OPEN_EXR", "16", "ZIP"


@feature("Own format: multilayer EXR", "Output", compare=["layers"])
def own_multilayer(s):
    image = s.render.image_settings
    if hasattr(image, "media_type"):
        image.media_type = "MULTI_LAYER_IMAGE"
    image.file_format = "OPEN_EXR_MULTILAYER"
    s.layer.use_pass_z = True


@feature("Own format: Cineon", "Output", compare=["exr"], note="The scene is set to write CINEON")
def own_cineon(s):
    s.render.image_settings.file_format = "CINEON"


@feature("Own format: a video", "Output", compare=["exr"], frames="1-2", note="The scene is set to write a video")
def own_video(s):
    image = s.render.image_settings
    if hasattr(image, "media_type"):
        image.media_type = "VIDEO"
    image.file_format = "FFMPEG"


@feature("Dithering off", "Output", short=1)
def dithering_off(s):
    s.render.dither_intensity = 0


@feature("Dithering, strong", "Output")
def dithering(s):
    s.render.dither_intensity = 2


# ---- colour ---------------------------------------------------------------------------------------------------------------


def view(s, transform, look=None):
    s.render.dither_intensity = 0
    choose(s.scene.view_settings, "view_transform", transform)
    if look:
        choose(s.scene.view_settings, "look", *look)


@feature("Standard", "Colour")
def colour_standard(s):
    view(s, "Standard")


@feature("Filmic with a look", "Colour", short=1)
def colour_filmic(s):
    view(s, "Filmic", ("High Contrast", "Filmic - High Contrast"))


@feature("AgX with a look", "Colour")
def colour_agx(s):
    since(4, 0)
    view(s, "AgX", ("AgX - Punchy",))


@feature("Raw", "Colour")
def colour_raw(s):
    view(s, "Raw")


@feature("Exposure and gamma, animated", "Colour", frames="1-2", short=1)
def colour_exposure(s):
    view(s, "Standard")
    settings = s.scene.view_settings
    settings.gamma = 1.3
    settings.keyframe_insert("exposure", frame=1)
    settings.exposure = 3
    settings.keyframe_insert("exposure", frame=4)


@feature("Colour curves", "Colour")
def colour_curves(s):
    view(s, "Standard")
    s.scene.view_settings.use_curve_mapping = True
    s.scene.view_settings.curve_mapping.curves[3].points.new(0.4, 0.7)


@feature("White balance", "Colour")
def colour_white(s):
    since(4, 3)
    view(s, "Standard")
    s.scene.view_settings.use_white_balance, s.scene.view_settings.white_balance_temperature = True, 4000


@feature("Another display", "Colour")
def colour_display(s):
    s.render.dither_intensity = 0
    names = [item.identifier for item in s.scene.display_settings.bl_rna.properties["display_device"].enum_items]
    for name in ("Display P3", "XYZ", *names):
        try:
            s.scene.display_settings.display_device = name
            break
        except TypeError:
            continue
    else:
        raise Absent("one display only")


@feature("A picture of colours of its own (override)", "Colour")
def colour_override(s):
    image = s.render.image_settings
    if not hasattr(image, "color_management"):
        raise Absent("since 3.0")
    s.render.dither_intensity = 0
    image.file_format = "PNG"
    image.color_management = "OVERRIDE"
    image.view_settings.view_transform = "Standard"
    image.view_settings.exposure = 1


# ---- time -----------------------------------------------------------------------------------------------------------------


@feature("Frames a second", "Time", frames="1-6", compare=["exr"], rate="30/1", short=1)
def fps(s):
    s.render.fps, s.scene.frame_end = 30, 6


@feature("Frames a second, not whole", "Time", frames="1-6", compare=["exr"], rate="30000/1001")
def fps_base(s):
    s.render.fps, s.render.fps_base, s.scene.frame_end = 30, 1.001, 6


@feature("Every third frame", "Time", frames="1-7x3", render={"frames": "scene"})
def frame_step(s):
    s.scene.frame_start, s.scene.frame_end, s.scene.frame_step = 1, 7, 3
    s.move(s.cube)


@feature("Negative frames", "Time", frames="-2--1", render={"frames": "scene"})
def negative_frames(s):
    s.scene.use_preview_range = False
    bpy.context.preferences.edit.use_negative_frames = True
    s.scene.frame_start, s.scene.frame_end = -2, -1
    s.move(s.cube, frames=((-2, (0, 0, 0)), (2, (2, 1, 0))))


@feature("Time remapped", "Time", frames="1-3")
def time_remapping(s):
    s.render.frame_map_old, s.render.frame_map_new = 100, 130
    s.move(s.cube)


@feature("Simplify that is animated", "Time", frames="1-3", order="preview")
def simplify_animated(s):
    s.cube.modifiers.new("Subdivision", "SUBSURF").render_levels = 4
    s.render.use_simplify = True
    s.move(s.render, "simplify_subdivision_render", ((1, 4), (3, 0)))


@feature("Shutter time that is animated", "Time", frames="3", compare=[], note="animates render settings (motion_blur_shutter)")
def shutter_animated(s):
    s.render.use_motion_blur = True
    s.move(s.cube)
    s.move(s.render, "motion_blur_shutter", ((1, 0.1), (3, 2)))


@feature("Saved between two frames", "Time", frames="2")
def subframe(s):
    s.move(s.cube)
    s.scene.frame_set(3, subframe=0.5)


# ---- the sequencer --------------------------------------------------------------------------------------------------------


def colour_strip(s, channel=1, **more):
    made = strips(s.scene)
    try:
        strip = made.new_effect("red", "COLOR", channel, 1, frame_end=20)
    except TypeError:
        strip = made.new_effect("red", "COLOR", channel, 1, length=19)
    strip.color = (1, 0, 0)
    return strip


@feature("Sequencer: a colour", "Sequencer", levels=1, why=STRIPS, short=2)
def sequencer_colour(s):
    colour_strip(s)


@feature("Sequencer: the scene, under a colour", "Sequencer", frames="1-2", levels=1, why=STRIPS, short=1)
def sequencer_scene(s):
    strips(s.scene).new_scene("shot", s.scene, 1, 1)
    colour_strip(s, 2).blend_alpha = 0.5


@feature("Sequencer: pictures", "Sequencer", frames="1-2", levels=1, why=STRIPS)
def sequencer_pictures(s):
    for number in (1, 2):
        picture(f"shot{number}", s.at(f"shot/{number:04}.png"), size=32, seed=number)
    strip = strips(s.scene).new_image("shot", s.at("shot/0001.png"), 1, 1)
    strip.elements.append("0002.png")


@feature("Sequencer that is off", "Sequencer")
def sequencer_off(s):
    colour_strip(s)
    s.render.use_sequencer = False


@feature("Sequencer without strips", "Sequencer")
def sequencer_empty(s):
    strips(s.scene)
