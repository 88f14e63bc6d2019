import math
from dataclasses import replace

import pytest
import torch

from steadydepth.method.pairing import (
    _correspondences,
    _pair_along,
    pair_clips,
    pair_with_previous,
    unchanged,
)
from steadydepth.method.relative_loss import relative_loss
from steadydepth.ops.warp import chain


def test_a_fixed_view_pairs_the_same_pixel_of_consecutive_frames():
    depth = torch.arange(1, 1 + 2 * 3 * 2 * 4, dtype=torch.float32).view(2, 3, 2, 4)
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[1, 1, 0, 3] = False
    pairs = pair_with_previous(depth, valid)
    assert pairs.current.shape == (2, 2, 2, 4)
    assert pairs.current[0, 1, 1, 2] == depth[0, 2, 1, 2]
    assert pairs.previous[0, 1, 1, 2] == depth[0, 1, 1, 2]
    # One bad pixel spoils the pair it ends and the pair it begins, and no other.
    assert (~pairs.valid).nonzero().tolist() == [[1, 0, 0, 3], [1, 1, 0, 3]]


def test_along_motion_the_previous_frame_is_read_where_the_pixel_was():
    depth = torch.tensor([[[[1.0, 2.0, 4.0, 8.0]], [[9.0, 9.0, 9.0, 9.0]]]])
    valid = torch.ones_like(depth, dtype=torch.bool)
    motion = torch.zeros(1, 1, 1, 4, 2)
    motion[0, 0, 0, :, 0] = torch.tensor([1.0, -1.0, 0.5, 1.0])
    pairs = pair_with_previous(depth, valid, motion)
    # Half way between 4 and 8 in log depth is their geometric mean.
    torch.testing.assert_close(pairs.previous[0, 0, 0, :3], torch.tensor([2.0, 1.0, math.sqrt(32)]))
    assert pairs.valid[0, 0, 0].tolist() == [True, True, True, False]


def test_a_sample_that_reads_an_invalid_or_occluded_pixel_makes_no_pair():
    depth = torch.full((1, 2, 1, 4), 2.0)
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[0, 0, 0, 2] = False
    motion = torch.zeros(1, 1, 1, 4, 2)
    motion[..., 0] = 0.5
    visible = torch.tensor([[[[False, True, True, True]]]])
    assert pair_with_previous(depth, valid, motion).valid[0, 0, 0].tolist() == [True, False, False, False]
    assert not pair_with_previous(depth, valid, motion, visible).valid.any()


def test_of_sparse_labels_the_nearest_pixel_is_read():
    depth = torch.tensor([[[[3.0, 0.0, 4.0, 8.0]], [[9.0, 9.0, 9.0, 9.0]]]])
    motion = torch.zeros(1, 1, 1, 4, 2)
    motion[..., 0] = torch.tensor([0.4, 0.4, 0.25, 0.4])
    pairs = pair_with_previous(depth, depth > 0, motion)
    assert pairs.valid[0, 0, 0].tolist() == [True, False, True, False]
    torch.testing.assert_close(pairs.previous[pairs.valid], torch.tensor([3.0, 4**0.75 * 8**0.25]), rtol=1e-4, atol=0)


def test_of_sparse_labels_what_is_predicted_and_what_is_true_are_compared_at_the_same_pixels():
    """A slope in every fourth row of a lidar: a prediction that is right but for a factor costs nothing."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(24.0)[:, None].expand(24, 30)
    depth = torch.stack([40 / (1 + rows + 0.3 * t) for t in range(4)])[None]
    valid = (rows % 4 == 0) & (torch.rand(1, 4, 24, 30, generator=generator) < 0.8)
    motion = torch.rand(1, 3, 24, 30, 2, generator=generator) - 0.5
    sparse = torch.where(valid, depth, 0)
    predicted, truth = (pair_with_previous(one, valid, motion) for one in (1.3 * depth, sparse))
    assert truth.valid.sum() > 0.5 * valid[:, 1:].sum()
    torch.testing.assert_close(relative_loss(predicted, truth), torch.tensor(0.0), atol=1e-4, rtol=0)
    wrong = pair_with_previous(depth * torch.tensor([1.0, 1.1, 1.0, 1.1])[:, None, None], valid, motion)
    torch.testing.assert_close(relative_loss(wrong, truth).exp(), torch.tensor(1.1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_depth_may_be_anything(poison):
    depth = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)) + 1
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[0, 1, 2, 2] = False
    dirty = torch.where(valid, depth, poison)
    motion = torch.full((1, 2, 4, 5, 2), 0.4)
    clean_pairs, dirty_pairs = (pair_with_previous(one, valid, motion) for one in (depth, dirty))
    assert torch.equal(clean_pairs.valid, dirty_pairs.valid)
    for name in ("current", "previous"):
        one, other = getattr(clean_pairs, name), getattr(dirty_pairs, name)
        torch.testing.assert_close(one[clean_pairs.valid], other[clean_pairs.valid])


def test_true_labels_keep_their_depth_along_the_motion_of_static_things(clip):
    """A fixed camera and things at rest: the pair's two sides agree to the interpolation."""
    pairs = pair_with_previous(clip.depth, clip.valid, clip.motion, clip.visible)
    change = (pairs.current / pairs.previous).log().abs()
    assert pairs.valid.float().mean() > 0.6
    assert change[1][pairs.valid[1]].median() < 1e-4
    assert (change[pairs.valid] < 0.1).float().mean() > 0.98


