"""The ComfyUI nodes by the contract of nodes, and what they give beside the package itself."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from known_depth import Red

from steadydepth.files.video_write import write_video
from steadydepth.inference.filters import filter_depth
from steadydepth.inference.predictor import Predictor
from steadydepth.inference.stereo import Stereo, side_by_side
from steadydepth.ops.depth_view import DepthView
from steadydepth.training.checkpoint import save_model

HOME = Path(__file__).parent.parent.parent / "integrations" / "comfyui" / "__init__.py"


@pytest.fixture(scope="module")
def nodes():
    """As ComfyUI loads the folder of a custom node: by its path, under a name of its own."""
    spec = importlib.util.spec_from_file_location("steadydepth_nodes", HOME)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def test_every_node_keeps_the_contract(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}
        names = {name for part in inputs.values() for name in part}
        function = getattr(node(), node.FUNCTION)
        assert names == set(function.__code__.co_varnames[1 : function.__code__.co_argcount])
        assert isinstance(node.RETURN_TYPES, tuple)
        assert node.CATEGORY == "steadydepth"
        for kind, *_ in (one for part in inputs.values() for one in part.values()):
            assert isinstance(kind, str | list)  # a type, or the choices of a list


def test_a_graph_gives_what_the_package_gives(nodes, moving_clip):
    image = torch.from_numpy(moving_clip.frames).float() / 255  # an IMAGE batch
    predictor = Predictor(Red("disparity", 1.0, 0.1))
    (depth,) = nodes.PredictVideo().predict(predictor, image, "learned")
    expected = np.stack([one.depth for one in predictor.session(filter="learned").run(moving_clip.frames)])
    np.testing.assert_array_equal(depth.depth, expected)
    np.testing.assert_array_equal(depth.images, moving_clip.frames)
    (shown,) = nodes.ShowDepth().show(depth, "viridis", "median", 2)
    assert (shown.dtype, shown.shape) == (torch.float32, image.shape)
    view = DepthView("viridis", "median", 2)
    ends = list(view.ranges(lambda: iter(expected), "disparity"))
    np.testing.assert_allclose(shown[3] * 255, view.paint(expected[3], ends[3], "disparity"), atol=1e-3)
    (pair,) = nodes.StereoPair().pair(depth, 3.0, 0.5)
    near = DepthView().nearness(expected[0], next(DepthView().ranges(lambda: iter(expected), "disparity")), "disparity")
    both = side_by_side(*Stereo(3.0).pair(moving_clip.frames[0], near))
    np.testing.assert_allclose(pair[0] * 255, both, atol=1e-3)
    (filtered,) = nodes.FilterDepth().filter(shown, image, "ema_0.8")
    grey = shown.mean(-1).numpy()
    np.testing.assert_allclose(
        filtered.depth, filter_depth("ema_0.8", grey, moving_clip.frames, claims="disparity"), rtol=1e-5
    )


def test_a_model_is_loaded_and_stabilised(nodes, moving_clip, model, tmp_path):
    save_model(model, tmp_path / "model")
    (loaded,) = nodes.LoadModel().load(str(tmp_path / "model"), 0)
    assert loaded.claims == "metric"
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "film.mp4", list(moving_clip.frames), 15.0)
    (steady,) = nodes.StabiliseModel().stabilise(
        str(tmp_path / "model"), str(tmp_path / "videos"), str(tmp_path / "steady"), 2, 64
    )
    assert (tmp_path / "steady" / "model.safetensors").is_file()
    before, after = (one.predict(moving_clip.frames[0]).depth for one in (loaded, steady))
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
