"""Edges against cases by hand, plain loops and what must hold of any of them: blur lowers them, a factor does not."""

import math

import cv2
import numpy as np
import pytest
import torch

from steadydepth import metrics
from steadydepth.metrics.edges import RATIOS, contrast_change, edge_gain_part
from steadydepth.ops.edges import EDGE_DISTANCES_PX, EDGE_LOG_STEP

NAMES = ("boundary_f1", "edge_gain")


def both_scores(depth, truth, valid):
    return np.array([getattr(metrics, name)(depth, truth, valid).numpy() for name in NAMES])


def square(inner, outer=2.0):
    """One frame of 7 x 8 px: a square of 3 x 4 px before a wall, so that there are edges in all four directions."""
    image = np.full((1, 7, 8), outer)
    image[0, 2:5, 2:6] = inner
    return image


def everywhere(image):
    return np.ones(image.shape, bool)


def test_a_step_by_hand():
    truth, faint, other = square(1.0), square(2 / 1.1), square(2.5)
    valid = everywhere(truth)
    # The faint square stands out by a ratio of 1.1, above the first three of ten, 1.05, 1.0722 and 1.0944.
    assert float(metrics.boundary_f1(faint, truth, valid)) == pytest.approx(RATIOS[:3].sum() / RATIOS.sum())
    # A hole where the label has a square has its edges there, the other way round.
    assert float(metrics.boundary_f1(other, truth, valid)) == 0
    # Every difference of the label is ln 2, of the faint square ln 1.1.
    assert float(metrics.edge_gain(faint, truth, valid)) == pytest.approx(math.log(1.1) / math.log(2))
    assert float(metrics.edge_gain(other, truth, valid)) == pytest.approx(-math.log(1.25) / math.log(2))


def test_half_of_the_edges_and_twice_too_many_by_hand():
    truth = np.full((1, 1, 9), 1.0)
    truth[0, 0, 4:] = 2  # one relation, to the right
    two = truth.copy()
    two[0, 0, 6:] = 4  # one more
    valid = everywhere(truth)
    # r = 1 / 4 and p = 1 / 8 over the four directions, three of which the label leaves empty.
    assert float(metrics.boundary_f1(two, truth, valid)) == pytest.approx(2 * (1 / 4) * (1 / 8) / (1 / 4 + 1 / 8))
    assert float(metrics.boundary_f1(truth, two, valid)) == pytest.approx(2 * (1 / 8) * (1 / 4) / (1 / 4 + 1 / 8))
    assert float(metrics.boundary_f1(truth, truth, valid)) == 0.25
    # Differences over 1, 2, 4 and 8 px cross the step 1, 2, 4 and 1 times; of these 8, two over 4 px and the one over 8
    # cross the second step as well and are twice as large.
    assert EDGE_DISTANCES_PX == (1, 2, 4, 8)
    assert float(metrics.edge_gain(two, truth, valid)) == pytest.approx(11 / 8)


def relations(image, valid, t):
    """Sets of pairs (y, x, v, u) whose first pixel is nearer by more than t, by direction."""
    height, width = image.shape
    found = {step: set() for step in ((0, 1), (0, -1), (1, 0), (-1, 0))}
    for (dy, dx), pairs in found.items():
        for y in range(height):
            for x in range(width):
                v, u = y + dy, x + dx
                known = 0 <= v < height and 0 <= u < width and valid[y, x] and valid[v, u]
                if known and image[v, u] / image[y, x] > t:
                    pairs.add((y, x, v, u))
    return found


def slow_boundary_f1(depth, truth, valid):
    ratios, of_frames = [1.05 + k * 0.2 / 9 for k in range(10)], []
    for frame, label, kept in zip(depth, truth, valid, strict=True):
        score = 0.0
        for t in ratios:
            own, true = relations(frame, kept, t), relations(label, kept, t)
            both = {step: len(own[step] & true[step]) for step in own}
            r = sum(both[step] / max(len(true[step]), 1) for step in own) / 4
            p = sum(both[step] / max(len(own[step]), 1) for step in own) / 4
            score += t * (2 * p * r / (p + r) if p + r else 0) / sum(ratios)
        if any(relations(label, kept, 1.05).values()):
            of_frames.append(score)
    return sum(of_frames) / len(of_frames)


