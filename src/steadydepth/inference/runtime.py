"""Run an exported file with NumPy, OpenCV and the file's own runtime alone: an image in, depth of its size out.

Nothing here, and nothing it imports, needs torch or any other package of the installation: on a device that only runs
models they can be left out. That is why docstrings give the shapes of arrays. ExecuTorch's runtime for Python alone
brings torch with it.
"""

import json
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError, import_package
from steadydepth.inference.filter_runtime import ExportedFilter as ExportedFilter
from steadydepth.inference.filter_runtime import open_onnx_session
from steadydepth.ops.resize import check_image, enlarge_measured, fit_image

# 1 named the image otherwise and had no state.
FORMAT_VERSION = 2
# The name under which a file keeps its metadata, one JSON text.
METADATA = "steadydepth"
SUFFIXES = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "litert": ".tflite",
    "executorch": ".pte",
    "coreml": ".mlpackage",
}

# What a stream leaves for its next image: an array for each entry of the metadata's `state`; empty for a file of a
# per-frame model.
ArrayState = dict[str, NDArray[Any]]
# A network as its file has it: an image, uint8 RGB (1, h, w, 3), and the state, to depth, float32 (1, h, w), and the
# state after it, in the order of the metadata.
Network = Callable[[NDArray[np.uint8], ArrayState], list[NDArray[Any]]]


class ExportedModel:
    """A file that `steadydepth export` wrote, open and ready; it keeps nothing between calls.

    Args:
        path: the file; its suffix names the runtime.
        threads: how many threads the runtime may use; None leaves the choice to it. ExecuTorch has one pool of threads
            for all files of a process: the last number given counts.

    Attributes:
        metadata: claims, height, width, state, precision, version, licence, weights_sha256, flops, checked.
        claims: what the depth means: metric, scale, affine or disparity.
        height: rows of the network's images.
        width: columns of the network's images.
        state_names: names of the arrays of the state; none in a file of a per-frame model.

    Raises:
        InputError: the file is missing, damaged, of another format or of another version of export; or the package
            that runs it is not installed.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        path = Path(path)
        if path.suffix == SUFFIXES["coreml"]:
            raise InputError(f"{path}: Core ML runs in apps on Apple's devices; here take one of {', '.join(_OPENERS)}")
        if path.suffix not in _OPENERS:
            raise InputError(f"{path}: no exported model; it ends in {' or '.join(_OPENERS)}: write one with export")
        if not path.is_file():
            raise InputError(f"{path} does not exist; write it with export, or check the path")
        self._network, metadata = _OPENERS[path.suffix](path, threads)
        # Sessions of ONNX Runtime may be called side by side; a request or method of the others has one set of buffers.
        self._alone: AbstractContextManager[Any] = (
            nullcontext() if path.suffix == SUFFIXES["onnx"] else threading.Lock()
        )
        self.path, self._threads = path, threads
        self.metadata = _check_metadata(metadata, path)
        self.claims: str = self.metadata["claims"]
        self.height: int = self.metadata["height"]
        self.width: int = self.metadata["width"]
        self.state_names: tuple[str, ...] = tuple(self.metadata["state"])

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the file anew."""
        return partial(type(self), threads=self._threads), (self.path,)

    def initial_state(self) -> ArrayState:
        """The state with which every stream begins: zeros; empty for a file of a per-frame model."""
        return {name: np.zeros(each["shape"], each["dtype"]) for name, each in self.metadata["state"].items()}

    def predict(self, image: np.ndarray) -> NDArray[np.float32]:
        """Depth of an image by itself, or of the first one of a stream.

        Args:
            image: uint8 RGB (h, w, 3) of any size.

        Returns: depth (h, w), in the units of `claims`.

        Raises:
            InputError: the image is something else.
        """
        return self.step(image)[0]

    def step(self, image: np.ndarray, state: ArrayState | None = None) -> tuple[NDArray[np.float32], ArrayState]:
        """Depth of the next image of a stream.

        The image is stretched to the network's size, whatever its shape, and the depth back to the image's.

        Args:
            image: uint8 RGB (h, w, 3) of any size.
            state: what the call for the image before returned; None begins a new stream.

        Returns: depth (h, w), in the units of `claims`, and the state for the image after this one; the arrays of
            `state` are left as they are.

        Raises:
            InputError: the image or the state is something else.
        """
        depth, state = self.run(fit_image(check_image(image), self.height, self.width), state)
        return enlarge_measured(depth, *image.shape[:2], claims=self.claims), state

    def run(self, image: NDArray[np.uint8], state: ArrayState | None = None) -> tuple[NDArray[np.float32], ArrayState]:
        """As `step`, for an image that has the network's size: uint8 RGB (height, width, 3) to depth (height, width).

        Raises:
            InputError: the state is not one of this file.
        """
        state = self.initial_state() if state is None else self._check_state(state)
        with self._alone:
            depth, *after = self._network(np.ascontiguousarray(image)[None], state)
        return depth[0], dict(zip(self.state_names, after, strict=True))

    def _check_state(self, state: ArrayState) -> ArrayState:
        given = {name: (list(np.shape(value)), str(value.dtype)) for name, value in state.items()}
        needed = {name: (each["shape"], each["dtype"]) for name, each in self.metadata["state"].items()}
        if given != needed:
            raise InputError(
                f"{self.path}: the state has {_name_arrays(given)}, the file needs {_name_arrays(needed)}: hand in "
                "what the step before returned, or None for a new stream"
            )
        return {name: np.ascontiguousarray(state[name]) for name in self.state_names}


