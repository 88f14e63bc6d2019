import math

import numpy as np
import pytest
import torch
from slow_loops import bilinear, log_bilinear, reads_only

from steadydepth.metrics.along_flow import flow_flicker, flow_roughness, image_flow, warping_scores
from steadydepth.metrics.correspondences import Correspondence, Correspondences, Landings, trust
from steadydepth.metrics.temporal import (
    fixed_camera_scores,
    fixed_static_set,
    rigid_error,
    ssim,
    tae,
    tcc,
)
from steadydepth.ops.bidirectional_flow import TwoWayFlow, pair_from_frames

FLOWS = ("forward", "backward", "forward_visible", "backward_visible")


def rigid_scores(depth, tiny, truth=None):
    truth, static = tiny.truth if truth is None else truth, tiny.valid & ~tiny.moving
    return rigid_error(depth, truth, tiny.valid, static, K=tiny.K, cam_to_world=tiny.poses)


def test_one_pixel_under_a_fixed_camera_by_hand():
    depth = np.exp(np.float64([0.0, 0.1, 0.0, 0.3]))[:, None, None]
    valid = np.array([True, True, True, False])[:, None, None]
    found = fixed_camera_scores(depth, valid, torch.tensor([[True]]))
    # Three valid frames 0, 0.1, 0: mean 0.1 / 3, changes 0.1 and 0.1, slope 0.
    assert float(found["tsd"]) == pytest.approx(100 * math.sqrt(0.02 / 9))
    assert float(found["flicker"]) == pytest.approx(10)
    assert float(found["drift"]) == pytest.approx(0, abs=1e-12)
    everything = fixed_camera_scores(depth, np.ones_like(valid), torch.tensor([[True]]))
    # Slope of 0, 0.1, 0, 0.3 over 0..3: (-1.5 * 0 - 0.5 * 0.1 + 0.5 * 0 + 1.5 * 0.3) / 5.
    assert float(everything["drift"]) == pytest.approx(100 * 3 * 0.08)


def test_the_static_set_wants_enough_frames_little_change_and_no_object_near():
    truth = np.full((5, 6, 7), 2, np.float32)
    valid = np.ones((5, 6, 7), bool)
    valid[:3, 0, 0] = False  # two frames left
    valid[:2, 0, 1] = False  # three left
    truth[4, 0, 2] = 2 * 1.011
    truth[4, 0, 3] = 2 * 1.009
    moving = np.zeros_like(valid)
    moving[2, 4, 4] = True
    chosen = fixed_static_set(truth, valid, moving)
    assert chosen[0, :4].tolist() == [False, True, False, True]
    assert not chosen[3:6, 3:6].any()
    assert int(chosen.sum()) == 6 * 7 - 2 - 9
    assert fixed_static_set(truth, valid)[4, 4]


def test_fixed_camera_scores_against_loops(tiny):
    static = fixed_static_set(np.broadcast_to(tiny.truth[:1], tiny.truth.shape).copy(), tiny.valid, tiny.moving)
    found = fixed_camera_scores(tiny.depth, tiny.valid, static)
    deviations, changes, slopes = [], [], []
    for y, x in np.argwhere(static.numpy()):
        times = np.flatnonzero(tiny.valid[:, y, x])
        logs = [math.log(tiny.depth[t, y, x]) for t in times]
        deviations.append(np.std(logs))
        slopes.append(np.polyfit(times, logs, 1)[0])
        for t in range(4):
            if tiny.valid[t, y, x] and tiny.valid[t + 1, y, x]:
                changes.append(abs(math.log(tiny.depth[t + 1, y, x]) - math.log(tiny.depth[t, y, x])))
    assert len(deviations) > 10
    assert float(found["tsd"]) == pytest.approx(100 * np.mean(deviations))
    assert float(found["tsd_p95"]) == pytest.approx(100 * np.percentile(deviations, 95))
    assert float(found["flicker"]) == pytest.approx(100 * np.mean(changes))
    assert float(found["drift"]) == pytest.approx(400 * abs(np.mean(slopes)))


