import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from steadydepth.method.absolute_loss import (
    ABSOLUTE,
    absolute_loss,
    affine_invariant,
    gradient_matching,
    log_l1,
    lost_edges,
    silog,
    smoothness,
)
from steadydepth.method.losses import calculate_losses, mean_over_parts, target_loss
from steadydepth.method.pairing import pair_clips, pair_with_previous
from steadydepth.method.relative_loss import (
    RELATIVE,
    ROBUST,
    _where_smooth,
    _without_worst,
    feature_difference,
    huber,
    motion_gain,
    relative_loss,
)
from steadydepth.types import Batch, DepthPairs, LossTerms

POISON = [0.0, -1.0, float("nan"), float("inf")]


def pairs(current, previous, valid=None):
    current, previous = (torch.tensor(values).view(1, 1, 1, -1) for values in (current, previous))
    return DepthPairs(current, previous, torch.ones_like(current, dtype=torch.bool) if valid is None else valid)


def random_depth(seed, shape=(2, 3, 4, 5)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 3 + 0.5


def test_log_l1_by_hand():
    truth = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 2, 2)
    predicted = truth * torch.tensor([math.e, 1.0, math.e**-2, 5.0]).view(1, 1, 2, 2)
    valid = torch.tensor([True, True, True, False]).view(1, 1, 2, 2)
    torch.testing.assert_close(log_l1(predicted, truth, valid), torch.tensor(1.0))


def test_silog_by_hand_and_blind_to_most_of_a_common_scale():
    truth = torch.ones(1, 1, 1, 2)
    predicted = torch.tensor([1.0, math.e**2]).view(1, 1, 1, 2)
    everywhere = torch.ones_like(truth, dtype=torch.bool)
    # Errors 0 and 2: mean square 2, squared mean 1.
    expected = math.sqrt(2 - 0.85 + 1e-6)
    torch.testing.assert_close(silog(predicted, truth, everywhere), torch.tensor(expected))
    scaled = silog(truth * math.e, truth, everywhere)
    torch.testing.assert_close(scaled, torch.tensor(math.sqrt(0.15 + 1e-6)))


def slow_affine_invariant(depth, truth, valid):
    """The same in loops over NumPy: frames standardised one by one, sums over the batch."""

    def standard(image, mask):
        inverse = 1 / image[mask]
        middle = np.sort(inverse)[(len(inverse) - 1) // 2]
        out = np.zeros_like(image)
        out[mask] = (inverse - middle) / np.abs(inverse - middle).mean()
        return out

    images = zip(*(one.flatten(0, 1).numpy() for one in (depth, truth, valid)), strict=True)
    errors = [(standard(frame, mask) - standard(label, mask), mask) for frame, label, mask in images]
    return np.concatenate([np.abs(error[mask]) for error, mask in errors]).mean() + 0.5 * slow_gradient_matching(errors)


def slow_gradient_matching(errors):
    """Differences of neighbours that are both valid, over four scales; `errors` are pairs of an image and its mask."""
    gradients = np.zeros((4, 2))
    for error, mask in errors:
        for k in range(4):
            part, kept = error[:: 2**k, :: 2**k], mask[:: 2**k, :: 2**k]
            gradients[k, 1] += kept.sum()
            for y, x in np.ndindex(part.shape):
                for other in ((y + 1, x), (y, x + 1)):
                    if other[0] < part.shape[0] and other[1] < part.shape[1] and kept[y, x] and kept[other]:
                        gradients[k, 0] += abs(part[other] - part[y, x])
    return (gradients[:, 0] / gradients[:, 1]).sum()


def test_the_affine_invariant_loss_equals_slow_loops_and_forgives_scale_and_offset():
    depth, truth = random_depth(30, (2, 3, 12, 17)), random_depth(31, (2, 3, 12, 17))
    valid = random_depth(32, depth.shape) > 1
    loss = affine_invariant(depth, truth, valid).item()
    assert loss == pytest.approx(slow_affine_invariant(depth, truth, valid), rel=1e-4)
    same = 1 / (0.4 / truth + 0.2)
    assert affine_invariant(same, truth, valid).item() < 1e-4


def test_gradient_matching_by_hand():
    truth = random_depth(33, (1, 1, 2, 3))
    # Log errors 0 1 1 above 0 1 4, the last not valid: four differences of 0, 1, 0 and 1, 0 to the side and down.
    predicted = truth * torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 4.0]]).exp()
    valid = torch.tensor([[True, True, True], [True, True, False]]).view(1, 1, 2, 3)
    # At a scale of 2 the first row's first and last are left, 1 apart; from 4 on there is one pixel.
    expected = (1 + 0 + 1 + 0 + 0) / 5 + 1 / 2
    torch.testing.assert_close(gradient_matching(predicted, truth, valid), torch.tensor(expected))
    plain = absolute_loss(predicted, truth, valid)
    both = absolute_loss(predicted, truth, valid, gradient_weight=0.3)
    torch.testing.assert_close(both, plain + 0.3 * expected)
    assert gradient_matching(7 * truth, truth, valid).item() < 1e-6


