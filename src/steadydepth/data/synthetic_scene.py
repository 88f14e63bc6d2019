"""What stands in the synthetic world: rooms, boxes and balls with textures, and how they and the camera move."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float32, Float64

TEXELS = 128  # texture side
TEXELS_PER_METRE = 80.0
LEVELS = 5  # blurred copies of a texture, each half as sharp as the one before


@dataclass(frozen=True)
class Solid:
    """A textured box, ball, or room seen from inside, and its rigid motion over the clip."""

    shape: Literal["room", "box", "ball"]
    half: Float64[np.ndarray, "3"]  # half extents in metres; a ball's radius three times
    texture: Float32[np.ndarray, "level texel texel 3"]  # reflectance in [0, 1], wraps around
    local_to_world: Float64[np.ndarray, "t 4 4"]
    object_id: int  # 0 for the static world


@dataclass(frozen=True)
class Scene:
    """Everything that a clip shows."""

    solids: list[Solid]
    K: Float64[np.ndarray, "3 3"]
    cam_to_world: Float64[np.ndarray, "t 4 4"]
    lamp: Float64[np.ndarray, "3"]  # world position, metres
    lamp_power: Float64[np.ndarray, "t"]
    ambient: float


def _periodic_noise(generator: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose amplitude falls as frequency ** -slope, from 0 to 1, without a seam."""
    spectrum = np.fft.rfft2(generator.normal(size=(TEXELS, TEXELS)))
    fy, fx = np.fft.fftfreq(TEXELS)[:, None], np.fft.rfftfreq(TEXELS)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-slope, s=(TEXELS, TEXELS))
    low, high = np.percentile(noise, [2, 98])
    return np.clip((noise - low) / (high - low), 0, 1)


def draw_texture(generator: np.random.Generator) -> Float32[np.ndarray, "level texel texel 3"]:
    """A texture of two random colours: noise, stripes, checks, dots or bricks, from calm to busy."""
    y, x = np.mgrid[:TEXELS, :TEXELS] / TEXELS
    kind = generator.integers(5)
    waves = int(2 ** generator.integers(1, 5))
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
    picture = first + mix[..., None] * (second - first)
    picture = np.clip(picture * (1 + generator.uniform(0.05, 0.5) * (grain - 0.5)), 0, 1).astype(np.float32)
    levels = [picture]
    for level in range(1, LEVELS):
        margin = 2 ** (level + 1)
        padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="wrap")
        blurred = cv2.GaussianBlur(padded, (0, 0), 0.5 * 2**level)
        levels.append(blurred[margin:-margin, margin:-margin])
    return np.stack(levels)


