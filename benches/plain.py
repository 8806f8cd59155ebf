"""What one would do without pictor: one Blender, one scene, frames one after another.

blender -b scene.blend -P benches/plain.py -- OUT FIRST LAST WIDTH HEIGHT SAMPLES [X0 Y0 X1 Y1]

Writes a linear 32-bit EXR and a PNG of each frame, or with a region (pixels, origin top left, end exclusive) only the EXR.
"""
import sys

import bpy

out, *numbers = sys.argv[sys.argv.index("--") + 1:]
first, last, width, height, samples, *region = map(int, numbers)
scene = bpy.context.scene
render, image = scene.render, scene.render.image_settings
render.resolution_x, render.resolution_y, render.resolution_percentage = width, height, 100
scene.cycles.samples, scene.cycles.seed = samples, 7
if region:
    x0, y0, x1, y1 = region
    render.use_border = render.use_crop_to_border = True
    render.border_min_x, render.border_max_x = x0 / width, x1 / width
    render.border_min_y, render.border_max_y = (height - y1) / height, (height - y0) / height
for frame in range(first, last + 1):
    scene.frame_set(frame)
    image.file_format, image.color_mode, image.color_depth, image.exr_codec = "OPEN_EXR", "RGBA", "32", "ZIP"
    render.filepath = f"{out}/{frame:04}.exr"
    bpy.ops.render.render(write_still=True)
    if not region:
        image.file_format, image.color_mode, image.color_depth = "PNG", "RGB", "8"
        bpy.data.images["Render Result"].save_render(f"{out}/{frame:04}.png", scene=scene)