def test_unchanged_states_that_nothing_moved_and_keeps_the_mask():
    depth = torch.rand(1, 3, 4, 5) + 1
    pairs = pair_with_previous(depth, depth > 1.5)
    still = unchanged(pairs)
    assert torch.equal(still.current, still.previous)
    assert torch.equal(still.valid, pairs.valid)


@pytest.mark.parametrize("motion", [None, torch.zeros(2, 0, 3, 4, 2)], ids=["fixed", "along motion"])
def test_one_frame_has_no_pairs(motion):
    depth = torch.ones(2, 1, 3, 4)
    pairs = pair_with_previous(depth, depth > 0, motion)
    assert pairs.current.shape == pairs.previous.shape == pairs.valid.shape == (2, 0, 3, 4)


def test_longer_offsets_follow_the_neighbours_along_p():
    depth = torch.arange(1.0, 6.0).view(1, 5, 1, 1)
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[0, 1] = False
    pairs = pair_with_previous(depth, valid, frame_offsets=(1, 3, 7))
    # The second frame is not valid: a harmless 1 stands for it.
    assert pairs.current.flatten().tolist() == [1, 3, 4, 5, 4, 5]
    assert pairs.previous.flatten().tolist() == [1, 1, 3, 4, 1, 1]
    assert pairs.valid.flatten().tolist() == [False, False, True, True, True, False]


def test_chained_motion_goes_where_the_steps_go():
    # One row of five pixels; every point moves one pixel to the right a frame, two in the last.
    motion = torch.zeros(1, 3, 1, 5, 2)
    motion[..., 0] = -1.0
    motion[:, 2, ..., 0] = -2.0
    visible = torch.ones(1, 3, 1, 5, dtype=torch.bool)
    visible[0, 0, 0, 1] = False
    total, chained = chain(motion, visible, 3)
    assert total.shape == (1, 1, 1, 5, 2)
    assert total[0, 0, 0, :, 0].tolist() == [-4] * 5
    # Pixel 4 was at 2, at 1, at 0, but the step from 1 was not seen; 0 to 2 leave the image on the way.
    assert chained[0, 0, 0].tolist() == [False, False, False, True, False]
    _, chained = chain(motion, torch.ones_like(visible), 3)
    assert chained[0, 0, 0].tolist() == [False, False, False, True, True]
    assert chain(motion, visible, 5)[0].shape == (1, 0, 1, 5, 2)


def test_a_long_offset_along_motion_reads_the_point_itself(clip):
    """In the synthetic world the chained motion finds the same surface: the label changes little on static points."""
    pairs = pair_with_previous(clip.depth, clip.valid, clip.motion, clip.visible, frame_offsets=(4,))
    direct = pair_with_previous(clip.depth, clip.valid, frame_offsets=(4,))
    assert pairs.valid.float().mean() > 0.4

    def change(one, kept):
        return (one.current.log() - one.previous.log()).abs()[kept].mean()

    assert change(pairs, pairs.valid) < 0.6 * change(direct, pairs.valid)


def test_motion_chained_once_serves_what_is_predicted_and_what_is_true(clip, monkeypatch):
    chained = []

    def count(motion, visible, offset):
        chained.append(offset)
        return chain(motion, visible, offset)

    expected = [
        pair_with_previous(one, clip.valid, clip.motion, clip.visible, frame_offsets=(1, 3))
        for one in (clip.depth, clip.depth + 1)
    ]
    monkeypatch.setattr("steadydepth.method.pairing.chain", count)
    correspondences = _correspondences(clip.valid, clip.motion, clip.visible, (1, 3))
    found = [_pair_along(one, clip.valid, correspondences) for one in (clip.depth, clip.depth + 1)]
    assert chained == [1, 3]
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("current", "previous", "valid"))


def test_what_the_clips_of_each_source_are_compared_with(clip):
    both = {name: torch.cat((value, value)) for name, value in vars(clip).items() if torch.is_tensor(value)}
    both["valid"][0] = False  # there is no label
    batch = replace(clip, **both, labels=("none", "depth", "single", "teacher"), source=(5, 1, 2, 0))
    found = pair_clips(batch.depth * 2, batch, claims="scale")
    assert list(found) == [0, 1, 2, 5]
    kinds = {source: (one.truth is not None, one.pairs is not None) for source, one in found.items()}
    assert kinds == {0: (True, True), 1: (True, True), 2: (True, False), 5: (False, True)}
    # Measured depth takes away the factor; without it the prediction stays as it is. No change is the true one without
    # a label, and the label's own with one.
    for source in (1, 2):
        torch.testing.assert_close(found[source].depth[found[source].valid], found[source].truth[found[source].valid])
    for source in (0, 5):
        torch.testing.assert_close(found[source].depth, batch.depth[:1] * 2 if source else batch.depth[3:] * 2)
    assert (found[5].pairs[1].log_change == 0).all()
    assert found[5].pairs[0].valid.float().mean() > 0.5
    for source in (0, 1):
        predicted, truth = found[source].pairs
        torch.testing.assert_close(predicted.log_change[predicted.valid], truth.log_change[truth.valid])
        assert truth.log_change[truth.valid].abs().max() > 0.01
        assert torch.equal(predicted.valid, truth.valid)
