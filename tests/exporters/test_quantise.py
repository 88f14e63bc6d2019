"""int8 files: near the float ones, no nearer than 8 bits can be, and measured."""

import errno
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadydepth.exporters import quantise
from steadydepth.exporters.export import export_model
from steadydepth.exporters.quantise import calibration_frames, export_int8, report_path
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.inference.runtime import ExportedModel
from steadydepth.models.depth_net import DepthNet
from steadydepth.types import Clip, InputError, State

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

H, W = 36, 44


class Small(nn.Module):
    """Three convolutions at half size, as any network of them begins, goes on and ends."""

    claims = "metric"

    def __init__(self, last: int = 1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=2),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU6(),
            nn.Conv2d(8, 1, last, padding=last // 2),
            nn.Upsample((H, W), mode="bilinear"),
        )

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        b, t = frames.shape[:2]
        return self.layers(frames.flatten(0, 1) * 2)[:, 0].exp().unflatten(0, (b, t)), {}


class Attending(Small):
    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        depth, state = super().forward(frames)
        return depth + (depth @ depth.mT).softmax(dim=-1).mean(dim=-1, keepdim=True), state


# A last convolution of more than one pixel reaches the file as one of 1 x 1 to its taps.
@pytest.mark.parametrize("last", [1, 3])
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_int8_is_near_and_measured_before_and_after(world, tmp_path, to, last, caplog):
    if to == "openvino":
        pytest.importorskip("nncf")
    model, suffix = Small(last), {"onnx": "onnx", "openvino": "xml"}[to]
    out = tmp_path / f"small.{suffix}"
    report = export_int8(model, out, to=to, height=H, width=W, data=world, licence="CC0-1.0")
    assert json.loads(report_path(out).read_text(encoding="utf-8")) == report
    export_model(model, tmp_path / f"exact.{suffix}", to=to, height=H, width=W)
    exact, file = ExportedModel(tmp_path / f"exact.{suffix}"), ExportedModel(out)
    assert file.metadata == exact.metadata | {"precision": "int8", "licence": "CC0-1.0"}
    images = [cv2.resize(frame, (W, H)) for frame in calibration_frames(world)]
    relative = np.abs([file.run(image)[0] / exact.run(image)[0] - 1 for image in images])
    # A step of an 8-bit activation is 1/255 of its range, and several follow on each other.
    assert 1e-5 < np.median(relative) < 0.02
    # From the last convolution on it is floats: 256 depths would be visible as steps.
    assert len(np.unique(file.run(images[0])[0])) > 400
    assert report["median_difference"] == pytest.approx(np.median(relative), rel=0.5)
    assert report["n_calibration"] == 10
    assert "only 10 frames to calibrate int8 on: give 32 or more" in caplog.text
    for name in ("abs_rel", "flicker"):
        assert report["before"][name] > 0
        assert report["after"][name] == pytest.approx(report["before"][name], rel=0.2)
        assert report["after"][name] != report["before"][name]
    assert report["before"]["edges_kept"] is None
    assert report["after"]["edges_kept"] == pytest.approx(1, abs=0.05)
    assert report["after"]["edges_kept"] != 1
    assert not list(tmp_path.glob(".*"))


def test_zeros_of_disparity_and_any_name_of_the_file_are_measured_like_others(world, tmp_path, caplog, monkeypatch):
    class Sky(Small):
        claims = "disparity"

        def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            depth, state = super().forward(frames)
            return (depth.log() - 0.2).relu(), state

    out = tmp_path / "float32.onnx"  # not the name of what it is measured beside
    monkeypatch.setattr(quantise, "_FEW", 10)
    report = export_int8(Sky(), out, to="onnx", height=H, width=W, data=world)
    images = [cv2.resize(frame, (W, H)) for frame in calibration_frames(world)]
    assert 0 < np.mean([ExportedModel(out).run(image)[0] == 0 for image in images]) < 0.5
    assert 0 < report["median_difference"] < 0.1
    assert report["after"]["flicker"] != report["before"]["flicker"]
    assert "to calibrate" not in caplog.text  # as many as there are to be