def test_rigid_error_against_loops(tiny):
    truth, valid, kept = tiny.truth.astype(float), tiny.valid, tiny.valid & ~tiny.moving
    errors, inverse = [], np.linalg.inv(tiny.K)
    for a in range(4):
        for source, target in ((a, a + 1), (a + 1, a)):
            transform = np.linalg.inv(tiny.poses[target]) @ tiny.poses[source]
            for y, x in np.argwhere(kept[source]):
                ray = inverse @ [x, y, 1]
                point = transform[:3, :3] @ (truth[source, y, x] * ray) + transform[:3, 3]
                u, v, w = tiny.K @ point
                u, v = round(u / w, 6), round(v / w, 6)
                if not reads_only(kept[target] & valid[target], u, v):
                    continue
                if abs(log_bilinear(truth[target], u, v) - math.log(point[2])) > 0.01:
                    continue
                own = transform[:3, :3] @ (tiny.depth[source, y, x] * ray) + transform[:3, 3]
                errors.append(abs(log_bilinear(tiny.depth[target], u, v) - math.log(own[2])))
    found = rigid_scores(tiny.depth, tiny)
    assert int(found["n_rigid"]) == len(errors) > 50
    assert float(found["sre"]) == pytest.approx(100 * np.mean(errors), rel=1e-6)


def test_warping_scores_against_loops(tiny):
    tiny.two_way.forward[0, 2, 3] = (0, 251)
    tiny.two_way.forward[0, 4, 5] = (-300, 0)
    means = {"opw": [], "rtc_1.01": [], "rtc_1.25": []}
    for t in range(4):
        errors, factors = [], []
        for y, x in np.argwhere(tiny.valid[t] & tiny.two_way.forward_visible[t]):
            flow = tiny.two_way.forward[t, y, x].astype(float)
            u, v = x + flow[0], y + flow[1]
            if (flow > 250).any() or not reads_only(np.ones((12, 16), bool), u, v):
                continue
            other = [bilinear(tiny.frames[t + 1, ..., c] / 255.0, u, v) for c in range(3)]
            if math.exp(-50 * math.dist(tiny.frames[t, y, x] / 255.0, other)) <= 0.01:
                continue
            here, there = float(tiny.depth[t, y, x]), bilinear(tiny.depth[t + 1].astype(float), u, v)
            errors.append(abs(there - here))
            factors.append(max(here / there, there / here))
        means["opw"].append(np.mean(errors))
        for tau in (1.01, 1.25):
            means[f"rtc_{tau}"].append(np.mean(np.array(factors) < tau))
    found = warping_scores(tiny.depth, tiny.frames, tiny.two_way, tiny.two_way.forward_visible, tiny.valid)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: np.mean(values) for name, values in means.items()}
    )


def test_label_free_scores_against_loops(tiny):
    changes, bends = [], []
    flow, log = tiny.two_way, np.log(tiny.depth.astype(float))
    everywhere = np.ones((12, 16), bool)
    for t in range(1, 5):
        for y, x in np.argwhere(flow.backward_visible[t - 1]):
            u, v = np.add((x, y), flow.backward[t - 1, y, x].astype(float))
            if not reads_only(everywhere, u, v):
                continue
            behind = log_bilinear(tiny.depth[t - 1], u, v)
            changes.append(abs(log[t, y, x] - behind))
            if t < 4 and flow.forward_visible[t, y, x]:
                u, v = np.add((x, y), flow.forward[t, y, x].astype(float))
                if reads_only(everywhere, u, v):
                    bends.append(abs(log_bilinear(tiny.depth[t + 1], u, v) - 2 * log[t, y, x] + behind))
    flicker, rough = flow_flicker(tiny.depth, flow), flow_roughness(tiny.depth, flow)
    assert (int(flicker["n_followed"]), int(rough["n_followed_twice"])) == (len(changes), len(bends))
    assert float(flicker["flicker_flow"]) == pytest.approx(100 * np.mean(changes))
    assert float(rough["rough_flow"]) == pytest.approx(100 * np.mean(bends))


