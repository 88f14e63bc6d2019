"""All depth of one source, cached on disk as it is predicted: a writer may read it more than once."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from jaxtyping import Float, Float64, UInt8

from steadydepth.data.cuts import Shots
from steadydepth.errors import InputError
from steadydepth.files.stored_depth import open_raw, read_raw
from steadydepth.inference.filters import ChosenFilter
from steadydepth.inference.frame_sources import DEFAULT_FPS, Image, Source
from steadydepth.inference.live import read_until
from steadydepth.inference.predictor import Predictor
from steadydepth.ops.colours import is_measured
from steadydepth.ops.depth_view import DepthView, Range
from steadydepth.ops.resize import resize_depth, shrink_image
from steadydepth.progress import Progress
from steadydepth.video_types import Claims, DepthFrames

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedDepth:
    """The depth of a source and its frames, both to be read again; one frame of each is held at a time."""

    source: Source
    depth: DepthFrames  # of the size of the frames, NaN where there is no value
    network_depth: DepthFrames  # the same at the size at which the network gave it
    filter: ChosenFilter  # what was applied to it
    starts: tuple[int, ...] = (0,)  # frames before which nothing was remembered
    shrunk: Callable[[], Iterator[Image]] | None = None  # its frames as they were kept for a preview

    @property
    def claims(self) -> Claims:
        """What the numbers mean."""
        return self.depth.claims

    @property
    def fps(self) -> float:
        """Frames a second, a usual number where the source does not say."""
        return self.source.fps or DEFAULT_FPS

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:
        """The camera matrix, in pixels of the depth; of a source with a camera."""
        assert self.source.camera is not None
        return self.source.camera(self.depth.height, self.depth.width)

    def frames(self) -> Iterator[tuple[Image, Float[np.ndarray, "h w"]]]:
        """Each frame and its depth."""
        return zip(self.source.frames(), self.depth.read(), strict=True)

    def ranges(self, view: DepthView) -> Iterator[Range]:
        """What is shown as near and far in each frame; enlarging makes more values, and none beyond these."""
        return view.ranges(self.network_depth.read, self.claims, self.starts)

    def images(self, max_side: int | None, view: DepthView) -> Iterator[UInt8[np.ndarray, "i j 3"]]:
        """Each frame with its depth in colours on the right; a smaller one from what was kept, not decoded again."""
        kept = None if max_side is None else self.shrunk
        frames = self.frames() if kept is None else zip(kept(), self.depth.read(), strict=True)
        for (image, depth), shown in zip(frames, self.ranges(view), strict=False):
            # Shrunk before they are coloured: a quarter of the pixels is a quarter of the work.
            small = shrink_image(image, max_side)
            if small.shape[:2] != depth.shape:
                depth = cv2.resize(depth, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            yield np.hstack((small, view.paint(depth, shown, self.claims)))

    def ends(self) -> tuple[float, float]:
        """A smallest and a largest value that none passes; (1, 2) when there is none."""
        low, high = np.inf, -np.inf
        for depth in self.network_depth.read():
            values = depth[is_measured(depth, self.claims)]
            if len(values):
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        return (low, high) if low <= high else (1.0, 2.0)


def cache_depth(
    predictor: Predictor,
    source: Source,
    folder: Path,
    *,
    filter: ChosenFilter | None = None,
    seconds: float | None = None,
    keep_side: int | None = None,
    find_cuts: bool = False,
    report: Progress,
) -> CachedDepth:
    """Predict every frame of a source into files.

    Args:
        predictor: the model.
        source: a live one ends after `seconds`, when interrupted (Ctrl-C) or when it breaks off; its frames are kept as
            well.
        folder: of the files, which stay as long as what is returned is used.
        filter: in place of the predictor's own.
        seconds: end of a live source, from its first frame on, also where it is silent; for that frame 10 are waited at
            least.
        keep_side: longer side in pixels of the frames that are kept for a preview; None keeps none.
        find_cuts: look for them also where no depth hangs on them, for ranges of each shot.
        report: called with the name, the frames done and the frames in all, 0 where that is not known.

    Raises:
        InputError: there is no frame, or none came in that time, or the size of the depth changes.
    """
    shape, kept_shape, n_done, begun, passed = (0, 0), (0, 0), 0, 0.0, 0.0
    starts, shots = [], Shots()
    depth_path, image_path = folder / "depth.raw", folder / "images.raw"
    with depth_path.open("wb") as depth_file, image_path.open("wb") as image_file:
        frames = read_until(source.frames(), seconds) if source.is_live else source.frames()
        if source.is_live or keep_side is not None:
            frames = _kept(frames, image_file, None if source.is_live else keep_side)
        session = predictor.session(filter=filter)
        watched = shots.watch(frames) if find_cuts else frames
        results = map(session.step, watched) if source.is_live else session.run(watched)
        try:
            for result in results:
                size, depth = result.image.shape[:2], result.network_depth
                if n_done and size != shape:
                    raise InputError(
                        f"{source.name}, frame {n_done}: {size[0]} x {size[1]}, and those before it {shape[0]} x "
                        f"{shape[1]}; what is written has one size: split the video there, or resize it; photos that "
                        "are no video are given one by one (FOLDER/*.jpg)"
                    )
                depth = np.where(is_measured(depth, result.claims), depth, np.float32(np.nan))
                depth_file.write(np.ascontiguousarray(depth).data)
                starts += [n_done] * result.is_start
                begun = begun or time.perf_counter()
                shape, kept_shape, n_done, passed = size, depth.shape, n_done + 1, time.perf_counter() - begun
                report(source.name, n_done, source.n_frames or 0)
        except (KeyboardInterrupt, InputError) as end:
            if not source.is_live or n_done == 0:
                raise
            LOG.warning("%s: ended after %d frames, which are kept; %s", source.name, n_done, str(end) or "interrupted")
    if n_done == 0:
        raise InputError(f"{source.name}: no frame in it; give one with at least one frame")
    shrunk = None
    if source.is_live:
        images = partial(read_raw, image_path, (n_done, *shape, 3), np.uint8)
        rate = source.fps or ((n_done - 1) / passed if n_done > 1 else DEFAULT_FPS)
        source = replace(source, frames=images, fps=rate)
    elif keep_side is not None:
        size = shrink_image(np.empty((*shape, 3), np.uint8), keep_side).shape
        shrunk = partial(read_raw, image_path, (n_done, *size), np.uint8)
    # At the network's size, a fiftieth of that of a large video; it is resized whenever it is read.
    kept = open_raw(depth_path, (n_done, *kept_shape), predictor.claims)
    cached = DepthFrames(kept.claims, n_done, *shape, lambda: (resize_depth(one, *shape) for one in kept.read()))
    begins = tuple(sorted({*starts, *shots.cuts()}))
    return CachedDepth(source, cached, kept, session.filter, begins, shrunk)


def _kept(frames: Iterable[Image], file: IO[bytes], max_side: int | None) -> Iterator[Image]:
    for frame in frames:
        file.write(np.ascontiguousarray(shrink_image(frame, max_side)).data)
        yield frame