def test_a_file_keeps_its_measurement_where_there_is_no_room_for_a_new_one(world, tmp_path, monkeypatch):
    def full(path, _):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    out = tmp_path / "small.onnx"
    out.write_text("the one before", encoding="utf-8")
    monkeypatch.setattr(quantise, "write_json", full)
    with pytest.raises(OSError, match=r"small\.onnx\.int8\.json"):
        export_int8(Small(), out, to="onnx", height=H, width=W, data=world)
    assert out.read_text(encoding="utf-8") == "the one before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_a_full_disk_cuts_short_is_one_message(world, tmp_path, monkeypatch):
    infer = onnx.shape_inference.infer_shapes_path

    def infer_on_a_full_disk(model, out):
        infer(model, out)
        Path(out).write_bytes(Path(out).read_bytes()[:-100])  # without an error, as onnx does

    out = tmp_path / "small.onnx"
    out.write_text("the one before", encoding="utf-8")
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes_path", infer_on_a_full_disk)
    with pytest.raises(InputError, match=r"^small\.onnx: ONNX Runtime cannot write it.*as on a full disk: make room"):
        export_int8(Small(), out, to="onnx", height=H, width=W, data=world)
    assert out.read_text(encoding="utf-8") == "the one before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("attributes", "shape", "bias"),
    [
        ({}, (2, 4, 1, 1), False),
        ({"pads": [1, 1, 1, 1]}, (2, 4, 3, 3), False),
        ({"pads": [1, 1, 1, 1]}, (2, 4, 1, 1), False),
        ({"strides": [2, 2]}, (2, 4, 1, 1), False),
        ({"group": 2}, (2, 2, 1, 1), False),
        ({}, (2, 4, 1, 1), True),
    ],
)
def test_only_a_last_convolution_that_is_a_matrix_product_becomes_one(tmp_path, attributes, shape, bias):
    draw = np.random.default_rng(0)
    stored = {"weights": draw.normal(size=shape)} | ({"bias": np.arange(shape[0])} if bias else {})
    node = onnx.helper.make_node("Conv", ["features", *stored], ["depth"], name="conv", **attributes)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)
        for name, size in (("features", (1, 4, 5, 6)), ("depth", None))
    ]
    kept = [onnx.numpy_helper.from_array(values.astype(np.float32), name) for name, values in stored.items()]
    graph = onnx.helper.make_graph([node], "last", ends[:1], ends[1:], kept)
    path = tmp_path / "last.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    features = {"features": draw.normal(size=(1, 4, 5, 6)).astype(np.float32)}
    before = onnxruntime.InferenceSession(path).run(None, features)[0]
    in_floats, operators = quantise._keep_last_in_floats(path)
    is_plain = shape == (2, 4, 1, 1) and not attributes and not bias
    assert ("MatMul" in [one.op_type for one in onnx.load(path).graph.node]) is is_plain
    assert ("MatMul" in operators, "conv" in in_floats) == (is_plain, not is_plain)
    np.testing.assert_allclose(onnxruntime.InferenceSession(path).run(None, features)[0], before, rtol=1e-5, atol=1e-6)


def test_guided_upsampling_in_int8_is_as_near(world, tmp_path):
    torch.manual_seed(1)
    net = DepthNet("test_efficientnet", decoder_width=16, upsampling="guided").eval()
    report = export_int8(net, tmp_path / "guided.onnx", to="onnx", height=H, width=W, data=world)
    assert 1e-5 < report["median_difference"] < 0.02
    assert "softmax" in {node.op_type.lower() for node in onnx.load(tmp_path / "guided.onnx").graph.node}


def test_transformers_in_onnx_are_refused_with_the_reason(world, tmp_path):
    with pytest.raises(InputError, match="int8 of a transformer in ONNX Runtime is refused: its attention"):
        export_int8(Attending(), tmp_path / "a.onnx", to="onnx", height=H, width=W, data=world)
    assert list(tmp_path.iterdir()) == []


def test_openvino_asks_for_the_package_it_needs(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(InputError, match=r"nncf is not installed: pip install 'steadydepth\[nncf\]'"):
        export_int8(Small(), tmp_path / "a.xml", to="openvino", height=H, width=W, data=world)


def test_calibration_frames_are_spread_over_clips(tmp_path):
    for name, first in (("a", 0), ("b", 100)):
        frames = np.arange(first, first + 70, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
        write_sequence(
            tmp_path, Clip(name, np.tile(frames, (1, 4, 5, 1)), 10.0), depth_scale_m=None, source=None, licence=None
        )
    shown = [int(frame[0, 0, 0]) for frame in calibration_frames(tmp_path)]
    assert shown == [*range(0, 70, 3), *range(102, 170, 3)]  # 140 frames: every third, 47 of them
