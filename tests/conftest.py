import cv2
import numpy as np
import pytest
import torch

from steadydepth.data.augment import Light
from steadydepth.data.clips import Sample, clip_motion
from steadydepth.data.loader import augment_sample, make_batch
from steadydepth.data.loader_processes import gather_items
from steadydepth.data.synthetic import make_clip, make_world
from steadydepth.models.depth_net import DepthNet
from steadydepth.types import Batch

# Machines that run tests are small and shared.
torch.set_num_threads(1)
cv2.setNumThreads(1)


@pytest.fixture(scope="session", autouse=True)
def _caches_of_their_own(tmp_path_factory):
    """What is kept for the next time is not kept among the caches of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session")
def moving_clip():
    return make_clip(11, fixed_camera=False, n_frames=5, height=48, width=64)


@pytest.fixture(scope="session")
def fixed_clip():
    return make_clip(15, fixed_camera=True, n_frames=5, height=48, width=64)


@pytest.fixture(scope="session")
def clip(moving_clip, fixed_clip) -> Batch:
    """Two labelled clips of five frames, 48 x 64, with motion."""
    samples = [Sample(one, *clip_motion(one, "flow")) for one in (moving_clip, fixed_clip)]
    items = [augment_sample(one, np.random.default_rng(0), flip=False, light=Light()) for one in samples]
    return make_batch(gather_items(items))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder of two sequences, fixed and moving camera."""
    root = tmp_path_factory.mktemp("world")
    make_world(root, n_clips=2, seed=3, n_frames=5, height=48, width=64, workers=1)
    return root


@pytest.fixture
def model() -> DepthNet:
    torch.manual_seed(0)
    return DepthNet(decoder_width=16).eval()
