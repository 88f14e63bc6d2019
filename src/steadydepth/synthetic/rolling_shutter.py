"""A sensor that exposes one row after the other: what each row sees, and in which row a point is visible next."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from steadydepth.synthetic.effects import at_moments
from steadydepth.synthetic.scene import Scene

_ROUNDS = 8  # each brings the row nearer by the share of a row that a point moves while one is read: far below a half


@dataclass(frozen=True)
class Strip:
    """Rows of the image, and the scene at the moment when they are exposed."""

    scene: Scene
    rows: Int64[np.ndarray, "h"]


@dataclass(frozen=True)
class Readout:
    """The scene when the first row, the middle and the last row of an image are exposed."""

    first: Scene
    middle: Scene
    last: Scene
    n_rows: int

    def settle(self, land: Callable[[Scene], Float[np.ndarray, "3 *t h w"]]) -> Float[np.ndarray, "3 *t h w"]:
        """Column, row and least depth at which points land in the row that is exposed when they are there.

        `land` says where they are at a moment; in between they go along a parabola.
        """
        first, middle, last = (land(scene) for scene in (self.first, self.middle, self.last))
        speed, bend = (last - first) / 2, (first + last) / 2 - middle
        centre = (self.n_rows - 1) / 2
        moment = np.zeros(middle.shape[1:])
        for _ in range(_ROUNDS):
            landed = middle + moment * (speed + moment * bend)
            # -1 at the first row, 1 at the last; what leaves the image above or below is never exposed.
            moment = np.clip((landed[1] - centre) / centre, -1, 1)
        return np.stack((landed[0], landed[1], np.minimum(np.minimum(first[2], middle[2]), last[2])))


def roll(scene: Scene, moments: Float64[np.ndarray, "h"]) -> tuple[list[Strip], Readout]:
    """Each row of an image by itself at its moment, in frames from the middle one's."""
    strips = [Strip(at_moments(scene, moments[row : row + 1]), np.array([row])) for row in range(len(moments))]
    return strips, Readout(strips[0].scene, scene, strips[-1].scene, len(moments))
