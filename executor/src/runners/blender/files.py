"""Pictures that Blender writes: their formats, whether they are complete, and the files of File Output nodes."""
import bpy
import os
import re
import struct

from scene import Fail, nodes_within, refuse_scripts
from settings import UNDO, put

FILES_MAX = 256  # per frame
TEMPLATES = bpy.app.version >= (4, 5)  # render paths may contain {variables}


def file_format(scene, kind, mode="RGBA", depth="32", keep=True):
    image = scene.render.image_settings
    for name in ("use_exr_interleave", "exr_codec", "color_depth", "color_mode", "file_format", "media_type"):  # undone from the last to the first
        if keep and hasattr(image, name):
            UNDO.append(lambda name=name, old=getattr(image, name): setattr(image, name, old))
    if "EXR" in kind and bpy.app.version < (4, 5) and getattr(image, "color_management", "") == "OVERRIDE":
        linear_colours(image.linear_colorspace_settings, keep)
    if hasattr(image, "media_type"):  # Blender 5 offers formats by media type
        image.media_type = "MULTI_LAYER_IMAGE" if kind == "OPEN_EXR_MULTILAYER" else "IMAGE"
    image.file_format = kind
    if kind != "OPEN_EXR_MULTILAYER":
        image.color_mode = mode
    image.color_depth = depth
    if hasattr(image, "use_exr_interleave"):
        image.use_exr_interleave = True  # one part with all channels, as in older versions, instead of one part per pass
    if "EXR" in kind:
        image.exr_codec = "ZIP"


def linear_colours(settings, keep):
    """Selects Blender's default linear colours. These versions cannot tell which colours a file that they read is in."""
    if keep:
        UNDO.append(lambda old=settings.name: setattr(settings, "name", old))
    for name in ("Linear Rec.709", "Linear"):  # since 4.0, and before
        try:
            settings.name = name
            return
        except TypeError:
            continue


def as_render_path(path):
    """A path as a render setting, in which braces would denote variables."""
    return path.replace("{", "{{").replace("}", "}}") if TEMPLATES else path


def render_to(scene, out):
    """Renders to a temporary name beside `out` and moves the file there once it is complete."""
    part = f"{out}.{os.getpid()}.part{os.path.splitext(out)[1]}"
    os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
    scene.render.filepath = as_render_path(part)
    refuse_scripts()
    try:
        bpy.ops.render.render(write_still=True, scene=scene.name)
        settle(part, out)
    finally:
        if os.path.exists(part):
            os.remove(part)


def whole(path):
    """Whether a picture is complete: on a full disk Blender leaves a truncated EXR and reports success."""
    size = os.path.getsize(path) if os.path.exists(path) else 0
    with open(path if size else os.devnull, "rb") as file:
        head = file.read(8)
        if head[:4] == b"\x89PNG":
            file.seek(max(size - 8, 0))
            return file.read(4) == b"IEND"
        if head[:2] == b"\xff\xd8":
            file.seek(max(size - 2, 0))
            return file.read(2) == b"\xff\xd9"
        if head[:4] != b"\x76\x2f\x31\x01" or len(head) < 8 or head[5] & 0x1A:  # not an EXR, or one with tiles or parts
            return size > 0

        def text():
            return b"".join(iter(lambda: file.read(1).strip(b"\0"), b""))
        height = 0
        while name := text():
            text()
            value = file.read(int.from_bytes(file.read(4), "little"))
            if name == b"dataWindow":
                _, top, _, bottom = struct.unpack("<4i", value)
                height = bottom - top + 1
        blocks = (height + 15) // 16  # of 16 lines, as ZIP has them
        table = file.read(8 * blocks)
        if len(table) < 8 * blocks or not blocks:
            return False
        last = max(struct.unpack(f"<{blocks}Q", table))
        file.seek(last + 4)
        return min(struct.unpack(f"<{blocks}Q", table)) > 0 and last + 8 + int.from_bytes(file.read(4), "little") <= size


def settle(part, out):
    if not whole(part):
        if not os.path.exists(part):
            raise Fail("render_failed", f"Blender finished without writing {out}. Its log says why.")
        raise Fail("disk_full", f"{out} came out cut short: the disk of this worker is full. Free some space and retry.")
    os.replace(part, out)


# ---- File Output nodes --------------------------------------------------------------------------------------------------

def safe(name):
    """Turns an untrusted name into a file name, at most with folders below: no path leads out of the folder that we choose."""
    parts = [re.sub(r"[^\w. +#-]", "_", part).strip(". ")[:80] for part in re.split(r"[/\\]+", name)]
    return "/".join([part for part in parts if part][-4:])


def redirect(tree, folder, frame, throw_away=False):
    """Makes the tree's File Output nodes write below `folder`, each into its own folder: a scene does not choose where a farm
    writes. Undone with the task's settings, except for changes to a temporary tree."""
    taken = set()
    for node in list(nodes_within(tree)):
        if node.type != "OUTPUT_FILE" or node.mute:
            continue
        change = setattr if throw_away and node.id_data == tree else put
        name = safe(node.label or node.name).replace("/", "_") or "files"
        while name in taken:
            name += "_"
        taken.add(name)
        place = as_render_path(os.path.join(folder, name)) + "/"
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        many = node.format.file_format == "OPEN_EXR_MULTILAYER"
        if hasattr(node, "file_output_items"):  # Blender 5; it numbers the files of animations only
            change(node, "directory", place)
            change(node, "file_name", numbered(safe(node.file_name), frame) if many else safe(node.file_name))
            for item in node.file_output_items if not many else ():
                change(item, "name", numbered(safe(item.name) or "image", frame))
        else:
            change(node, "base_path", place + (safe(os.path.basename(node.base_path.rstrip("/\\"))) or "layers") if many else place)
            for slot in node.file_slots if not many else ():
                change(slot, "path", safe(slot.path) or "image")


def numbered(name, frame):
    """A file's name with the frame's number, in place of its `#` or else at the end."""
    digits = "#" * 4 if "#" not in name else re.search("#+", name)[0]
    return (name if "#" in name else name + digits).replace(digits, f"{frame:0{len(digits)}}", 1)


def written_below(folder):
    """The files below a folder, as paths relative to it."""
    found = []
    for place, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    if len(found) > FILES_MAX:
        raise Fail("unsupported_compositor", f"The File Output nodes of the scene write {len(found)} files for one frame: at most {FILES_MAX}.")
    return sorted(found)
