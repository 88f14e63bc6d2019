"""The network of the learned filter in NumPy is that in torch."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steadydepth.errors import InputError
from steadydepth.models.filter_gates import ArrayGates
from steadydepth.models.temporal_filter import FilterGates, load_gates
from steadydepth.ops.filter_step import N_FEATURES


@pytest.mark.parametrize("size", [(48, 64), (3, 5), (1, 1), (17, 2)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_arrays_give_what_tensors_give(size, scale):
    features = scale * np.random.default_rng(0).standard_normal((1, N_FEATURES, *size)).astype(np.float32)
    with torch.inference_mode():
        expected = load_gates()(torch.from_numpy(features)).numpy()
    found = ArrayGates()(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_other_weights_and_widths(tmp_path):
    torch.manual_seed(0)
    network = FilterGates(width=8).eval()
    torch.nn.init.normal_(network.head.weight)
    save_file(network.state_dict(), tmp_path / "narrow.safetensors")
    features = np.random.default_rng(1).standard_normal((1, N_FEATURES, 9, 11)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(ArrayGates(tmp_path / "narrow.safetensors")(features), expected, rtol=1e-4, atol=1e-6)


def test_damaged_and_missing_weights_are_named(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    with pytest.raises(InputError, match=r"cut\.safetensors: cannot be read as weights"):
        ArrayGates(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="no such file of weights"):
        ArrayGates(tmp_path / "none.safetensors")
