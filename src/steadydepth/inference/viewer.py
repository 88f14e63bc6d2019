"""Live frames and their depth in a window, or as raw frames in a pipe, as they come."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from steadydepth.data.cuts import Shots
from steadydepth.errors import InputError
from steadydepth.inference.live import LiveResult
from steadydepth.ops.colours import colour_depth, follow_range

_STOP_KEYS = (27, ord("q"))  # Escape


def show_live(results: Iterable[LiveResult], title: str) -> Iterator[LiveResult]:
    """The results as they are, each shown with its depth in colours on its right, until q or Escape is pressed.

    The colours follow the range of the depth slowly, and begin anew at a cut. The process must have imported cv2 before
    av, or the window hangs.

    Raises:
        InputError: no window can be opened.
    """
    # Without a screen Qt, which OpenCV opens its windows with, would end the process.
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError("no window can be shown: there is no screen (DISPLAY is not set): leave --show out")
    for live, colours in _coloured(results):
        if _show(title, np.hstack((live.result.image, colours))) in _STOP_KEYS:
            break
        yield live
    cv2.destroyAllWindows()


def _coloured(results: Iterable[LiveResult]) -> Iterator[tuple[LiveResult, UInt8[np.ndarray, "h w 3"]]]:
    """The results with their depth in colours."""
    shown, shots = None, Shots()
    for live in results:
        one = live.result
        is_cut = shots.begins_with(one.image)  # of which a network without memory does not know
        shown = follow_range(None if one.is_start or is_cut else shown, one.depth, claims=one.claims)
        yield live, colour_depth(one.depth, *shown, one.valid, claims=one.claims)


def _measured(results: Iterable[LiveResult]) -> Iterator[tuple[LiveResult, Float32[np.ndarray, "h w"]]]:
    return ((live, live.result.measured.astype("<f4")) for live in results)


# What is piped of the results, by FFmpeg's names.
PIPES = {"rgb24": _coloured, "grayf32le": _measured}


def pipe_live(results: Iterable[LiveResult], pipe: BinaryIO | BufferedIOBase, kind: str) -> Iterator[LiveResult]:
    """The results as they are, each written to a pipe without a header, until its reader closes it.

    Args:
        results: of one size.
        pipe: binary.
        kind: a key of `PIPES`: "rgb24", depth in colours that follow its range slowly, 3 bytes a pixel; or "grayf32le",
            depth itself in the units of the claims, NaN where there is none.

    Raises:
        InputError: no such kind; or a result has another size, which a reader could not tell from the frames before.
    """
    if kind not in PIPES:
        raise InputError(f"pipe {kind!r}: unknown; there are {', '.join(PIPES)}")
    first = None
    for live, pixels in PIPES[kind](results):
        shape = live.result.depth.shape
        first = first or shape
        if shape != first:
            raise InputError(f"frame {live.number}: {shape}, those before {first}; a pipe has one size: stop it")
        try:
            pipe.write(pixels.tobytes())
            pipe.flush()
        except OSError as error:
            if isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL):
                return  # its reader has closed it; Windows says that in two ways
            raise
        yield live


def _show(title: str, image: UInt8[np.ndarray, "h w 3"]) -> int:
    """The key that was pressed, -1 for none."""
    try:
        cv2.imshow(title, image[..., ::-1])
        return cv2.waitKey(1)
    except cv2.error as error:
        raise InputError(
            "no window can be shown: OpenCV was built without windows (opencv-python-headless): "
            "pip install opencv-python in its place, or leave --show out"
        ) from error
