"""A model repository for Triton: its config says of each tensor what the file says."""

import re

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from steadydepth.errors import InputError
from steadydepth.exporters.export import export_model
from steadydepth.exporters.triton import write_triton
from steadydepth.types import State


class Counting(nn.Module):
    """Depth is the mean red of all frames so far; remembers it, their number and, as an exact sum, their red."""

    claims = "metric"

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            state = {"mean": frames.new_zeros(frames[:, 0, 0].shape), "count": torch.zeros(len(frames)).long()}
            state["sum"] = torch.zeros(len(frames), dtype=torch.float64)
        mean, count, total, depths = state["mean"], state["count"], state["sum"], []
        for frame in frames.unbind(1):
            count, total = count + 1, total + frame[:, 0].double().sum((1, 2))
            mean = mean + (1 + frame[:, 0] - mean) / count[:, None, None]
            depths.append(mean)
        return torch.stack(depths, dim=1), {"mean": mean, "count": count, "sum": total}


class Red(nn.Module):
    claims = "metric"

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return 1 + frames[:, :, 0], {}


@pytest.mark.parametrize("model", [Counting(), Red()], ids=["state", "per-frame"])
def test_the_config_names_the_tensors_of_the_file(tmp_path, model):
    export_model(model, tmp_path / "net.onnx", to="onnx", height=18, width=22)
    folder = write_triton(tmp_path / "net.onnx", tmp_path / "models", "depth")
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    kinds = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(uint8)": "UINT8", "tensor(double)": "FP64"}
    for tensor in (*session.get_inputs(), *session.get_outputs()):
        name = re.escape(tensor.name)
        dims = re.escape(", ".join(map(str, tensor.shape)))
        [found] = re.findall(rf'name: "{name}"[^\n]*? data_type: TYPE_(\w+) dims: \[ {dims} \]', text)
        assert found == kinds[tensor.type]
    n_states = len(session.get_inputs()) - 1
    assert text.count("zero_data: true") == n_states
    assert ("sequence_batching" in text) == (n_states > 0)
    assert text.count("{") == text.count("}")
    # Zeros begin a stream, which is what Triton gives as the first state.
    types = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(int64)": "i8", "tensor(uint8)": "u1"}
    feed = {each.name: np.zeros(each.shape, types[each.type]) for each in session.get_inputs()}
    image = np.random.default_rng(0).integers(0, 256, (1, 18, 22, 3), np.uint8)
    depth = session.run(["depth"], feed | {"image": image})[0]
    np.testing.assert_allclose(depth, 1 + image[..., 0] / np.float32(255), rtol=1e-6)


def test_other_files_and_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="Triton is given ONNX"):
        write_triton(tmp_path / "net.xml", tmp_path, "depth")
    with pytest.raises(InputError, match="is no name for something inside"):
        write_triton(tmp_path / "net.onnx", tmp_path, "../depth")
    with pytest.raises(InputError, match="does not exist"):
        write_triton(tmp_path / "net.onnx", tmp_path, "depth")
