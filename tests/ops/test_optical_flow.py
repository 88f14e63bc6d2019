from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from steadydepth.ops.bidirectional_flow import backward_from_frames, pair_from_frames, stack_pairs, two_way_from_labels
from steadydepth.ops.fast_flow import fast_flow, is_other_view
from steadydepth.ops.lucas_kanade import lucas_kanade_flow
from steadydepth.ops.optical_flow import consistent, dis_flow, invert_flow

HEIGHT, WIDTH = 40, 56


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 8, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)


def constant_flow(x, y=0.0, height=HEIGHT, width=WIDTH):
    return np.tile(np.float32([x, y]), (height, width, 1))


def test_dis_finds_a_shift_in_changing_light(image):
    source, target = image[:, 4 : 4 + WIDTH], (image[:, 2 : 2 + WIDTH] * 0.7).astype(np.uint8)
    flow = dis_flow(source, target)
    np.testing.assert_allclose(np.median(flow.reshape(-1, 2), axis=0), [2, 0], atol=0.1)


def shifted(x, y):
    """An image, and the same with all of it that many pixels further, in uneven light."""
    noise = np.random.default_rng(0).integers(0, 256, (108, 140, 3), dtype=np.uint8)
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)
    light = np.linspace(0.5, 1.0, 128)[:, None]
    return image[4:104, 4:132], (image[4 - y : 104 - y, 4 - x : 132 - x] * light).astype(np.uint8)


def in_graph(*pairs):
    """The flow of one pair of images, or of several at once."""
    images = (torch.from_numpy(np.stack(one)).permute(0, 3, 1, 2).float() / 255 for one in zip(*pairs, strict=True))
    return lucas_kanade_flow(*images).numpy()


@pytest.mark.parametrize("shift", [(3, 0), (-1, 2), (0, -3)])
@pytest.mark.parametrize("flow_of", [fast_flow, lambda *pair: in_graph(pair)[0]], ids=["DIS", "in a graph"])
def test_fast_flow_finds_a_shift_in_uneven_light(shift, flow_of):
    flow = flow_of(*shifted(*shift))
    assert flow.shape == (100, 128, 2)
    np.testing.assert_allclose(np.median(flow.reshape(-1, 2), axis=0), shift, atol=0.15)


def test_flow_in_a_graph_does_not_mix_the_images_of_a_batch():
    pairs = shifted(2, 1), [shifted(0, 0)[0]] * 2, shifted(-2, 0)
    for found, pair in zip(in_graph(*pairs), pairs, strict=True):
        np.testing.assert_allclose(found, in_graph(pair)[0], atol=1e-3)


def test_fast_flow_of_a_still_view_in_noise_is_0_and_what_moves_in_it_moves(image):
    generator = np.random.default_rng(1)
    still = np.tile(image[:, :WIDTH], (2, 1, 1))
    moved = still.copy()
    moved[50:70, 20:40] = still[50:70, 17:37]
    noisy = [np.clip(one + generator.normal(0, 4, one.shape), 0, 255).astype(np.uint8) for one in (moved, still)]
    flow = fast_flow(*noisy)
    assert (flow[:40] == 0).mean() > 0.9
    np.testing.assert_allclose(np.median(flow[54:66, 24:36].reshape(-1, 2), axis=0), [-3, 0], atol=0.8)


def test_flow_across_a_cut_is_unknown_and_in_a_new_light_it_is_known(image):
    """The same rule for DIS and for the flow in a graph."""
    other = cv2.flip(image, -1)[:, :WIDTH]
    one = image[:, :WIDTH]
    darker = (one * 0.5).astype(np.uint8)
    for target, is_known in ((other, False), (darker, True), (one, True)):
        assert np.isfinite(fast_flow(one, target)).all() == is_known
        assert np.isfinite(in_graph((one, target))).all() == is_known
        assert np.isfinite(in_graph((one, target))).any() == is_known


def test_two_images_are_of_other_views_where_both_show_something_and_are_not_alike():
    strong, other = np.random.default_rng(3).integers(60, 197, (2, 40, 50), dtype=np.uint8)
    faint = np.random.default_rng(4).integers(126, 131, (40, 50), dtype=np.uint8)
    assert is_other_view(strong, other)
    for pair in ((strong, strong), (strong, faint), (faint, strong)):
        assert not is_other_view(*pair)


def test_noise_on_a_wall_is_no_cut():
    wall = np.clip(120 + np.random.default_rng(2).normal(0, 4, (2, 96, 128, 3)), 0, 255).astype(np.uint8)
    assert np.isfinite(fast_flow(*wall)).all()
    assert np.isfinite(in_graph(wall)).all()


def test_fast_flow_of_an_image_too_small_for_dis_is_unknown():
    assert np.isnan(fast_flow(*np.zeros((2, 8, 20, 3), np.uint8))).all()


def test_a_shift_and_its_inverse_are_consistent_but_where_it_leaves_the_image():
    visible = consistent(constant_flow(3.0), constant_flow(-3.0))
    assert visible[:, : WIDTH - 3].all()
    assert not visible[:, WIDTH - 3 :].any()


@pytest.mark.parametrize(("gap", "expected"), [(0.55, True), (0.7, False)])
def test_the_threshold_is_half_a_pixel_and_one_per_cent_of_both_lengths(gap, expected):
    # 0.01 * (4 + 4 - gap) + 0.5 is between the two.
    visible = consistent(constant_flow(4.0), constant_flow(gap - 4.0))
    assert (visible[:, : WIDTH - 4] == expected).all()


