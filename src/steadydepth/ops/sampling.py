"""Bilinear samples of images that stand as columns: one row a pixel, one column a channel, float64."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64


@dataclass(frozen=True)
class Places:
    """The four pixels around each of n places and their weights; a place on a pixel reads that pixel alone."""

    index: Int64[np.ndarray, "n 4"]  # row * width + column
    weight: Float64[np.ndarray, "n 4"]
    inside: Bool[np.ndarray, "n"]  # all that is read is in the image; elsewhere the border is repeated

    def only(self, chosen: Int64[np.ndarray, "k"]) -> "Places":
        """The places of those numbers."""
        return Places(
            np.take(self.index, chosen, axis=0), np.take(self.weight, chosen, axis=0), np.take(self.inside, chosen)
        )


def places_at(at: Float[np.ndarray, "n 2"], height: int, width: int) -> Places:
    """The places (x, y), in pixels with centres at integers, of an image; what is not finite is not inside."""
    x, inside_x = _along(at[:, 0], width)
    y, inside_y = _along(at[:, 1], height)
    low_x, low_y = np.floor(x), np.floor(y)
    a, b = x - low_x, y - low_y
    first = (low_y * width + low_x).astype(np.int64)
    right, down = (a > 0).astype(np.int64), (b > 0) * np.int64(width)
    index, weight = np.empty((len(at), 4), np.int64), np.empty((len(at), 4))
    index[:, 0], index[:, 1], index[:, 2] = first, first + right, first + down
    index[:, 3] = index[:, 2] + right
    weight[:, 3] = a * b
    weight[:, 2] = b - weight[:, 3]
    weight[:, 1] = a - weight[:, 3]
    weight[:, 0] = (1 - a) - weight[:, 2]
    return Places(index, weight, inside_x & inside_y)


def _along(at: Float[np.ndarray, "n"], size: int) -> tuple[Float64[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    inside = (at >= 0) & (at <= size - 1)
    if inside.all():
        return at.astype(np.float64), inside
    return np.clip(np.where(np.isfinite(at), at, 0).astype(np.float64), 0, size - 1), inside


def sample(values: Float64[np.ndarray, "p m"], places: Places) -> Float64[np.ndarray, "n m"]:
    """Bilinear samples of every column of `values` at the places."""
    n_columns = values.shape[1]
    if n_columns <= 2:
        found = np.empty((len(places.index), n_columns))
        for column in range(n_columns):
            read = np.take(np.ascontiguousarray(values[:, column]), places.index)
            np.einsum("nk,nk->n", read, places.weight, out=found[:, column])
        return found
    # One pass for gathering, weighting and adding; row by row, so independent of the number of threads.
    index, table, weight = (torch.from_numpy(array) for array in (places.index, values, places.weight))
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight).numpy()


def sees_only(mask: Bool[np.ndarray, "p"], places: Places) -> Bool[np.ndarray, "n"]:
    """True where every pixel that a sample reads is inside the image and True in `mask`."""
    if mask.all():
        return places.inside
    # The four answers of a place as one number: a reduction over so short an axis takes longer than all the rest.
    read = np.take(mask, places.index).view(np.uint32)[:, 0]
    return places.inside & (read == 0x01010101)
