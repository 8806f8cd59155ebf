"""What a scene's script tries. It runs inside Blender, reads its targets from the folder of the scene, prints what it
has reached, and at last how much it has tried."""
import bpy
import ctypes
import glob
import json
import os
import socket
import subprocess

HERE = os.path.dirname(bpy.data.filepath)
with open(os.path.join(HERE, "targets.json")) as file:
    TARGETS = json.load(file)
TRIED = []


def attempt(name, act):
    TRIED.append(name)
    try:
        got = act()
    except Exception:
        return
    if got:
        print("REACHED", name, repr(got)[:200])


def read(path):
    with open(path, "rb") as file:
        return file.read(1000)


def plant(path):
    with open(path, "wb") as file:
        file.write(b"PLANTED")


def change(path):
    os.chmod(path, 0o666)
    with open(path, "r+b") as file:
        file.write(b"PLANTED")


def connect(family, kind, address):
    with socket.socket(family, kind) as wire:
        wire.settimeout(2)
        wire.connect(address)
        return wire.send(b"PLANTED")


def call(number, *arguments):
    return ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) == 0


for path in TARGETS["secrets"]:
    attempt(f"read {path}", lambda: read(path))
for pid in filter(str.isdigit, os.listdir("/proc")):
    # The environment of the worker, and whatever else has it.
    attempt(f"environment of {pid}", lambda: b"CARGO" in read(f"/proc/{pid}/environ") and "of the worker")
attempt("own environment", lambda: [name for name in os.environ if name.startswith(("CARGO", "AWS", "PICTOR_TOKEN"))])
for folder in TARGETS["folders"]:
    attempt(f"write to {folder}", lambda: plant(os.path.join(folder, "planted")))
scene = bpy.data.filepath
attempt("change the scene", lambda: change(scene))
attempt("replace the scene", lambda: os.replace(os.path.join(TARGETS["made"], "planted"), scene))
attempt("remove the scene", lambda: os.remove(scene))
for path in [path for folder in TARGETS["executed"] for path in glob.iglob(folder + "/**/*.py*", recursive=True)][:40]:
    attempt(f"change {path}", lambda: change(path))
    attempt(f"replace {path}", lambda: os.remove(path) or plant(path))

attempt("TCP", lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", TARGETS["tcp"])))
# Whether it has arrived is for the other end to say.
attempt("UDP", lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", TARGETS["udp"])) and None)
attempt("an abstract socket", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + TARGETS["abstract"]))
attempt("a socket", lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, TARGETS["socket"]))
attempt("curl", lambda: subprocess.run(["curl", "-s", "-m", "2", f"http://127.0.0.1:{TARGETS['tcp']}"], check=True))
attempt("ptrace", lambda: call(101, 16, TARGETS["worker"], 0, 0) or call(101, 16, os.getppid(), 0, 0))
attempt("mount", lambda: call(165, b"none", TARGETS["made"].encode(), b"tmpfs", 0, 0))
attempt("a namespace", lambda: call(272, 0x10000000))
attempt("a namespace by a program", lambda: subprocess.run(["unshare", "-Ur", "true"], check=True) and "made")
attempt("kill", lambda: os.kill(TARGETS["worker"], 0) or "the worker")
subprocess.Popen(["/bin/sh", "-c", f"(setsid sh -c 'while sleep 0.05; do : {TARGETS['mark']}; done' > /dev/null 2>&1 &) &"]).wait()
print("TRIED", len(TRIED))
