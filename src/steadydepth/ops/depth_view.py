"""How the depth of a video is shown: the range of each frame, and its colours."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np
from jaxtyping import Float, Float32, UInt8

from steadydepth.errors import InputError
from steadydepth.ops.colours import colour_depth, colour_map, depth_range, nearness
from steadydepth.video_types import Claims

Range = tuple[float, float]
_THIN = 1e-3  # of an end: no range is thinner


@dataclass(frozen=True)
class DepthView:
    """A choice of range and colours.

    Args:
        colours: "grey" or a colour map of matplotlib by its name.
        range: "LOW-HIGH", percentiles of all values together, or "median", as of `colours.depth_range`.
        look_ahead: None has one range for the complete video. A number of frames has the mean range of so many frames
            before and after each one, within its shot: for films whose scenes differ, and never per frame.
        near: what is shown as nearest, in the units of the claims, in place of what is found.
        far: the same of the farthest.
        is_linear: whether depth is shown by itself and not by its inverse; disparity is shown as it is in any case.

    Raises:
        InputError: one of them is no such thing.
    """

    colours: str = "turbo"
    range: str = "2-98"
    look_ahead: int | None = None
    near: float | None = None
    far: float | None = None
    is_linear: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be shown."""
        colour_map(self.colours)
        self._percentiles()
        if self.look_ahead is not None and self.look_ahead < 1:
            raise InputError(f"look-ahead {self.look_ahead}: a range of one frame flickers: give 1 frame or more")

    def _percentiles(self) -> tuple[float, float] | None:
        if self.range == "median":
            return None
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)-(\d+\.?\d*|\.\d+)", self.range, re.ASCII)
        low, high = map(float, found.groups()) if found else (-1.0, -1.0)
        if not 0 <= low < high <= 100:
            raise InputError(f"range {self.range!r}: give two percentiles from 0 to 100, as 2-98, or median")
        return low, high

    @property
    def is_grey(self) -> bool:
        """Whether near is white and far is black, in as many steps as a file has."""
        return self.colours in ("grey", "gray")

    def check(self, claims: Claims) -> None:
        """See that near and far can be shown for what a model claims.

        Raises:
            InputError: they are in the wrong order, or no values of those claims.
        """
        near, far = self.near, self.far
        if claims in ("metric", "scale"):
            for value in (near, far):
                if value is not None and not value > 0:
                    raise InputError(f"a depth of {value:g} is shown; depth is above 0: give another near or far")
        if near is not None and far is not None and not (near > far if claims == "disparity" else near < far):
            larger = "the larger number" if claims == "disparity" else "the smaller one"
            raise InputError(f"near is {near:g} and far {far:g}; of {claims} values near is {larger}: change them")

    def ranges(
        self, read: Callable[[], Iterable[Float[np.ndarray, "h w"]]], claims: Claims, starts: Iterable[int] = ()
    ) -> Iterator[Range]:
        """Near and far of each frame of a video; without end where it is one for all.

        Args:
            read: the depth of all its frames, from the first; it is asked once before the first range is known.
            claims: what the numbers mean.
            starts: the numbers of the frames that begin a shot.
        """
        if self.near is not None and self.far is not None:
            return cycle([(self.near, self.far)])
        found: Iterable[Range]
        if self.look_ahead is None:
            found = [self._range_of(read(), claims)]
        else:
            each = np.array([self._range_of([depth], claims) for depth in read()])
            found = map(tuple, _window_means(each, self.look_ahead, sorted({0, *starts, len(each)})).tolist())
        shown = (self._with_own(near, far, claims) for near, far in found)
        return shown if self.look_ahead else cycle(shown)

    def _range_of(self, depths: Iterable[Float[np.ndarray, "h w"]], claims: Claims) -> Range:
        return depth_range(depths, claims=claims, percentiles=self._percentiles(), is_linear=self.is_linear)

    def _with_own(self, near: float, far: float, claims: Claims) -> Range:
        """The range with the end that was chosen by hand; the other one gives way where it is on the wrong side."""
        sign = -1 if claims == "disparity" else 1
        if self.near is not None:
            near = self.near
            far = sign * max(sign * far, sign * near + _THIN * (abs(near) or 1.0))
        if self.far is not None:
            far = self.far
            near = sign * min(sign * near, sign * far - _THIN * (abs(far) or 1.0))
        return near, far

    def nearness(self, depth: Float[np.ndarray, "h w"], shown: Range, claims: Claims) -> Float32[np.ndarray, "h w"]:
        """`colours.nearness` in this view.

        Args:
            depth: in the units of `claims`.
            shown: near and far, of `ranges`.
            claims: what the numbers mean.
        """
        return nearness(depth, *shown, claims=claims, is_linear=self.is_linear)

    def paint(self, depth: Float[np.ndarray, "h w"], shown: Range, claims: Claims) -> UInt8[np.ndarray, "h w 3"]:
        """`colours.colour_depth` in this view.

        Args:
            depth: in the units of `claims`.
            shown: near and far, of `ranges`.
            claims: what the numbers mean.
        """
        return colour_depth(depth, *shown, claims=claims, colours=self.colours, is_linear=self.is_linear)


def _window_means(values: Float[np.ndarray, "t 2"], reach: int, ends: list[int]) -> Float[np.ndarray, "t 2"]:
    """The mean of the `reach` values before and after each, and of itself, within its own stretch of `ends`."""
    means = np.empty_like(values)
    for start, stop in pairwise(ends):
        sums = np.concatenate([np.zeros((1, 2)), np.cumsum(values[start:stop], axis=0)])
        number = np.arange(stop - start)
        first, after = np.maximum(number - reach, 0), np.minimum(number + reach + 1, stop - start)
        means[start:stop] = (sums[after] - sums[first]) / (after - first)[:, None]
    return means
