"""An exported file in 8-bit integers: calibrated on the user's clips, and measured on them before and after.

The rounding of int8 is as large as the flicker that training removes, so a file is never written without the
accuracy and the temporal consistency that it has left.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import nn

from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.errors import import_extra
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.exporters.export import check_target, export_model, relative_difference, staging
from steadydepth.exporters.targets import quiet, save_openvino
from steadydepth.files.atomic_writes import write_json
from steadydepth.inference.predictor import load
from steadydepth.inference.runtime import METADATA, ExportedModel, openvino_core
from steadydepth.ops.resize import fit_image
from steadydepth.types import InputError

N_CALIBRATION = 64  # images, spread evenly over clips and their frames
# Fewer are warned of; longer clips always give more. Of steadydepth-small, calibrated on 3, 8 and 32 frames of a
# hand-held clip, a twentieth of the pixels of four other clips was off by more than 31, 28 and 26 % of float32.
_FEW = N_CALIBRATION // 2
logger = logging.getLogger(__name__)

# What ONNX Runtime computes in 8 bits without going to floats and back between.
_INTEGER_OPS = ["Conv", "Add", "Clip", "Relu", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]


def export_int8(
    model: nn.Module, out: Path, *, to: str, height: int, width: int, data: Path, licence: str = "not stated"
) -> dict[str, Any]:
    """Write `model` to `out` in int8, calibrated on images of `data`, and what that changed to `out`.int8.json.

    Args:
        model: a per-frame model; it is copied.
        out: the file, as for `export_model`.
        to: onnx or openvino.
        height: rows of the network's images.
        width: columns of the network's images.
        data: sequence folders or videos, to calibrate and to measure on.
        licence: of the weights, noted in the file.

    Returns: what the json holds: under `before` and `after` the means of evaluate on `data`, for the float32 file and
        for this one.

    Raises:
        InputError: as for `export_model`; the model has a state, or is a transformer for ONNX; a package is missing;
            the disk is full.
    """
    if to not in _QUANTISERS:
        raise InputError(f"{to}: int8 is for {' and '.join(_QUANTISERS)}; choose one of them, or leave --int8 out")
    check_target(out, to)
    if to == "openvino":
        with quiet("torch.utils.cpp_extension"):  # nncf looks for a compiler that it does not need here
            import_extra("nncf", "nncf")
    images = [fit_image(frame, height, width) for frame in calibration_frames(data)]
    if len(images) < _FEW:
        logger.warning(
            "%s: only %d frames to calibrate int8 on: give %d or more, of several scenes like those that it will see",
            data,
            len(images),
            _FEW,
        )
    with staging(out) as part:
        exact = part.with_name(f"{part.stem}.float32{part.suffix}")
        export_model(model, exact, to=to, height=height, width=width, frames=images[:3], licence=licence)
        metadata = ExportedModel(exact).metadata | {"precision": "int8"}
        if metadata["state"]:
            raise InputError("the model has a state, and int8 is for per-frame models: leave --int8 out")
        with _complete_files(part):
            _QUANTISERS[to](exact, part, images, json.dumps(metadata))
        report = {
            "data": str(data),
            "n_calibration": len(images),
            "median_difference": _median_difference(ExportedModel(part), ExportedModel(exact), images),
            "before": evaluate(exact_model := load(exact), data, controls=False)["mean"],
            "after": evaluate(load(part), data, controls=False, reference=exact_model)["mean"],
        }
        write_json(report_path(out), report)  # first: where this fails the file that is there keeps its own
    return report


@contextmanager
def _complete_files(part: Path) -> Iterator[None]:
    """Explain the error of an ONNX file that cannot be read back: on a full disk onnx and ONNX Runtime cut it short."""
    from google.protobuf.message import DecodeError

    try:
        yield
    except DecodeError as error:
        raise InputError(
            f"{part.name}: ONNX Runtime cannot write it, or a file that it needs on the way ({error}), as on a full "
            f"disk: make room, there and in {gettempdir()} (TMPDIR), or take another disk"
        ) from error


def report_path(out: Path) -> Path:
    """The JSON file of the measurement of the int8 file `out`, beside it."""
    return out.with_name(f"{out.name}.int8.json")


def calibration_frames(data: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """At most 64 frames of the clips of `data`, uint8 RGB (h, w, 3), spread evenly over all of them."""
    sequences = [open_sequence(path) for path in find_sequences(data)]
    places = [(sequence, number) for sequence in sequences for number in range(sequence.n_frames)]
    for sequence, number in places[:: -(-len(places) // N_CALIBRATION)]:
        yield sequence.read_frames(number, number + 1)[0]


def _median_difference(one: ExportedModel, other: ExportedModel, images: list[np.ndarray]) -> float:
    """Median over all pixels of `relative_difference`."""
    differences = [relative_difference(one.run(image)[0], other.run(image)[0]) for image in images]
    return float(np.median(np.stack(differences)))


def _quantise_onnx(exact: Path, out: Path, images: list[np.ndarray], metadata: str) -> None:
    """Static, QDQ, a scale for each channel; from the last convolution on floats: 256 depths are visible as steps."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if _attends(onnx.load(exact).graph):
        raise InputError(
            "int8 of a transformer in ONNX Runtime is refused: its attention and norms stay in floats, so every layer "
            "is converted back and forth, slower than float32, and its outliers lose the accuracy; "
            "use --to openvino, or leave --int8 out"
        )
    prepared = out.with_name("prepared.onnx")
    quant_pre_process(str(exact), str(prepared), skip_symbolic_shape=True)
    kept, operators = _keep_last_in_floats(prepared)
    inputs = ({"image": image[None]} for image in images)
    with quiet(""):
        quantization.quantize_static(
            str(prepared),
            str(out),
            SimpleNamespace(get_next=lambda: next(inputs, None)),  # as calibration asks for them
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Processors with AVX2 alone add two products in 16 bits, and cut off what weights of 8 bits make of them:
            # 45 % more flicker. With 7 bits a file gives the same depth on all processors, as fast.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=operators,
            nodes_to_exclude=kept,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    quantised = onnx.load(out)
    del quantised.metadata_props[:]
    quantised.metadata_props.add(key=METADATA, value=metadata)
    onnx.save(quantised, out)


def _attends(graph: Any) -> bool:
    """Whether tokens are compared with tokens: a node of attention, or a product of two things that are computed."""
    known = {stored.name for stored in graph.initializer}
    known |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return any(
        node.op_type in ("Attention", "MultiHeadAttention")
        or (node.op_type == "MatMul" and not known.intersection(node.input))
        for node in graph.node
    )


def _keep_last_in_floats(prepared: Path) -> tuple[list[str], list[str]]:
    """The names of what stays in floats in the ONNX file `prepared`, and the operators that do not.

    A last convolution of 1 x 1 is rewritten as a matrix product, which ONNX Runtime computes from 8 bits to floats; a
    convolution would have to be in one or the other, and bringing all channels back to floats takes a sixth of
    the time of a small network.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(prepared)
    graph = model.graph
    last = max(number for number, node in enumerate(graph.node) if node.op_type == "Conv")
    conv, after = graph.node[last], [node.name for node in graph.node[last + 1 :]]
    weights = {stored.name: stored for stored in graph.initializer}[conv.input[1]]
    attributes = {one.name: helper.get_attribute_value(one) for one in conv.attribute}
    is_product = len(conv.input) == 2 and weights.dims[2:] == [1, 1] and attributes.get("group", 1) == 1
    if not is_product or attributes.get("strides", [1, 1]) != [1, 1] or any(attributes.get("pads", [])):
        return [conv.name, *after], _INTEGER_OPS
    others = [node.name for node in graph.node if node.op_type == "MatMul"]
    product = f"{conv.name}_product"
    pixels, channels, factors = (f"{product}_{part}" for part in ("pixels", "channels", "factors"))
    graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weights)[:, :, 0, 0].T.copy(), factors))
    nodes = [
        helper.make_node("Transpose", [conv.input[0]], [pixels], name=pixels, perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", [pixels, factors], [channels], name=product),
        helper.make_node("Transpose", [channels], [conv.output[0]], name=channels, perm=[0, 3, 1, 2]),
    ]
    graph.node.remove(conv)
    for number, node in enumerate(nodes, start=last):
        graph.node.insert(number, node)
    if not any(weights.name in node.input for node in graph.node):
        graph.initializer.remove(weights)
    onnx.save(model, prepared)
    return [*others, channels, *after], [*_INTEGER_OPS, "MatMul"]


def _quantise_openvino(exact: Path, out: Path, images: list[np.ndarray], metadata: str) -> None:
    """Floats from the last layer with weights on here as well, and ranges that hold all that calibration saw.

    Those of nncf's default cut off the rarest values: of the demo's model that made 7 % more flicker, these make 2 %.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    model = openvino_core().read_model(exact)
    batches = [image[None] for image in images]
    operators = model.get_ordered_ops()
    # A transformer may end in a product.
    learned = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
    last = max((number for number, one in enumerate(operators) if one.get_type_name() in learned), default=0)
    after = [one.get_friendly_name() for one in operators[last + 1 :]]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(names=after, validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )
    quantised.set_rt_info(metadata, METADATA)
    save_openvino(quantised, out)


_QUANTISERS = {"onnx": _quantise_onnx, "openvino": _quantise_openvino}
