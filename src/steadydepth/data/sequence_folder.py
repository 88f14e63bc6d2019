"""The native layout of a video with or without depth: one folder a sequence, one image a frame; read, write, check."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from steadydepth.data.sequence_listing import (
    LABELS,
    find_sequences,
    is_sequence,
    list_files,
    list_sequences,
    name_clashes,
    name_of,
    visible,
)
from steadydepth.data.sequence_meta import against_files, bent_poses, misspelt_keys, read_meta
from steadydepth.data.video_files import VIDEO_SUFFIXES, probe_video, read_video
from steadydepth.files.image_files import (
    encode_depth,
    encode_flow,
    read_colour,
    read_depth_codes,
    read_flow,
    read_labels,
    write_png,
)
from steadydepth.files.whole_files import check_name, new_folder
from steadydepth.types import Clip, InputError

__all__ = ["Sequence", "check_data", "find_sequences", "open_sequence", "write_sequence"]


@dataclass(frozen=True, eq=False)
class Sequence:
    """One video on disk: what is known of it, and its frames when asked for."""

    path: Path
    name: str
    fps: float
    n_frames: int
    height: int
    width: int
    fixed_camera: bool | None = None
    K: Float64[np.ndarray, "3 3"] | None = None
    cam_to_world: Float64[np.ndarray, "t 4 4"] | None = None
    depth_scale_m: float | None = None
    source: str | None = None
    licence: str | None = None
    rgb: tuple[Path, ...] = ()  # empty for a video file
    labels: dict[str, dict[int, Path]] = field(default_factory=dict)  # depth, objects, flow, valid: frame to file

    @property
    def has_depth(self) -> bool:
        return bool(self.labels.get("depth"))

    @property
    def has_objects(self) -> bool:
        return bool(self.labels.get("objects"))

    @property
    def has_flow(self) -> bool:
        return bool(self.labels.get("flow"))

    def read(self, start: int = 0, stop: int | None = None) -> Clip:
        """Frames [start, stop) and their labels, and only those files are read; flow has one frame fewer.

        InputError naming the file when an image is unreadable, truncated, of another size or of another kind.
        """
        stop = self.n_frames if stop is None else stop
        frames = self.read_frames(start, stop)
        numbers = range(start, stop)
        depth = (
            self._read_all("depth", numbers, _read_depth(self.depth_scale_m or math.nan)) if self.has_depth else None
        )
        flow = self._read_all("flow", numbers[:-1], _read_flow) if self.has_flow else None
        return Clip(
            name=self.name,
            frames=frames,
            fps=self.fps,
            depth=depth,
            valid=None if depth is None else (depth > 0) & (self._read_all("valid", numbers, read_labels, 1) != 0),
            objects=self._read_all("objects", numbers, read_labels) if self.has_objects else None,
            flow=None if flow is None else np.ascontiguousarray(flow[..., :2]),
            flow_valid=None if flow is None else flow[..., 2] != 0,
            K=self.K,
            cam_to_world=None if self.cam_to_world is None else self.cam_to_world[start:stop],
            fixed_camera=self.fixed_camera,
        )

    def read_frames(self, start: int, stop: int) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames [start, stop) alone, as `read` gives them; no label is read."""
        if not 0 <= start < stop <= self.n_frames:
            raise InputError(f"{self.path}: frames {start} to {stop} asked for; it has 0 to {self.n_frames}")
        frames = np.empty((stop - start, self.height, self.width, 3), np.uint8)
        if self.rgb:
            for slot, path in zip(frames, self.rgb[start:stop], strict=True):
                slot[:] = _sized(path, read_colour(path), self.height, self.width)
            return frames
        n_read = 0
        for slot, image in zip(frames, read_video(self.path, start, stop), strict=False):
            slot[:] = _sized(self.path, image, self.height, self.width)
            n_read += 1
        if n_read < len(frames):
            raise InputError(f"{self.path}: ends after frame {start + n_read - 1}; it promised {self.n_frames} frames")
        return frames

    def read_label(self, kind: str, number: int) -> np.ndarray:
        """The label `kind` of one frame, and only that file is read; 0 everywhere when the frame has none.

        depth: metres; objects: numbers; valid: not 0 where a pixel counts, everywhere when there is no file; flow: x, y
        in pixels and, as a third channel, whether it is valid.
        """
        read = {"depth": _read_depth(self.depth_scale_m or math.nan), "flow": _read_flow}.get(kind, read_labels)
        return self._read_all(kind, range(number, number + 1), read, 1 if kind == "valid" else 0)[0]

    def _read_all(self, kind: str, numbers: range, read: Callable[[Path], np.ndarray], missing: int = 0) -> np.ndarray:
        """Files of `kind` one after another; a frame without a file is filled with `missing`."""
        files = self.labels.get(kind, {})
        channels, dtype = _STORED[kind]
        images = np.full((len(numbers), self.height, self.width, *channels), missing, dtype)
        for slot, number in zip(images, numbers, strict=True):
            if number in files:
                slot[:] = _sized(files[number], read(files[number]), self.height, self.width)
        return images


