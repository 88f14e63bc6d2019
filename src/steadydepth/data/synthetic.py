"""A moving world with exact depth, flow, pose and moving objects, and light that makes per-frame models flicker."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from steadydepth.data.augment import Light, relight
from steadydepth.data.sequence_folder import write_sequence
from steadydepth.data.synthetic_scene import LEVELS, TEXELS, TEXELS_PER_METRE, Scene, Solid, draw_scene
from steadydepth.types import Clip

DEPTH_SCALE_M = 0.00025  # 16 bits reach 16.4 m, farther than the largest room
SUPERSAMPLING = 2  # colour rays a pixel side: edges and textures are averaged as a sensor would
# Light of one frame beside the next: about what auto exposure, mains flicker and a cheap sensor do on a bad day.
FRAME_LIGHT = Light(exposure=0.2, white_balance=0.05, gamma=0.1, unevenness=0.08, noise=0.02)

_FACE_AXES = (np.array([2, 0, 0]), np.array([1, 2, 1]))  # across and along each face of a box


@dataclass(frozen=True)
class Hits:
    """What each ray meets first: planar depth, the solid, and the point in the solid's own axes (components first)."""

    depth: Float[np.ndarray, "n"]
    solid: Int64[np.ndarray, "n"]
    local: Float[np.ndarray, "3 n"]