def test_the_inverse_of_a_shift_is_the_shift_back():
    back, visible = invert_flow(constant_flow(2.5, 1.0), np.ones((HEIGHT, WIDTH), bool))
    assert visible[1:-1, 4:].all()
    assert not visible[0].any()
    assert not visible[:, :2].any()
    np.testing.assert_allclose(back[visible], np.broadcast_to([-2.5, -1.0], back[visible].shape), atol=0.02)


def test_the_inverse_of_a_smooth_field_closes_to_a_small_part_of_a_pixel():
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    flow = np.stack((1.5 + 0.05 * x, 0.5 - 0.03 * y), axis=-1)
    back, visible = invert_flow(flow, np.ones((HEIGHT, WIDTH), bool))
    # x' = 1.05 x + 1.5, so x - x' = -(0.05 x' + 1.5) / 1.05; the same for y.
    exact = np.stack((-(0.05 * x + 1.5) / 1.05, -(0.5 - 0.03 * y) / 0.97), axis=-1)
    assert visible.mean() > 0.8
    assert np.abs(back - exact)[visible].max() < 0.05


def test_the_nearest_of_two_that_land_on_one_pixel_wins():
    flow = constant_flow(0.0)
    depth = np.full((HEIGHT, WIDTH), 5, np.float32)
    flow[10:20, 10:16, 0], depth[10:20, 10:16] = 10, 1
    for order in (depth, -depth + 6):
        back, visible = invert_flow(flow, np.ones((HEIGHT, WIDTH), bool), order)
        nearer_moves = order[12, 12] == 1
        assert visible[12:18, 21:25].all()
        assert (np.abs(back[12:18, 21:25, 0] - (-10 if nearer_moves else 0)) < 0.01).all()


def test_what_is_half_covered_from_either_side_is_not_seen():
    flow = constant_flow(0.0)
    depth = np.full((HEIGHT, WIDTH), 5, np.float32)
    flow[10:20, 10:16, 0], depth[10:20, 10:16] = 10.5, 1  # lands on columns 20.5 to 25.5
    back, visible = invert_flow(flow, np.ones((HEIGHT, WIDTH), bool), depth)
    assert not visible[12:18, 20].any()
    assert not visible[12:18, 26].any()
    assert visible[12:18, [19, 27]].all()
    assert (np.abs(back[12:18, 21:26, 0] + 10.5) < 0.05).all()


def test_invalid_flow_shows_nothing():
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:, 20:30] = False
    poisoned = np.where(valid[..., None], constant_flow(0.0), np.float32(np.nan)).astype(np.float32)
    back, visible = invert_flow(poisoned, valid)
    assert not visible[:, 21:29].any()
    assert np.isfinite(back[visible]).all()


def test_label_flow_is_not_seen_where_something_nearer_covers_it():
    flow = constant_flow(0.0)[None]
    depth = np.full((2, HEIGHT, WIDTH), 5, np.float32)
    flow[0, 10:20, 10:16, 0], depth[0, 10:20, 10:16] = 10, 1
    everything = np.ones((1, HEIGHT, WIDTH), bool)
    found = two_way_from_labels(flow, everything, depth, np.ones_like(depth, bool))
    assert found.forward_visible[0, 12:18, 11:15].all()  # the thing that moves
    assert found.backward_visible[0, 12:18, 21:25].all()  # and where it is then
    assert not found.forward_visible[0, 12:18, 21:25].any()  # what it moves in front of
    assert not found.backward_visible[0, 12:18, 11:15].any()  # what it uncovers
    assert found.forward_visible[0, :8].all()


def test_a_pixel_without_label_depth_never_hides_another():
    flow = constant_flow(0.0)[None]
    depth = np.full((2, HEIGHT, WIDTH), 5, np.float32)
    flow[0, 10:20, 10:16, 0], depth[0, 10:20, 10:16] = 10, 0
    found = two_way_from_labels(flow, np.ones((1, HEIGHT, WIDTH), bool), depth, depth > 0)
    assert found.forward_visible[0, 12:18, 21:25].all()


def test_frames_alone_give_flow_both_ways(image):
    frames = np.stack([image[:, 4 : 4 + WIDTH], image[:, 2 : 2 + WIDTH], image[:, :WIDTH]])
    found = stack_pairs([pair_from_frames(*pair) for pair in pairwise(frames)], HEIGHT, WIDTH)
    assert found.forward.shape == found.backward.shape == (2, HEIGHT, WIDTH, 2)
    assert found.forward_visible.mean() > 0.7
    assert found.backward_visible.mean() > 0.7
    np.testing.assert_allclose(np.median(found.forward[found.forward_visible], axis=0), [2, 0], atol=0.1)
    np.testing.assert_allclose(np.median(found.backward[found.backward_visible], axis=0), [-2, 0], atol=0.1)


@pytest.mark.parametrize("shape", [(3, 9, 30), (1, HEIGHT, WIDTH)])
def test_frames_too_small_or_too_few_show_nothing(shape):
    frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = stack_pairs([pair_from_frames(*pair) for pair in pairwise(frames)], *shape[1:])
    assert found.forward.shape == (shape[0] - 1, *shape[1:], 2)
    assert (found.forward == 0).all()
    assert not found.forward_visible.any()
    assert not found.backward_visible.any()


@pytest.mark.parametrize(("height", "is_known"), [(11, False), (12, True)])
def test_twelve_pixels_are_enough_for_flow(height, is_known):
    image = np.random.default_rng(0).integers(0, 256, (height, 20, 3), np.uint8)
    pair, (_, visible) = pair_from_frames(image, image), backward_from_frames(image, image)
    for found in (pair.forward_visible, pair.backward_visible, visible):
        assert found.any() == is_known
