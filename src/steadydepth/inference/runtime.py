"""Run an exported file with NumPy, OpenCV and the file's own runtime alone: an image in, depth of its size out.

Nothing here, and nothing it imports, needs torch or any other package of the installation: on a device that only runs
models they can be left out. That is why the shapes of arrays are said in words. ExecuTorch's runtime for Python alone
brings torch with it.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError
from steadydepth.ops.resize import fit_image, resize_depth

FORMAT_VERSION = 1
# Where a file keeps what it says of itself: one JSON text under this name.
METADATA = "steadydepth"
SUFFIXES = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "litert": ".tflite",
    "executorch": ".pte",
    "coreml": ".mlpackage",
}


# A network as its file has it: uint8 RGB (1, h, w, 3) to float32 (1, h, w).
Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class ExportedModel:
    """A file that `steadydepth export` wrote, open and ready; it sees each image by itself and remembers nothing.

    `metadata` is what the file says of itself: claims, height, width, precision, version, licence, weights_sha256,
    flops, checked. `threads` is how many the runtime may use; None leaves the choice to it. ExecuTorch has one pool of
    threads for all files of a process: the last number given counts.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        path = Path(path)
        if path.suffix == SUFFIXES["coreml"]:
            raise InputError(f"{path}: Core ML runs in apps on Apple's devices; here take one of {', '.join(_OPENERS)}")
        if path.suffix not in _OPENERS:
            raise InputError(f"{path}: no exported model; it ends in {' or '.join(_OPENERS)}: write one with export")
        if not path.is_file():
            raise InputError(f"{path} does not exist; write it with export, or check the path")
        self._network, said = _OPENERS[path.suffix](path, threads)
        self.metadata = _check_metadata(said, path)
        self.claims: str = self.metadata["claims"]
        self.height: int = self.metadata["height"]
        self.width: int = self.metadata["width"]

    def predict(self, image: np.ndarray) -> NDArray[np.float32]:
        """Depth (h, w), in the units of `claims`, of an image of any size, uint8 RGB (h, w, 3).

        The image is stretched to the network's size, whatever its shape, and the depth back to the image's.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"an image is {kind}; it is a numpy array of uint8 (h, w, 3) in RGB: convert it")
        depth = self.run(fit_image(image, self.height, self.width))
        return resize_depth(depth, *image.shape[:2])

    def run(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Depth (height, width) of an image that has the network's size, uint8 RGB (height, width, 3)."""
        return self._network(np.ascontiguousarray(image)[None])[0]


def is_exported(name: str | Path) -> bool:
    """Whether it is named as an exported file is."""
    return Path(name).suffix in SUFFIXES.values()


def missing_package(package: str, extra: str) -> InputError:
    """What to say when an optional package is not there."""
    return InputError(f"{package} is not installed: pip install 'steadydepth[{extra}]'")


def _open_onnx(path: Path, threads: int | None) -> tuple[Network, str]:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Its errors share no other base.
    except Exception as error:
        raise InputError(f"{path}: ONNX Runtime cannot read it ({error}): write or copy it again") from error
    said = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    return lambda image: session.run(None, {"image": image})[0], said


def _open_openvino(path: Path, threads: int | None) -> tuple[Network, str]:
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", "openvino") from error
    # Where a processor knows bfloat16, OpenVINO would take it for float32: steps of 0.4 %, as large as flicker.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        core = openvino.Core()
        model = core.read_model(path)
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise InputError(
            f"{path}: OpenVINO cannot read it ({error}); the file of the same name in .bin belongs to it: "
            "write or copy both again"
        ) from error
    said = model.get_rt_info(METADATA).astype(str) if model.has_rt_info(METADATA) else ""
    # A copy: the next call writes into the same buffer.
    return lambda image: request.infer([image])[0].copy(), said


def _open_litert(path: Path, threads: int | None) -> tuple[Network, str]:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise missing_package("ai_edge_litert", "litert") from error
    try:
        said = _read_appended(path)
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: LiteRT cannot read it ({error}): write or copy it again") from error
    image_at, depth_at = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        interpreter.set_tensor(image_at, image)
        interpreter.invoke()
        return interpreter.get_tensor(depth_at)

    return run, said


def _open_executorch(path: Path, threads: int | None) -> tuple[Network, str]:
    try:
        import torch
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime
    except ImportError as error:
        raise missing_package("executorch", "executorch") from error
    if threads:
        _unsafe_reset_threadpool(threads)
    try:
        said = _read_appended(path)
        method = Runtime.get().load_program(path).load_method("forward")
    except (zipfile.BadZipFile, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: ExecuTorch cannot read it ({error}): write or copy it again") from error
    return lambda image: method.execute([torch.from_numpy(image)])[0].numpy().copy(), said


def _read_appended(path: Path) -> str:
    """What is said at the end of the file, where its runtime does not look: a file that was cut is told by it."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(METADATA).decode()


_OPENERS = {".onnx": _open_onnx, ".xml": _open_openvino, ".tflite": _open_litert, ".pte": _open_executorch}


def _check_metadata(said: str, path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(said)
        is_ours = metadata["format_version"] == FORMAT_VERSION and {"claims", "height", "width"} <= metadata.keys()
    except (ValueError, TypeError, KeyError):
        is_ours = False
    if not is_ours:
        raise InputError(f"{path}: not written by this version of steadydepth export: export the model again")
    return metadata
