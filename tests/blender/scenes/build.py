"""Builds the scenes of the matrix: blender -b --factory-startup -P build.py -- FOLDER LEVEL [FEATURE…]

LEVEL is the least `short` that a feature must have. Each gets FOLDER/NAME with scene.blend and feature.json, which says how
it is rendered, or why this version does not have it. What was built by the same scripts is left alone.
"""
import hashlib
import inspect
import json
import os
import shutil
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import camera  # noqa: E402, F401
import compositing  # noqa: E402, F401
import engines  # noqa: E402, F401
import files  # noqa: E402, F401
import light  # noqa: E402, F401
import output  # noqa: E402, F401
import passes  # noqa: E402, F401
import shading  # noqa: E402, F401
import shapes  # noqa: E402, F401
import simulation  # noqa: E402, F401
from stage import FEATURES, Absent, Stage  # noqa: E402

folder, level, *wanted = sys.argv[sys.argv.index("--") + 1:]


def digest(item):
    """Of everything that the scene and its picture depend on."""
    sources = [inspect.getsourcefile(item["build"]), inspect.getsourcefile(Stage), os.path.join(os.path.dirname(__file__), "plain.py")]
    return hashlib.sha256(b"".join(open(path, "rb").read() for path in sources)).hexdigest()[:16]


def build(item, place):
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place)
    said = {key: value for key, value in item.items() if key != "build"} | {"digest": digest(item)}
    print("building", item["name"], flush=True)
    stage = Stage(place)
    try:
        (item["build"](stage) or stage.save)()
    except Absent as error:
        said["absent"] = str(error)
    except Exception:
        traceback.print_exc()
        said["broken"] = traceback.format_exc().strip().splitlines()[-1]
    with open(os.path.join(place, "feature.json"), "w", encoding="utf-8") as file:
        json.dump(said, file, indent=1)


def renumber(item, place):
    """Lets what was built earlier have its place in the table of now."""
    try:
        with open(os.path.join(place, "feature.json"), encoding="utf-8") as file:
            said = json.load(file)
    except (OSError, ValueError):
        return
    if said.get("number") != item["number"]:
        with open(os.path.join(place, "feature.json"), "w", encoding="utf-8") as file:
            json.dump(said | {"number": item["number"]}, file, indent=1)


names = [item["name"] for item in FEATURES]
for key in ("name", "title"):
    assert len({item[key] for item in FEATURES}) == len(FEATURES), f"two features have the same {key}"
for item in FEATURES:
    place = os.path.join(folder, item["name"])
    renumber(item, place)
    if item["name"] in wanted if wanted else item.get("short", 0) >= int(level):
        try:
            with open(os.path.join(place, "feature.json"), encoding="utf-8") as file:
                built = json.load(file)["digest"]
        except (OSError, ValueError, KeyError):
            built = None
        if built != digest(item):
            build(item, place)
for name in set(os.listdir(folder)) - set(names):  # of features that are no more
    shutil.rmtree(os.path.join(folder, name)) if os.path.isdir(os.path.join(folder, name)) else None