def test_gradient_matching_equals_slow_loops():
    depth, truth = random_depth(34, (2, 3, 12, 17)), random_depth(35, (2, 3, 12, 17))
    valid = random_depth(36, depth.shape) > 1
    images = zip(*(one.flatten(0, 1).numpy() for one in (depth, truth, valid)), strict=True)
    expected = slow_gradient_matching([(np.log(depth / label), mask) for depth, label, mask in images])
    assert gradient_matching(depth, truth, valid).item() == pytest.approx(expected, rel=1e-4)


def slow_lost_edges(depth, truth, valid, contrast):
    lost = []
    for one, label, kept in zip(*(each.flatten(0, 1).numpy() for each in (depth, truth, valid)), strict=True):
        height, width = label.shape
        for distance in (1, 2, 4, 8):
            for row in range(height):
                for column in range(width):
                    for there in ((row, column + distance), (row + distance, column)):
                        if there[0] >= height or there[1] >= width or not (kept[row, column] and kept[there]):
                            continue
                        b = math.log(label[there]) - math.log(label[row, column])
                        a = math.log(one[there]) - math.log(one[row, column])
                        if abs(b) > 0.05:
                            lost.append(max(contrast * abs(b) - a * math.copysign(1, b), 0))
    return sum(lost) / len(lost)


@pytest.mark.parametrize("contrast", [1.0, 1.2])
def test_lost_edges_equal_slow_loops(contrast):
    truth, depth = random_depth(2, (2, 1, 5, 11)), random_depth(3, (2, 1, 5, 11))
    valid = torch.rand(truth.shape, generator=torch.Generator().manual_seed(4)) > 0.2
    expected = slow_lost_edges(depth, truth, valid, contrast)
    assert float(lost_edges(depth, truth, valid, contrast=contrast)) == pytest.approx(expected, rel=1e-5)


def test_blur_loses_edges_and_a_factor_a_copy_and_a_sharper_copy_lose_none():
    truth = torch.where(torch.arange(12) < 6, 1.0, 2.0).expand(1, 1, 9, 12)
    everywhere = torch.ones_like(truth, dtype=torch.bool)
    for kept in (truth, 3 * truth, truth**1.5):
        assert float(lost_edges(kept, truth, everywhere)) == pytest.approx(0, abs=1e-6)
    half = lost_edges(truth**0.5, truth, everywhere)
    assert float(half) == pytest.approx(math.log(2) / 2, rel=1e-5)
    assert float(lost_edges(torch.ones_like(truth), truth, everywhere)) == pytest.approx(math.log(2), rel=1e-5)
    assert float(lost_edges(truth, truth, everywhere, contrast=1.25)) == pytest.approx(math.log(2) / 4, rel=1e-5)