def slow_edge_gain(depth, truth, valid):
    product = energy = 0.0
    for frame, label, kept in zip(depth, truth, valid, strict=True):
        height, width = label.shape
        for distance in (1, 2, 4, 8):
            for dy, dx in ((0, distance), (distance, 0)):
                for y in range(height - dy):
                    for x in range(width - dx):
                        if not (kept[y, x] and kept[y + dy, x + dx]):
                            continue
                        b = math.log(label[y + dy, x + dx]) - math.log(label[y, x])
                        if abs(b) > 0.05:
                            a = math.log(frame[y + dy, x + dx]) - math.log(frame[y, x])
                            product, energy = product + a * b, energy + b * b
    return product / energy


@pytest.fixture
def rough(tiny):
    """The tiny clip with edges: blocks at other depths, their places one pixel off in the prediction."""
    generator = np.random.default_rng(5)
    blocks = np.kron(generator.normal(size=(5, 3, 4)), np.ones((4, 4)))
    truth = (tiny.truth * np.exp(0.2 * blocks)).astype(np.float32)
    depth = (tiny.truth * np.exp(0.15 * blocks + 0.03 * generator.normal(size=truth.shape))).astype(np.float32)
    return depth, truth, tiny.valid


def test_the_scores_are_those_of_plain_loops(rough):
    depth, truth, valid = rough
    as_float = depth.astype(float), truth.astype(float)
    assert 0.1 < float(metrics.boundary_f1(depth, truth, valid)) < 0.9
    assert float(metrics.boundary_f1(depth, truth, valid)) == pytest.approx(slow_boundary_f1(*as_float, valid))
    assert float(metrics.edge_gain(depth, truth, valid)) == pytest.approx(slow_edge_gain(*as_float, valid))
    known = np.ones(valid.shape, bool)
    assert float(metrics.edges_kept(depth, truth)) == pytest.approx(slow_edge_gain(*as_float, known))


def test_several_methods_are_scored_as_each_alone(rough):
    depth, truth, valid = rough
    found = both_scores(np.stack([depth, truth, 3 * depth]), truth, valid)
    assert found[:, 0].tolist() == both_scores(depth, truth, valid).tolist()
    assert found[:, 1].tolist() == both_scores(truth, truth, valid).tolist()
    assert found[:, 2] == pytest.approx(found[:, 0])


def test_tensors_score_as_arrays(rough):
    depth, truth, _ = rough
    tensors = [torch.from_numpy(one) for one in rough]
    np.testing.assert_array_equal(both_scores(*tensors), both_scores(*rough))
    assert float(metrics.edges_kept(*tensors[:2])) == float(metrics.edges_kept(depth, truth))


def blur(depth, sigma):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in depth.astype(np.float64)])


@pytest.fixture
def scene(fixed_clip):
    return fixed_clip.depth.astype(np.float64), fixed_clip.valid


def test_the_label_scores_one_and_a_constant_nothing(scene):
    truth, valid = scene
    assert both_scores(square(1.0), square(1.0), everywhere(square(1.0))).tolist() == pytest.approx([1, 1])
    # At the larger ratios this label has no edges in some directions, which keeps even itself below 1.
    assert both_scores(truth, truth, valid).tolist() == pytest.approx([slow_boundary_f1(truth, truth, valid), 1])
    assert both_scores(np.full_like(truth, 3.0), truth, valid).tolist() == [0, 0]
    assert float(metrics.edges_kept(truth, truth)) == pytest.approx(1)
    assert float(metrics.edges_kept(np.full_like(truth, 3.0), truth)) == 0


def test_blur_lowers_all_of_them_with_its_width(scene):
    truth, valid = scene
    blurred = np.stack([truth, *(blur(truth, sigma) for sigma in (1, 2, 4, 8))])
    for scores in (*both_scores(blurred, truth, valid), metrics.edges_kept(blurred, truth).numpy()):
        assert (np.diff(scores) < 0).all()
        assert scores[-1] > 0
    assert (
        both_scores(blurred, truth, valid)[0, 2] < 0.2 * both_scores(truth, truth, valid)[0]
    )  # strict about the place
    assert both_scores(blurred, truth, valid)[1, 2] > 0.5


