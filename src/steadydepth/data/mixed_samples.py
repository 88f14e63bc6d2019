"""Several rows of samples mixed into one, each with its share."""

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch.utils.data import Dataset

from steadydepth.data.call_cache import CallCache
from steadydepth.data.loader import ClipSamples
from steadydepth.data.rendered import RenderedSamples
from steadydepth.data.samples import Item


class MixedSamples(Dataset[Item]):
    """Samples `numbers` of an endless row made of the rows of several sources, each with its share.

    The shares are kept exactly in every block of `block` samples, and each source is spread evenly over it; from where
    on follows from (seed, block, source). Every source's own row continues from block to block.

    Args:
        sources: the rows.
        shares: of each, in thousandths at the finest.
        seed: of where each begins in a block.
        numbers: the samples that this part of the row has.
    """

    def __init__(
        self,
        sources: Sequence[ClipSamples | RenderedSamples],
        *,
        shares: Sequence[float],
        seed: int,
        numbers: Sequence[int],
    ) -> None:
        parts = [round(1000 * share) for share in shares]
        self.counts = [part // gcd(*parts) for part in parts]
        self.block = sum(self.counts)
        self.sources, self.seed, self.numbers = sources, seed, numbers
        self.clips = [clip for source in sources for clip in source.clips]
        self.moves = any(source.motion != "none" for source in sources)
        # Shares of a thousandth beside whole ones make blocks of a million. A batch may lie on both sides of an end.
        self._order = CallCache(self._sort, 2)

    def __len__(self) -> int:
        return len(self.numbers)

    def frames_to_watch(self, count: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """At most `count` clips of all sources together, of each as many as of the others."""
        return [clip for source in self.sources for clip in source.frames_to_watch(max(1, count // len(self.sources)))]

    def place(self, number: int) -> tuple[int, int]:
        """The source of sample `number`, and which sample of that source it is."""
        block, index = divmod(number, self.block)
        at = int(self._order(block)[index])
        source = int(np.searchsorted(np.cumsum(self.counts), at, side="right"))
        return source, block * self.counts[source] + at - sum(self.counts[:source])

    def _sort(self, block: int) -> Int[np.ndarray, "n"]:
        """The samples of a block in order, counted source by source: number k of one stands at (k + first) / count."""
        first = np.random.default_rng((self.seed, block, len(self.sources))).random(len(self.sources))
        places = [(np.arange(count) + start) / count for count, start in zip(self.counts, first, strict=True)]
        return np.argsort(np.concatenate(places), kind="stable")

    def describe(self, number: int) -> dict[str, Any]:
        """The sequences and frames of sample `number`, for people who look for it on the disk."""
        source, own = self.place(number)
        return {"source": source} | self.sources[source].describe(own)

    def __getitem__(self, item: int) -> Item:
        source, number = self.place(self.numbers[item])
        sample = self.sources[source].sample(number)
        if self.moves and "motion" not in sample:
            # The clips of a batch have the same parts: these stay at the same pixel.
            t, height, width = sample["valid"].shape
            still, everywhere = torch.zeros(t - 1, height, width, 2), torch.ones(t - 1, height, width, dtype=torch.bool)
            sample |= {"motion": still, "visible": everywhere}
        return sample
