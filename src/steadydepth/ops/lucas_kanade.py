"""Optical flow in tensor operations alone, so that it can stand in the graph of a file for other runtimes."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops.fast_flow import LEAST_ALIKE, LEAST_CONTRAST
from steadydepth.ops.warp import pixel_grid, sample

Maps = Float[Tensor, "b c h w"]
One = Float[Tensor, "b 1 h w"]

_GREY = (0.299, 0.587, 0.114)
_KERNEL = (0.21, 0.58, 0.21)  # a Gaussian of 0.7 pixels
_LEVELS, _LEAST_SIDE = 3, 16
_STEPS, _WINDOW, _SMOOTH = 3, 11, 17
_DAMPING = 30.0  # added to the structure tensor: where an image has no texture, the flow of its surroundings stays
_OUTLIER = 40.0  # of contrast, at which a pixel has half of its weight


def lucas_kanade_flow(source: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w 2"]:
    """Dense flow from `source` to `target` in pixels (x, y), for images of about 96 pixels in their shorter side.

    Lucas and Kanade 1981 over a pyramid, robust to outliers, on local contrasts, as `fast_flow`. After each step the
    flow is averaged over its surroundings, each pixel with the weight of its texture. On the synthetic world 14 % of
    the flow is over a pixel off, of DIS (fast) 18 %. Where the camera stands still, what looks the same without motion
    has none.

    Args:
        source: RGB in [0, 1].
        target: the other image.

    Returns: NaN everywhere where they show two views, as before and after a cut (`fast_flow.is_other_view`).
    """
    greys = [_grey(image) for image in (source, target)]
    pyramids = [[_local_contrast(grey, 25)] for grey in greys]
    while len(pyramids[0]) < _LEVELS and min(pyramids[0][-1].shape[-2:]) >= _LEAST_SIDE:
        for pyramid in pyramids:
            pyramid.append(F.avg_pool2d(pyramid[-1], 2, ceil_mode=True, count_include_pad=False))
    flow = torch.zeros_like(pyramids[0][-1]).repeat(1, 2, 1, 1)
    for here, there in zip(*(pyramid[::-1] for pyramid in pyramids), strict=True):
        if flow.shape[-2:] != here.shape[-2:]:
            larger = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)
            flow = 2 * larger[..., : here.shape[-2], : here.shape[-1]]
        flow = _refine(flow, here, there)
    here, there = (_local_contrast(grey, 9) for grey in greys)
    warped = _follow(there, flow)
    flow = _without_motion_of_light(flow, here, there, warped)
    return torch.where(_is_other_view(here, warped), torch.nan, flow).permute(0, 2, 3, 1)


def _refine(flow: Float[Tensor, "b 2 h w"], here: One, there: One) -> Float[Tensor, "b 2 h w"]:
    """A few steps of Gauss-Newton at one level, the gradient that of `here` throughout."""
    around = F.pad(here, (1, 1, 1, 1), mode="replicate")
    x = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2
    y = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2
    xx, xy, yy = _blur(torch.cat((x * x, x * y, y * y), 1), _WINDOW).split(1, 1)
    xx, yy = xx + _DAMPING, yy + _DAMPING
    determinant = xx * yy - xy * xy
    texture = determinant / (xx + yy)
    share = texture / _blur(texture, _SMOOTH)
    for _ in range(_STEPS):
        error = _follow(there, flow) - here
        error = error / (1 + (error / _OUTLIER).square())
        right, down = _blur(torch.cat((x * error, y * error), 1), _WINDOW).split(1, 1)
        step = torch.cat((xy * down - yy * right, xy * right - xx * down), 1) / determinant
        flow = _blur((flow + step.clamp(-1, 1)) * share, _SMOOTH) / _blur(share, _SMOOTH)
    return flow


def _is_other_view(here: One, warped: One) -> Bool[Tensor, "b 1 1 1"]:
    """`fast_flow.is_other_view` of each pair."""
    own, other, both = (
        (one * another).mean((1, 2, 3), keepdim=True)
        for one, another in ((here, here), (warped, warped), (here, warped))
    )
    is_telling = torch.minimum(own, other) > LEAST_CONTRAST**2
    return is_telling & (both < LEAST_ALIKE * (own * other).sqrt())


def _without_motion_of_light(
    flow: Float[Tensor, "b 2 h w"], here: One, there: One, warped: One
) -> Float[Tensor, "b 2 h w"]:
    """The flow, 0 where the camera stands still and both images look as much alike without it."""
    still, moved = (_blur((here - image).abs(), 7) for image in (there, warped))
    alike = (still <= 1.1 * moved + 1).to(flow.dtype)
    # Pixels that differ from their surroundings tell whether the camera moves.
    contrast = _blur(here.abs(), 9)
    telling = (contrast >= contrast.mean((2, 3), keepdim=True)).to(flow.dtype)
    share = (alike * telling).sum((2, 3), keepdim=True) / telling.sum((2, 3), keepdim=True)
    return flow * (1 - alike * (share > 0.6).to(flow.dtype))


def _grey(image: Float[Tensor, "b 3 h w"]) -> One:
    """0 to 255, a little smoothed."""
    grey = (255 * image * image.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
    kernel = image.new_tensor(_KERNEL)
    rows = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel.view(1, 1, 1, 3))
    return F.conv2d(rows, kernel.view(1, 1, 3, 1))


def _local_contrast(grey: One, window: int) -> One:
    """As `fast_flow.local_contrasts` over one window; -128 to 127."""
    mean, square = _blur(torch.cat((grey, grey * grey), 1), window).split(1, 1)
    return (50 * (grey - mean) / ((square - mean * mean).clamp(min=0).sqrt() + 8)).clamp(-128, 127)


def _blur(maps: Maps, size: int) -> Maps:
    """Mean over a square; at the border over the part of it that is inside."""
    rows = F.avg_pool2d(maps, (size, 1), 1, (size // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, size), 1, (0, size // 2), count_include_pad=False)


def _follow(image: One, flow: Float[Tensor, "b 2 h w"]) -> One:
    height, width = image.shape[-2:]
    return sample(image, pixel_grid(height, width, flow) + flow.permute(0, 2, 3, 1))
