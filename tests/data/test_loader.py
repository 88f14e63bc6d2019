import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from clip_samples import LIT, open_mix, open_samples

from steadydepth.data.clips import Sample, clip_motion, fit_clip
from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import load_items
from steadydepth.data.mixed_samples import MixedSamples
from steadydepth.data.samples import NO_AUGMENTATION, Augmentation, augment_sample, make_batch
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.video_write import write_video
from steadydepth.ops.photometric import Photometric
from steadydepth.types import InputError


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


@pytest.mark.parametrize("workers", [0, 1])
def test_frames_without_light_are_what_was_decoded_as_a_share_of_255(world, workers):
    samples = open_samples(world, range(2), augmentation=NO_AUGMENTATION)
    (items,) = load_items(samples, batch=2, workers=workers)
    assert items["frames"].dtype == torch.uint8
    batch = make_batch(items)
    for i in range(2):
        sequence, start = samples.clips[samples.place(i)[0]]
        frames = fit_clip(sequence.read(start, start + 3), 40, 56).frames
        assert np.array_equal(batch.frames[i].numpy(), np.moveaxis(frames.astype(np.float32) / 255, -1, 1))


def test_mirroring_keeps_motion_true(moving_clip):
    sample = Sample(moving_clip, *clip_motion(moving_clip, "flow"))
    draws = [augment_sample(sample, np.random.default_rng(seed), Augmentation(flip=True)) for seed in range(8)]
    straight = next(one for one in draws if torch.equal(one["motion"], torch.from_numpy(sample.motion)))
    mirrored = next(one for one in draws if not torch.equal(one["motion"], torch.from_numpy(sample.motion)))
    width = 64
    for y, x in ((10, 5), (30, 40)):
        torch.testing.assert_close(mirrored["depth"][:, y, x], straight["depth"][:, y, width - 1 - x])
        there = straight["motion"][:, y, width - 1 - x]
        torch.testing.assert_close(mirrored["motion"][:, y, x], there * torch.tensor([-1.0, 1.0]))


def test_light_is_drawn_for_each_frame_and_geometry_once(fixed_clip):
    sample = Sample(fixed_clip, *clip_motion(fixed_clip, "none"))
    plain = augment_sample(sample, np.random.default_rng(0), NO_AUGMENTATION)
    lit = augment_sample(sample, np.random.default_rng(0), Augmentation(photometric=Photometric(exposure=0.3)))
    ratio = (lit["frames"] / (plain["frames"] / 255).clamp(min=0.01)).flatten(1).median(dim=1).values
    assert ratio.std() > 0.05
    assert torch.equal(lit["depth"], plain["depth"])
    assert lit["frames"].min() >= 0
    assert lit["frames"].max() <= 1


def test_labels_that_are_missing_are_named(world, tmp_path):
    clip = open_sequence(world / "fixed_000003").read()
    bare = replace(clip, name="bare", depth=None, valid=None, flow=None, flow_valid=None, objects=None)
    write_sequence(tmp_path, bare, depth_scale_m=None, source=None, licence=None)
    with pytest.raises(InputError, match=r"bare: has no depth/.*data\.labels=teacher"):
        open_samples(tmp_path, range(1))


def test_a_held_frame_has_no_motion_and_another_light_each_time(world):
    for motion in ("flow", "none"):
        item = open_samples(world, range(4), strides=(0,), motion=motion, augmentation=LIT)[2]
        assert (item["depth"] == item["depth"][:1]).all()
        assert not torch.equal(item["frames"][0], item["frames"][1])
        assert ("motion" in item) is (motion == "flow")
        if motion == "flow":
            assert (item["motion"] == 0).all()
            assert item["visible"].all()


def test_a_still_says_that_it_is_one_however_it_was_turned(world):
    still = open_samples(
        world, (), strides=(0,), augmentation=replace(LIT, flip=True, max_zoom=1.5, max_rotation_deg=30.0)
    )
    moving = open_samples(world, (), motion="none", source=1)
    images = open_samples(world, (), labels="single", source=2)
    (items,) = load_items(
        MixedSamples([still, moving, images], shares=[1.0, 1.0, 1.0], seed=7, numbers=range(9)), batch=9, workers=0
    )
    batch = make_batch(items)
    assert batch.is_still.tolist() == [source == 0 for source in batch.source]
    assert sorted(batch.source) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    unmoved = open_samples(world, (), strides=(0,), motion="none")
    assert unmoved.sample(0)["is_still"]


@pytest.mark.parametrize(
    ("shares", "counts"),
    [((0.5, 0.2, 0.3), [5, 2, 3]), ((2.0, 1.0, 1.0), [2, 1, 1]), ((0.333, 0.333, 0.334), [333, 333, 334])],
)
def test_shares_are_kept_exactly_and_evenly_and_each_row_goes_on(world, shares, counts):
    mix = open_mix(world, (), shares)
    assert mix.counts == counts
    n_blocks = 1 if mix.block > 100 else 40
    places = [mix.place(number) for number in range(n_blocks * mix.block)]
    for block in range(n_blocks):
        taken = [source for source, _ in places[block * mix.block : (block + 1) * mix.block]]
        assert [taken.count(source) for source in range(3)] == counts
        for n in range(1, mix.block + 1):
            for source in range(3):
                assert abs(taken[:n].count(source) - n * counts[source] / mix.block) < 2
    for source in range(3):
        assert [k for one, k in places if one == source] == list(range(n_blocks * counts[source]))
    if mix.block < 100:
        assert len({tuple(one for one, _ in places[i : i + mix.block]) for i in range(0, len(places), mix.block)}) > 1


