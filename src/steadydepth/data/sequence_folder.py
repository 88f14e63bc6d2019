"""The native layout of a video with or without depth: one folder a sequence, one image a frame."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from steadydepth.data.sequence_listing import find_sequences, is_sequence, list_files, name_of
from steadydepth.data.sequence_meta import SequenceMeta, against_files, read_meta
from steadydepth.data.shards.read import KINDS, Members, find_packed
from steadydepth.errors import InputError
from steadydepth.files.images import (
    ImageFile,
    check_size,
    read_colour,
    read_depth_codes,
    read_flow,
    read_labelled_colour,
    read_labels,
)
from steadydepth.files.video_read import VIDEO_SUFFIXES, names_a_file, probe_video, read_video
from steadydepth.video_types import Clip

__all__ = ["Sequence", "find_sequences", "open_sequence"]


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
    rgb: Mapping[int, ImageFile] = field(default_factory=dict)  # empty for a video file
    labels: Mapping[str, Mapping[int, ImageFile]] = field(default_factory=dict)  # depth, objects, ...: frame to file
    cuts: tuple[int, ...] = ()  # frames that begin a new shot; of a video file they are not known before it is decoded

    @property
    def has_depth(self) -> bool:
        """Whether any frame has measured depth."""
        return bool(self.labels.get("depth"))

    @property
    def has_objects(self) -> bool:
        """Whether any frame says which thing each pixel shows."""
        return bool(self.labels.get("objects"))

    @property
    def has_flow(self) -> bool:
        """Whether any frame has its true flow into the next."""
        return bool(self.labels.get("flow"))

    def read(self, start: int = 0, stop: int | None = None) -> Clip:
        """Frames [start, stop) and their labels, and only those files are read; flow has one frame fewer.

        InputError naming the file when an image is unreadable, truncated, of another size or of another kind.
        """
        stop = self.n_frames if stop is None else stop
        frames = self.read_frames(start, stop)
        numbers = range(start, stop)
        depth = self._read_all("depth", numbers) if self.has_depth else None
        measured = None if depth is None else depth > 0
        if measured is not None and self.labels.get("valid"):
            measured &= self._read_all("valid", numbers) != 0
        flow = self._read_all("flow", numbers[:-1]) if self.has_flow else None
        motion = self._read_all("motion", numbers[1:]) if self.labels.get("motion") else None
        return Clip(
            name=self.name,
            frames=frames,
            fps=self.fps,
            depth=depth,
            valid=measured,
            objects=self._read_all("objects", numbers) if self.has_objects else None,
            flow=None if flow is None else np.ascontiguousarray(flow[..., :2]),
            flow_valid=None if flow is None else flow[..., 2] != 0,
            motion=None if motion is None else np.ascontiguousarray(motion[..., :2]),
            visible=None if motion is None else motion[..., 2] != 0,
            K=self.K,
            cam_to_world=None if self.cam_to_world is None else self.cam_to_world[start:stop],
            fixed_camera=self.fixed_camera,
        )

    def images(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Every frame in order; a video file is decoded once from end to end.

        Raises:
            InputError: a frame is damaged or of another size, or the video ends too early.
        """
        if self.rgb:
            for number in range(self.n_frames):
                yield self.read_frames(number, number + 1)[0]
        else:
            n_read = 0
            for image in islice(read_video(self.path), self.n_frames):
                yield check_size(self.path, image, self.height, self.width)
                n_read += 1
            if n_read < self.n_frames:
                raise InputError(f"{self.path}: ends after {n_read} frames; it promised {self.n_frames}")

    def read_frames(self, start: int, stop: int) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames [start, stop) alone, as `read` gives them; no label is read.

        Raises:
            InputError: there are no such frames, one is damaged or of another size, or the video ends too early.
        """
        if not 0 <= start < stop <= self.n_frames:
            raise InputError(f"{self.path}: frames {start} to {stop} asked for; it has 0 to {self.n_frames}")
        if self.rgb:
            frames = np.empty((stop - start, self.height, self.width, 3), np.uint8)
            read = read_labelled_colour if any(self.labels.values()) else read_colour
            for slot, number in zip(frames, range(start, stop), strict=True):
                slot[:] = check_size(self.rgb[number], read(self.rgb[number]), self.height, self.width)
            return frames
        # A video whose size changes on the way is one shot for each size.
        images = list(read_video(self.path, start, stop))
        if len(images) < stop - start:
            n_read = start + len(images)
            raise InputError(f"{self.path}: ends after frame {n_read - 1}; it promised {self.n_frames} frames")
        return np.stack([check_size(self.path, image, *images[0].shape[:2]) for image in images])

    def read_label(self, kind: str, number: int) -> np.ndarray:
        """The label `kind` of one frame, and only that file is read; 0 everywhere when the frame has none.

        depth: metres; objects: numbers; valid: not 0 where a pixel counts, everywhere when there is no file; flow: x, y
        in pixels and, as a third channel, whether it is valid.
        """
        return self._read_all(kind, range(number, number + 1))[0]

    def _read_all(self, kind: str, numbers: range) -> np.ndarray:
        """Files of `kind` one after another; without a file a frame is 0 everywhere, of `valid` 1."""
        files = self.labels.get(kind, {})
        channels, dtype = _STORED[kind]
        images = np.full((len(numbers), self.height, self.width, *channels), 1 if kind == "valid" else 0, dtype)
        for slot, number in zip(images, numbers, strict=True):
            if number in files:
                slot[:] = check_size(files[number], self._decode(kind, files[number]), self.height, self.width)
        return images

    def _decode(self, kind: str, file: ImageFile) -> np.ndarray:
        if kind == "depth":
            return (read_depth_codes(file) * np.float64(self.depth_scale_m or math.nan)).astype(np.float32)
        return np.dstack(read_flow(file)) if kind in ("flow", "motion") else read_labels(file)


_STORED: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
    "depth": ((), np.float32),
    "objects": ((), np.uint8),
    "flow": ((3,), np.float32),
    "valid": ((), np.uint8),
    "motion": ((3,), np.float32),
}


def open_sequence(path: str | Path) -> Sequence:
    """The sequence in the folder, video file or pack `path`.

    Raises:
        InputError: it is none; or all mistakes of meta.json and of the numbers of its files.
    """
    path = Path(path)
    if packed := find_packed(path):
        pack, entry = packed
        images = {kind: Members(pack, entry, kind) for kind in KINDS}
        packed_frames = _sequence(path, entry.meta, images.pop("rgb"), images, entry.height, entry.width)
        return replace(packed_frames, cuts=entry.cuts)
    if not is_sequence(path):
        raise InputError(
            f"{path} {'holds' if path.is_dir() else 'is'} no sequence; a sequence is a folder with rgb/ inside or a "
            f"video file ({', '.join(VIDEO_SUFFIXES)}): check the path"
        )
    if names_a_file(path):
        video = probe_video(path)
        return Sequence(path, name_of(path), video.fps, video.n_frames, video.height, video.width)
    rgb, labels, faults = list_files(path)
    meta, meta_faults = read_meta(path / "meta.json")
    if meta is not None:
        meta_faults = against_files(path / "meta.json", meta, len(rgb), has_depth_folder=(path / "depth").is_dir())
    if meta is None or meta_faults or faults:
        raise InputError("\n".join(meta_faults + faults))
    return _sequence(path, meta, dict(enumerate(rgb)), labels, *read_colour(rgb[0]).shape[:2])


def _sequence(
    path: Path,
    meta: SequenceMeta,
    rgb: Mapping[int, ImageFile],
    labels: Mapping[str, Mapping[int, ImageFile]],
    height: int,
    width: int,
) -> Sequence:
    known: dict[str, Any] = dict(meta)
    for name in ("K", "cam_to_world"):
        known[name] = None if known[name] is None else np.array(known[name], np.float64)
    return Sequence(path, name_of(path), n_frames=len(rgb), height=height, width=width, rgb=rgb, labels=labels, **known)