@pytest.mark.parametrize("poison", POISON)
def test_lost_edges_have_true_gradients_and_no_poison(poison):
    truth, depth = (random_depth(seed, (1, 2, 3, 5)).double() for seed in (5, 6))
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[0, 0, 1, 2] = False
    dirty = torch.where(valid, truth, poison)
    depth.requires_grad_()
    assert torch.autograd.gradcheck(lambda one: lost_edges(one, dirty, valid), depth)
    loss = absolute_loss(depth, dirty, valid, edge_weight=2.0)
    expected = log_l1(depth, truth, valid) + 2 * lost_edges(depth, truth, valid)
    torch.testing.assert_close(loss, expected)
    flat = lost_edges(depth, torch.ones_like(truth), valid)
    (gradient,) = torch.autograd.grad(flat, depth)
    assert flat.detach() == 0
    assert (gradient == 0).all()


def test_smoothness_by_hand_and_relaxed_at_edges_of_the_image():
    depth = torch.tensor([[1.0, math.e], [1.0, math.e]]).view(1, 1, 2, 2)
    # Every step to the right is 1 in log depth, no step down.
    torch.testing.assert_close(smoothness(depth), torch.tensor(1.0))
    frames = torch.zeros(1, 1, 3, 2, 2)
    torch.testing.assert_close(smoothness(depth, frames), torch.tensor(1.0))
    # Red falls by 1, green rises by a half, blue stays: the mean of their sizes.
    frames[0, 0, 0, :, 0], frames[0, 0, 1, :, 1] = 1.0, 0.5
    torch.testing.assert_close(smoothness(depth, frames), torch.tensor(math.exp(-0.5)))
    everywhere = torch.ones_like(depth, dtype=torch.bool)
    for edge_aware, expected in ((True, 0.3 * math.exp(-0.5)), (False, 0.3)):
        loss = absolute_loss(depth, depth, everywhere, smoothness_weight=0.3, edge_aware=edge_aware, frames=frames)
        torch.testing.assert_close(loss, torch.tensor(expected))


def test_relative_loss_by_hand():
    predicted = pairs([2.0, 3.0, 4.0], [1.0, 3.0, 8.0])
    truth = pairs([2.0, 2.0, 1.0], [2.0, 1.0, 2.0])
    # log 2 - 0, 0 - log 2, and -log 2 against -log 2.
    torch.testing.assert_close(relative_loss(predicted, truth), torch.tensor(2 * math.log(2) / 3))


@pytest.mark.parametrize("poison", POISON)
def test_pairs_of_any_origin_may_hold_anything_where_they_are_not_valid(poison):
    predicted = pairs([2.0, poison, 4.0], [1.0, poison, 8.0], torch.tensor([[[[True, False, True]]]]))
    truth = pairs([2.0, poison, 1.0], [2.0, poison, 2.0])
    # log 2 - 0, and -log 2 against -log 2.
    loss = relative_loss(replace(predicted, current=predicted.current.requires_grad_()), truth)
    torch.testing.assert_close(loss, torch.tensor(math.log(2) / 2))
    (gradient,) = torch.autograd.grad(loss, predicted.current)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1 / 2 / 2, 0.0, 0.0]))


def test_relative_loss_equals_slow_loops():
    depth, label = random_depth(0), random_depth(1)
    valid = random_depth(2) > 1.2
    predicted, truth = (pair_with_previous(one, valid) for one in (depth, label))
    terms = [[] for _ in range(len(depth))]
    for b, t, y, x in np.ndindex(*depth.shape):
        if t > 0 and valid[b, t, y, x] and valid[b, t - 1, y, x]:
            change = math.log(depth[b, t, y, x]) - math.log(depth[b, t - 1, y, x])
            true = math.log(label[b, t, y, x]) - math.log(label[b, t - 1, y, x])
            terms[b].append(abs(change - true))
    assert all(10 < len(clip) < 40 for clip in terms)
    assert relative_loss(predicted, truth).item() == pytest.approx(np.mean([np.mean(clip) for clip in terms]), rel=1e-5)


