"""Where frames come from: a picture, a folder, a video, a camera, a URL or an iterator; one frame in memory."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.data.sequence_listing import is_sequence, name_of, visible
from steadydepth.data.video_files import VIDEO_SUFFIXES, probe_video, read_video
from steadydepth.files.image_files import FRAME_SUFFIXES, read_colour
from steadydepth.types import InputError

Image = UInt8[np.ndarray, "h w 3"]

# Of frames without a rate of their own, such as a folder of pictures; only the speed of a written video hangs on it.
DEFAULT_FPS = 25.0


@dataclass(frozen=True)
class Source:
    """Frames in order, of one view."""

    name: str
    frames: Callable[[], Iterator[Image]]  # begins anew at each call, but for a camera, a URL and an iterator
    n_frames: int | None = None  # None while it is not known
    fps: float = DEFAULT_FPS
    video: Path | None = None  # the file, where it is one


def open_source(source: Path | str | int | Iterable[np.ndarray]) -> Source:
    """The frames of a path, a camera (its index), a URL (text with ://) or an iterator of uint8 RGB images.

    InputError when a path is missing or holds neither pictures nor video.
    """
    if isinstance(source, int):
        return Source(f"camera_{source}", lambda: _camera_frames(source))
    if isinstance(source, str) and "://" in source:
        return Source(re.sub(r"\W+", "_", source).strip("_"), lambda: read_video(source))
    if isinstance(source, Path | str):
        return _open_path(Path(source))
    return Source("frames", lambda: iter(source))


def expand_input(path: Path) -> list[Path]:
    """`path` itself, or the sequences in it when it is a folder of sequences and has no pictures of its own."""
    return find_sequences(path) if path.is_dir() and not is_sequence(path) and not _pictures(path) else [path]


def _open_path(path: Path) -> Source:
    if not path.exists():
        raise InputError(f"{path} does not exist; give a picture, a folder or a video: check the path")
    name = name_of(path)
    if path.is_file() and is_sequence(path):
        video = probe_video(path)
        return Source(name, lambda: read_video(path), video.n_frames, video.fps, path)
    if is_sequence(path):
        sequence = open_sequence(path)
        numbers = range(sequence.n_frames)
        return Source(
            name, lambda: (sequence.read_frames(i, i + 1)[0] for i in numbers), sequence.n_frames, sequence.fps
        )
    if path.is_file() and path.suffix.lower() in FRAME_SUFFIXES:
        return Source(name, lambda: iter((read_colour(path),)), 1)
    if files := _pictures(path):
        return Source(name, lambda: map(read_colour, files), len(files))
    raise InputError(
        f"{path} is no picture ({', '.join(FRAME_SUFFIXES)}), no video ({', '.join(VIDEO_SUFFIXES)}) and no folder of "
        "either: convert it, or check the path"
    )


def _pictures(folder: Path) -> list[Path]:
    """Pictures directly in `folder` in the order a person counts: frame_2 before frame_10."""
    files = [file for file in visible(folder) if file.suffix.lower() in FRAME_SUFFIXES and file.is_file()]
    return sorted(files, key=lambda file: [(part.isdigit(), part.zfill(20)) for part in re.split(r"(\d+)", file.name)])


def _camera_frames(index: int) -> Iterator[Image]:
    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise InputError(f"camera {index} cannot be opened; is it there, and free? try another index")
        while True:
            is_there, image = camera.read()
            if not is_there:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()