def _pose(yaw: np.ndarray, pitch: np.ndarray, position: np.ndarray) -> Float64[np.ndarray, "t 4 4"]:
    """Rigid transforms: pitch about x, then yaw about the vertical (y points down), then the position."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    pose = np.zeros((len(yaw), 4, 4))
    pose[:, 0, 0], pose[:, 0, 1], pose[:, 0, 2] = cy, sy * sp, sy * cp
    pose[:, 1, 1], pose[:, 1, 2] = cp, -sp
    pose[:, 2, 0], pose[:, 2, 1], pose[:, 2, 2] = -sy, cy * sp, cy * cp
    pose[:, :3, 3] = position
    pose[:, 3, 3] = 1
    return pose


def _swing(
    generator: np.random.Generator, seconds: np.ndarray, low: float, high: float, slow: float, fast: float
) -> np.ndarray:
    """A sine over time with an amplitude in [low, high], a frequency in [slow, fast] Hz and a random phase."""
    return generator.uniform(low, high) * np.sin(
        2 * np.pi * (generator.uniform(slow, fast) * seconds + generator.random())
    )


def _draw_camera(
    generator: np.random.Generator, seconds: np.ndarray, room: np.ndarray, *, fixed: bool
) -> tuple[Float64[np.ndarray, "t 4 4"], float]:
    yaw = generator.uniform(-np.pi, np.pi)
    # Back against the wall it looks away from: the camera sees the room, not a wall before its nose.
    back = np.array([-np.sin(yaw), 0, -np.cos(yaw)]) * (room - 0.9) * generator.uniform(0.5, 0.9)
    position = np.tile(back, (len(seconds), 1))
    position[:, 1] = room[1] - generator.uniform(1.0, 1.8)
    yaws, pitches = np.full(len(seconds), yaw), np.full(len(seconds), generator.uniform(-0.25, 0.05))
    if not fixed:
        position[:, 0] += _swing(generator, seconds, 0.1, 0.6, 0.1, 0.35)
        position[:, 1] += _swing(generator, seconds, 0.02, 0.12, 0.2, 0.8)
        position[:, 2] += _swing(generator, seconds, 0.1, 0.6, 0.1, 0.35)
        yaws = yaws + _swing(generator, seconds, 0.05, 0.25, 0.1, 0.3)
        pitches = pitches + _swing(generator, seconds, 0.01, 0.05, 0.2, 0.8)
    return _pose(yaws, pitches, position), yaw


def _draw_solid(
    generator: np.random.Generator,
    seconds: np.ndarray,
    *,
    ground: Float64[np.ndarray, "3"],
    size: tuple[float, float],
    object_id: int,
) -> Solid:
    """A box or a ball on `ground`, a point of the floor: standing still, or swinging and turning if it has an id."""
    shape: Literal["box", "ball"] = "ball" if generator.random() < 0.35 else "box"
    half = generator.uniform(*size, size=3) / 2
    half = np.full(3, half[0]) if shape == "ball" else half
    position = np.tile(ground - [0, half[1], 0], (len(seconds), 1))
    yaw = np.full(len(seconds), generator.uniform(-np.pi, np.pi))
    if object_id:
        position[:, 0] += _swing(generator, seconds, 0.3, 1.2, 0.15, 0.5)
        # Hopping on the floor, as people and toys do: where a thing touches the floor says how far away it is.
        hop = generator.uniform(0.0, 0.2)
        position[:, 1] -= hop + _swing(generator, seconds, hop, hop, 0.5, 1.5)
        position[:, 2] += _swing(generator, seconds, 0.3, 1.2, 0.15, 0.5)
        yaw = yaw + generator.uniform(-1.5, 1.5) * seconds
    return Solid(shape, half, draw_texture(generator), _pose(yaw, np.zeros(len(seconds)), position), object_id)


def draw_scene(
    generator: np.random.Generator, *, n_frames: int, fps: float, height: int, width: int, fixed_camera: bool
) -> Scene:
    """A furnished room with two to four moving objects in view, as the generator has it."""
    seconds = np.arange(n_frames) / fps
    room = generator.uniform([2.2, 1.2, 2.6], [4.0, 1.7, 5.0])
    cam_to_world, yaw = _draw_camera(generator, seconds, room, fixed=fixed_camera)
    still = _pose(np.zeros(n_frames), np.zeros(n_frames), np.zeros((n_frames, 3)))
    solids = [Solid("room", room, draw_texture(generator), still, 0)]
    camera = cam_to_world[:, :3, 3].mean(axis=0)
    n_moving = int(generator.integers(2, 5))
    n_furniture = int(generator.integers(4, 9))
    for index in range(n_moving + n_furniture):
        turn = yaw + generator.uniform(-0.5, 0.5)
        away = generator.uniform(1.8, 4.5) if index < n_moving else generator.uniform(2.0, 7.0)
        ground = camera + away * np.array([np.sin(turn), 0, np.cos(turn)])
        ground = np.clip(ground, -room + 0.3, room - 0.3)
        ground[1] = room[1]
        size = (0.3, 0.9) if index < n_moving else (0.4, 1.6)
        solids.append(
            _draw_solid(generator, seconds, ground=ground, size=size, object_id=index + 1 if index < n_moving else 0)
        )
    focal_px = 0.85 * width
    K = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])
    lamp = generator.uniform(-0.6, 0.6, size=3) * room
    lamp[1] = -0.8 * room[1]
    lamp_power = generator.uniform(0.6, 1.6) * np.exp(0.15 * generator.normal(size=n_frames))
    return Scene(solids, K, cam_to_world, lamp, lamp_power, float(generator.uniform(0.25, 0.5)))