def test_the_truth_costs_nothing_and_a_constant_factor_is_no_change(clip):
    truth = pair_with_previous(clip.depth, clip.valid, clip.motion, clip.visible)
    scaled = pair_with_previous(clip.depth * 1.7, clip.valid, clip.motion, clip.visible)
    assert absolute_loss(clip.depth, clip.depth, clip.valid).item() == 0
    assert relative_loss(truth, truth).item() == 0
    assert relative_loss(scaled, truth).item() < 1e-6
    assert absolute_loss(clip.depth * 1.7, clip.depth, clip.valid).item() == pytest.approx(math.log(1.7), rel=1e-4)


def test_a_frozen_prediction_pays_where_the_truth_moves(clip):
    truth = pair_with_previous(clip.depth, clip.valid, clip.motion, clip.visible)
    still = pair_with_previous(torch.ones_like(clip.depth), clip.valid, clip.motion, clip.visible)
    assert relative_loss(still, truth).item() > 1e-3


@pytest.mark.parametrize("kind", ABSOLUTE)
@pytest.mark.parametrize("poison", POISON)
def test_invalid_pixels_never_reach_the_absolute_loss(kind, poison):
    label = random_depth(3)
    valid = random_depth(4) > 1
    predicted = (label * 1.3).requires_grad_()
    dirty = torch.where(valid, label, poison)
    loss = absolute_loss(predicted, dirty, valid, kind=kind, gradient_weight=0.4)
    torch.testing.assert_close(loss, absolute_loss(predicted, label, valid, kind=kind, gradient_weight=0.4))
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert torch.isfinite(gradient).all()
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).any()


@pytest.mark.parametrize("poison", POISON)
def test_invalid_pixels_never_reach_the_relative_loss(poison):
    label, depth = random_depth(5), random_depth(6).requires_grad_()
    valid = random_depth(7) > 0.8
    motion = torch.full((2, 2, 4, 5, 2), 0.3)
    clean = pair_with_previous(label, valid, motion)
    dirty = pair_with_previous(torch.where(valid, label, poison), valid, motion)
    predicted = pair_with_previous(depth, valid, motion)
    loss = relative_loss(predicted, dirty)
    assert loss.item() > 0
    torch.testing.assert_close(loss, relative_loss(predicted, clean))
    (gradient,) = torch.autograd.grad(loss, depth)
    assert torch.isfinite(gradient).all()
    assert (gradient[~valid] == 0).all()


