"""Acts as the program `blender` on top of the module `bpy` from PyPI, which is Blender without its program.

Supports the arguments that pictor and background scripts pass to Blender, processed in the given order as Blender does:
  -b FILE.blend --factory-startup -Y|-y -noaudio -t|--threads N -P|--python FILE --python-expr CODE
  --python-exit-code N -o PATH -F FORMAT -x 0|1 -E ENGINE -S SCENE -s -e -f FRAME -a --version --
"""
import importlib.metadata
import os
import sys

VALUES = {"-t": 1, "--threads": 1, "-P": 1, "--python": 1, "--python-expr": 1, "--python-exit-code": 1, "-o": 1, "--render-output": 1,
          "-F": 1, "--render-format": 1, "-x": 1, "--use-extension": 1, "-E": 1, "--engine": 1, "-S": 1, "--scene": 1, "-s": 1,
          "--frame-start": 1, "-e": 1, "--frame-end": 1, "-f": 1, "--render-frame": 1, "--log-level": 1}
SILENT = {"-b", "--background", "--factory-startup", "-noaudio", "--log-level"}


def usage(message):
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)


def main(arguments):
    own, rest = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        own, rest = arguments[:cut], arguments[cut:]
    if own and own[0] in ("-v", "--version"):
        print(f"Blender {importlib.metadata.version('bpy')}\n\tbuild: the module bpy from PyPI")
        return
    import bpy

    exit_code, scripts, threads = 0, False, 0

    def open_scene(path):
        try:
            bpy.ops.wm.open_mainfile(filepath=os.path.abspath(path), load_ui=False, use_scripts=scripts)
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
            if os.path.realpath(bpy.data.filepath or "") != os.path.realpath(path):
                sys.exit(1)
        limit_threads()

    def limit_threads():
        for scene in bpy.data.scenes if threads else ():
            scene.render.threads_mode, scene.render.threads = "FIXED", threads

    def execute(code, name):
        space = {"__name__": "__main__", "__file__": name, "__builtins__": __builtins__}
        try:
            exec(compile(code, name, "exec"), space)
        except SystemExit:
            raise
        except BaseException:
            import traceback
            traceback.print_exc()
            if exit_code:
                finish(exit_code)

    def finish(code):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def scene():
        return bpy.context.scene

    at = 0
    sys.argv = [sys.argv[0], *own, *rest]
    while at < len(own):
        word, at = own[at], at + 1
        value = None
        if word in VALUES:
            if at >= len(own):
                usage(f"{word} needs a value")
            value, at = own[at], at + 1
        if word in SILENT:
            pass
        elif word in ("-Y", "--disable-autoexec", "-y", "--enable-autoexec"):
            scripts = word in ("-y", "--enable-autoexec")
        elif word in ("-t", "--threads"):
            threads = int(value)
            limit_threads()
        elif word == "--python-exit-code":
            exit_code = int(value)
        elif word in ("-P", "--python"):
            with open(value, encoding="utf-8") as file:
                code = file.read()
            execute(code, value)
        elif word == "--python-expr":
            execute(value, "<string>")
        elif word in ("-o", "--render-output"):
            scene().render.filepath = value
        elif word in ("-F", "--render-format"):
            scene().render.image_settings.file_format = {"MULTILAYER": "OPEN_EXR_MULTILAYER", "EXR": "OPEN_EXR"}.get(value, value)
        elif word in ("-x", "--use-extension"):
            scene().render.use_file_extension = value != "0"
        elif word in ("-E", "--engine"):
            scene().render.engine = value
        elif word in ("-S", "--scene"):
            bpy.context.window.scene = bpy.data.scenes[value]
        elif word in ("-s", "--frame-start"):
            scene().frame_start = int(value)
        elif word in ("-e", "--frame-end"):
            scene().frame_end = int(value)
        elif word in ("-f", "--render-frame"):
            number = int(value)
            scene().frame_start = scene().frame_end = number
            bpy.ops.render.render(animation=True)
        elif word in ("-a", "--render-anim"):
            bpy.ops.render.render(animation=True)
        elif word.startswith("-"):
            usage(f"the module bpy acting as blender does not understand {word}")
        else:
            open_scene(word)
    finish(0)


main(sys.argv[1:])
