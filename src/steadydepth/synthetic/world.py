"""A moving world with exact depth, flow, pose and moving objects, and light that makes per-frame models flicker."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from steadydepth.files.pools import ended_at_once, pool_of, processes_at_once
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.video_write import recode
from steadydepth.ops.photometric import Photometric, augment_photometric
from steadydepth.synthetic.effects import SUBFRAMES, Extras, at_moments, draw_readout, draw_shutter, dress
from steadydepth.synthetic.rays import Labels, cast, flow_to, land, make_grid
from steadydepth.synthetic.rolling_shutter import Readout, Strip, roll
from steadydepth.synthetic.scene import Scene, draw_scene
from steadydepth.synthetic.shading import blur_textures, find_surface, rays_through, shade
from steadydepth.types import Clip

DEPTH_SCALE_M = 0.00025  # 16 bits reach 16.4 m, farther than the largest room
# Light of one frame beside the next: about what auto exposure, mains flicker and a cheap sensor do on a bad day.
FRAME_AUGMENTATION = Photometric(exposure=0.2, white_balance=0.05, gamma=0.1, vignetting=0.08, noise=0.02)


def _split(scene: Scene, *, fixed_camera: bool) -> tuple[list[int], list[int]]:
    """Solids that look the same in every frame, and those to render anew in each."""
    numbers = range(len(scene.solids))
    still = [i for i in numbers if fixed_camera and scene.solids[i].object_id == 0]
    return still, [i for i in numbers if i not in still]


def _label(strip: Strip, width: int, *, fixed_camera: bool, readout: Readout | None) -> Labels:
    """The exact labels of each frame, from one ray through the middle of each pixel of the strip."""
    scene = strip.scene
    n_frames, height = len(scene.cam_to_world), len(strip.rows)
    grid = make_grid(scene, strip.rows.astype(np.float64), np.arange(width, dtype=np.float64))
    still, changing = _split(scene, fixed_camera=fixed_camera)
    still_hits = cast(scene, 0, grid, still)
    still_landed = land(scene, 0, grid, still_hits, still, None, scene) if n_frames > 1 else None
    ids = np.array([solid.object_id for solid in scene.solids], np.uint8)
    labels = Labels(
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
            landed = landing(scene) if readout is None else readout.settle(landing)
            labels.flow[t, ..., 0], labels.flow[t, ..., 1], labels.flow_valid[t] = flow_to(landed, grid.y, grid.x)
    return labels


def _render(
    strip: Strip, width: int, textures: list[Float32[np.ndarray, "level texel texel 3"]], *, fixed_camera: bool
) -> Iterator[Float32[np.ndarray, "h w 3"]]:
    """Linear light of the strip in each frame, averaged over the rays of each pixel."""
    scene = strip.scene
    grid = make_grid(scene, rays_through(strip.rows), rays_through(np.arange(width)))
    still, changing = _split(scene, fixed_camera=fixed_camera)
    still_hits = cast(scene, 0, grid, still)
    still_surface = find_surface(scene, 0, grid, still_hits, still, textures)
    for t in range(len(scene.cam_to_world)):
        hits = cast(scene, t, grid, changing, still_hits)
        surface = find_surface(scene, t, grid, hits, changing, textures, still_surface)
        light = shade(scene, t, surface, grid)
        yield cv2.resize(light, (width, len(strip.rows)), interpolation=cv2.INTER_AREA)


def _expose(linear: Float32[np.ndarray, "h w 3"], generator: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Linear light to an 8-bit frame, with this frame's own exposure, white balance, gamma, vignetting and noise."""
    encoded = np.clip(linear, 0, 1) ** np.float32(1 / 2.2)
    return np.round(augment_photometric(encoded, FRAME_AUGMENTATION, generator) * 255).astype(np.uint8)


