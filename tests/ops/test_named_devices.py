import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from steadydepth.config import FilterConfig
from steadydepth.filter_training.learner import Learner
from steadydepth.inference.predictor import Predictor, as_predictor
from steadydepth.models.temporal_filter import FilterGates
from steadydepth.ops.devices import find_device, has_float64
from steadydepth.types import InputError


def test_a_device_that_is_there_is_found():
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")
    with FakeTensorMode():
        assert find_device("cuda:1") == torch.device("cuda:1")


# One that no machine has, one that torch does not know, one without numbers, and one of a package that is not there.
@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta", "hpu"])
def test_a_device_that_is_not_there_is_refused_wherever_it_is_named(name, model, tmp_path):
    refused = f"device {name}: cannot be used .*: give cpu, or one that steadydepth doctor lists"
    with pytest.raises(InputError, match=refused):
        find_device(name)
    with pytest.raises(InputError, match=refused):
        Predictor(model, device=name)
    config = FilterConfig(out=tmp_path / "filter.safetensors", device=name)
    with pytest.raises(InputError, match=refused):
        Learner(FilterGates(), config, tmp_path / "learning")
    assert {one.device.type for one in model.parameters()} == {"cpu"}


def test_a_device_for_a_model_that_is_given_is_refused(model):
    assert as_predictor(model).device == torch.device("cpu")
    for given in (model, Predictor(model)):
        with pytest.raises(InputError, match="device cpu: only a model that is named is put on a device"):
            as_predictor(given, device="cpu")


def test_a_device_with_64_bits():
    assert has_float64(torch.device("cpu"))
