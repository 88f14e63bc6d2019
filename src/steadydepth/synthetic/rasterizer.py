"""Triangles of many images to the nearest face of each pixel, on any device, by sums on tensors alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_PAIRS = 1 << 24  # of a face and a pixel, tested at a time; each takes about a hundred bytes
_EMPTY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Faces:
    """Projected triangles and the sums that every pixel of them needs.

    Attributes:
        first: column and row, in pixels, of the first corner.
        planes: how the weights of the second and the third corner, and inverse depth, change by column and by row.
        inverse: inverse depth of the three corners, 1 / metres.
    """

    first: Float[Tensor, "f 2"]
    planes: Float[Tensor, "f 3 2"]
    inverse: Float[Tensor, "f 3"]


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

    Every face is tried at the pixels of its bounding box. Where several are at one depth, the first has the pixel.

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
    low, high = points.amin(dim=1).ceil(), points.amax(dim=1).floor()
    limit = torch.tensor([width - 1, height - 1], device=points.device, dtype=points.dtype)
    low, high = low.clamp(min=0), torch.minimum(high, limit)
    extent = (high - low + 1).clamp(min=0).nan_to_num(0)
    is_there = (depth > 0).all(dim=1) & torch.isfinite(faces.planes).all(dim=2).all(dim=1)
    count = (extent[:, 0] * extent[:, 1]).long() * is_there
    some = count.nonzero()[:, 0]
    count, left, top, columns = count[some], low[some, 0].long(), low[some, 1].long(), extent[some, 0].long()
    ends = count.cumsum(0)
    nearest = torch.full((n_images * height * width,), _EMPTY, dtype=torch.int64, device=points.device)
    for piece in _pieces(ends):
        which = torch.repeat_interleave(torch.arange(piece.start, piece.stop, device=points.device), count[piece])
        begin = ends[piece.start] - count[piece.start]
        within = torch.arange(len(which), device=points.device) + begin - (ends[which] - count[which])
        row = torch.div(within, columns[which], rounding_mode="floor")
        x, y, face = left[which] + within - row * columns[which], top[which] + row, some[which]
        moved = torch.stack((x, y), dim=-1) - faces.first[face]
        second, third, inverse = (faces.planes[face] * moved[:, None]).sum(dim=-1).unbind(dim=-1)
        inside = ((second >= 0) & (third >= 0) & (second + third <= 1)).nonzero()[:, 0]
        face = face[inside]
        distance = 1 / (faces.inverse[face, 0] + inverse[inside])
        # Depth above 0 keeps its order when its bits are read as a number.
        key = (distance.float().view(torch.int32).long() << 32) | face
        pixel = (image[face] * height + y[inside]) * width + x[inside]
        nearest.scatter_reduce_(0, pixel, key, "amin")
    is_empty = nearest == _EMPTY
    found = torch.where(is_empty, -1, nearest & 0xFFFFFFFF)
    bits = torch.where(is_empty, 0, nearest >> 32).to(torch.int32)
    distance = torch.where(is_empty, torch.inf, bits.view(torch.float32))
    shape = (n_images, height, width)
    return found.view(shape), distance.view(shape)


def _pieces(ends: Int64[Tensor, "f"]) -> list[slice]:
    """Runs of faces with about `_PAIRS` pairs each."""
    if not len(ends):
        return []
    total = int(ends[-1])
    marks = torch.arange(_PAIRS, total + _PAIRS, _PAIRS, device=ends.device)
    stops = [*dict.fromkeys((torch.searchsorted(ends, marks) + 1).clamp(max=len(ends)).tolist())]
    return [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def weights_at(
    faces: Faces, face: Int64[Tensor, "n"], x: Float[Tensor, "n"], y: Float[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Perspective-correct weights of the three corners of `face` at columns `x` and rows `y`; they sum to 1."""
    moved = torch.stack((x, y), dim=-1) - faces.first[face]
    second, third = (faces.planes[face, :2] * moved[:, None]).sum(dim=-1).unbind(dim=-1)
    weighted = torch.stack((1 - second - third, second, third), dim=-1) * faces.inverse[face]
    return weighted / weighted.sum(dim=-1, keepdim=True)