def test_alignment_error_against_loops(tiny):
    kept, inverse, terms = tiny.valid, np.linalg.inv(tiny.K), []
    for a in range(4):
        for source, target in ((a, a + 1), (a + 1, a)):
            transform = np.linalg.inv(tiny.poses[target]) @ tiny.poses[source]
            nearest = np.full((12, 16), np.inf)
            for y, x in np.argwhere(kept[source]):
                point = transform[:3, :3] @ (float(tiny.depth[source, y, x]) * (inverse @ [x, y, 1])) + transform[:3, 3]
                u, v = (round(value) for value in (tiny.K @ point)[:2] / point[2])
                if 0 <= u < 16 and 0 <= v < 12:
                    nearest[v, u] = min(nearest[v, u], point[2])
            shown = kept[target] & np.isfinite(nearest)
            there = tiny.depth[target][shown].astype(float)
            terms.append(np.mean(np.abs(there - nearest[shown]) / there))
    found = tae(tiny.depth, kept, K=tiny.K, cam_to_world=tiny.poses)
    assert float(found) == pytest.approx(100 * np.mean(terms))


def slow_ssim(first, second):
    window = np.array([[math.exp(-(i * i + j * j) / 4.5) for i in range(-5, 6)] for j in range(-5, 6)])
    window /= window.sum()
    values = []
    for y in range(first.shape[0] - 10):
        for x in range(first.shape[1] - 10):
            a, b = first[y : y + 11, x : x + 11], second[y : y + 11, x : x + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            values.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return np.mean(values)


def test_change_consistency_against_loops(tiny):
    values = []
    for t in range(4):
        both = tiny.valid[t] & tiny.valid[t + 1]
        changes = [np.abs(np.where(both, d[t + 1].astype(float) - d[t], 0)) for d in (tiny.depth, tiny.truth)]
        values.append(max(0, slow_ssim(*changes)))
    assert float(tcc(tiny.depth, tiny.truth, tiny.valid)) == pytest.approx(np.mean(values))
    image = np.random.default_rng(0).random((12, 16))
    assert ssim(image[None], image) == pytest.approx(1)


def scores_of(depth, tiny):
    """Every score that needs no exact label, on one stack of methods."""
    static = torch.ones(12, 16, dtype=torch.bool)
    everywhere = np.ones(tiny.truth.shape, bool)
    return (
        fixed_camera_scores(depth, tiny.valid, static)
        | rigid_scores(depth, tiny)
        | warping_scores(depth, tiny.frames, tiny.two_way, tiny.two_way.forward_visible, everywhere)
        | flow_flicker(depth, tiny.two_way)
        | flow_roughness(depth, tiny.two_way)
        | {"tae": tae(depth, tiny.valid, K=tiny.K, cam_to_world=tiny.poses)}
        | {"tcc": tcc(depth, tiny.truth, tiny.valid)}
    )


def test_one_clip_or_several_numpy_or_torch_give_the_same_numbers(tiny):
    one = scores_of(tiny.depth, tiny)
    stack = scores_of(torch.from_numpy(np.stack((tiny.truth, tiny.depth))), tiny)
    for name, value in one.items():
        assert value.shape == ()
        torch.testing.assert_close(stack[name][1], value)


def test_a_constant_factor_is_not_flicker(tiny):
    one, scaled = scores_of(tiny.depth.astype(float), tiny), scores_of(3 * tiny.depth.astype(float), tiny)
    for name in ("tsd", "tsd_p95", "flicker", "drift", "flicker_flow", "rough_flow", "rtc_1.01", "rtc_1.25"):
        torch.testing.assert_close(scaled[name], one[name])
    torch.testing.assert_close(scaled["opw"], 3 * one["opw"])


def test_a_constant_wins_everything_but_change_consistency(tiny):
    constant = scores_of(np.full_like(tiny.depth, 2), tiny)
    for name in ("tsd", "flicker", "drift", "opw", "flicker_flow", "rough_flow"):
        assert float(constant[name]) == pytest.approx(0, abs=1e-9)
    assert float(constant["rtc_1.01"]) == 1
    assert constant["tcc"] < 1
    assert float(tcc(tiny.truth, tiny.truth, tiny.valid)) == pytest.approx(1)


def test_what_does_not_count_changes_nothing(tiny, poison):
    dirty = np.where(tiny.valid, tiny.truth, poison)
    before = rigid_scores(tiny.depth, tiny) | {"tcc": tcc(tiny.depth, tiny.truth, tiny.valid)}
    after = rigid_scores(tiny.depth, tiny, dirty) | {"tcc": tcc(tiny.depth, dirty, tiny.valid)}
    assert after == before
    assert fixed_static_set(dirty, tiny.valid).equal(fixed_static_set(tiny.truth, tiny.valid))


@pytest.mark.parametrize("t", [1, 2, 5])
def test_nothing_to_measure_has_no_value(tiny, t):
    depth, nothing = tiny.depth[:t], np.zeros_like(tiny.valid[:t])
    assert all(
        value.isnan() for value in fixed_camera_scores(depth, nothing, torch.zeros(12, 16, dtype=torch.bool)).values()
    )
    assert tae(depth, nothing, K=tiny.K, cam_to_world=tiny.poses[:t]).isnan()
    assert tcc(depth, depth, nothing).isnan()
    flow = TwoWayFlow(*(getattr(tiny.two_way, name)[: t - 1] for name in FLOWS))
    known = flow.forward_visible & False
    assert all(value.isnan() for value in warping_scores(depth, tiny.frames[:t], flow, known, nothing).values())
    poses = {"K": tiny.K, "cam_to_world": tiny.poses[:t]}
    assert rigid_error(depth, depth, nothing, nothing, **poses)["sre"].isnan()
    assert flow_flicker(depth, flow, nothing)["flicker_flow"].isnan()
    assert flow_roughness(depth, flow, nothing)["rough_flow"].isnan()


def test_flow_is_trusted_where_it_is_visible_and_colours_agree_but_for_the_light_by_hand():
    still = Landings(np.zeros((1, 101, 2), np.float32))
    visible = np.arange(101) > 0
    here, there = np.full((3, 101), 0.6), np.full((3, 101), 0.3)
    there[:, 1] = 0.9
    both = Correspondences(Correspondence(still, visible), Correspondence(still, ~visible))
    # A mean of 0.6 over that of 0.306: 0.3 becomes 0.588, near enough, and 0.9 is far from 0.6.
    assert trust(both, here, there).forward.visible.tolist() == [False, False] + 99 * [True]
    assert trust(both, here, there).backward.visible.tolist() == [True] + 100 * [False]
    black = trust(both, here, np.zeros_like(there))
    assert not black.forward.visible.any()


def test_depth_below_a_millimetre_counts_as_one():
    depth = np.array([-1.0, 0.0, 0.002]).reshape(3, 1, 1)
    found = fixed_camera_scores(depth, np.ones((3, 1, 1), bool), np.ones((1, 1), bool))
    assert float(found["flicker"]) == pytest.approx(100 * math.log(2) / 2)


def test_light_that_changes_is_not_a_reason_to_look_away(tiny):
    frames = np.repeat(tiny.frames[:1], 2, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    frames[1] = frames[1] * 0.6
    flow = pair_from_frames(*frames)
    trusted = image_flow(frames)
    assert trusted.forward_visible.sum() > 0.8 * flow.forward_visible.sum() > 0
    frames[1, :, :24] = 255 - frames[1, :, :24]
    assert image_flow(frames).forward_visible[:, :, :16].mean() < 0.2
