"""What stands in the synthetic world: rooms, boxes and balls with textures, and how they and the camera move."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Float64

TEXELS = 128  # texture side
TEXELS_PER_METRE = 80.0
NEAREST_M = 0.9  # no moving thing comes nearer to the camera: what fills all of the image cannot be judged


@dataclass(frozen=True)
class Kind:
    """What moving things of one kind share, as people, chairs and cups do: how large they are says how far away."""

    shape: Literal["box", "ball"]
    half: tuple[float, float, float]  # metres
    pattern: int  # of draw_texture
    waves: int


KINDS = (
    Kind("ball", (0.2, 0.2, 0.2), 3, 8),
    Kind("ball", (0.35, 0.35, 0.35), 1, 4),
    Kind("box", (0.25, 0.25, 0.25), 2, 4),
    Kind("box", (0.2, 0.75, 0.2), 0, 2),
    Kind("box", (0.5, 0.3, 0.25), 4, 8),
    Kind("box", (0.3, 0.5, 0.3), 1, 8),
)


@dataclass(frozen=True)
class Solid:
    """A textured box, ball, mesh, or room viewed from inside, and its motion: rigid, or one that stretches it."""

    shape: Literal["room", "box", "ball", "mesh"]
    half: Float64[np.ndarray, "3"]  # half extents in metres; a ball's radius three times; a mesh is inside of them
    texture: Float32[np.ndarray, "texel texel 3"]  # reflectance in [0, 1], wraps around
    local_to_world: Float64[np.ndarray, "t 4 4"]
    object_id: int  # 0 for the static world
    triangles: Float64[np.ndarray, "face 3 3"] | None = None  # a mesh's corners in its axes, metres

    @cached_property
    def world_to_local(self) -> Float64[np.ndarray, "t 4 4"]:
        """The inverse of `local_to_world`."""
        return np.linalg.inv(self.local_to_world)

    @cached_property
    def normals(self) -> Float64[np.ndarray, "3 face"]:
        """A vector across each triangle of a mesh, of any length and to any side."""
        assert self.triangles is not None
        first, second, third = self.triangles.swapaxes(0, 1)
        return np.cross(second - first, third - first).T


@dataclass(frozen=True)
class Scene:
    """Everything that a clip shows."""

    solids: list[Solid]
    K: Float64[np.ndarray, "3 3"]
    cam_to_world: Float64[np.ndarray, "t 4 4"]
    lamp: Float64[np.ndarray, "3"]  # world position, metres
    lamp_power: Float64[np.ndarray, "t"]
    ambient: float

    @cached_property
    def world_to_cam(self) -> Float64[np.ndarray, "t 4 4"]:
        """The inverse of `cam_to_world`."""
        return np.linalg.inv(self.cam_to_world)


def _periodic_noise(generator: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose amplitude falls as frequency ** -slope, from 0 to 1, without a seam."""
    spectrum = np.fft.rfft2(generator.normal(size=(TEXELS, TEXELS)))
    fy, fx = np.fft.fftfreq(TEXELS)[:, None], np.fft.rfftfreq(TEXELS)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-slope, s=(TEXELS, TEXELS))
    low, high = np.percentile(noise, [2, 98])
    return np.clip((noise - low) / (high - low), 0, 1)


def draw_texture(
    generator: np.random.Generator, *, kind: int | None = None, waves: int | None = None
) -> Float32[np.ndarray, "texel texel 3"]:
    """A texture of two random colours, from calm to busy.

    Args:
        generator: draws what is not given.
        kind: noise, stripes, checks, dots or bricks, 0 to 4.
        waves: how often the pattern repeats over the texture.
    """
    y, x = np.mgrid[:TEXELS, :TEXELS] / TEXELS
    kind = int(generator.integers(5)) if kind is None else kind
    waves = int(2 ** generator.integers(1, 5)) if waves is None else waves
    if kind == 0:
        mix = _periodic_noise(generator, generator.uniform(0.4, 1.8))
    elif kind == 1:
        mix = (np.sin(2 * np.pi * waves * (x if generator.random() < 0.5 else y)) > generator.uniform(-0.7, 0.7)) * 1.0
    elif kind == 2:
        mix = ((np.floor(2 * waves * x) + np.floor(2 * waves * y)) % 2) * 1.0
    elif kind == 3:
        radius = generator.uniform(0.15, 0.4)
        mix = (np.hypot((waves * x) % 1 - 0.5, (waves * y) % 1 - 0.5) < radius) * 1.0
    else:
        row = np.floor(2 * waves * y)
        mix = (((waves * x + 0.5 * (row % 2)) % 1 > 0.08) & ((2 * waves * y) % 1 > 0.14)) * 1.0
    grain = _periodic_noise(generator, generator.uniform(0.2, 1.0))[..., None]
    first, second = generator.uniform(0.08, 0.95, size=(2, 3))
    image = first + mix[..., None] * (second - first)
    return np.clip(image * (1 + generator.uniform(0.05, 0.5) * (grain - 0.5)), 0, 1).astype(np.float32)


