"""Depth images that hold no depth: all 0, or full of the largest code where somebody meant none."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16

from steadydepth.data.sequence_folder import Sequence
from steadydepth.errors import InputError
from steadydepth.files.images import read_depth_codes

_MOST_FULL = 0.01  # share of the pixels of depth images that may have the largest code
_LOOKED_AT = 5  # depth images of a sequence, before training


@dataclass
class DepthSeen:
    """Counts what depth images hold that is no depth."""

    n_images: int = 0
    n_empty: int = 0
    n_pixels: int = 0
    n_full: int = 0  # pixels of the largest code

    def see(self, codes: UInt16[np.ndarray, "h w"]) -> None:
        """The next image."""
        self.n_images += 1
        self.n_empty += int(not codes.any())
        self.n_pixels += codes.size
        self.n_full += int((codes == 65535).sum())

    def faults(self, folder: object) -> list[str]:
        """One line for each thing that is wrong with all of them together."""
        faults = []
        if self.n_empty:
            faults.append(
                f"{folder}: no pixel is measured in {self.n_empty} of {self.n_images} images, all 0: write the "
                "depth, or remove those files; a frame without one has no label"
            )
        if self.n_full > _MOST_FULL * self.n_pixels:
            faults.append(
                f"{folder}: {self.n_full / self.n_pixels:.0%} of the pixels are 65535, the largest code, and taken as "
                "depth: where it stands for none, or for a sky, write 0"
            )
        return faults


def without_depth(sequence: Sequence) -> list[str]:
    """Why the depth of a sequence cannot be trained on, by a few images spread over it; none when it can.

    Where all of those are 0 the others are looked at until one is not. An image that cannot be read is passed over:
    reading its clip names it.
    """
    images = sequence.labels["depth"]
    numbers = sorted(images)
    step = max(1, (len(numbers) - 1) // (_LOOKED_AT - 1))
    first = numbers[::step]
    seen = DepthSeen()
    for number in first + sorted(set(numbers) - set(first)):
        if number not in first and seen.n_empty < seen.n_images:
            break
        with suppress(InputError):
            seen.see(read_depth_codes(images[number]))
    if seen.n_empty < seen.n_images:  # some hold depth
        seen.n_empty = 0
    return seen.faults(sequence.path / "depth")
