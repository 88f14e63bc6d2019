"""Where frames come from: an image, a folder, a video, a camera, a URL or an iterator; a few frames in memory."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.data.sequence_listing import is_sequence, name_of
from steadydepth.errors import InputError
from steadydepth.files.images import FRAME_SUFFIXES, OTHER_IMAGES, read_colour
from steadydepth.files.listing import counted, gaps_between, in_order, visible
from steadydepth.files.prefetch import read_ahead
from steadydepth.files.video_read import VIDEO_SUFFIXES, leads_nowhere, names_a_file, probe_video, read_video
from steadydepth.ops.resize import check_image

LOG = logging.getLogger(__name__)
Image = UInt8[np.ndarray, "h w 3"]
# The camera matrix of images of a height and width; pixels, pixel centres at integer coordinates.
Camera = Callable[[int, int], Float64[np.ndarray, "3 3"]]
# A path, a URL (text with ://) or the index of a camera.
Input = Path | str | int

# Of frames without a rate of their own, such as a folder of images; only the speed of a written video hangs on it.
DEFAULT_FPS = 25.0


@dataclass(frozen=True)
class Source:
    """Frames in order, of one view."""

    name: str
    frames: Callable[[], Iterator[Image]]  # begins anew at each call, but for an iterator and what is live
    n_frames: int | None = None  # None while it is not known
    fps: float | None = DEFAULT_FPS  # None where only the times of arrival show it
    video: Path | None = None  # the file, where it is one
    is_live: bool = False  # a camera or a URL: what has come does not come again
    camera: Camera | None = None
    names: tuple[str, ...] | None = None  # of the files of a folder of images, without their endings

    @property
    def says_no_rate(self) -> bool:
        """Whether it is a folder of images, which have no times of their own."""
        return self.names is not None and self.n_frames != 1


def open_source(source: Input | Iterable[np.ndarray]) -> Source:
    """The frames of a path, a camera (its index), a URL (text with ://) or an iterator of uint8 RGB images.

    Raises:
        InputError: a path is missing or holds neither images nor video, or the source is none of these.
    """
    if isinstance(source, int):
        return Source(source_name(source), lambda: _camera_frames(source), fps=None, is_live=True)
    if isinstance(source, str) and "://" in source:
        return Source(source_name(source), lambda: read_ahead(read_video(source)), fps=None, is_live=True)
    if isinstance(source, Path | str):
        return _open_path(Path(source))
    if not isinstance(source, Iterable):
        raise InputError(
            f"a source is {type(source).__name__}; give a path, a camera's index, a URL or images in order"
        )
    # Copies: frames are read ahead and remembered, and many a source fills one array again and again.
    return Source("frames", lambda: (check_image(image).copy() for image in source))


def source_name(source: Input) -> str:
    """The name of what is written for it."""
    if isinstance(source, int):
        return f"camera_{source}"
    if isinstance(source, str) and "://" in source:
        # Not all of it: a camera's address often has its password in it.
        parts = urlsplit(source)
        return re.sub(r"\W+", "_", f"{parts.hostname or ''}{parts.path}").strip("_")
    return name_of(Path(source))


def may_open(source: Input) -> bool:
    """Whether `open_source` takes it, as far as its name tells."""
    suffixes = (*FRAME_SUFFIXES, *VIDEO_SUFFIXES)
    return not isinstance(source, Path) or source.is_dir() or source.suffix.lower() in suffixes


def expand_input(given: Path | str) -> list[Input]:
    """What `given` stands for, each to be opened by itself.

    A URL; a path; the sequences of a folder that has no images of its own; where nothing has that name, a camera for an
    integer, or all that match a pattern (*, ?, [..], ** for folders in folders).

    Raises:
        InputError: nothing matches the pattern, or it is neither text nor a path.
    """
    if isinstance(given, str) and "://" in given:
        return [given]
    if not isinstance(given, Path | str):
        raise InputError(
            f"an input is {type(given).__name__}; give paths, URLs or cameras as text; Predictor takes arrays"
        )
    if given == "":
        raise InputError("an empty name: give an image, a folder or a video; is a variable of the shell not set?")
    text, path = str(given), Path(given)
    if path.exists():
        is_collection = path.is_dir() and not is_sequence(path) and not _images(path)
        return [*find_sequences(path)] if is_collection else [path]
    if text.isdecimal():
        return [int(text)]
    if not any(letter in text for letter in "*?["):
        return [path]
    try:
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))), key=counted)
    except ValueError as error:
        raise InputError(f"{text}: {error}: ** stands alone between slashes, as in folder/**/*.mp4") from error
    expanded = [each for match in matches if not match.name.startswith(".") for each in expand_input(match)]
    if not expanded:
        raise InputError(f"{text} matches nothing: check the pattern, and where it begins")
    return expanded


def _open_path(path: Path) -> Source:
    if not (path.exists() or leads_nowhere(path) or is_sequence(path)):
        raise InputError(f"{path} does not exist; give an image, a folder or a video: check the path")
    name = source_name(path)
    if names_a_file(path) and is_sequence(path):
        video = probe_video(path)
        return Source(name, lambda: read_ahead(read_video(path)), video.n_frames, video.fps, path)
    if is_sequence(path):
        sequence = open_sequence(path)
        camera = None if (K := sequence.K) is None else lambda height, width: K
        return Source(name, lambda: read_ahead(sequence.images()), sequence.n_frames, sequence.fps, camera=camera)
    if path.is_file() and path.suffix.lower() in FRAME_SUFFIXES:
        return Source(name, lambda: iter((read_colour(path),)), 1, names=(path.stem,))
    if files := _images(path):
        _name_left_out(path)
        stems = tuple(file.stem for file in files)
        _name_gaps(path, stems)
        return Source(name, lambda: read_ahead(map(read_colour, files)), len(files), names=stems)
    raise InputError(
        f"{path} is no image ({', '.join(FRAME_SUFFIXES)}), no video ({', '.join(VIDEO_SUFFIXES)}) and no folder of "
        "either: convert it, or check the path"
    )


def _images(folder: Path) -> list[Path]:
    """Images directly in `folder` in the order a person counts."""
    return in_order(file for file in visible(folder) if file.suffix.lower() in FRAME_SUFFIXES and names_a_file(file))


def _name_left_out(folder: Path) -> None:
    """Say which files beside the images of a folder are images of kinds that are not read, or videos."""
    others = (*OTHER_IMAGES, *VIDEO_SUFFIXES)
    files = [file.name for file in in_order(visible(folder)) if file.suffix.lower() in others]
    if files:
        few = ", ".join(files[:5]) + ", ..." * (len(files) > 5)
        kinds = ", ".join(FRAME_SUFFIXES)
        LOG.warning("%s: left out, being none of %s: %d files, %s", folder, kinds, len(files), few)


def _name_gaps(folder: Path, stems: tuple[str, ...]) -> None:
    """Say where numbers of frames are missing: the frames beside a gap are taken for neighbours."""
    gaps = [f"{stems[i]} and {stems[i + 1]}" for i in gaps_between(stems)]
    if gaps:
        few = ", ".join(gaps[:5]) + ", ..." * (len(gaps) > 5)
        LOG.warning("%s: no image between %s; they are taken for neighbours", folder, few)


def _camera_frames(index: int) -> Iterator[Image]:
    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise InputError(f"camera {index} cannot be opened; is it there, and free? try another index")
        while True:
            is_there, image = camera.read()
            if not is_there:
                return
            yield _camera_colour(index, image)
    finally:
        camera.release()


# Channels of what OpenCV hands over as the camera sent it: grey, YUYV, the BGR of most, and BGR with alpha.
_FROM_CAMERA = {1: cv2.COLOR_GRAY2RGB, 2: cv2.COLOR_YUV2RGB_YUYV, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}


def _camera_colour(index: int, image: np.ndarray) -> Image:
    """RGB of what OpenCV gives for a camera; infrared and thermal ones have one channel."""
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in _FROM_CAMERA or len(image) == 1:
        raise InputError(
            f"camera {index} gives {image.dtype} {image.shape}, which is no image of 8-bit grey, YUYV or BGR: set it "
            "to another format (v4l2-ctl --set-fmt-video=pixelformat=MJPG), or give its address to FFmpeg"
        )
    return cv2.cvtColor(image, _FROM_CAMERA[channels])