def state_input(name: str) -> str:
    """The name in the file of the state's tensor `name` as it goes in."""
    return f"state_{name}"


def state_output(name: str) -> str:
    """The name in the file of the state's tensor `name` as it comes out; one graph has no name twice."""
    return f"next_{name}"


def _name_arrays(arrays: dict[str, tuple[list[int], str]]) -> str:
    return ", ".join(f"{name} {dtype} {shape}" for name, (shape, dtype) in sorted(arrays.items())) or "no arrays"


def is_exported(name: str | Path) -> bool:
    """Whether `name` ends as the name of an exported file does."""
    return Path(name).suffix in SUFFIXES.values()


def _open_onnx(path: Path, threads: int | None) -> tuple[Network, str]:
    session = open_onnx_session(path, threads)
    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    return lambda image, state: session.run(None, _by_name(image, state)), metadata


def openvino_core() -> Any:
    """What reads and compiles models of OpenVINO, without mapping them on Windows, which removes no mapped file."""
    core = import_package("openvino", "openvino").Core()
    core.set_property({"ENABLE_MMAP": sys.platform != "win32"})
    return core


def _open_openvino(path: Path, threads: int | None) -> tuple[Network, str]:
    # Where a processor has bfloat16, OpenVINO would take it for float32: steps of 0.4 %, as large as flicker.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    core = openvino_core()
    try:
        model = core.read_model(path)
        with _kept_signal_stack():
            request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise InputError(
            f"{path}: OpenVINO cannot read it ({error}); the file of the same name in .bin belongs to it: "
            "write or copy both again"
        ) from error
    metadata = model.get_rt_info(METADATA).astype(str) if model.has_rt_info(METADATA) else ""

    def run(image: NDArray[np.uint8], state: ArrayState) -> list[NDArray[Any]]:
        results = request.infer(_by_name(image, state))
        # Copies: the next call writes into the same buffers.
        return [results[number].copy() for number in range(len(results))]

    return run, metadata


@contextmanager
def _kept_signal_stack() -> Iterator[None]:
    """Leave the stack on which this thread takes signals as it was.

    OpenVINO (2026.4) sets one for each model and puts back the one before when the model goes: of two models that go in
    the order in which they came, the last leaves the freed stack of the first, and the next signal ends the process.
    """
    if sys.platform != "linux":
        yield
        return
    import ctypes

    library, before = ctypes.CDLL(None), (ctypes.c_long * 3)()  # as large as stack_t: an address, flags, a size
    library.sigaltstack(None, before)
    try:
        yield
    finally:
        library.sigaltstack(before, None)


def _by_name(image: NDArray[np.uint8], state: ArrayState) -> dict[str, NDArray[Any]]:
    return {"image": image} | {state_input(name): value for name, value in state.items()}


def _open_litert(path: Path, threads: int | None) -> tuple[Network, str]:
    litert = import_package("ai_edge_litert.interpreter", "ai-edge-litert", "ai_edge_litert is not installed")
    try:
        metadata = _read_appended(path)
        interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: LiteRT cannot read it ({error}): write or copy it again") from error
    image_at, depth_at = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: NDArray[np.uint8], _: ArrayState) -> list[NDArray[Any]]:
        interpreter.set_tensor(image_at, image)
        interpreter.invoke()
        return [interpreter.get_tensor(depth_at)]

    return run, metadata


def _open_executorch(path: Path, threads: int | None) -> tuple[Network, str]:
    executorch = import_package("executorch.runtime", "executorch torch", "executorch is not installed")
    import torch
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    if threads:
        _unsafe_reset_threadpool(threads)
    try:
        metadata = _read_appended(path)
        method = executorch.Runtime.get().load_program(path).load_method("forward")
    except (zipfile.BadZipFile, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: ExecuTorch cannot read it ({error}): write or copy it again") from error

    def run(image: NDArray[np.uint8], state: ArrayState) -> list[NDArray[Any]]:
        results = method.execute([torch.from_numpy(each) for each in (image, *state.values())])
        return [each.numpy().copy() for each in results]

    return run, metadata


def _read_appended(path: Path) -> str:
    """The metadata at the end of the file, where its runtime does not look; it also shows a file that is incomplete."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(METADATA).decode()


_OPENERS = {".onnx": _open_onnx, ".xml": _open_openvino, ".tflite": _open_litert, ".pte": _open_executorch}


def _check_metadata(text: str, path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
        found = metadata["format_version"]
        is_complete = found != FORMAT_VERSION or {"claims", "height", "width", "state"} <= metadata.keys()
    except (ValueError, TypeError, KeyError):
        is_complete = False
    if not is_complete:
        raise InputError(f"{path}: not written by steadydepth export, or damaged: export the model again")
    if found != FORMAT_VERSION:
        raise InputError(
            f"{path}: written in format {found} of steadydepth export, and this version reads format {FORMAT_VERSION} "
            "alone: export the model again"
        )
    return metadata