def test_what_moves_counts_again_with_its_own_mean():
    predicted = pairs([2.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    truth = pairs([1.0, 4.0, 1.005, 1.0], [1.0, 1.0, 1.0, 1.0])
    # Errors log 2, log 4, log 1.005, 0; only the second moves by more than 1 %.
    everywhere = (math.log(2) + math.log(4) + math.log(1.005)) / 4
    torch.testing.assert_close(relative_loss(predicted, truth), torch.tensor(everywhere))
    expected = torch.tensor(everywhere + 0.5 * math.log(4))
    torch.testing.assert_close(relative_loss(predicted, truth, moving_weight=0.5), expected)


def test_a_clip_without_pairs_is_left_out_of_the_mean():
    depth = random_depth(12)
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[1] = False
    truth = pair_with_previous(torch.ones_like(depth), valid)
    both = relative_loss(pair_with_previous(depth, valid), truth)
    everywhere = torch.ones_like(depth[:1], dtype=torch.bool)
    still = pair_with_previous(torch.ones_like(depth[:1]), everywhere)
    torch.testing.assert_close(both, relative_loss(pair_with_previous(depth[:1], everywhere), still))


@pytest.mark.parametrize("kind", ABSOLUTE)
def test_nothing_valid_is_a_differentiable_zero(kind):
    depth = random_depth(8).requires_grad_()
    nothing = torch.zeros_like(depth, dtype=torch.bool)
    absolute = absolute_loss(depth, torch.full_like(depth, torch.nan), nothing, kind=kind)
    empty = pair_with_previous(depth, nothing)
    terms = target_loss(absolute, relative_loss(empty, empty), 2.0)
    assert terms.target.item() == pytest.approx(0, abs=2e-3)
    (gradient,) = torch.autograd.grad(terms.target, depth)
    assert (gradient == 0).all()


def test_gradients_are_those_of_finite_differences():
    depth = random_depth(9, (1, 3, 3, 4)).double().requires_grad_()
    label = random_depth(10, (1, 3, 3, 4)).double()
    valid = torch.ones_like(label, dtype=torch.bool)
    motion = torch.full((1, 2, 3, 4, 2), 0.25, dtype=torch.float64)

    def target(depth):
        truth = pair_with_previous(label, valid, motion)
        relative = relative_loss(pair_with_previous(depth, valid, motion), truth)
        absolute = absolute_loss(depth, label, valid, gradient_weight=0.4, smoothness_weight=0.1)
        return target_loss(absolute, relative, 0.7).target

    assert torch.autograd.gradcheck(target, (depth,))


def test_the_target_is_the_weighted_sum():
    absolute, relative = (torch.tensor(value, requires_grad=True) for value in (2.0, 3.0))
    terms = target_loss(absolute, relative, 0.5)
    assert terms.target.item() == 3.5
    assert (terms.absolute.item(), terms.relative.item()) == (2.0, 3.0)
    assert not terms.absolute.requires_grad
    assert not terms.relative.requires_grad
    assert torch.autograd.grad(terms.target, (absolute, relative)) == (1.0, 0.5)


def test_the_losses_of_parts_are_averaged_and_their_sums_added():
    weight = torch.tensor(1.0, requires_grad=True)
    first = LossTerms(2 * weight, 3 * weight, 5 * weight, {4: torch.tensor([2.0, 4.0, 6.0])})
    sums = {4: torch.tensor([1.0, 5.0, 7.0]), 1: torch.tensor([1.0, 8.0, 9.0])}
    terms = mean_over_parts([first, LossTerms(4 * weight, 7 * weight, 9 * weight, sums)])
    assert (terms.absolute.item(), terms.relative.item(), terms.target.item()) == (3, 5, 7)
    assert not any(one.requires_grad for one in (terms.absolute, terms.relative, terms.target))
    assert {source: found.tolist() for source, found in terms.of_sources.items()} == {1: [1, 8, 9], 4: [3, 9, 13]}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Depth 2 -> 4 where the truth goes 1 -> 2, and 3 -> 3 where it goes 5 -> 4.
        ("change", (0.0 + math.log(5 / 4)) / 2),
        ("warping", math.log(2) / 2),
        ("geometry", (2 / 6) / 2),
        ("disparity", (1 / 4 + 1 / 20) / 2),
        ("disparity_size", (1 / 4 + 1 / 20) / 2),
    ],
)
def test_every_relative_loss_by_hand(kind, expected, monkeypatch):
    monkeypatch.setattr("steadydepth.method.relative_loss._where_smooth", lambda truth, valid: valid)
    predicted, truth = pairs([4.0, 3.0], [2.0, 3.0]), pairs([2.0, 4.0], [1.0, 5.0])
    torch.testing.assert_close(relative_loss(predicted, truth, kind=kind), torch.tensor(expected))


def test_only_the_signed_form_sees_a_change_in_the_wrong_direction(monkeypatch):
    monkeypatch.setattr("steadydepth.method.relative_loss._where_smooth", lambda truth, valid: valid)
    away, near = pairs([4.0], [2.0]), pairs([2.0], [4.0])
    assert relative_loss(away, near, kind="disparity").item() == pytest.approx(0.5)
    assert relative_loss(away, near, kind="disparity_size").item() == 0


def test_temporal_gradients_leave_out_passing_edges():
    # Inverse depth spans 0.1 to 1.1 in the later frame: changes of 0.05 and more are edges.
    truth = pairs([1 / 1.1, 1 / 0.1, 1 / 0.5, 1 / 0.5], [1 / 1.06, 1 / 0.1, 1 / 0.44, 1 / 0.3])
    assert _where_smooth(truth, truth.valid).flatten().tolist() == [True, True, False, False]
    hidden = truth.valid.clone()
    hidden[..., 0] = False
    # Without the nearest pixel the range is 0.1 to 0.5: 0.02 is the limit now.
    assert _where_smooth(truth, hidden).flatten().tolist() == [False, True, False, False]


