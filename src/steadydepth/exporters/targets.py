"""The graph of a model written for each runtime, with what the file says of itself inside."""

import json
import logging
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from steadydepth.exporters.graph_rewrites import ENLARGED_BY_SLICES
from steadydepth.inference.runtime import METADATA
from steadydepth.types import InputError


def write_onnx(
    graph: nn.Module, metadata: dict[str, Any], path: Path, *, taken_apart: dict[Any, Callable[..., Any]] | None = None
) -> None:
    """One ONNX file of fixed sizes, without the exporter's notes on source lines of this machine.

    `taken_apart` says for operators of torch what stands in the file in their place.
    """
    with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
        # The exporter's own use of what it has deprecated; nothing a user could mend.
        warnings.simplefilter("ignore")
        exported = torch.export.export(graph, (_image(metadata),), strict=False)
        if taken_apart:
            exported = exported.run_decompositions(taken_apart)
        program = torch.onnx.export(exported, dynamo=True, input_names=["image"], output_names=["depth"], verbose=False)
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    program.save(path, external_data=False)


def _write_openvino(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    import openvino

    write_onnx(graph, metadata, path.with_suffix(".onnx"), taken_apart=ENLARGED_BY_SLICES)
    model = openvino.Core().read_model(path.with_suffix(".onnx"))
    model.set_rt_info(json.dumps(metadata), METADATA)
    # Half precision would be half the size, and above the tolerance.
    openvino.save_model(model, path, compress_to_fp16=False)


def _write_litert(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    import litert_torch

    # It takes minutes, and tells on standard output how far it is.
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        litert_torch.convert(graph, (_image(metadata),)).export(str(path))
    _append(path, metadata)


def _write_executorch(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    """What XNNPACK computes is handed to it; the rest, such as bytes to floats, runs in ExecuTorch's own kernels."""
    with warnings.catch_warnings(), quiet("", "torch", "executorch"), torch.no_grad():
        warnings.simplefilter("ignore")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        exported = torch.export.export(graph, (_image(metadata),), strict=False)
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)
    _append(path, metadata)


def _write_coreml(graph: nn.Module, metadata: dict[str, Any], path: Path) -> None:
    """A package whose image is an image, as an app has it, and not an array: Core ML knows no arrays of bytes."""
    height, width = metadata["height"], metadata["width"]
    with warnings.catch_warnings(), quiet("coremltools"), redirect_stdout(sys.stderr), torch.no_grad():
        warnings.simplefilter("ignore")
        import coremltools

        exported = torch.export.export(_OfImage(graph), (torch.zeros(1, 3, height, width),), strict=False)
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
        return self.network(image.permute(0, 2, 3, 1))


def _check_coreml(said: Any, metadata: dict[str, Any], path: Path) -> None:
    """InputError unless the package takes an RGB image of the size, gives depth of it and says what it is."""
    image, depth = said.input[0].type.imageType, said.output[0].type.multiArrayType
    size = [metadata["height"], metadata["width"]]
    is_image = image.colorSpace == image.ColorSpace.Value("RGB") and [image.height, image.width] == size
    if not (is_image and list(depth.shape) == [1, *size] and METADATA in said.metadata.userDefined):
        raise InputError(f"{path}: Core ML's converter wrote something else than the model: try another format")


def _image(metadata: dict[str, Any]) -> UInt8[Tensor, "1 h w 3"]:
    return torch.zeros(1, metadata["height"], metadata["width"], 3, dtype=torch.uint8)


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
    """Only errors of these loggers, the root being the empty name; what they say besides is not for the user."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
