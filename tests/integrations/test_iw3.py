"""The iw3 model beside a stand-in for nunif: the abstract methods and calls of BaseDepthModel, as its code has them."""

import importlib.util
import sys
from abc import ABCMeta, abstractmethod
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from steadydepth.inference.predictor import Predictor
from steadydepth.training.checkpoint import save_model

HOME = Path(__file__).parent.parent.parent / "integrations" / "iw3" / "steadydepth_model.py"


class BaseDepthModel(metaclass=ABCMeta):
    def __init__(self, model_type):
        self.model, self.model_type, self.device = None, model_type, None

    def load(self, gpu=0, resolution=None, **kwargs):
        self.device = torch.device("cpu")
        self.model = self.load_model(self.model_type, resolution=resolution, device=self.device, **kwargs)
        self.model = self.model.to(self.device).eval()
        return self

    def reset(self):
        self.reset_state()

    def reset_state(self):
        self.model = self.model

    @classmethod
    @abstractmethod
    def get_name(cls): ...

    @classmethod
    @abstractmethod
    def supported(cls, model_type): ...

    @classmethod
    @abstractmethod
    def has_checkpoint_file(cls, model_type): ...

    @classmethod
    @abstractmethod
    def get_model_path(cls, model_type): ...

    @classmethod
    @abstractmethod
    def force_update(cls): ...

    @classmethod
    @abstractmethod
    def multi_gpu_supported(cls, name): ...

    @abstractmethod
    def is_metric(self): ...

    @abstractmethod
    def load_model(self, model_type, resolution, device): ...

    @abstractmethod
    def infer(self, x, *kwargs): ...


@pytest.fixture
def iw3(monkeypatch):
    names = ("iw3", "iw3.base_depth_model", "iw3.depth_model_factory", "iw3.utils")
    package, base, factory, utils = map(ModuleType, names)
    base.BaseDepthModel = BaseDepthModel

    def create_depth_model(model_type):
        raise ValueError(f"{model_type} is not supported")

    # As iw3's code has it: utils takes the function by name, and iw3's command imports utils first.
    factory.create_depth_model = utils.create_depth_model = create_depth_model
    package.depth_model_factory = factory
    for module in (package, base, factory, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("steadydepth_model", HOME)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()
    return factory


def test_iw3_makes_it_by_its_name_and_nothing_abstract_is_left(iw3):
    model = iw3.create_depth_model("steadydepth:runs/mine")
    assert model.get_name() == "steadydepth"
    assert model.get_model_path("steadydepth:runs/mine") == "runs/mine"
    with pytest.raises(ValueError, match="ZoeD_N is not supported"):
        iw3.create_depth_model("ZoeD_N")


def test_modules_that_were_imported_before_make_it_as_well(iw3):
    assert sys.modules["iw3.utils"].create_depth_model("steadydepth:runs/mine").get_name() == "steadydepth"


def test_frames_one_by_one_and_in_batches_are_one_video_behind_the_filter(iw3, model, moving_clip, tmp_path):
    save_model(model, tmp_path / "model")
    frames = torch.from_numpy(moving_clip.frames).permute(0, 3, 1, 2).float() / 255
    made = iw3.create_depth_model(f"steadydepth:{tmp_path / 'model'}").load()
    assert made.is_metric()
    session = Predictor(model).session(filter="learned")
    expected = -np.stack([session.step(image).depth for image in moving_clip.frames])  # near is large
    single = made.infer(frames[0], tta=False, low_vram=False, enable_amp=True, edge_dilation=2)
    assert single.shape == (1, 48, 64)
    rest = made.infer(frames[1:])
    assert rest.shape == (4, 1, 48, 64)
    np.testing.assert_allclose(torch.cat([single[None], rest])[:, 0], expected, rtol=1e-5)
    made.reset()  # a scene boundary
    np.testing.assert_allclose(made.infer(frames[0])[0], expected[0], rtol=1e-5)
    assert not np.allclose(made.infer(frames[1])[0], -Predictor(model).predict(moving_clip.frames[1]).depth, rtol=1e-4)
