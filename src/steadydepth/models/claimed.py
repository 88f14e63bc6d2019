"""Predictions of a model against what it claims."""

import torch
from jaxtyping import Float
from torch import Tensor

from steadydepth.types import Claims, InputError

# Metres, or a ten thousandth of whatever unit: below what a pipeline's own rounding resolves.
LEAST = 1e-4
MOST_UNDER = 0.01  # of the pixels of a depth that may be at or below zero: bicubic edges, not inverse depth


def floor_depth(predicted: Float[Tensor, "*any"], claims: Claims) -> Float[Tensor, "*any"]:
    """`predicted`, at least LEAST where it claims to be a depth of known zero: one at or below 0 has no logarithm.

    Affine depth and disparity are known up to an offset: their values lie anywhere, about 0 as well, and stay.
    """
    return predicted.clamp(min=LEAST) if claims in ("metric", "scale") else predicted


def check_claims(predicted: Tensor, claims: Claims, name: str) -> None:
    """Check predictions for a batch against what the model claims.

    Args:
        predicted: of any shape, as the adapters give it (`floor_depth`).
        claims: of the model.
        name: of the model, for the error.

    Raises:
        InputError: numbers are not finite or all equal, or depths are not above 0.
    """
    if not torch.isfinite(predicted).all():
        raise InputError(f"{name}: gives numbers that are not finite: are its weights undamaged, its precision enough?")
    if bool((predicted.amax() - predicted.amin()) <= 1e-6 * predicted.abs().amax()):
        raise InputError(f"{name}: gives {float(predicted.amax()):.4g} for every pixel: are its weights loaded?")
    under = float((predicted <= LEAST).float().mean())
    if claims in ("metric", "scale") and under > MOST_UNDER:
        raise InputError(
            f"{name}: claims {claims}, yet {under:.0%} of its predictions are at or below 0, as no depth is: inverse "
            "depth? declare it as NAME,claims=disparity, or in a config as model.claims"
        )