def test_robust_forms_by_hand():
    error = torch.tensor([[[[0.05, -0.3, 0.0]]]])
    expected = {
        "l1": [0.05, 0.3, 0.0],
        "huber": [0.05**2 / 0.2, 0.3 - 0.05, 0.0],
        "charbonnier": [math.sqrt(0.05**2 + 1e-4) - 0.01, math.sqrt(0.3**2 + 1e-4) - 0.01, 0.0],
        "l2": [0.0025, 0.09, 0.0],
    }
    assert set(expected) == set(ROBUST)
    for name, values in expected.items():
        torch.testing.assert_close(ROBUST[name](error).flatten(), torch.tensor(values))
    torch.testing.assert_close(huber(error, bend=0.4)[..., 1].item(), 0.09 / 0.8)


@pytest.mark.parametrize("kind", RELATIVE)
@pytest.mark.parametrize("robust", ROBUST)
def test_every_relative_loss_has_true_gradients_and_no_poison(kind, robust):
    label = random_depth(20, (2, 3, 3, 5)).double()
    # True changes small beside the range of the label, so that the mask of the disparity forms keeps most pairs.
    label = label[:, :1] * torch.tensor([1.0, 1.01, 0.99], dtype=torch.float64).view(1, 3, 1, 1)
    valid = random_depth(21, label.shape) > 0.8
    depth = random_depth(22, label.shape).double().requires_grad_()
    dirty = torch.where(valid, label, torch.nan)
    truth, poisoned = (
        pair_with_previous(label, valid, frame_offsets=(1, 2)),
        pair_with_previous(dirty, valid, frame_offsets=(1, 2)),
    )

    def loss(depth, truth=truth):
        predicted = pair_with_previous(depth, valid, frame_offsets=(1, 2))
        return relative_loss(predicted, truth, kind=kind, robust=robust, moving_weight=0.3, gradient_weight=0.2)

    assert loss(depth).item() > 0
    torch.testing.assert_close(loss(depth, poisoned), loss(depth))
    assert torch.autograd.gradcheck(loss, (depth,))
    (gradient,) = torch.autograd.grad(loss(depth, poisoned), depth)
    assert (gradient[~valid] == 0).all()


@pytest.mark.parametrize("kind", RELATIVE)
def test_a_still_scene_with_a_still_prediction_costs_nothing(kind):
    still = random_depth(23, (2, 1, 3, 4)).expand(2, 3, 3, 4)
    everywhere = torch.ones_like(still, dtype=torch.bool)
    predicted, true = (pair_with_previous(one, everywhere) for one in (2 * still, still))
    assert relative_loss(predicted, true, kind=kind).item() == 0


def test_the_earlier_frame_learns_only_when_asked():
    depth = random_depth(24).requires_grad_()
    everywhere = torch.ones_like(depth, dtype=torch.bool)
    truth = pair_with_previous(random_depth(25), everywhere)
    for both_frames in (True, False):
        loss = relative_loss(pair_with_previous(depth, everywhere), truth, both_frames=both_frames)
        (gradient,) = torch.autograd.grad(loss, depth)
        assert (gradient[:, 0] != 0).any().item() is both_frames
        assert (gradient[:, -1] != 0).any()