def make_clip(
    seed: int,
    *,
    fixed_camera: bool,
    n_frames: int = 24,
    height: int = 96,
    width: int = 128,
    fps: float = 15.0,
    extras: Extras | None = None,
    device: str | None = None,
) -> Clip:
    """One clip of the world: the same seed and sizes, the same clip, bit for bit.

    Depth is exact planar z in metres, flow and poses are exact, moving objects are numbered from 1. With rolling
    exposure depth and flow are those of the moment of each row, and poses those of the middle of the image.

    Args:
        seed: of everything that is drawn.
        fixed_camera: whether the camera stands still.
        n_frames: of the clip.
        height: rows of the image.
        width: columns of the image.
        fps: frames a second.
        extras: what the world has beside its boxes.
        device: of torch, where many frames are rendered at once; what differs is what that device rounds.
    """
    generator, extras = np.random.default_rng(seed), extras or Extras()
    scene = draw_scene(generator, n_frames=n_frames, fps=fps, height=height, width=width, fixed_camera=fixed_camera)
    scene = dress(scene, extras, seed, fps=fps, fixed_camera=fixed_camera)
    strips, readout = [Strip(scene, np.arange(height))], None
    if extras.rolling:
        strips, readout = roll(scene, draw_readout(seed, height))
    label: Callable[..., Labels] = partial(_label, fixed_camera=fixed_camera)
    render: Callable[..., Iterator[np.ndarray]] = partial(_render, fixed_camera=fixed_camera)
    if device is not None:
        from steadydepth.synthetic.device import check_device, label_on, render_on

        place = check_device(device)
        label, render = partial(label_on, place), partial(render_on, place)
    labels = [label(strip, width, readout=readout) for strip in strips]
    joined = {name: np.concatenate([getattr(one, name) for one in labels], axis=1) for name in vars(labels[0])}
    if extras.blur:
        shutter = draw_shutter(seed)
        strips = [replace(strip, scene=at_moments(strip.scene, shutter)) for strip in strips]
    textures, n_exposures = blur_textures(scene), SUBFRAMES if extras.blur else 1
    rendered = [render(strip, width, textures) for strip in strips]
    exposures = map(np.concatenate, zip(*rendered, strict=True))
    light = (np.mean(list(islice(exposures, n_exposures)), axis=0) for _ in range(n_frames))
    frames = np.stack([_expose(linear, generator) for linear in light])
    return Clip(
        name=f"{'fixed' if fixed_camera else 'moving'}_{seed:06d}",
        frames=frames if extras.compress is None else recode(frames, crf=extras.compress),
        fps=fps,
        **joined,
        valid=joined["depth"] > 0,
        K=scene.K,
        cam_to_world=scene.cam_to_world,
        fixed_camera=fixed_camera,
    )


def _make_and_write(root: Path, extras: Extras, index_seed: tuple[int, int], **sizes: Any) -> Path:
    index, seed = index_seed
    clip = make_clip(seed, fixed_camera=index % 2 == 0, extras=extras, **sizes)
    source = ": ".join(filter(None, ("steadydepth synthetic world", extras.describe())))
    # Images and meshes that someone gave keep the licence that they have, which is not known here.
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
    device: str | None = None,
    on_clip: Callable[[Path], None] = lambda path: None,
) -> list[Path]:
    """Write sequence folders, fixed and moving camera in turn.

    A clip that is there already is kept, so an interrupted run resumes where it stopped.

    Args:
        root: of the folders.
        n_clips: how many.
        seed: of the first; those of the others follow it.
        n_frames: of each.
        height: rows of the image.
        width: columns of the image.
        fps: frames a second.
        workers: processes; one is this process itself.
        extras: what the world has beside its boxes.
        device: of torch, that renders; None is NumPy.
        on_clip: called with each folder as it is done.

    Returns: the folders, in order of the seed.
    """
    names = [f"{'fixed' if i % 2 == 0 else 'moving'}_{seed + i:06d}" for i in range(n_clips)]
    missing = [(i, seed + i) for i in range(n_clips) if not (root / names[i] / "meta.json").exists()]
    root.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {"n_frames": n_frames, "height": height, "width": width, "fps": fps, "device": device}
    work: Callable[[tuple[int, int]], Path] = partial(_make_and_write, root, extras or Extras(), **sizes)
    n_workers = processes_at_once(min(workers, len(missing)))
    if n_workers < 2:  # starting a process takes longer than a clip
        for job in missing:
            on_clip(work(job))
        return [root / name for name in names]
    with _one_thread_each(), ended_at_once(pool_of(n_workers)) as pool:
        for path in pool.map(work, missing):
            on_clip(path)
    return [root / name for name in names]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started meanwhile take a core each, and not the cores of each other, unless set otherwise."""
    ours = {name: "1" for name in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM") if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
