"""A slanted plane seen by a moving camera, exactly, with any camera matrix; and the proof that a folder says so."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from steadydepth.data.checks import check_data
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.files.images import write_png

N_FRAMES, H, W = 3, 31, 45


@dataclass
class Scene:
    K: np.ndarray
    poses: np.ndarray  # camera to world, OpenCV axes
    depth: np.ndarray  # planar, metres
    frames: np.ndarray


@pytest.fixture
def make_scene() -> Callable[[np.ndarray], Scene]:
    return _make


def _make(K: np.ndarray, *, h: int = H, w: int = W) -> Scene:
    """A plane about 3 m away that fills the image; the camera turns, rolls and comes nearer."""
    focal = K[0, 0]
    tilt = np.array([0.2, -0.15, 0.0]) / 3 * focal / (w / 2)
    middle = np.linalg.inv(K) @ [(w - 1) / 2, (h - 1) / 2, 1]
    plane = tilt + np.array([0, 0, 1 / 3 - tilt @ middle])  # plane @ point = 1, in the first camera
    y, x = np.mgrid[:h, :w]
    rays = np.stack((x, y, np.ones_like(x)), axis=-1) @ np.linalg.inv(K).T
    nearer = 0.15 if focal < 100 else 0.04  # far from the optical axis it shifts the image more
    base = _pose([0.4, -0.9, 0.3], [5.0, -2.0, 1.0])
    poses, depths = [], []
    for number in range(N_FRAMES):
        moved = _pose(np.array([3, -4, 10]) / focal * number, np.array([6 / focal, 9 / focal, nearer]) * number)
        poses.append(base @ moved)
        depths.append((1 - plane @ moved[:3, 3]) / (rays @ moved[:3, :3].T @ plane))
    frames = np.random.default_rng(1).integers(0, 256, (N_FRAMES, h, w, 3), dtype=np.uint8)
    return Scene(K, np.stack(poses), np.stack(depths), frames)


def _pose(turn: object, shift: object) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.asarray(turn, np.float64))[0]
    pose[:3, 3] = shift
    return pose


@pytest.fixture
def assert_same() -> Callable[..., None]:
    return _assert_same


def _assert_same(folder: Path, scene: Scene, *, step_m: float, exact_frames: bool = True) -> None:
    """Depth in metres, K and poses of the written `folder`: each frame's points must lie on the next one's depth."""
    assert check_data(folder) == []
    clip = open_sequence(folder).read()
    np.testing.assert_allclose(clip.depth, scene.depth, atol=0.51 * step_m, rtol=1e-6)
    np.testing.assert_allclose(clip.K, scene.K, rtol=1e-9)
    if exact_frames:
        np.testing.assert_array_equal(clip.frames, scene.frames)
    h, w = clip.depth.shape[1:]
    y, x = np.mgrid[:h, :w]
    for now, after in zip(range(len(clip.depth) - 1), range(1, len(clip.depth)), strict=True):
        to_next = np.linalg.inv(clip.cam_to_world[after]) @ clip.cam_to_world[now]
        points = np.linalg.inv(clip.K) @ [x.ravel(), y.ravel(), np.ones(h * w)] * clip.depth[now].ravel()
        points = to_next[:3, :3] @ points + to_next[:3, 3:]
        u, v, _ = clip.K @ points / points[2]
        inside = (u >= 0) & (u <= w - 1) & (v >= 0) & (v <= h - 1)
        assert inside.sum() > h * w / 3
        # Bilinear in inverse depth, which is exact on a plane.
        at = np.float32(u.reshape(h, w)), np.float32(v.reshape(h, w))
        there = 1 / cv2.remap(1 / clip.depth[after], *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).ravel()
        np.testing.assert_allclose(points[2][inside], there[inside], rtol=2e-3 + step_m)


@pytest.fixture
def write_png_at() -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, image: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, image)

    return write


@pytest.fixture
def write_jpg_at() -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, image: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())

    return write


@pytest.fixture
def quaternion() -> Callable[[np.ndarray], list[float]]:
    """Of a rotation matrix, as x, y, z, w."""

    def of(turn: np.ndarray) -> list[float]:
        w = np.sqrt(1 + np.trace(turn)) / 2
        x, y, z = turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]
        return [x / (4 * w), y / (4 * w), z / (4 * w), w]

    return of
