"""Cameras and what they do to a picture."""
import math

import bpy

from stage import choose, feature


@feature("Motion blur", "Camera", frames="2-3", short=2)
def motion_blur(s):
    s.render.use_motion_blur = True
    s.move(s.cube)


@feature("Motion blur: the camera, rolling shutter", "Camera", frames="2")
def rolling_shutter(s):
    s.render.use_motion_blur = True
    s.cycles.rolling_shutter_type, s.cycles.rolling_shutter_duration = "TOP", 0.2
    s.move(s.camera, "rotation_euler", ((1, (1.1, 0, 0.8)), (4, (1.1, 0.2, 1.1))))


@feature("Motion blur: deforming mesh, shutter curve", "Camera", frames="2")
def motion_blur_deform(s):
    s.render.use_motion_blur, s.render.motion_blur_shutter = True, 1.5
    choose(s.render if hasattr(s.render, "motion_blur_position") else s.cycles, "motion_blur_position", "START")
    s.cube.shape_key_add(name="Basis")
    key = s.cube.shape_key_add(name="Tall")
    for point in key.data:
        point.co.z *= 2
    key.value = 0
    key.keyframe_insert("value", frame=1)
    key.value = 1
    key.keyframe_insert("value", frame=4)
    s.cube.cycles.motion_steps = 3


@feature("Depth of field", "Camera")
def depth_of_field(s):
    dof = s.camera.data.dof
    dof.use_dof, dof.focus_distance, dof.aperture_fstop = True, 5, 0.3


@feature("Depth of field: object, blades", "Camera")
def bokeh(s):
    depth_of_field(s)
    dof = s.camera.data.dof
    dof.focus_object, dof.aperture_blades, dof.aperture_ratio = s.cube, 5, 2


@feature("Orthographic camera", "Camera")
def orthographic(s):
    s.camera.data.type, s.camera.data.ortho_scale = "ORTHO", 7


def panorama(s, kind):
    s.camera.data.type = "PANO"
    owner = s.camera.data if hasattr(s.camera.data, "panorama_type") else s.camera.data.cycles
    choose(owner, "panorama_type", kind)


@feature("Panorama", "Camera", short=1)
def equirectangular(s):
    panorama(s, "EQUIRECTANGULAR")


@feature("Fisheye", "Camera")
def fisheye(s):
    panorama(s, "FISHEYE_EQUISOLID")


@feature("Shift, sensor and clipping", "Camera")
def shift(s):
    lens = s.camera.data
    lens.shift_x, lens.shift_y, lens.sensor_fit, lens.sensor_height, lens.clip_end = 0.1, -0.05, "VERTICAL", 20, 12


@feature("A camera that moves and zooms", "Camera", frames="1-3")
def moving_camera(s):
    s.move(s.camera, frames=((1, (7, -7, 5)), (4, (4, -8, 3))))
    s.camera.data.lens = 30
    s.camera.data.keyframe_insert("lens", frame=1)
    s.camera.data.lens = 60
    s.camera.data.keyframe_insert("lens", frame=4)


@feature("Stereoscopy, both eyes asked for", "Camera", short=2, render={"views": ["left", "right"]})
def stereo(s):
    s.render.use_multiview = True


@feature("Stereoscopy, nothing asked for", "Camera", short=1)
def stereo_one(s):
    s.render.use_multiview = True


@feature("Stereoscopy side by side in one file", "Camera", compare=["png"])
def stereo_side_by_side(s):
    s.render.use_multiview = True
    s.render.image_settings.views_format = "STEREO_3D"
    s.render.image_settings.stereo_3d_format.display_mode = "SIDEBYSIDE"


@feature("Cameras by markers, none active", "Camera", frames="1-2", short=2)
def markers_only(s):
    s.scene.timeline_markers.new("A", frame=1).camera = s.camera
    s.scene.camera = None


@feature("Cameras by markers", "Camera", frames="1-3", short=1)
def markers(s):
    second = s.object(s.camera.data.copy(), "Second")
    second.location, second.rotation_euler = (0, -9, 1), (math.pi / 2, 0, 0)
    s.scene.timeline_markers.new("A", frame=1).camera = s.camera
    s.scene.timeline_markers.new("B", frame=2).camera = second


@feature("No camera", "Camera", compare=[], refused=True)
def no_camera(s):
    bpy.data.objects.remove(s.camera)
