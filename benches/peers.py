"""Runs a network on noise with plain ONNX Runtime or ncnn on the CPU; prints the seconds of each run.

Called by the measurement `upscale`: peers.py onnxruntime|ncnn MODEL WIDTHxHEIGHT THREADS RUNS, with
the model's path without `.onnx` or `.param`. The first run, which warms up, is not printed.
"""

import sys
import time

import numpy

who, model, size, threads, runs = sys.argv[1:]
width, height = (int(side) for side in size.split("x"))
picture = numpy.random.default_rng(7).random((3, height, width), dtype=numpy.float32)


def with_onnxruntime():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(
        model + ".onnx", options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: picture[None]})


def with_ncnn():
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = int(threads)
    assert net.load_param(model + ".param") == 0 and net.load_model(model + ".bin") == 0

    def run():
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(picture))
        status, result = extractor.extract("output")
        assert status == 0
        return numpy.array(result)

    return run


run = {"onnxruntime": with_onnxruntime, "ncnn": with_ncnn}[who]()
run()
for _ in range(int(runs)):
    started = time.perf_counter()
    run()
    print(time.perf_counter() - started)