def seamless(image: np.ndarray) -> np.ndarray:
    """A square image (h, h, 3) as a texture, mirrored to both sides so that it wraps around without a seam."""
    half = cv2.resize(image, (TEXELS // 2, TEXELS // 2), interpolation=cv2.INTER_AREA)
    return np.pad(half, ((0, TEXELS // 2), (0, TEXELS // 2), (0, 0)), mode="symmetric")


def pose(yaw: np.ndarray, pitch: np.ndarray, position: np.ndarray) -> Float64[np.ndarray, "t 4 4"]:
    """Rigid transforms: pitch about x, then yaw about the vertical (y points down), then the position.

    Args:
        yaw: radians, of each frame.
        pitch: radians.
        position: metres.
    """
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    pose = np.zeros((len(yaw), 4, 4))
    pose[:, 0, 0], pose[:, 0, 1], pose[:, 0, 2] = cy, sy * sp, sy * cp
    pose[:, 1, 1], pose[:, 1, 2] = cp, -sp
    pose[:, 2, 0], pose[:, 2, 1], pose[:, 2, 2] = -sy, cy * sp, cy * cp
    pose[:, :3, 3] = position
    pose[:, 3, 3] = 1
    return pose


def swing(
    generator: np.random.Generator, seconds: np.ndarray, low: float, high: float, slow: float, fast: float
) -> np.ndarray:
    """A sine over time.

    Args:
        generator: draws amplitude, frequency and phase.
        seconds: moments.
        low: the least amplitude, in the unit of the result.
        high: the greatest amplitude.
        slow: the least frequency, Hz.
        fast: the greatest frequency, Hz.
    """
    amplitude, frequency, phase = generator.uniform(low, high), generator.uniform(slow, fast), generator.random()
    return amplitude * np.sin(2 * np.pi * (frequency * seconds + phase))


def _draw_camera(
    generator: np.random.Generator, seconds: np.ndarray, room: np.ndarray, *, fixed: bool
) -> tuple[Float64[np.ndarray, "t 4 4"], float]:
    yaw = generator.uniform(-np.pi, np.pi)
    # Back against the wall it looks away from: the camera sees the room, not a wall before its nose.
    back = np.array([-np.sin(yaw), 0, -np.cos(yaw)]) * (room - 0.9) * generator.uniform(0.5, 0.9)
    position = np.tile(back, (len(seconds), 1))
    position[:, 1] = room[1] - generator.uniform(1.2, 1.6)  # held at the height of the eyes or the chest
    yaws, pitches = np.full(len(seconds), yaw), np.full(len(seconds), generator.uniform(-0.25, 0.05))
    if not fixed:
        position[:, 0] += swing(generator, seconds, 0.1, 0.6, 0.1, 0.35)
        position[:, 1] += swing(generator, seconds, 0.02, 0.12, 0.2, 0.8)
        position[:, 2] += swing(generator, seconds, 0.1, 0.6, 0.1, 0.35)
        yaws = yaws + swing(generator, seconds, 0.05, 0.25, 0.1, 0.3)
        pitches = pitches + swing(generator, seconds, 0.01, 0.05, 0.2, 0.8)
    return pose(yaws, pitches, position), yaw


def _draw_furniture(generator: np.random.Generator, ground: Float64[np.ndarray, "3"], n_frames: int) -> Solid:
    """A box or a ball of any size that stands on `ground`, a point of the floor."""
    shape: Literal["box", "ball"] = "ball" if generator.random() < 0.35 else "box"
    half = generator.uniform(0.2, 0.8, size=3)
    half = np.full(3, half[0]) if shape == "ball" else half
    position = np.tile(ground - [0, half[1], 0], (n_frames, 1))
    yaw = np.full(n_frames, generator.uniform(-np.pi, np.pi))
    return Solid(shape, half, draw_texture(generator), pose(yaw, np.zeros(n_frames), position), 0)


def _draw_ground(
    generator: np.random.Generator, room: np.ndarray, camera: np.ndarray, yaw: float, *, spread: float, farthest: float
) -> Float64[np.ndarray, "3"]:
    """A point of the floor within `spread` radians of where the camera looks, 2 to `farthest` metres away."""
    turn = yaw + generator.uniform(-spread, spread)
    ground = camera + generator.uniform(2.0, farthest) * np.array([np.sin(turn), 0, np.cos(turn)])
    ground = np.clip(ground, -room + 0.3, room - 0.3)
    ground[1] = room[1]
    return ground


def _draw_swinging(
    generator: np.random.Generator, seconds: np.ndarray, standing: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "t 3"]:
    """Positions around `standing`: back and forth over the floor, and hopping.

    As people and toys do: where a thing touches the floor says how far away it is.
    """
    position = np.tile(standing, (len(seconds), 1))
    hop = generator.uniform(0.0, 0.1)
    position[:, 0] += swing(generator, seconds, 0.4, 1.0, 0.2, 0.6)
    position[:, 1] -= hop + swing(generator, seconds, hop, hop, 0.5, 1.5)
    position[:, 2] += swing(generator, seconds, 0.4, 1.0, 0.2, 0.6)
    return position


def _draw_mover(
    generator: np.random.Generator,
    seconds: np.ndarray,
    room: np.ndarray,
    cameras: Float64[np.ndarray, "t 3"],
    yaw: float,
    object_id: int,
) -> Solid:
    """One of KINDS, give or take 5 % of its size, that moves in front of the camera, turning slowly.

    It never comes too near; where the room is too small for that, it takes the best of many paths.
    """
    kind = KINDS[generator.integers(len(KINDS))]
    half = np.array(kind.half) * generator.uniform(0.95, 1.05)
    best, best_gap = np.zeros((len(seconds), 3)), -np.inf
    for _ in range(20):
        ground = _draw_ground(generator, room, cameras.mean(axis=0), yaw, spread=0.4, farthest=4.0)
        path = _draw_swinging(generator, seconds, ground - [0, half[1], 0])
        gap = float(np.linalg.norm((path - cameras)[:, [0, 2]], axis=1).min() - np.linalg.norm(half[[0, 2]]))
        if gap > best_gap:
            best, best_gap = path, gap
        if gap >= NEAREST_M:
            break
    turn = generator.uniform(-np.pi, np.pi) + generator.uniform(-0.6, 0.6) * seconds
    texture = draw_texture(generator, kind=kind.pattern, waves=kind.waves)
    return Solid(kind.shape, half, texture, pose(turn, np.zeros(len(seconds)), best), object_id)


def draw_scene(
    generator: np.random.Generator, *, n_frames: int, fps: float, height: int, width: int, fixed_camera: bool
) -> Scene:
    """A furnished room with two to four moving objects in view, as the generator has it.

    Args:
        generator: draws everything.
        n_frames: moments of the scene.
        fps: frames a second.
        height: rows of the image.
        width: columns of the image.
        fixed_camera: whether the camera stands still.
    """
    seconds = np.arange(n_frames) / fps
    room = generator.uniform([2.2, 1.2, 2.6], [4.0, 1.7, 5.0])
    cam_to_world, yaw = _draw_camera(generator, seconds, room, fixed=fixed_camera)
    still = pose(np.zeros(n_frames), np.zeros(n_frames), np.zeros((n_frames, 3)))
    solids = [Solid("room", room, draw_texture(generator), still, 0)]
    camera = cam_to_world[:, :3, 3].mean(axis=0)
    n_moving, n_furniture = int(generator.integers(2, 5)), int(generator.integers(4, 9))
    for index in range(n_moving):
        solids.append(_draw_mover(generator, seconds, room, cam_to_world[:, :3, 3], yaw, index + 1))
    for _ in range(n_furniture):
        ground = _draw_ground(generator, room, camera, yaw, spread=0.5, farthest=7.0)
        solids.append(_draw_furniture(generator, ground, n_frames))
    focal_px = 0.85 * width
    K = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])
    lamp = generator.uniform(-0.6, 0.6, size=3) * room
    lamp[1] = -0.8 * room[1]
    lamp_power = generator.uniform(0.6, 1.6) * np.exp(0.15 * generator.normal(size=n_frames))
    return Scene(solids, K, cam_to_world, lamp, lamp_power, float(generator.uniform(0.25, 0.5)))