def test_the_motion_gain_by_hand_and_its_weight():
    # True changes log 2, -log 4 and 0.5 %; predicted 1.5 log 2, -log 2 and something.
    truth = pairs([2.0, 1.0, 1.005], [1.0, 4.0, 1.0])
    predicted = pairs([2.0**1.5, 1.0, 3.0], [1.0, 2.0, 1.0])
    share = (1.5 * 1 + 1 * 2) / (1 + 4)
    torch.testing.assert_close(motion_gain(predicted, truth), torch.tensor(share))
    plain = relative_loss(predicted, truth)
    torch.testing.assert_close(relative_loss(predicted, truth, motion_gain_weight=0.2), plain + 0.2 * (1 - share))
    assert motion_gain(truth, truth).item() == pytest.approx(1)
    still = pairs([2.0, 1.0, 1.005], [2.0, 1.0, 1.005])
    assert motion_gain(still, truth).item() == 0
    assert motion_gain(predicted, still).item() == 1
    one_valid = pairs([2.0, 1.0, 1.005], [1.0, 4.0, 1.0], torch.tensor([True, False, True]).view(1, 1, 1, 3))
    assert motion_gain(predicted, one_valid).item() == pytest.approx(1.5)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("options", [{"motion_gain_weight": 0.5}, {"trim": 0.3}, {"gradient_weight": 0.4}], ids=str)
def test_the_terms_of_the_change_have_true_gradients_and_no_poison(poison, options):
    label, valid = random_depth(40).double(), random_depth(41) > 1
    depth = random_depth(42).double().requires_grad_()
    truth = pair_with_previous(torch.where(valid, label, poison), valid)

    def loss(depth):
        return relative_loss(pair_with_previous(depth, valid), truth, **options)

    clean = relative_loss(pair_with_previous(depth, valid), pair_with_previous(label, valid), **options)
    torch.testing.assert_close(loss(depth), clean)
    assert torch.autograd.gradcheck(loss, (depth,))


def test_gradient_matching_of_the_change_by_hand():
    # Errors of the change 0, 0.3, 0.1 and one that is not valid; at a scale of 2 the first and the third are left.
    truth = pairs([2.0, 1.0, 3.0, 1.0], [1.0, 1.0, 3.0, 1.0])
    predicted = pairs([2.0, math.e**0.3, math.e**0.1, 9.0], [1.0] * 4)
    predicted.valid[..., 3] = False
    expected = (0.3 + 0.2) / 3 + 0.1 / 2
    plain = relative_loss(predicted, truth)
    torch.testing.assert_close(relative_loss(predicted, truth, gradient_weight=0.5), plain + 0.5 * expected)
    # Depth that changes by one factor everywhere is even; the mean of the errors sees it.
    drift = pairs([1.2, 2.4, 3.6], [1.0, 2.0, 3.0])
    still = pairs([5.0, 5.0, 5.0], [5.0, 5.0, 5.0])
    torch.testing.assert_close(relative_loss(drift, still, gradient_weight=9.0), torch.tensor(math.log(1.2)))


def test_the_worst_pairs_are_left_out_by_hand():
    truth = pairs([1.0] * 5, [1.0] * 5)
    predicted = pairs([math.e**0.3, math.e**-0.1, 1.0, math.e**0.2, 7.0], [1.0] * 5)
    predicted.valid[..., 4] = False
    # A quarter of four pairs is one: the error of 0.3 goes, of 0.1, 0 and 0.2 the mean stays.
    torch.testing.assert_close(relative_loss(predicted, truth, trim=0.25), torch.tensor(0.1))
    torch.testing.assert_close(relative_loss(predicted, truth, trim=0.5), torch.tensor(0.05))
    # One pair is left however much is to go.
    assert relative_loss(predicted, truth, trim=0.99).item() == 0
    # What truly moves keeps its own mean: its pair, trimmed above, counts there.
    moving = pairs([math.e**0.5, 1.0, 1.0, 1.0], [1.0] * 4)
    still = pairs([1.0] * 4, [1.0] * 4)
    trimmed = relative_loss(still, moving, trim=0.25, moving_weight=0.4)
    torch.testing.assert_close(trimmed, torch.tensor(0.4 * 0.5))


