import numpy as np
import pytest
import torch

from steadydepth.data.augment import Light
from steadydepth.data.clips import Sample, clip_motion
from steadydepth.data.loader import ClipSamples, augment_sample, load_batches
from steadydepth.types import InputError

LIGHT = Light(exposure=0.2, white_balance=0.05, gamma=0.1, noise=0.02)


def open_samples(root, numbers, **changes):
    settings = {"length": 3, "height": 40, "width": 56, "motion": "flow", "needs_depth": True, "flip": True}
    settings |= {"light": LIGHT, "seed": 7, "cached_clips": 4} | changes
    return ClipSamples(root, numbers=numbers, **settings)


def test_a_sample_follows_from_seed_and_number_alone(world):
    row = [sample["frames"] for sample in (open_samples(world, range(8))[i] for i in range(8))]
    later = open_samples(world, range(5, 8))
    for i in range(3):
        torch.testing.assert_close(later[i]["frames"], row[5 + i], rtol=0, atol=0)
    other = open_samples(world, range(8), seed=8)[0]["frames"]
    assert not torch.equal(other, row[0])


def test_an_epoch_shows_every_clip_once_in_an_order_of_its_own(world):
    samples = open_samples(world, range(0))
    n = len(samples.clips)
    assert n == 2 * 3
    first, second = ([samples.place(epoch * n + i)[0] for i in range(n)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(n))
    assert first != second


def test_loader_processes_change_nothing(world):
    alone = list(load_batches(open_samples(world, range(4)), batch=2, workers=0))
    helped = list(load_batches(open_samples(world, range(4)), batch=2, workers=2))
    assert len(alone) == len(helped) == 2
    for one, other in zip(alone, helped, strict=True):
        for name in vars(one):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_mirroring_keeps_motion_true(fixed_clip, moving_clip):
    sample = Sample(moving_clip, *clip_motion(moving_clip, "flow"))
    draws = [augment_sample(sample, np.random.default_rng(seed), flip=True, light=Light()) for seed in range(8)]
    straight = next(one for one in draws if torch.equal(one["motion"], torch.from_numpy(sample.motion)))
    mirrored = next(one for one in draws if not torch.equal(one["motion"], torch.from_numpy(sample.motion)))
    width = 64
    for y, x in ((10, 5), (30, 40)):
        torch.testing.assert_close(mirrored["depth"][:, y, x], straight["depth"][:, y, width - 1 - x])
        there = straight["motion"][:, y, width - 1 - x]
        torch.testing.assert_close(mirrored["motion"][:, y, x], there * torch.tensor([-1.0, 1.0]))


def test_light_is_drawn_for_each_frame_and_geometry_once(fixed_clip):
    sample = Sample(fixed_clip, *clip_motion(fixed_clip, "none"))
    plain = augment_sample(sample, np.random.default_rng(0), flip=False, light=Light())
    lit = augment_sample(sample, np.random.default_rng(0), flip=False, light=Light(exposure=0.3))
    ratio = (lit["frames"] / plain["frames"].clamp(min=0.01)).flatten(1).median(dim=1).values
    assert ratio.std() > 0.05
    assert torch.equal(lit["depth"], plain["depth"])
    assert lit["frames"].min() >= 0
    assert lit["frames"].max() <= 1


def test_what_is_missing_is_named(world, tmp_path):
    with pytest.raises(InputError, match=r"data\.clip_length"):
        open_samples(world, range(1), length=9)
    from dataclasses import replace

    from steadydepth.data.sequence_folder import open_sequence, write_sequence

    clip = open_sequence(world / "fixed_000003").read()
    bare = replace(clip, name="bare", depth=None, valid=None, flow=None, flow_valid=None, objects=None)
    write_sequence(tmp_path, bare, depth_scale_m=None, source=None, licence=None)
    with pytest.raises(InputError, match=r"bare: has no depth/.*data\.labels=anchor"):
        open_samples(tmp_path, range(1))


def test_a_held_frame_has_no_motion_and_another_light_each_time(world):
    for motion in ("flow", "none"):
        item = open_samples(world, range(4), strides=(0,), motion=motion, flip=False)[2]
        assert (item["depth"] == item["depth"][:1]).all()
        assert not torch.equal(item["frames"][0], item["frames"][1])
        assert ("motion" in item) is (motion == "flow")
        if motion == "flow":
            assert (item["motion"] == 0).all()
            assert item["seen"].all()
