"""The network of the learned filter as a file that `steadydepth.inference.runtime` runs without torch."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from steadydepth.errors import import_extra
from steadydepth.exporters.targets import quiet, save_onnx
from steadydepth.files.atomic_writes import check_file, new_file
from steadydepth.inference.filter_runtime import open_gates
from steadydepth.inference.filters import LEARNED, choose_filter
from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.models.temporal_filter import load_gates
from steadydepth.ops.filter_step import N_FEATURES
from steadydepth.types import InputError

TOLERANCE = 1e-4  # of gates between 0 and 1; relative of the inverse of how large a detail may be


def export_filter(out: str | Path, *, filter: str = LEARNED) -> Path:
    """Write the network of the learned filter as one ONNX file, for videos of any size and depth of any claims.

    Optical flow and the memory stay outside, in NumPy and OpenCV: `runtime.ExportedFilter` has both.

    Args:
        out: the file, .onnx; replaced where it exists.
        filter: "learned", or the folder that `tune_filter` wrote.

    Returns: the file.

    Raises:
        InputError: the name ends otherwise or is that of a folder, a package is missing, there is no such filter, or
            the file differs from it.
    """
    path, chosen = Path(out), choose_filter(filter)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: a filter is written as ONNX: name it {path.with_suffix('.onnx')}")
    check_file(path)
    if chosen.name != LEARNED:
        raise InputError(
            f"filter {chosen}: has no network; only {LEARNED}, or a folder that tune-filter wrote, has one"
        )
    for package in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(package, "onnx")
    gates = load_gates(chosen.weights or WEIGHTS)
    sides = {2: torch.export.Dim("rows", max=4096), 3: torch.export.Dim("columns", max=4096)}
    features = torch.randn(1, N_FEATURES, 40, 56, generator=torch.Generator().manual_seed(0))
    with new_file(path) as part:
        with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
            program = torch.onnx.export(
                gates, (features,), dynamo=True, verbose=False, dynamic_shapes=(sides,),
                input_names=["features"], output_names=["gates"],
            )  # fmt: skip
        save_onnx(program, {"filter": str(chosen), "version": version("steadydepth")}, part)
        other_size = features[..., :31, :43].contiguous()
        found, expected = open_gates(part)(other_size.numpy()), gates(other_size).detach().numpy()
        if not (difference := float((np.abs(found - expected) / np.maximum(expected, 1)).max())) <= TOLERANCE:
            raise InputError(f"{path}: differs from the filter by {difference:.2g}; nothing is written")
    return path
