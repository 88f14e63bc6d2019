"""The learned filter with the weights that the package ships, or others."""

from pathlib import Path

from steadydepth.inference.filter_runtime import STRENGTH, VideoFilter
from steadydepth.models.filter_gates import ArrayGates
from steadydepth.video_types import Claims


class LearnedFilter(VideoFilter):
    """The learned filter for depth of those claims.

    Args:
        claims: what the numbers of the depth mean.
        strength: from 0, the depth as it is, to 1.
        weights: a file of `train_filter` or `tune_filter`; None for that of the package.

    Raises:
        InputError: the strength is not from 0 to 1, or there is no such file.
    """

    def __init__(self, claims: Claims, *, strength: float = STRENGTH, weights: str | Path | None = None) -> None:
        super().__init__(ArrayGates(weights), claims, strength=strength)
