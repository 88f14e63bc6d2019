"""One call in a process of its own, timed on request: what `bench` starts for each model.

    python -m steadydepth.exporters.bench_worker '{"what": "predict", "name": "steady.onnx", "size": [192, 256], ...}'

A line of JSON comes out when the model is open, and one for every line that comes in, the seconds for which to call it.
What is imported follows from what is asked for: the process of an exported file has no torch in it.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from steadydepth.errors import InputError
from steadydepth.inference.runtime import ExportedModel, is_exported
from steadydepth.ops.resize import fit_image

Call = Callable[[], Any]

_WARM_UP = 3
# Of a turn, for which nothing is timed: the threads of the call before still wait for more, those of this one wake up.
_WAKING = 0.3
# Channels, rows and columns of the convolutions whose rate is taken for the machine's best; on an accelerator more.
PEAK, ACCELERATOR_PEAK = (64, 96, 128), (256, 192, 256)
# Operators in a row, so that what goes in and out is little beside them.
_IN_A_ROW = 4


class Opened(NamedTuple):
    """A call that is ready, its operations once somebody asks, and what it computes in and on."""

    call: Call
    flops: Callable[[], int]
    precision: str
    device: str


def open_call(what: str, name: str, size: tuple[int, int], threads: int, device: str | None) -> Opened:
    """The call that is timed, on an image of `size`; a state goes from each call to the next.

    Args:
        what: `predict`, the complete call, uint8 of any size to float32 of that size; `network`, the network by itself
            on the image resized to its size; `peak`, a convolution in the precision `name`.
        name: the model, as for predict; for a peak float32 or int8.
        size: rows and columns of the image.
        threads: how many the runtime may use.
        device: for models that run in torch; None takes the one that predict takes.

    Raises:
        InputError: the model does not load.
    """
    if what == "peak":
        return _int8_convolution(threads) if name == "int8" else _convolution(device)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    if not is_exported(name):
        return _open_network(what, name, image, device)
    file = ExportedModel(name, threads=threads)
    fitted = fit_image(image, file.height, file.width)
    steps = {"predict": lambda state: file.step(image, state), "network": lambda state: file.run(fitted, state)}
    return Opened(_stream(steps[what]), lambda: file.metadata["flops"], file.metadata["precision"], "cpu")


def _stream(step: Callable[[Any], tuple[Any, Any]]) -> Call:
    """`step` as a call that hands the state which it returned to the next one."""
    state = None

    def call() -> None:
        nonlocal state
        _, state = step(state)

    return call


def _open_network(what: str, name: str, image: np.ndarray, device: str | None) -> Opened:
    import torch

    from steadydepth.exporters.export import describe
    from steadydepth.inference.predictor import load

    predictor = load(name, device=device)
    frames = torch.from_numpy(image).permute(2, 0, 1)[None, None].float().to(predictor.device) / 255

    def network(state: Any) -> tuple[Any, Any]:
        with torch.inference_mode():
            depth, state = predictor.model(frames, state)
        _wait(predictor.device)
        return depth, state

    def flops() -> int:
        return describe(predictor.model.cpu(), image.shape[0], image.shape[1], "")["flops"]

    session = predictor.session()
    call = {"predict": lambda: session.step(image), "network": _stream(network)}[what]
    return Opened(call, flops, "float32", str(predictor.device))


def _wait(device: Any) -> None:
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _convolution(device: str | None) -> Opened:
    """A 3x3 convolution of a shape that torch computes as fast as it can."""
    import torch

    place = torch.device(device or "cpu")
    channels, height, width = PEAK if place.type == "cpu" else ACCELERATOR_PEAK
    frame = torch.randn(1, channels, height, width, device=place).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=place).contiguous(memory_format=torch.channels_last)

    def convolve() -> None:
        with torch.inference_mode():
            for _ in range(_IN_A_ROW):
                torch.nn.functional.conv2d(frame, kernel, padding=1)
        _wait(place)

    return Opened(convolve, lambda: _IN_A_ROW * _operations(channels, height, width), "float32", str(place))


def _int8_convolution(threads: int) -> Opened:
    """The same in eight bits, as ONNX Runtime computes it: in torch there is none for eager networks."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    channels, height, width = PEAK
    draw, shape = np.random.default_rng(0), (1, channels, height, width)
    values = {
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "kernel": draw.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8),
        "kernel_scale": np.full(channels, 0.001, np.float32),
        "kernel_zero": np.zeros(channels, np.int8),
    }
    inputs = ["scale", "zero", "kernel", "kernel_scale", "kernel_zero", "scale", "zero"]
    nodes = [
        helper.make_node("QLinearConv", [f"x{n}", *inputs], [f"x{n + 1}"], pads=[1, 1, 1, 1]) for n in range(_IN_A_ROW)
    ]
    ends = [helper.make_tensor_value_info(f"x{n}", onnx.TensorProto.UINT8, shape) for n in (0, _IN_A_ROW)]
    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "peak", ends[:1], ends[1:], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    frame = {"x0": draw.integers(0, 256, shape, dtype=np.uint8)}
    operations = _IN_A_ROW * _operations(*PEAK)
    return Opened(lambda: session.run(None, frame), lambda: operations, "int8", "cpu")


def _operations(channels: int, height: int, width: int) -> int:
    return 2 * 9 * channels * channels * height * width


def call_for(call: Call, seconds: float) -> list[float]:
    """Seconds of each call of a turn, the first ones left out; there is one at least."""
    begun = time.perf_counter()
    call()
    while time.perf_counter() - begun < _WAKING * seconds:
        call()
    spent: list[float] = []
    while not spent or time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        call()
        spent.append(time.perf_counter() - before)
    return spent


def _resident_mib() -> float | None:
    """The greatest resident size of this process so far; None where the system does not say (Linux does)."""
    # Not getrusage: its number for a child begins at the size of its parent.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), None)


def _device_mib(device: str) -> float | None:
    if device == "cpu":
        return None
    import torch

    read = getattr(torch.get_device_module(device), "max_memory_allocated", None)  # MPS has none
    return None if read is None else read(device) / 2**20


def main() -> None:
    """Open the call, answer each request, and end with the memory that it took."""
    # What libraries print goes to the errors; the answers alone to the one who asked.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Ctrl-C reaches the process group; this process ends when nobody asks any more.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = json.loads(sys.argv[1])
    cv2.setNumThreads(asked["threads"])
    try:
        opened = open_call(**asked)
        for _ in range(_WARM_UP):
            opened.call()
    # Beside ours torch's errors for a device that is not there.
    except (InputError, ImportError, RuntimeError, AssertionError) as error:
        why = str(error) if isinstance(error, InputError) else f"{asked['name']}: {str(error).strip().splitlines()[0]}"
        print(json.dumps({"error": why}), file=answers)
        return
    print(json.dumps({"precision": opened.precision, "device": opened.device}), file=answers)
    for line in sys.stdin:
        print(json.dumps(call_for(opened.call, float(line))), file=answers)
    size = {"memory_mib": _resident_mib(), "device_memory_mib": _device_mib(opened.device)}
    # Last, for it takes memory of its own.
    print(json.dumps(size | {"flops": opened.flops()}), file=answers)


if __name__ == "__main__":
    main()