@pytest.mark.parametrize("trim", [0.2, 0.5])
def test_trimming_equals_slow_loops(trim):
    depth, label, valid = random_depth(50), random_depth(51), random_depth(52) > 1.2
    predicted, truth = (pair_with_previous(one, valid) for one in (depth, label))
    means = []
    for b in range(len(depth)):
        errors = []
        for t, y, x in np.ndindex(*depth.shape[1:]):
            if t > 0 and valid[b, t, y, x] and valid[b, t - 1, y, x]:
                change = math.log(depth[b, t, y, x]) - math.log(depth[b, t - 1, y, x])
                errors.append(abs(change - math.log(label[b, t, y, x]) + math.log(label[b, t - 1, y, x])))
        means.append(np.mean(sorted(errors)[: round((1 - trim) * len(errors))]))
    assert relative_loss(predicted, truth, trim=trim).item() == pytest.approx(np.mean(means), rel=1e-5)


def test_trimming_needs_no_pair():
    depth = random_depth(55).double().requires_grad_()
    nothing = pair_with_previous(depth, torch.zeros_like(depth, dtype=torch.bool))
    assert not _without_worst(nothing.current, nothing.valid, 0.3).any()
    zero = relative_loss(nothing, nothing, trim=0.3)
    assert zero.item() == 0
    assert (torch.autograd.grad(zero, depth)[0] == 0).all()


def test_features_of_stills_are_to_be_alike():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(3, 2, 4, 5, 6, generator=generator, requires_grad=True)
    stills = torch.tensor([True, False, True])
    of_clips = [(features[i, 1] - features[i, 0]).abs().mean() / features.std() for i in (0, 2)]
    loss = feature_difference(features, stills)
    torch.testing.assert_close(loss, sum(of_clips) / 2)
    torch.testing.assert_close(feature_difference(5 * features, stills), loss)  # whatever their unit
    loss.backward()
    assert features.grad[0].abs().min() > 0
    assert features.grad[1].abs().max() == 0
    assert feature_difference(features, torch.zeros(3, dtype=torch.bool)) == 0
    assert feature_difference(features[:, :1].expand(-1, 2, -1, -1, -1), stills) == 0


def test_stills_are_those_that_say_so_and_are_counted_by_source():
    depth, motion = random_depth(1, (4, 2, 3, 5)), torch.zeros(4, 1, 3, 5, 2)
    visible = torch.ones(4, 1, 3, 5, dtype=torch.bool)
    visible[0, 0, 0, 0] = False  # a still that was turned: its corners were not seen
    valid, frames = torch.ones(4, 2, 3, 5, dtype=torch.bool), torch.zeros(4, 2, 3, 3, 5)
    is_still = torch.tensor([True, False, False, True])
    batch = Batch(frames, depth, valid, motion, visible, ("depth",) * 4, (0, 0, 0, 1), is_still)
    features = torch.rand(8, 4, 2, 3, generator=torch.Generator().manual_seed(2))
    paired = pair_clips(depth, batch, features=features)
    assert paired[1].stills.tolist() == [True]
    torch.testing.assert_close(paired[1].features, features[6:].view(1, 2, 4, 2, 3))
    options = {"absolute": lambda *_, frames: torch.zeros(()), "relative": lambda *_: torch.tensor(0.25)}
    losses = calculate_losses(paired, relative_weight=2.0, feature_weight=0.5, **options)
    apart = features.view(4, 2, 4, 2, 3)
    first = (apart[0, 1] - apart[0, 0]).abs().mean() / features[:6].std()
    second = (apart[3, 1] - apart[3, 0]).abs().mean() / features[6:].std()
    torch.testing.assert_close(losses.relative, 0.25 + 0.5 * (0.75 * first + 0.25 * second))
    torch.testing.assert_close(losses.target, 2 * losses.relative)
    # Clips, and the sums of both losses over them.
    torch.testing.assert_close(losses.of_sources[0], torch.tensor([3.0, 0.0, 3 * (0.25 + 0.5 * first)]))
    torch.testing.assert_close(losses.of_sources[1], torch.tensor([1.0, 0.0, 0.25 + 0.5 * second]))
    without = calculate_losses(pair_clips(depth, batch), relative_weight=2.0, feature_weight=0.5, **options)
    assert without.relative == 0.25
    # Single images are of different scenes.
    single = Batch(frames, depth, valid, motion, visible, ("single",) * 4)
    assert pair_clips(depth, single, features=features)[0].features is None
