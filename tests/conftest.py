import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from steadydepth import cli
from steadydepth.data.clips import Sample, clip_motion
from steadydepth.data.loader_workers import gather_items
from steadydepth.data.samples import NO_AUGMENTATION, augment_sample, make_batch
from steadydepth.models.depth_net import DepthNet
from steadydepth.ops.bidirectional_flow import TwoWayFlow
from steadydepth.synthetic.world import make_clip, make_world
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
    items = [augment_sample(one, np.random.default_rng(0), NO_AUGMENTATION) for one in samples]
    return make_batch(gather_items(items))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder of two sequences, fixed and moving camera."""
    root = tmp_path_factory.mktemp("world")
    make_world(root, n_clips=2, seed=3, n_frames=5, height=48, width=64, workers=1)
    return root


@pytest.fixture
def run(monkeypatch, capsys):
    """Call the command with words; returns (exit status, what it printed, what it complained)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["steadydepth", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def model() -> DepthNet:
    torch.manual_seed(0)
    return DepthNet("test_efficientnet", decoder_width=16).eval()


T, HEIGHT, WIDTH = 5, 12, 16


def smooth_noise(generator, shape, sigma):
    noise = np.stack([cv2.GaussianBlur(generator.normal(size=shape[1:]), (0, 0), sigma) for _ in range(shape[0])])
    return noise / noise.std()


@pytest.fixture
def tiny():
    """A clip too small to be true: random depth, flow, poses and masks, for references in plain loops."""
    generator = np.random.default_rng(0)
    shape = (T, HEIGHT, WIDTH)
    truth = np.exp(1.2 + 0.1 * smooth_noise(generator, (1, *shape[1:]), 3) + 0.004 * smooth_noise(generator, shape, 2))
    K = np.array([[14.0, 0, 7.2], [0, 13.0, 5.9], [0, 0, 1]])
    poses = np.tile(np.eye(4), (T, 1, 1))
    poses[:, :3, 3] = 0.03 * generator.normal(size=(T, 3))
    angle = 0.01 * generator.normal(size=T)
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = (
        np.cos(angle),
        np.sin(angle),
        -np.sin(angle),
        np.cos(angle),
    )
    flow = 0.8 * np.stack([smooth_noise(generator, (T - 1, *shape[1:]), 3) for _ in range(2)], axis=-1)
    frames = 128 + 12 * np.stack([smooth_noise(generator, shape, 4) for _ in range(3)], axis=-1)
    return SimpleNamespace(
        truth=truth.astype(np.float32),
        depth=(truth * np.exp(0.1 * generator.normal(size=shape))).astype(np.float32),
        valid=generator.random(shape) > 0.08,
        moving=smooth_noise(generator, shape, 3) > 0.6,
        K=K,
        poses=poses,
        frames=frames.clip(0, 255).astype(np.uint8),
        two_way=TwoWayFlow(
            forward=flow.astype(np.float32),
            backward=-flow.astype(np.float32)[::-1].copy(),
            forward_visible=generator.random((T - 1, HEIGHT, WIDTH)) > 0.1,
            backward_visible=generator.random((T - 1, HEIGHT, WIDTH)) > 0.1,
        ),
    )


POISONS = (0.0, -1.0, float("nan"), float("inf"))


@pytest.fixture(params=POISONS, ids=str)
def poison(request):
    """What may stand at a pixel that does not count."""
    return np.float32(request.param)
