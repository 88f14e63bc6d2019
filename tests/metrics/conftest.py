from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from steadydepth.ops.two_way import TwoWayFlow

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
            forward_seen=generator.random((T - 1, HEIGHT, WIDTH)) > 0.1,
            backward_seen=generator.random((T - 1, HEIGHT, WIDTH)) > 0.1,
        ),
    )


POISONS = (0.0, -1.0, float("nan"), float("inf"))


@pytest.fixture(params=POISONS, ids=str)
def poison(request):
    """What may stand at a pixel that does not count."""
    return np.float32(request.param)
