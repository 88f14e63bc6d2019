"""Samples of clips with depth and flow, three frames of 40 x 56 each."""

from dataclasses import replace

from steadydepth.data.loader import ClipSamples
from steadydepth.data.mixed_samples import MixedSamples
from steadydepth.data.samples import Augmentation
from steadydepth.ops.photometric import Photometric

LIT = Augmentation(photometric=Photometric(exposure=0.2, white_balance=0.05, gamma=0.1, noise=0.02))


def open_samples(root, numbers, kind=ClipSamples, **changes):
    settings = {"length": 3, "height": 40, "width": 56, "motion": "flow", "labels": "depth"}
    settings |= {"augmentation": replace(LIT, flip=True), "seed": 7, "cached_clips": 4} | changes
    return kind(root, numbers=numbers, **settings)


def open_mix(root, numbers, shares=(0.5, 0.2, 0.3), seed=7):
    """Clips with depth, their frames as images, and the same clips as if they had no depth."""
    kinds = ({"labels": "depth"}, {"labels": "single"}, {"labels": "none", "motion": "none"})
    sources = [open_samples(root, (), source=i, seed=seed, **kind) for i, kind in enumerate(kinds)]
    return MixedSamples(sources, shares=shares, seed=seed, numbers=numbers)