_STORED: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
    "depth": ((), np.float32),
    "objects": ((), np.uint8),
    "flow": ((3,), np.float32),
    "valid": ((), np.uint8),
}


def _read_depth(scale_m: float) -> Callable[[Path], np.ndarray]:
    return lambda path: (read_depth_codes(path) * np.float64(scale_m)).astype(np.float32)


def _read_flow(path: Path) -> np.ndarray:
    return np.dstack(read_flow(path))


def _sized(path: Path, image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] != (height, width):
        raise InputError(
            f"{path}: {image.shape[0]} x {image.shape[1]} in a sequence of {height} x {width}; the size never changes "
            "inside a sequence: resize it, or start a new sequence here"
        )
    return image


def open_sequence(path: Path) -> Sequence:
    """The sequence in the folder or video file `path`; InputError with all mistakes of meta.json and of the numbers."""
    if not is_sequence(path):
        raise InputError(
            f"{path} {'holds' if path.is_dir() else 'is'} no sequence; a sequence is a folder with rgb/ inside or a "
            f"video file ({', '.join(VIDEO_SUFFIXES)}): check the path"
        )
    if path.is_file():
        video = probe_video(path)
        return Sequence(path, name_of(path), video.fps, video.n_frames, video.height, video.width)
    rgb, labels, faults = list_files(path)
    meta, meta_faults = read_meta(path / "meta.json")
    if meta is not None:
        meta_faults = against_files(path / "meta.json", meta, len(rgb), has_depth_folder=(path / "depth").is_dir())
    if meta is None or meta_faults or faults:
        raise InputError("\n".join(meta_faults + faults))
    height, width = read_colour(rgb[0]).shape[:2]
    return Sequence(
        path=path,
        name=name_of(path),
        fps=meta.fps,
        n_frames=len(rgb),
        height=height,
        width=width,
        fixed_camera=meta.fixed_camera,
        K=None if meta.K is None else np.array(meta.K, np.float64),
        cam_to_world=None if meta.cam_to_world is None else np.array(meta.cam_to_world, np.float64),
        depth_scale_m=meta.depth_scale_m,
        source=meta.source,
        licence=meta.licence,
        rgb=tuple(rgb),
        labels=labels,
    )


