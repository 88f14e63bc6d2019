"""A moving world with exact depth, flow, pose and moving objects, and light that makes per-frame models flicker."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from steadydepth.data.augment import Light, relight
from steadydepth.data.sequence_writer import write_sequence
from steadydepth.data.synthetic_extras import SUBFRAMES, Extras, at_moments, draw_readout, draw_shutter, dress
from steadydepth.data.synthetic_light import SUPERSAMPLING, blur_textures, find_surface, shade
from steadydepth.data.synthetic_rays import cast, land, make_grid
from steadydepth.data.synthetic_rolling import Readout, Strip, roll
from steadydepth.data.synthetic_scene import Scene, draw_scene
from steadydepth.data.video_write import recode
from steadydepth.types import Clip

DEPTH_SCALE_M = 0.00025  # 16 bits reach 16.4 m, farther than the largest room
# Light of one frame beside the next: about what auto exposure, mains flicker and a cheap sensor do on a bad day.
FRAME_LIGHT = Light(exposure=0.2, white_balance=0.05, gamma=0.1, unevenness=0.08, noise=0.02)


@dataclass(frozen=True)
class _Labels:
    """Depth in metres, object numbers, and the flow in pixels with where it is known."""

    depth: Float32[np.ndarray, "t h w"]
    objects: UInt8[np.ndarray, "t h w"]
    flow: Float32[np.ndarray, "p h w 2"]
    flow_valid: Bool[np.ndarray, "p h w"]


def _split(scene: Scene, *, fixed_camera: bool) -> tuple[list[int], list[int]]:
    """Solids that look the same in every frame, and those to render anew in each."""
    numbers = range(len(scene.solids))
    still = [i for i in numbers if fixed_camera and scene.solids[i].object_id == 0]
    return still, [i for i in numbers if i not in still]


def _label(strip: Strip, width: int, *, fixed_camera: bool, readout: Readout | None) -> _Labels:
    """The exact labels of each frame, from one ray through the middle of each pixel of the strip."""
    scene = strip.scene
    n_frames, height = len(scene.cam_to_world), len(strip.rows)
    grid = make_grid(scene, strip.rows.astype(np.float64), np.arange(width, dtype=np.float64))
    still, changing = _split(scene, fixed_camera=fixed_camera)
    still_hits = cast(scene, 0, grid, still)
    still_landed = land(scene, 0, grid, still_hits, still, None, scene) if n_frames > 1 else None
    ids = np.array([solid.object_id for solid in scene.solids], np.uint8)
    labels = _Labels(
        np.empty((n_frames, height, width), np.float32),
        np.empty((n_frames, height, width), np.uint8),
        np.empty((n_frames - 1, height, width, 2), np.float32),
        np.empty((n_frames - 1, height, width), bool),
    )
    for t in range(n_frames):
        hits = cast(scene, t, grid, changing, still_hits)
        labels.depth[t], labels.objects[t] = hits.depth, ids[hits.solid]
        if t + 1 < n_frames:
            landing = partial(land, scene, t, grid, hits, changing, still_landed)
            u, v, depth = landing(scene) if readout is None else readout.settle(landing)
            u, v = u - grid.x, v - grid.y[:, None]
            # The file format holds flow up to 512 px; nothing in a clip that can be learnt from moves farther.
            known = (depth > 0.05) & (np.abs(u) < 500) & (np.abs(v) < 500)
            labels.flow_valid[t] = known
            labels.flow[t, ..., 0], labels.flow[t, ..., 1] = np.where(known, u, 0), np.where(known, v, 0)
    return labels


def _render(
    strip: Strip, width: int, textures: list[Float32[np.ndarray, "level texel texel 3"]], *, fixed_camera: bool
) -> Iterator[Float32[np.ndarray, "h w 3"]]:
    """Linear light of the strip in each frame, averaged over the rays of each pixel."""
    scene = strip.scene
    grid = make_grid(scene, _rays_through(strip.rows), _rays_through(np.arange(width)))
    still, changing = _split(scene, fixed_camera=fixed_camera)
    still_hits = cast(scene, 0, grid, still)
    still_surface = find_surface(scene, 0, grid, still_hits, still, textures)
    for t in range(len(scene.cam_to_world)):
        hits = cast(scene, t, grid, changing, still_hits)
        surface = find_surface(scene, t, grid, hits, changing, textures, still_surface)
        light = shade(scene, t, surface, grid)
        yield cv2.resize(light, (width, len(strip.rows)), interpolation=cv2.INTER_AREA)


def _rays_through(pixels: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "m"]:
    """Where the rays of colour go through the rows or columns `pixels`."""
    within = (np.arange(SUPERSAMPLING) + 0.5) / SUPERSAMPLING - 0.5
    return (pixels[:, None] + within).ravel().astype(np.float32)


def _expose(linear: Float32[np.ndarray, "h w 3"], generator: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Linear light to an 8-bit frame, with this frame's own exposure, white balance, gamma, unevenness and noise."""
    encoded = np.clip(linear, 0, 1) ** np.float32(1 / 2.2)
    return np.round(relight(encoded, FRAME_LIGHT, generator) * 255).astype(np.uint8)


