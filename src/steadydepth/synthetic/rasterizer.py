"""Triangles of many images to the nearest face of each pixel, on any device, by sums on tensors alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_AT_ONCE = 1 << 24  # rows or pixels of faces; each takes about a hundred bytes
_SLACK = 1e-3  # pixels
_EMPTY = torch.iinfo(torch.int64).max
Numbers = Int64[Tensor, "n"]
Reals = Float[Tensor, "n"]


@dataclass(frozen=True)
class Faces:
    """Projected triangles and the sums that every pixel of them needs."""

    first: Float[Tensor, "f 2"]  # column and row, in pixels, of the first corner
    # How the weights of the second and the third corner, and inverse depth, change by column and by row.
    planes: Float[Tensor, "f 3 2"]
    inverse: Float[Tensor, "f 3"]  # inverse depth of the three corners, 1 / metres


def prepare(points: Float[Tensor, "f 3 2"], depth: Float[Tensor, "f 3"]) -> Faces:
    """Faces from the columns and rows of their corners, in pixels, and their depth along the optical axis, above 0."""
    first, second, third = points.unbind(dim=1)
    (x1, y1), (x2, y2) = (second - first).unbind(dim=-1), (third - first).unbind(dim=-1)
    area = x1 * y2 - x2 * y1
    area = torch.where(area.abs() < 1e-9, torch.inf, area)  # a face seen from its edge covers nothing
    weights = torch.stack((torch.stack((y2, -x2), -1), torch.stack((-y1, x1), -1)), dim=1) / area[:, None, None]
    inverse = 1 / depth
    slope = (weights * (inverse[:, 1:] - inverse[:, :1])[..., None]).sum(dim=1, keepdim=True)
    return Faces(first, torch.cat((weights, slope), dim=1), inverse)


def rasterize(
    points: Float[Tensor, "f 3 2"],
    depth: Float[Tensor, "f 3"],
    image: Int64[Tensor, "f"],
    *,
    n_images: int,
    height: int,
    width: int,
    faces: Faces | None = None,
) -> tuple[Int64[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """The nearest face at the centre of each pixel, and its depth there.

    Each row of a face is filled from edge to edge. Where several are at one depth, the first has the pixel.

    Args:
        points: columns and rows of the corners, in pixels; pixel centres are at integer coordinates.
        depth: of the corners along the optical axis, metres. Faces with a corner at 0 or behind are left out.
        image: which image each face belongs to.
        n_images: number of images.
        height: rows of each.
        width: columns of each.
        faces: from `prepare`, where the caller has them.

    Returns: number of the face, -1 where there is none; and depth in metres, inf where there is none.
    """
    faces = prepare(points, depth) if faces is None else faces
    top = points[..., 1].amin(dim=1).ceil().clamp(min=0)
    bottom = points[..., 1].amax(dim=1).floor().clamp(max=height - 1)
    beside = (points[..., 0].amax(dim=1) < 0) | (points[..., 0].amin(dim=1) > width - 1)
    is_there = (depth > 0).all(dim=1) & torch.isfinite(faces.planes).all(dim=2).all(dim=1) & ~beside
    n_rows = (bottom - top + 1).clamp(min=0).nan_to_num(0).long() * is_there
    some = n_rows.nonzero()[:, 0]
    nearest = torch.full((n_images * height * width,), _EMPTY, dtype=torch.int64, device=points.device)
    for which, within in _counted(n_rows[some]):
        face = some[which]
        row = top[face].long() + within
        left, n_columns, begin, slope = _spans(faces, face, row, width)
        start = (image[face] * height + row) * width + left
        for span, column in _counted(n_columns):
            inverse = begin[span] + slope[span] * column
            distance = 1 / inverse.clamp(min=1e-6)
            # Depth above 0 keeps its order when its bits are read as a number.
            key = (distance.float().view(torch.int32).long() << 32) | face[span]
            nearest.scatter_reduce_(0, start[span] + column, key, "amin")
    is_empty = nearest == _EMPTY
    found = torch.where(is_empty, -1, nearest & 0xFFFFFFFF)
    bits = torch.where(is_empty, 0, nearest >> 32).to(torch.int32)
    distance = torch.where(is_empty, torch.inf, bits.view(torch.float32))
    shape = (n_images, height, width)
    return found.view(shape), distance.view(shape)


def _spans(faces: Faces, face: Numbers, row: Numbers, width: int) -> tuple[Numbers, Numbers, Reals, Reals]:
    """The pixels of a row that a face covers: first column, their number, inverse depth there, and how it changes."""
    planes, first = faces.planes[face], faces.first[face]
    down = row - first[:, 1]
    # Each corner's weight, linear along the row, must be at least 0.
    by_column = torch.stack((planes[:, 0, 0], planes[:, 1, 0], -planes[:, 0, 0] - planes[:, 1, 0]), dim=-1)
    at_first = torch.stack((planes[:, 0, 1] * down, planes[:, 1, 1] * down), dim=-1)
    at_first = torch.cat((at_first, 1 - at_first.sum(dim=-1, keepdim=True)), dim=-1)
    crossing = -at_first / by_column
    low = torch.where(by_column > 0, crossing, -torch.inf).amax(dim=-1)
    high = torch.where(by_column < 0, crossing, torch.inf).amin(dim=-1)
    high = torch.where(((by_column == 0) & (at_first < 0)).any(dim=-1), -torch.inf, high)
    # A little more than it covers: neighbours, rounded apart, leave no pixel between them.
    left = (low + first[:, 0] - _SLACK).ceil().clamp(0, width)
    right = (high + first[:, 0] + _SLACK).floor().clamp(-1, width - 1)
    begin = faces.inverse[face, 0] + planes[:, 2, 0] * (left - first[:, 0]) + planes[:, 2, 1] * down
    return left.long(), (right - left + 1).clamp(min=0).long(), begin, planes[:, 2, 0]


def _counted(counts: Int64[Tensor, "f"]) -> Iterator[tuple[Numbers, Numbers]]:
    """Each place of `counts` as often as it says, with 0, 1, ... beside it; about `_AT_ONCE` at a time."""
    if not len(counts):
        return
    ends = counts.cumsum(0)
    marks = torch.arange(_AT_ONCE, int(ends[-1]) + _AT_ONCE, _AT_ONCE, device=ends.device)
    stops = dict.fromkeys((torch.searchsorted(ends, marks) + 1).clamp(max=len(ends)).tolist())
    start = 0
    for stop in stops:
        which = torch.repeat_interleave(torch.arange(start, stop, device=counts.device), counts[start:stop])
        place = torch.arange(len(which), device=counts.device) + ends[start] - counts[start]
        yield which, place - (ends - counts)[which]
        start = stop


def weights_at(faces: Faces, face: Numbers, x: Reals, y: Reals) -> Float[Tensor, "n 3"]:
    """Perspective-correct weights of the three corners of faces at pixels; they sum to 1.

    Args:
        faces: of the image.
        face: number of the face at each pixel.
        x: column of each pixel.
        y: row of each pixel.
    """
    moved = torch.stack((x, y), dim=-1) - faces.first[face]
    second, third = (faces.planes[face, :2] * moved[:, None]).sum(dim=-1).unbind(dim=-1)
    weighted = torch.stack((1 - second - third, second, third), dim=-1) * faces.inverse[face]
    return weighted / weighted.sum(dim=-1, keepdim=True)
