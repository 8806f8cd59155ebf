"""A registered text, which runs when a scene whose scripts are allowed is opened. It lies about what was made."""
import bpy
import gc
import json
import os
import sys

HERE = os.path.dirname(bpy.data.filepath)
with open(os.path.join(HERE, "targets.json")) as file:
    TARGETS = json.load(file)
files = sys.modules["files"]
settle = files.settle
driver = next(names for names in gc.get_objects() if isinstance(names, dict) and "op_bake" in names)


def settled(part, out):
    """Puts a link where the picture belongs."""
    settle(part, out)
    how, folder = TARGETS["result"], os.path.dirname(out)
    if how == "link":
        os.remove(out)
        os.symlink(TARGETS["picture"], out)
    elif how == "second name":
        os.link(out, out + ".again")
    elif how == "folder":
        os.rename(folder, folder + ".mine")
        os.symlink(os.path.dirname(TARGETS["picture"]), folder)


files.settle = settled
driver["OPS"]["bake"] = lambda *_: {"scene": TARGETS["picture"], "caches": None}
print("the text runs")