def make_clip(
    seed: int,
    *,
    fixed_camera: bool,
    n_frames: int = 24,
    height: int = 96,
    width: int = 128,
    fps: float = 15.0,
    extras: Extras | None = None,
) -> Clip:
    """One clip of the world that belongs to `seed`: the same seed and sizes, the same clip, bit for bit.

    Depth is exact planar z in metres, flow and poses are exact, moving objects are numbered from 1. With rolling
    exposure depth and flow are those of the moment of each row, and poses those of the middle of the picture.
    """
    generator, extras = np.random.default_rng(seed), extras or Extras()
    scene = draw_scene(generator, n_frames=n_frames, fps=fps, height=height, width=width, fixed_camera=fixed_camera)
    scene = dress(scene, extras, seed, fps=fps, fixed_camera=fixed_camera)
    strips, readout = [Strip(scene, np.arange(height))], None
    if extras.rolling:
        strips, readout = roll(scene, draw_readout(seed, height))
    labels = [_label(strip, width, fixed_camera=fixed_camera, readout=readout) for strip in strips]
    depth, objects, flow, flow_valid = (
        np.concatenate([getattr(one, name) for one in labels], axis=1)
        for name in ("depth", "objects", "flow", "flow_valid")
    )
    if extras.blur:
        shutter = draw_shutter(seed)
        strips = [replace(strip, scene=at_moments(strip.scene, shutter)) for strip in strips]
    textures, n_exposures = blur_textures(scene), SUBFRAMES if extras.blur else 1
    rendered = [_render(strip, width, textures, fixed_camera=fixed_camera) for strip in strips]
    exposures = map(np.concatenate, zip(*rendered, strict=True))
    light = (np.mean(list(islice(exposures, n_exposures)), axis=0) for _ in range(n_frames))
    frames = np.stack([_expose(linear, generator) for linear in light])
    return Clip(
        name=f"{'fixed' if fixed_camera else 'moving'}_{seed:06d}",
        frames=frames if extras.compress is None else recode(frames, crf=extras.compress),
        fps=fps,
        depth=depth,
        valid=depth > 0,
        objects=objects,
        flow=flow,
        flow_valid=flow_valid,
        K=scene.K,
        cam_to_world=scene.cam_to_world,
        fixed_camera=fixed_camera,
    )


def _make_and_write(root: Path, extras: Extras, index_seed: tuple[int, int], **sizes: Any) -> Path:
    index, seed = index_seed
    clip = make_clip(seed, fixed_camera=index % 2 == 0, extras=extras, **sizes)
    source = ": ".join(filter(None, ("steadydepth synthetic world", extras.describe())))
    # Pictures and meshes that someone gave keep the licence that they have, which is not known here.
    licence = "CC0-1.0" if extras.textures is None and extras.meshes is None else None
    return write_sequence(root, clip, depth_scale_m=DEPTH_SCALE_M, source=source, licence=licence)


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
    extras: Extras | None = None,
    on_clip: Callable[[Path], None] = lambda path: None,
) -> list[Path]:
    """Write `n_clips` sequence folders, fixed and moving camera in turn, with seeds seed, seed + 1, ...

    A clip that is there already is kept, so an interrupted run goes on where it stopped. `on_clip` is told of each
    clip as it is done. One worker is this process itself. Returns their folders in order of the seed.
    """
    names = [f"{'fixed' if i % 2 == 0 else 'moving'}_{seed + i:06d}" for i in range(n_clips)]
    missing = [(i, seed + i) for i in range(n_clips) if not (root / names[i] / "meta.json").exists()]
    root.mkdir(parents=True, exist_ok=True)
    work = partial(_make_and_write, root, extras or Extras(), n_frames=n_frames, height=height, width=width, fps=fps)
    n_workers = min(workers, len(missing))
    if n_workers < 2:  # starting a process takes longer than a clip
        for job in missing:
            on_clip(work(job))
        return [root / name for name in names]
    # spawn, not fork: the caller may have started threads (torch, OpenCV) that a forked child would wait for.
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
        for path in pool.map(work, missing):
            on_clip(path)
    return [root / name for name in names]
