"""Means and second moments of paired samples, from parts: what a line, a correlation and a deviation are made of."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

Numbers = Float64[np.ndarray, "..."] | float


@dataclass(frozen=True)
class Moments:
    """How many samples (x, y) there are, their means, and their second moments around those.

    Each field is a number or an array, for many sets of samples at once, of shapes that broadcast. Parts are added as
    Chan et al. 1979 add variances, so no digits are lost however long the clip. A set without samples has means of 0.
    """

    n: Numbers
    x_mean: Numbers
    y_mean: Numbers
    xx: Numbers  # sum of (x - x_mean)^2
    yy: Numbers
    xy: Numbers  # sum of (x - x_mean) (y - y_mean)

    @classmethod
    def of(cls, x: Float[np.ndarray, "*sets n"], y: Float[np.ndarray, "n"]) -> "Moments":
        """The moments of one part: rows of finite values beside one row of others.

        Args:
            x: values, one row for each set of samples.
            y: what all of them are paired with.

        Returns: fields of the shape `*sets`, but for `n`, `y_mean` and `yy`, which the sets share.
        """
        n = len(y)
        if n == 0:
            nothing = np.zeros(x.shape[:-1])
            return cls(0.0, nothing, 0.0, nothing, 0.0, nothing)
        x_mean, y_mean = np.einsum("...n->...", x) / n, float(y.mean())
        own, beside = x - x_mean[..., None], y - y_mean
        return cls(
            n=float(n),
            x_mean=x_mean,
            y_mean=y_mean,
            xx=np.einsum("...n,...n->...", own, own),
            yy=float(np.einsum("n,n->", beside, beside)),
            xy=np.einsum("...n,n->...", own, beside),
        )

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        share = other.n / np.maximum(n, 1)
        weight = self.n * share
        dx, dy = other.x_mean - self.x_mean, other.y_mean - self.y_mean
        weighted = dx * weight
        return Moments(
            n=n,
            x_mean=self.x_mean + dx * share,
            y_mean=self.y_mean + dy * share,
            xx=self.xx + other.xx + weighted * dx,
            yy=self.yy + other.yy + dy * dy * weight,
            xy=self.xy + other.xy + weighted * dy,
        )