def write_sequence(
    root: Path, clip: Clip, *, depth_scale_m: float | None, source: str | None, licence: str | None
) -> Path:
    """Write `clip` as ROOT/<clip.name>, whole or not at all, and return that folder.

    Depth is rounded to the nearest step of `depth_scale_m` and flow to 1/64 px. InputError when the folder exists, the
    name climbs out, or a valid depth or flow does not fit 16 bits.
    """
    target = root / check_name(clip.name, root)
    if clip.depth is not None and depth_scale_m is None:
        raise InputError(f"{target}: the clip has depth; give depth_scale_m, the metres of one step, such as 0.001")
    with new_folder(target) as part:
        for kind in ("rgb", *(kind for kind in ("depth", "objects", "flow") if getattr(clip, kind) is not None)):
            (part / kind).mkdir()
        for number in range(len(clip.frames)):
            file, name = f"{number:04d}.png", f"{target}, frame {number}"
            write_png(part / "rgb" / file, clip.frames[number])
            if clip.objects is not None:
                write_png(part / "objects" / file, clip.objects[number])
            if clip.depth is not None and depth_scale_m is not None:
                _write_depth(part, file, clip, number, depth_scale_m, name)
            if clip.flow is not None and number < len(clip.flow):
                _write_flow(part, file, clip, number, name)
        meta = _meta_of(clip, depth_scale_m if clip.depth is not None else None, source, licence)
        (part / "meta.json").write_text(json.dumps(meta, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return target


def _meta_of(clip: Clip, depth_scale_m: float | None, source: str | None, licence: str | None) -> dict[str, Any]:
    meta = {
        "fps": clip.fps,
        "fixed_camera": clip.fixed_camera,
        "depth_scale_m": depth_scale_m,
        "K": None if clip.K is None else clip.K.tolist(),
        "cam_to_world": None if clip.cam_to_world is None else clip.cam_to_world.tolist(),
        "source": source,
        "licence": licence,
    }
    return {key: value for key, value in meta.items() if value is not None}


def _write_depth(part: Path, file: str, clip: Clip, number: int, scale_m: float, name: str) -> None:
    assert clip.depth is not None
    depth = clip.depth[number]
    # What is masked out but has a depth keeps it where it fits: the mask is its own file.
    steps = np.where(np.isfinite(depth), depth, 0) / scale_m
    fits = (steps >= 0.5) & (steps < 65535.5)
    valid = clip.valid[number] if clip.valid is not None else depth != 0
    write_png(part / "depth" / file, encode_depth(depth, valid | fits, scale_m, name=name))
    if (fits & ~valid).any():
        (part / "valid").mkdir(exist_ok=True)
        write_png(part / "valid" / file, valid.astype(np.uint8) * np.uint8(255))


def _write_flow(part: Path, file: str, clip: Clip, number: int, name: str) -> None:
    assert clip.flow is not None
    known = clip.flow_valid[number] if clip.flow_valid is not None else np.ones(clip.flow.shape[1:3], bool)
    write_png(part / "flow" / file, encode_flow(clip.flow[number], known, name=name))


def check_data(root: Path) -> list[str]:
    """Every fault of the tree `root`, each naming file and rule; empty when there is none.

    Every file is read and none is written. Beyond what keeps a sequence from being read, poses that are no rigid motion
    and keys of meta.json that look misspelt are named. InputError when `root` holds no sequence at all.
    """
    paths = list_sequences(root)
    faults = name_clashes(paths)
    if not is_sequence(root):
        headless = [path for path in sorted(visible(root)) if (path / "meta.json").is_file() and path not in paths]
        faults += [f"{path}: meta.json without rgb/; a sequence has its frames there: add them" for path in headless]
    for path in paths:
        faults += _check_video(path) if path.is_file() else _check_folder(path)
    return faults


def _check_video(path: Path) -> list[str]:
    try:
        n_read = sum(1 for _ in read_video(path))
        n_frames = probe_video(path).n_frames
    except InputError as error:
        return [str(error)]
    return (
        [] if n_read == n_frames else [f"{path}: promises {n_frames} frames and decodes to {n_read}: encode it again"]
    )


def _check_folder(path: Path) -> list[str]:
    rgb, labels, faults = list_files(path)
    meta, meta_faults = read_meta(path / "meta.json")
    if meta is not None:
        meta_faults = against_files(path / "meta.json", meta, len(rgb), has_depth_folder=(path / "depth").is_dir())
        meta_faults += misspelt_keys(path / "meta.json") + bent_poses(path / "meta.json", meta)
    if rgb and len(rgb) - 1 in labels["flow"]:
        faults.append(f"{labels['flow'][len(rgb) - 1]}: the last frame has no flow to a next one: remove it")
    size: tuple[int, int] | None = None
    for file, read in _all_files(rgb, labels):
        try:
            image = read(file)
            size = size or (image.shape[0], image.shape[1])
            _sized(file, image, *size)
        except InputError as error:
            faults.append(str(error))
    return meta_faults + faults


def _all_files(
    rgb: list[Path], labels: dict[str, dict[int, Path]]
) -> Iterator[tuple[Path, Callable[[Path], np.ndarray]]]:
    readers = {"depth": read_depth_codes, "objects": read_labels, "flow": _read_flow, "valid": read_labels}
    yield from ((file, read_colour) for file in rgb)
    for kind in LABELS:
        yield from ((labels[kind][number], readers[kind]) for number in sorted(labels[kind]))
