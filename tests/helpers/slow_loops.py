"""Samples one pixel at a time, for references that share nothing with the package."""

import math


def corners(x, y):
    """Pixels that a bilinear sample reads, with their weights."""
    x0, y0 = math.floor(x), math.floor(y)
    a, b = x - x0, y - y0
    all_four = [
        (x0, y0, (1 - a) * (1 - b)),
        (x0 + 1, y0, a * (1 - b)),
        (x0, y0 + 1, (1 - a) * b),
        (x0 + 1, y0 + 1, a * b),
    ]
    return [(i, j, weight) for i, j, weight in all_four if weight > 0]


def reads_only(mask, x, y):
    height, width = mask.shape
    return all(0 <= i < width and 0 <= j < height and mask[j, i] for i, j, _ in corners(x, y))


def bilinear(image, x, y):
    return sum(weight * image[j, i] for i, j, weight in corners(x, y))


def log_bilinear(depth, x, y):
    return sum(weight * math.log(max(depth[j, i], 1e-3)) for i, j, weight in corners(x, y))
