"""The learned filter with the network that the package ships, or another of its kind."""

from pathlib import Path

import torch

from steadydepth.inference.filter_runtime import STRENGTH, Array, VideoFilter
from steadydepth.models.temporal_filter import WEIGHTS, FilterGates, load_gates
from steadydepth.types import Claims


class LearnedFilter(VideoFilter):
    """The learned filter for depth of those claims, its network run by torch.

    Args:
        claims: what the numbers of the depth mean.
        strength: from 0, the depth as it is, to 1.
        gates: another network than the one that the package ships, or its file of weights.

    Raises:
        InputError: the strength is not from 0 to 1, or there is no such file.
    """

    def __init__(self, claims: Claims, *, strength: float = STRENGTH, gates: FilterGates | Path | None = None) -> None:
        network = gates if isinstance(gates, FilterGates) else load_gates(gates or WEIGHTS)
        self.network = network.eval()
        super().__init__(self._answer, claims, strength=strength)

    @torch.inference_mode()
    def _answer(self, features: Array) -> Array:
        return self.network(torch.from_numpy(features)).numpy()