def _meet(solid: Solid, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Ray length from `origin` (3,) along `rays` (3, n), both in the solid's axes, to its surface; inf where missed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if solid.shape == "ball":
            a, b = (rays * rays).sum(axis=0), origin @ rays
            length = (-b - np.sqrt(b * b - a * (origin @ origin - solid.half[0] ** 2))) / a
            return np.where(length > 1e-6, length, np.inf)
        middle, reach = -origin[:, None] / rays, np.abs(solid.half.astype(rays.dtype)[:, None] / rays)
        # Three planes a pair: seen from inside, the nearest exit counts; from outside, the farthest entry before it.
        far = (middle + reach).min(axis=0)
        if solid.shape == "room":
            return far
        near = (middle - reach).max(axis=0)
        return np.where((near <= far) & (near > 1e-6), near, np.inf)


def _in_view(solid: Solid, t: int, scene: Scene, grid_x: np.ndarray, grid_y: np.ndarray) -> Bool[np.ndarray, "n"]:
    """Pixels inside the projected bounding ball: most solids cover few, and only these rays are worth casting."""
    radius = float(np.linalg.norm(solid.half))
    centre = np.linalg.inv(scene.cam_to_world[t]) @ solid.local_to_world[t][:, 3]
    if solid.shape == "room" or centre[2] <= 1.5 * radius:
        return np.full(len(grid_x), centre[2] > -radius or solid.shape == "room")
    near = centre[2] - radius
    reach = scene.K[0, 0] * radius / near * (1 + np.hypot(centre[0], centre[1]) / centre[2])
    u, v = (scene.K @ centre[:3])[:2] / centre[2]
    return (np.abs(grid_x - u) <= reach) & (np.abs(grid_y - v) <= reach)


def _cast(scene: Scene, t: int, grid_x: np.ndarray, grid_y: np.ndarray) -> Hits:
    """Cast a ray through each pixel position of frame `t`, in the precision of the grid."""
    kind = grid_x.dtype
    # Rays of unit planar depth: the ray length is then the depth itself.
    rays = np.stack(
        (
            (grid_x - scene.K[0, 2].astype(kind)) / scene.K[0, 0].astype(kind),
            (grid_y - scene.K[1, 2].astype(kind)) / scene.K[1, 1].astype(kind),
            np.ones_like(grid_x),
        )
    )
    depth, index = np.full(len(grid_x), np.inf, kind), np.zeros(len(grid_x), np.int64)
    views = [np.linalg.inv(solid.local_to_world[t]) @ scene.cam_to_world[t] for solid in scene.solids]
    for i, (solid, view) in enumerate(zip(scene.solids, views, strict=True)):
        rows = _in_view(solid, t, scene, grid_x, grid_y)
        length = _meet(solid, view[:3, 3].astype(kind), view[:3, :3].astype(kind) @ rays[:, rows])
        won = length < depth[rows]
        depth[rows] = np.where(won, length, depth[rows])
        index[rows] = np.where(won, i, index[rows])
    local = np.empty_like(rays)
    for i, view in enumerate(views):
        hit = np.flatnonzero(index == i)
        local[:, hit] = view[:3, :3].astype(kind) @ rays[:, hit] * depth[hit] + view[:3, 3:].astype(kind)
    return Hits(depth, index, local)


def _surface(solid: Solid, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texel coordinates (n, 2) of points (3, n) of the solid, and the normals (3, n) there, in the solid's axes.

    Along a face the two axes of the face; on a ball the angles times the radius.
    """
    if solid.shape == "ball":
        normal = local / solid.half[0]
        around = np.stack((np.arctan2(normal[0], normal[2]), np.arccos(np.clip(normal[1], -1, 1))), axis=-1)
        return around * solid.half[0] * TEXELS_PER_METRE, normal
    face = np.abs(local / solid.half[:, None]).argmax(axis=0)
    points = np.arange(local.shape[1])
    # Faces start at different places of the texture, so that the edges of a box can be seen.
    at = np.stack([local[axis[face], points] for axis in _FACE_AXES], axis=-1) * TEXELS_PER_METRE + 37.0 * face[:, None]
    normal = np.zeros_like(local)
    normal[face, points] = np.sign(local[face, points]) * (-1 if solid.shape == "room" else 1)
    return at, normal


def _look_up(texture: np.ndarray, at: np.ndarray, level: np.ndarray) -> Float32[np.ndarray, "n 3"]:
    """Bilinear texture values at the blur level that fits the distance."""
    low = np.floor(at).astype(np.int64)
    part = (at - low)[:, :, None].astype(np.float32)
    x0, y0 = low[:, 0] % TEXELS, low[:, 1] % TEXELS
    x1, y1 = (x0 + 1) % TEXELS, (y0 + 1) % TEXELS
    top = texture[level, y0, x0] * (1 - part[:, 0]) + texture[level, y0, x1] * part[:, 0]
    bottom = texture[level, y1, x0] * (1 - part[:, 0]) + texture[level, y1, x1] * part[:, 0]
    return top * (1 - part[:, 1]) + bottom * part[:, 1]


def _shade(scene: Scene, t: int, hits: Hits) -> Float32[np.ndarray, "n 3"]:
    """Light that each hit sends to the camera: ambient, and a lamp that falls off with distance."""
    colour = np.zeros((len(hits.depth), 3), np.float32)
    # One texel of level l covers 2 ** l texels; a colour ray covers depth / focal metres, less what supersampling adds.
    footprint = hits.depth / (scene.K[0, 0] * SUPERSAMPLING) * TEXELS_PER_METRE
    level = np.clip(np.round(np.log2(np.maximum(footprint, 1e-6)) + 0.5), 0, LEVELS - 1).astype(np.int64)
    for i, solid in enumerate(scene.solids):
        rows = np.flatnonzero(hits.solid == i)
        at, normal = _surface(solid, hits.local[:, rows])
        albedo = _look_up(solid.texture, at, level[rows])
        rotation, position = solid.local_to_world[t][:3, :3], solid.local_to_world[t][:3, 3:]
        # The lamp is brought into the solid's axes, rather than every point into the world's.
        to_lamp = rotation.T @ (scene.lamp[:, None] - position) - hits.local[:, rows]
        squared = (to_lamp * to_lamp).sum(axis=0)
        cosine = np.clip((to_lamp * normal).sum(axis=0) / np.sqrt(squared), 0, 1)
        lamp = scene.lamp_power[t] * cosine / (0.5 + 0.15 * squared)
        colour[rows] = albedo * (scene.ambient + lamp).astype(np.float32)[:, None]
    return colour


def _flow(scene: Scene, t: int, hits: Hits, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact forward flow of frame `t`, and where the point is before the next camera."""
    moved = np.empty_like(hits.local)
    world_to_camera = np.linalg.inv(scene.cam_to_world[t + 1])
    for i, solid in enumerate(scene.solids):
        rows = hits.solid == i
        view = world_to_camera @ solid.local_to_world[t + 1]
        moved[:, rows] = view[:3, :3] @ hits.local[:, rows] + view[:3, 3:]
    ahead = moved[2] > 0.05
    projected = ((scene.K @ moved)[:2] / np.where(ahead, moved[2], 1)).T
    y, x = np.mgrid[:height, :width]
    flow = (projected - np.stack((x.ravel(), y.ravel()), axis=-1)).reshape(height, width, 2)
    # The file format holds flow up to 512 px; nothing in a clip that can be learnt from moves farther.
    valid = ahead.reshape(height, width) & (np.abs(flow).max(axis=-1) < 500)
    return np.where(valid[..., None], flow, 0).astype(np.float32), valid


def _expose(linear: Float32[np.ndarray, "h w 3"], generator: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Linear light to an 8-bit frame, with this frame's own exposure, white balance, gamma, unevenness and noise."""
    encoded = np.clip(linear, 0, 1) ** np.float32(1 / 2.2)
    return np.round(relight(encoded, FRAME_LIGHT, generator) * 255).astype(np.uint8)


def make_clip(
    seed: int, *, fixed_camera: bool, n_frames: int = 24, height: int = 96, width: int = 128, fps: float = 15.0
) -> Clip:
    """One clip of the world that belongs to `seed`: the same seed and sizes, the same clip, bit for bit.

    Depth is exact planar z in metres, flow and poses are exact, moving objects are numbered from 1.
    """
    generator = np.random.default_rng(seed)
    scene = draw_scene(generator, n_frames=n_frames, fps=fps, height=height, width=width, fixed_camera=fixed_camera)
    y, x = (axis.ravel().astype(np.float64) for axis in np.mgrid[:height, :width])
    s = SUPERSAMPLING
    fine_y, fine_x = (
        ((axis.ravel() + 0.5) / s - 0.5).astype(np.float32) for axis in np.mgrid[: height * s, : width * s]
    )
    frames, depths, objects, flows, flow_valids = [], [], [], [], []
    for t in range(n_frames):
        hits = _cast(scene, t, x, y)
        depths.append(hits.depth.reshape(height, width).astype(np.float32))
        ids = np.array([solid.object_id for solid in scene.solids], np.uint8)
        objects.append(ids[hits.solid].reshape(height, width))
        if t + 1 < n_frames:
            flow, flow_valid = _flow(scene, t, hits, height, width)
            flows.append(flow)
            flow_valids.append(flow_valid)
        light = _shade(scene, t, _cast(scene, t, fine_x, fine_y)).reshape(height * s, width * s, 3)
        frames.append(_expose(cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA), generator))
    depth = np.stack(depths)
    return Clip(
        name=f"{'fixed' if fixed_camera else 'moving'}_{seed:06d}",
        frames=np.stack(frames),
        fps=fps,
        depth=depth,
        valid=depth > 0,
        objects=np.stack(objects),
        flow=np.stack(flows) if flows else np.zeros((0, height, width, 2), np.float32),
        flow_valid=np.stack(flow_valids) if flows else np.zeros((0, height, width), bool),
        K=scene.K,
        cam_to_world=scene.cam_to_world,
        fixed_camera=fixed_camera,
    )


def _make_and_write(root: Path, index_seed: tuple[int, int], **sizes: float) -> Path:
    index, seed = index_seed
    clip = make_clip(seed, fixed_camera=index % 2 == 0, **sizes)  # type: ignore[arg-type]
    return write_sequence(
        root, clip, depth_scale_m=DEPTH_SCALE_M, source="steadydepth synthetic world", licence="CC0-1.0"
    )


def make_world(
    root: Path,
    *,
    n_clips: int,
    seed: int,
    n_frames: int = 24,
    height: int = 96,
    width: int = 128,
    fps: float = 15.0,
    workers: int = 2,
    on_clip: Callable[[Path], None] = lambda path: None,
) -> list[Path]:
    """Write `n_clips` sequence folders, fixed and moving camera in turn, with seeds seed, seed + 1, ...

    A clip that is there already is kept, so an interrupted run goes on where it stopped. `on_clip` is told of each
    clip as it is done. Returns their folders in order of the seed.
    """
    names = [f"{'fixed' if i % 2 == 0 else 'moving'}_{seed + i:06d}" for i in range(n_clips)]
    missing = [(i, seed + i) for i in range(n_clips) if not (root / names[i] / "meta.json").exists()]
    root.mkdir(parents=True, exist_ok=True)
    work = partial(_make_and_write, root, n_frames=n_frames, height=height, width=width, fps=fps)
    # spawn, not fork: the caller may have started threads (torch, OpenCV) that a forked child would wait for.
    with ProcessPoolExecutor(min(workers, max(len(missing), 1)), mp_context=get_context("spawn")) as pool:
        for path in pool.map(work, missing):
            on_clip(path)
    return [root / name for name in names]