def test_a_factor_changes_none_of_them(scene):
    truth, valid = scene
    soft = blur(truth, 1)
    for factor in (0.25, 7.3):
        assert both_scores(factor * soft, truth, valid) == pytest.approx(both_scores(soft, truth, valid))
        assert both_scores(soft, factor * truth, valid) == pytest.approx(both_scores(soft, truth, valid))


def test_sharpened_edges_are_more_than_all_of_them(scene):
    truth, valid = scene
    sharp = truth * (truth / blur(truth, 2)) ** 0.5
    assert float(metrics.edge_gain(sharp, truth, valid)) > 1.05
    assert float(metrics.edges_kept(sharp, truth)) > 1.05


def test_what_is_not_valid_is_never_read(rough, poison):
    depth, truth, valid = rough
    dirty = np.where(valid, truth, poison)
    np.testing.assert_array_equal(both_scores(depth, dirty, valid), both_scores(depth, truth, valid))
    dirty = truth.copy()
    dirty[1, 3, 4] = poison
    hole = np.ones(truth.shape, bool)
    hole[1, 3, 4] = False
    assert float(metrics.edges_kept(depth, dirty)) == float(metrics.edge_gain(depth, truth, hole))


def test_only_both_ends_of_a_difference_must_be_valid():
    truth = np.full((1, 1, 3), 1.0)
    truth[0, 0, 2] = 2
    valid = np.array([[[True, False, True]]])
    # The pairs of neighbours are gone, the one of two pixels apart is left.
    part = edge_gain_part(np.log(truth[0]), np.log(truth[0, 0]), valid[0, 0], 1, 3)
    assert part.count == 1
    assert float(metrics.edge_gain(np.array([[[1.0, 9.0, 4.0]]]), truth, valid)) == pytest.approx(2)
    assert np.isnan(float(metrics.boundary_f1(truth, truth, valid)))


def test_without_an_edge_there_is_no_score():
    flat = np.tile(np.linspace(2, 2 * math.exp(0.99 * EDGE_LOG_STEP / 8 * 11), 12), (2, 6, 1))
    assert np.isnan(both_scores(square(1.0, 1.0), square(1.0, 1.0), everywhere(square(1.0)))).all()
    assert np.isnan(both_scores(flat, flat, everywhere(flat))).all()
    assert np.isnan(float(metrics.edges_kept(flat, flat)))
    assert np.isnan(both_scores(flat, square(1.0).repeat(2, 0)[:, :6].repeat(2, 2)[:, :, :12], flat < 0)).all()


def test_a_frame_without_an_edge_is_left_out_of_the_mean():
    truth = np.concatenate([square(1.0), square(2.0), square(1.0)])
    depth = np.concatenate([square(1.0), square(1.0), square(2.0)])
    # The first has all, the second nothing to have, the third none.
    assert both_scores(depth, truth, everywhere(truth)).tolist() == [0.5, 0.5]


def test_images_smaller_than_the_distances_have_fewer_of_them():
    truth = np.array([[[1.0, 2.0], [1.0, 2.0]]])
    assert float(metrics.edge_gain(np.sqrt(truth), truth, everywhere(truth))) == pytest.approx(0.5)
    assert np.isnan(float(metrics.edge_gain(truth[:, :1, :1], truth[:, :1, :1], everywhere(truth[:, :1, :1]))))


def test_the_change_of_contrast_is_that_of_plain_loops(rough, poison):
    depth, truth, valid = (one[:2].copy() for one in rough)
    valid[1, 3:12, 4:] = False
    own, true = np.log(depth.astype(float)), np.log(truth.astype(float))
    found = contrast_change(own, np.where(valid, true, poison), valid)
    for t in range(2):
        for y in range(12):
            for x in range(16):
                near = (slice(max(y - 2, 0), y + 3), slice(max(x - 2, 0), x + 3))
                kept = valid[t][near]
                values = [image[t][near][kept] for image in (own, true)]
                expected = np.ptp(values[0]) - np.ptp(values[1]) if kept.any() else 0
                assert found[t, y, x] == pytest.approx(expected, abs=1e-12)
