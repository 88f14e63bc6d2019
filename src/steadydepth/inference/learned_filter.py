"""The learned filter with the network that the package ships, or another of its kind."""

from pathlib import Path

from steadydepth.inference.filter_runtime import STRENGTH, Gates, VideoFilter
from steadydepth.models.filter_gates import ArrayGates
from steadydepth.video_types import Claims


class LearnedFilter(VideoFilter):
    """The learned filter for depth of those claims.

    Args:
        claims: what the numbers of the depth mean.
        strength: from 0, the depth as it is, to 1.
        gates: another network than the one that the package ships, or its file of weights.

    Raises:
        InputError: the strength is not from 0 to 1, or there is no such file.
    """

    def __init__(self, claims: Claims, *, strength: float = STRENGTH, gates: Gates | Path | None = None) -> None:
        network = gates if callable(gates) else ArrayGates(gates)
        super().__init__(network, claims, strength=strength)
