"""How wrong each frame is: the nine numbers of Eigen et al. 2014 and KITTI, per image, then the mean over images."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from steadydepth.metrics.arrays import Images, Mask, Scores, Truth, as_bool
from steadydepth.metrics.protocol import ACCURACY


def image_errors(predicted: Float64[Tensor, "*m n"], truth: Float64[Tensor, "n"]) -> Scores:
    """The errors of one image from its n valid pixels, d predicted and g true depth in metres, both > 0.

    abs_rel   mean |d - g| / g                                  fraction, lower
    sq_rel    mean (d - g)^2 / g                                metres, lower (KITTI's devkit divides by g^2)
    rmse      sqrt mean (d - g)^2                               metres, lower
    rmse_log  sqrt mean e^2, e = ln d - ln g                    lower
    log10     mean |log10 d - log10 g|                          lower
    silog     100 sqrt(mean e^2 - (mean e)^2)                   lower (KITTI; Eigen's loss halves the second term)
    delta1-3  share of max(d / g, g / d) < 1.25, 1.25^2, 1.25^3 fraction, strict, higher

    As in ZoeDepth zoedepth/utils/misc.py, AdaBins, BTS and monodepth2, which agree.
    """
    difference = predicted - truth
    log_difference = predicted.log() - truth.log()
    worse = torch.maximum(predicted / truth, truth / predicted)
    # The variance in its centred form: the difference of two means loses digits where errors are one common factor.
    centred = log_difference - log_difference.mean(dim=-1, keepdim=True)
    return {
        "abs_rel": (difference.abs() / truth).mean(dim=-1),
        "sq_rel": (difference**2 / truth).mean(dim=-1),
        "rmse": (difference**2).mean(dim=-1).sqrt(),
        "rmse_log": (log_difference**2).mean(dim=-1).sqrt(),
        "log10": log_difference.abs().mean(dim=-1) / math.log(10),
        "silog": 100 * (centred**2).mean(dim=-1).sqrt(),
        **{f"delta{k}": (worse < 1.25**k).double().mean(dim=-1) for k in (1, 2, 3)},
    }


def accuracy(depth: Images, truth: Truth, valid: Mask) -> Scores:
    """`image_errors` of each frame with a valid pixel, and their plain mean: each frame weighs the same.

    `depth` and `truth` in metres, `depth` cleaned to the protocol's range. NaN when no frame has a valid pixel. What
    stands at invalid pixels of `truth` is never read.
    """
    depth, truth, valid = torch.as_tensor(depth), torch.as_tensor(truth), as_bool(valid)
    totals = {name: torch.zeros(depth.shape[:-3], dtype=torch.float64) for name in ACCURACY}
    n_images = 0
    for t in range(len(truth)):
        if valid[t].any():
            n_images += 1
            errors = image_errors(depth[..., t, :, :][..., valid[t]].double(), truth[t][valid[t]].double())
            totals = {name: total + errors[name] for name, total in totals.items()}
    return {name: total / n_images if n_images else total * torch.nan for name, total in totals.items()}


def log_correlation(depth: Float64[Tensor, "*m n"], other: Float64[Tensor, "n"]) -> Float64[Tensor, "*m"]:
    """Pearson correlation of log depth with the log depth of another model over all pixels of a clip; `structure`.

    1 is the same picture up to a power and a factor, 0 has nothing to do with it; NaN when either is constant. Both are
    positive. It says whether a model that was made steady still sees what it saw, not whether that is right.
    """
    own, kept = depth.log(), other.log()
    own, kept = own - own.mean(dim=-1, keepdim=True), kept - kept.mean()
    return (own * kept).sum(dim=-1) / (own.square().sum(dim=-1) * kept.square().sum()).sqrt()
