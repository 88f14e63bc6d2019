"""A file opened by ONNX Runtime on the CPU, for exported models and for the learned filter. No torch."""

from pathlib import Path
from typing import Any

from steadydepth.errors import InputError, import_package


def open_onnx_session(path: Path, threads: int | None = None) -> Any:
    """An `onnxruntime.InferenceSession`.

    Args:
        path: of the file, .onnx.
        threads: how many threads it may use; None leaves the choice to ONNX Runtime.

    Raises:
        InputError: ONNX Runtime is not installed, or cannot read the file.
    """
    onnxruntime = import_package("onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Its errors share no other base.
    except Exception as error:
        raise InputError(f"{path}: ONNX Runtime cannot read it ({error}): write or copy it again") from error
