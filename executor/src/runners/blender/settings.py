"""A task's settings: applied to the scene before the task, and undone after it."""
import bpy
import json
import re

from scene import Fail, camera_names

TOKEN = re.compile(r"""\.?[A-Za-z_]\w*|\[(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|-?\d+)\]""")


UNDO = []


def put(owner, name, value):
    """Like setattr, but undone before the next task."""
    old = getattr(owner, name)
    if not isinstance(old, str) and hasattr(old, "__len__"):
        old = tuple(old)
    setattr(owner, name, value)
    UNDO.append(lambda: setattr(owner, name, old))


def restore():
    while UNDO:
        try:
            UNDO.pop()()
        except (ReferenceError, AttributeError):  # the owner was removed together with the thing that we removed
            pass


def curves(owner):
    animation = getattr(owner, "animation_data", None)
    if not animation:
        return
    yield from animation.drivers
    action = animation.action
    if action and hasattr(action, "fcurves"):
        yield from action.fcurves
    elif action:  # Blender 5 has layered actions only
        for layer in action.layers:
            for strip in layer.strips:
                for bag in strip.channelbags:
                    yield from bag.fcurves


def unanimate(owner, name):
    """Removes an animation of the property: the job's value takes precedence (a `#frame` driver on the seed is common)."""
    try:
        path = owner.path_from_id(name)
    except ValueError:
        return
    for curve in curves(owner.id_data):
        if curve.data_path == path and not curve.mute:
            put(curve, "mute", True)


def coerce(old, value, path):
    if not isinstance(old, str) and hasattr(old, "__len__"):
        if not isinstance(value, (list, tuple)) or len(value) != len(old):
            raise Fail("bad_set_path", f"set {path}: this is {len(old)} numbers, not {value!r}.")
        return [coerce(was, now, path) for was, now in zip(old, value)]
    if isinstance(old, bool) and isinstance(value, (bool, int)):
        return bool(value)
    if isinstance(old, int) and isinstance(value, (int, float)) and int(value) == value:
        return int(value)
    if isinstance(old, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, str) and isinstance(value, str):
        return value
    raise Fail("bad_set_path", f"set {path}: this is a {type(old).__name__}, and {value!r} does not fit it.")


def set_path(path, value):
    tokens = TOKEN.findall(path)
    if len(tokens) < 2 or "".join(tokens) != path:
        raise Fail("bad_set_path", f"set {path}: not a data path. Write it as Blender's \"Copy Full Data Path\" gives it, "
                   'without "bpy.data.": materials["Glass"].diffuse_color.')
    last = tokens[-1]
    try:
        owner = bpy.data.path_resolve("".join(tokens[:-1]))
        if last.startswith("["):  # an element of an array or a custom property
            key = last[2:-1].replace('\\"', '"').replace("\\\\", "\\")[:-1] if last[1] in "\"'" else int(last[1:-1])
            old = owner[key]
            owner[key] = coerce(old, value, path)
            UNDO.append(lambda: owner.__setitem__(key, old))
            return
        name = last.lstrip(".")
        value = coerce(getattr(owner, name), value, path)
        unanimate(owner, name)
        put(owner, name, value)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise Fail("bad_set_path", f"set {path}: {str(error).strip() or 'no such property'}. Check the names in the scene.") from None


def engine_name(wanted):
    known = {"cycles": ["CYCLES"], "workbench": ["BLENDER_WORKBENCH"], "eevee": ["BLENDER_EEVEE_NEXT", "BLENDER_EEVEE"]}
    return known.get(str(wanted).lower(), [str(wanted)])


def apply(scene, settings, frame=None):
    render, cycles = scene.render, scene.cycles
    if settings.get("engine"):
        for name in engine_name(settings["engine"]):
            try:
                put(render, "engine", name)
                break
            except TypeError:
                continue
        else:
            raise Fail("unknown_engine", f"This Blender has no render engine {settings['engine']!r}. Use cycles, eevee or workbench.")
    width, height = settings.get("width"), settings.get("height")
    if width or height:
        if not all(side is None or 4 <= side <= 65536 for side in (width, height)):  # Blender would clamp it silently
            raise Fail("bad_settings", f"A resolution of {width}x{height} is outside Blender's limits of 4 to 65536 pixels.")
        x, y = render.resolution_x, render.resolution_y
        put(render, "resolution_x", int(width or round(height * x / y)))
        put(render, "resolution_y", int(height or round(width * y / x)))
        put(render, "resolution_percentage", 100)
    if settings.get("samples"):
        if render.engine == "CYCLES":
            put(cycles, "samples", int(settings["samples"]))
            unanimate(cycles, "samples")
        else:
            put(scene.eevee, "taa_render_samples", int(settings["samples"]))
    if settings.get("seed") is not None:
        unanimate(cycles, "seed")
        put(cycles, "seed", int(settings["seed"]) & 0x7FFFFFFF)
    put(scene, "camera", scene.camera)  # camera markers switch it while rendering
    if settings.get("camera"):
        if settings["camera"] not in camera_names(scene):
            raise Fail("unknown_camera", f"Scene {scene.name!r} has no camera {settings['camera']!r}; it has "
                       f"{', '.join(camera_names(scene)) or 'none'}.")
        put(scene, "camera", scene.objects[settings["camera"]])
        for marker in scene.timeline_markers:  # else the first bound marker would take the camera back
            put(marker, "camera", None)
    wanted = settings.get("view_layer")
    if wanted:
        if wanted not in scene.view_layers:
            raise Fail("unknown_view_layer", f"Scene {scene.name!r} has no view layer {wanted!r}; it has "
                       f"{', '.join(layer.name for layer in scene.view_layers)}.")
        for layer in scene.view_layers:
            put(layer, "use", layer.name == wanted)
    values = dict(settings.get("set") or {})
    if settings.get("state"):
        with open(settings["state"], encoding="utf-8") as file:
            state = json.load(file)
        values.update(state.get("set", state))  # the table itself, or next to data that only the simulation needs
    for path, value in values.items():
        set_path(path, value)
    if frame is not None:
        put(scene, "frame_current", int(frame))
        put(scene, "frame_subframe", 0.0)
    put(render, "use_file_extension", True)  # for File Output nodes; our own names have them
    put(render, "filepath", render.filepath)