def test_uneven_shares_have_the_order_that_sorting_a_block_gives(world):
    """A block of 19,135 samples: what sorting it costs for one sample is paid here once for each block."""
    mix = open_mix(world, (), (12.345, 6.789, 0.001))
    assert mix.counts == [12345, 6789, 1]
    for block in (0, 3):
        first = np.random.default_rng((7, block, 3)).random(3)
        spread = sorted(((k + first[one]) / count, one) for one, count in enumerate(mix.counts) for k in range(count))
        order = [source for _, source in spread]
        for index in (*range(0, mix.block, 97), *range(9), mix.block - 2, mix.block - 1):
            source = order[index]
            own = block * mix.counts[source] + order[:index].count(source)
            assert mix.place(block * mix.block + index) == (source, own)


def test_a_mixed_sample_follows_from_seed_and_number_alone(world):
    whole = open_mix(world, range(12))
    row = [whole[i] for i in range(12)]
    assert {one["labels"] for one in row} == {"depth", "single", "none"}
    later, other = open_mix(world, range(5, 12)), open_mix(world, range(12), seed=8)
    for i in range(7):
        assert all(
            torch.equal(value, row[5 + i][name]) if torch.is_tensor(value) else value == row[5 + i][name]
            for name, value in later[i].items()
        )
    assert any(not torch.equal(other[i]["frames"], row[i]["frames"]) for i in range(12))


def test_the_first_source_of_a_mix_draws_what_a_run_of_it_alone_does(world):
    alone, mix = open_samples(world, range(9)), open_mix(world, range(12))
    first = [one["frames"] for one in (mix[i] for i in range(12)) if one["source"] == 0]
    for number, frames in enumerate(first):
        assert torch.equal(frames, alone[number]["frames"])
    second = open_samples(world, range(9), source=1)
    assert any(alone.place(number)[0] != second.place(number)[0] for number in range(9))
    draws = [samples.place(4)[1].random() for samples in (alone, second)]
    assert draws[0] != draws[1]


def test_images_are_every_frame_with_depth_once_an_epoch_and_no_other(world, tmp_path):
    shutil.copytree(world / "fixed_000003", tmp_path / "room")
    shutil.copytree(world / "fixed_000003", tmp_path / "photo")
    for kind in ("rgb", "depth", "objects", "flow"):
        for file in (tmp_path / "photo" / kind).glob("*.png"):
            if file.stem != "0000" or kind == "flow":
                file.unlink()
    meta = json.loads((tmp_path / "photo" / "meta.json").read_text(encoding="utf-8"))
    (tmp_path / "photo" / "meta.json").write_text(
        json.dumps(meta | {"cam_to_world": meta["cam_to_world"][:1]}), encoding="utf-8"
    )
    (tmp_path / "room" / "depth" / "0002.png").unlink()
    samples = open_samples(tmp_path, range(2), labels="single", augmentation=NO_AUGMENTATION, length=3)
    assert [(s.name, frame) for s, frame in samples.clips] == [
        ("photo", 0), ("room", 0), ("room", 1), ("room", 3), ("room", 4)
    ]  # fmt: skip
    places = [samples.place(number)[0] for number in range(10)]
    assert sorted(places[:5]) == sorted(places[5:]) == list(range(5))
    item = samples[1]
    assert item["frames"].shape == (3, 40, 56, 3)
    assert "motion" not in item
    for i in range(3):
        sequence, frame = samples.clips[places[3 + i]]
        image = fit_clip(sequence.read(frame, frame + 1), 40, 56)
        torch.testing.assert_close(item["depth"][i], torch.from_numpy(image.depth[0]))
        assert torch.equal(item["frames"][i], torch.from_numpy(image.frames[0]))


def test_videos_too_short_for_a_clip_are_pointed_to_images(world):
    with pytest.raises(InputError, match=r"no sequence has 9 frames; lower data\.clip_length.*`single: true`"):
        open_samples(world, range(1), length=9)


def test_no_clip_of_a_video_crosses_a_cut(tmp_path):
    random = np.random.default_rng(0)
    shots = [random.integers(0, 256, (1, 6, 8, 3), dtype=np.uint8).repeat(n, axis=0) for n in (5, 4)]
    frames = np.concatenate(shots).repeat(8, axis=1).repeat(8, axis=2)
    write_video(tmp_path / "film.mp4", frames, 25.0)
    settings = {"length": 3, "height": 32, "width": 32, "motion": "none", "labels": "none"}
    settings |= {"seed": 0, "cached_clips": 0, "strides": (1, 2)}
    samples = ClipSamples(tmp_path, numbers=range(10), find_cuts=True, **settings)
    assert [start for _, start in samples.clips] == [0, 1, 2, 5, 6]
    taken = {tuple(samples.describe(number)["frames"]) for number in range(40)}
    assert (0, 2, 4) in taken
    assert all(max(frames) < 5 or min(frames) >= 5 for frames in taken)
    assert len(ClipSamples(tmp_path, numbers=range(10), **settings).clips) == 7
