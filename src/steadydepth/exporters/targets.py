"""The graph of a model written for each runtime, with its metadata inside.

The graph takes an image, uint8 (1, h, w, 3), and the tensors of the metadata's `state` in their order; it gives depth,
float32 (1, h, w), and the state after it, in the same order.
"""

import json
import logging
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steadydepth.exporters.graph_rewrites import ENLARGED_BY_SLICES
from steadydepth.files.damage import short
from steadydepth.inference.runtime import METADATA, state_input, state_output
from steadydepth.types import InputError


def write_onnx(
    graph: nn.Module,
    metadata: dict[str, Any],
    path: Path,
    *,
    decompositions: dict[Any, Callable[..., Any]] | None = None,
    beside: dict[str, Any] | None = None,
    kept: Sequence[str] | None = None,
) -> None:
    """One ONNX file of fixed sizes, without the exporter's notes on source lines of this machine.

    Args:
        graph: what is written.
        metadata: of the file, with `height`, `width` and `state`.
        path: where it is written.
        decompositions: for operators of torch, the function that stands in the file in their place.
        beside: shape and type of further inputs, between the image and the state.
        kept: tensors of the state that come out again; None for all.

    Raises:
        InputError: torch.export cannot trace the graph.
    """
    inputs = ["image", *(beside or {}), *map(state_input, metadata["state"])]
    outputs = ["depth", *map(state_output, metadata["state"] if kept is None else kept)]
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
        exported = trace(graph, _inputs(metadata, beside))
        if decompositions:
            exported = exported.run_decompositions(decompositions)
        program = torch.onnx.export(exported, dynamo=True, input_names=inputs, output_names=outputs, verbose=False)
    save_onnx(program, metadata, path)


def save_onnx(program: torch.onnx.ONNXProgram | None, metadata: dict[str, Any], path: Path) -> None:
    """Write what `torch.onnx.export` returned, with our metadata and none of its notes on each node.

    Args:
        program: changed in place.
        metadata: of the file.
        path: where it is written.
    """
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    program.save(path, external_data=False)


def _write_openvino(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    import openvino

    write_onnx(graph, metadata, path.with_suffix(".onnx"), decompositions=ENLARGED_BY_SLICES)
    model = openvino.Core().read_model(path.with_suffix(".onnx"))
    model.set_rt_info(json.dumps(metadata), METADATA)
    save_openvino(model, path)


def save_openvino(model: Any, path: Path) -> None:
    """Write a model of OpenVINO.

    Raises:
        InputError: it cannot be written, as on a full disk.
    """
    import openvino

    try:
        # Half precision would be half the size, and above the tolerance.
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise InputError(f"{path.name}: OpenVINO cannot write it ({error}): make room, or take another disk") from error


def _write_litert(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    import litert_torch

    # It takes minutes, and prints its progress on standard output.
    with quiet(), redirect_stdout(sys.stderr):
        litert_torch.convert(graph, _inputs(metadata)).export(str(path))
    _append(path, metadata)


def _write_executorch(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    """What XNNPACK computes is handed to it; the rest, such as bytes to floats, runs in ExecuTorch's own kernels."""
    with quiet("", "torch", "executorch"), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        exported = trace(graph, _inputs(metadata))
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)
    _append(path, metadata)


def _write_coreml(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    """A package that takes an RGB image, as an app has it: Core ML has no arrays of bytes."""
    height, width = metadata["height"], metadata["width"]
    with quiet("coremltools"), redirect_stdout(sys.stderr), torch.no_grad():
        import coremltools

        exported = trace(_OfImage(graph), (torch.zeros(1, 3, height, width),))
        model = coremltools.convert(
            # It does not know the name of what does nothing.
            exported.run_decompositions({torch.ops.aten.alias.default: lambda same: same}),
            inputs=[coremltools.ImageType(name="image", shape=(1, 3, height, width))],
            outputs=[coremltools.TensorType(name="depth")],
            compute_precision=coremltools.precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
        )
        model.user_defined_metadata[METADATA] = json.dumps(metadata)
        model.save(str(path))
    _check_coreml(coremltools.utils.load_spec(str(path)).description, metadata, path)


class _OfImage(nn.Module):
    """The graph for colours 0 to 255 as floats (1, 3, h, w)."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.network = graph

    def forward(self, image: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 h w"]:
        return self.network(image.permute(0, 2, 3, 1))[0]


def _check_coreml(description: Any, metadata: dict[str, Any], path: Path) -> None:
    """InputError unless the package takes an RGB image of the size, gives depth of it and has its metadata."""
    image, depth = description.input[0].type.imageType, description.output[0].type.multiArrayType
    size = [metadata["height"], metadata["width"]]
    is_image = image.colorSpace == image.ColorSpace.Value("RGB") and [image.height, image.width] == size
    if not (is_image and list(depth.shape) == [1, *size] and METADATA in description.metadata.userDefined):
        raise InputError(f"{path}: Core ML's converter wrote something else than the model: try another format")


def trace(graph: nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    """The program of `graph` for inputs of these shapes.

    Raises:
        InputError: torch.export cannot trace it.
    """
    try:
        return torch.export.export(graph, inputs, strict=False)
    except (RuntimeError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise InputError(f"torch.export cannot trace the model: {short(error)}") from error


def _inputs(metadata: dict[str, Any], beside: dict[str, Any] | None = None) -> tuple[Tensor, ...]:
    image = torch.zeros(1, metadata["height"], metadata["width"], 3, dtype=torch.uint8)
    others = (*(beside or {}).values(), *metadata["state"].values())
    return image, *(torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"])) for each in others)


def _append(path: Path, metadata: dict[str, Any]) -> None:
    """As TensorFlow Lite keeps files that go with a model: a zip archive after its end."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(metadata))


WRITERS: dict[str, Callable[[nn.Module, dict[str, Any], Path], None]] = {
    "onnx": write_onnx,
    "openvino": _write_openvino,
    "litert": _write_litert,
    "executorch": _write_executorch,
    "coreml": _write_coreml,
}


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Only errors of these loggers, the root being the empty name, and no warnings.

    Those of an exporter's own use of what it has deprecated are nothing that a user could fix.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
