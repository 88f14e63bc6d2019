import math

import numpy as np
import pytest
import torch
from slow_loops import log_bilinear, reads_only

from steadydepth.metrics.dynamic import (
    bend_scores,
    change_scores,
    label_change_scores,
    split_by_objects,
    split_by_pose,
)
from steadydepth.ops.bidirectional_flow import TwoWayFlow


def moving_pixels(tiny):
    # The larger of the two sets, so that three frames in a row have enough of it.
    return tiny.valid & ~tiny.moving


def scores_of(depth, truth, tiny):
    kept = moving_pixels(tiny)
    return change_scores(depth, truth, kept, tiny.two_way) | bend_scores(depth, truth, kept, tiny.two_way)


def test_one_trajectory_by_hand():
    # A point at pixel (0, 0) that moves one pixel to the right each frame, log depth 0, 0.1, 0.3; predicted 0, 0, 0.1.
    truth, depth = np.ones((3, 1, 4)), np.ones((3, 1, 4))
    for t, (true_log, log) in enumerate([(0, 0), (0.1, 0), (0.3, 0.1)]):
        truth[t, 0, t], depth[t, 0, t] = math.exp(true_log), math.exp(log)

    flow, moving = np.zeros((2, 1, 4, 2), np.float32), np.zeros((3, 1, 4), bool)
    flow[..., 0] = 1
    for t in range(3):
        moving[t, 0, t] = True
    visible = np.ones((2, 1, 4), bool)
    two_way = TwoWayFlow(flow, -flow, visible, visible)
    changes = change_scores(depth, truth, moving, two_way)
    assert float(changes["vel"]) == pytest.approx(100 * (0.1 + 0.1) / 2)
    assert float(changes["gain"]) == pytest.approx(0.1 * 0.2 / (0.1**2 + 0.2**2))
    bends = bend_scores(depth, truth, moving, two_way)
    assert float(bends["acc"]) == pytest.approx(100 * abs(0.1 - 0.1), abs=1e-9)
    assert float(bends["rough"]) == pytest.approx(10)


def test_objects_move_and_what_is_beside_them_is_neither():
    moving, valid = np.zeros((1, 6, 7), bool), np.ones((1, 6, 7), bool)
    moving[0, 2, 3], moving[0, 5, 6], valid[0, 5, 6] = True, True, False
    split = split_by_objects(moving, valid)
    assert np.argwhere(split.moving).tolist() == [[0, 2, 3]]
    assert not split.static[0, 1:4, 2:5].any()
    assert not split.static[0, 4:, 5:].any()
    assert int(split.static.sum()) == 42 - 9 - 4


def test_without_objects_the_label_says_what_moved():
    # 1 m is also what stands where there is no label.
    truth = np.ones((3, 4, 5), np.float32)
    truth[1:, 0, 0] *= 1.05  # moved after the first frame
    truth[2, 0, 1] *= 1.5  # something else came here
    truth[2, 0, 2] *= 1.005  # noise
    valid = np.ones((3, 4, 5), bool)
    valid[1, 0, 3] = False
    split = split_by_pose(truth, valid, K=np.eye(3), cam_to_world=np.tile(np.eye(4), (3, 1, 1)))
    assert split.moving[:, 0, 0].tolist() == [True, False, False]
    assert split.static[:, 0, 0].tolist() == [False, True, True]
    assert split.static[:, 0, 1].tolist() == [True, False, False]
    assert not split.moving[:, 0, 1].any()
    assert split.static[:, 0, 2].all()
    assert split.static[:, 0, 3].tolist() == [False, False, False]
    unseen = np.zeros_like(valid)
    hidden = split_by_pose(truth, valid, K=np.eye(3), cam_to_world=np.tile(np.eye(4), (3, 1, 1)), visible_next=unseen)
    assert not hidden.moving.any()


def test_a_walking_camera_does_not_move_the_world(moving_clip):
    split = split_by_pose(moving_clip.depth, moving_clip.valid, K=moving_clip.K, cam_to_world=moving_clip.cam_to_world)
    world = split_by_objects(moving_clip.objects > 0, moving_clip.valid).static
    assert (split.static & world).sum() > 0.8 * world.sum()
    assert (split.moving & world).sum() < 0.1 * world.sum()


def test_trajectory_scores_against_loops(tiny):
    kept, flow = moving_pixels(tiny), tiny.two_way
    v, true_v, a, true_a = [], [], [], []
    for t in range(4):
        for y, x in np.argwhere(kept[t] & flow.forward_visible[t]):
            ahead = np.add((x, y), flow.forward[t, y, x].astype(float))
            if not reads_only(kept[t + 1], *ahead):
                continue
            logs = [(log_bilinear(d[t + 1], *ahead), math.log(d[t, y, x])) for d in (tiny.depth, tiny.truth)]
            v.append(logs[0][0] - logs[0][1])
            true_v.append(logs[1][0] - logs[1][1])
            if t > 0 and flow.backward_visible[t - 1, y, x]:
                behind = np.add((x, y), flow.backward[t - 1, y, x].astype(float))
                if reads_only(kept[t - 1], *behind):
                    a.append(v[-1] - logs[0][1] + log_bilinear(tiny.depth[t - 1], *behind))
                    true_a.append(true_v[-1] - logs[1][1] + log_bilinear(tiny.truth[t - 1], *behind))
    v, true_v, a, true_a = map(np.array, (v, true_v, a, true_a))
    found = scores_of(tiny.depth, tiny.truth, tiny)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {
            "vel": 100 * np.abs(v - true_v).mean(),
            "gain": (v * true_v).sum() / (true_v**2).sum(),
            "n_tracked": len(v),
            "acc": 100 * np.abs(a - true_a).mean(),
            "rough": 100 * np.abs(a).mean(),
            "n_tracked_twice": len(a),
        }
    )
    assert len(a) > 10


def test_label_change_scores_against_loops(tiny):
    rng = np.random.default_rng(1)
    truth = tiny.truth * np.exp(rng.choice([0.0, 0.05, 0.4], p=[0.5, 0.4, 0.1], size=tiny.truth.shape))
    log, true_log = np.log(tiny.depth.astype(float)), np.log(truth.astype(float))
    errors = {"static": [], "moving": [], "twice": []}
    for y in range(12):
        for x in range(16):
            before = None
            for t in range(4):
                now = None
                if tiny.valid[t, y, x] and tiny.valid[t + 1, y, x]:
                    true_change = true_log[t + 1, y, x] - true_log[t, y, x]
                    error = log[t + 1, y, x] - log[t, y, x] - true_change
                    if abs(true_change) <= math.log(1.01):
                        errors["static"].append(abs(error))
                    elif abs(true_change) <= math.log(1.15):
                        errors["moving"].append(abs(error))
                        now = error
                        if before is not None:
                            errors["twice"].append(abs(error - before))
                before = now
    found = label_change_scores(tiny.depth, truth, tiny.valid)
    assert float(found["ltg_static"]) == pytest.approx(100 * np.mean(errors["static"]))
    assert float(found["ltg_moving"]) == pytest.approx(100 * np.mean(errors["moving"]))
    assert float(found["lta_moving"]) == pytest.approx(100 * np.mean(errors["twice"]))
    counts = [int(found[name]) for name in ("n_unchanged", "n_changed", "n_changed_twice")]
    assert counts == [len(values) for values in errors.values()]
    assert min(counts) > 20


def test_the_truth_costs_nothing_and_a_factor_changes_nothing(tiny):
    exact = scores_of(2.5 * tiny.truth.astype(float), tiny.truth.astype(float), tiny)
    assert float(exact["gain"]) == pytest.approx(1)
    assert float(exact["vel"]) == pytest.approx(0, abs=1e-9)
    assert float(exact["acc"]) == pytest.approx(0, abs=1e-9)
    still = label_change_scores(2.5 * tiny.truth.astype(float), tiny.truth.astype(float), tiny.valid)
    assert float(still["ltg_static"]) == pytest.approx(0, abs=1e-9)


def test_a_frozen_prediction_has_no_gain(tiny):
    frozen = scores_of(np.full_like(tiny.truth, 3), tiny.truth, tiny)
    assert float(frozen["gain"]) == pytest.approx(0, abs=1e-9)
    assert float(frozen["rough"]) == pytest.approx(0, abs=1e-9)
    assert frozen["vel"] > 0


def test_gain_has_no_value_where_the_truth_does_not_change(tiny):
    still = np.full_like(tiny.truth, 2)
    found = scores_of(tiny.depth, still, tiny)
    assert found["gain"].isnan()
    assert torch.isfinite(found["vel"])


def test_what_does_not_count_changes_nothing(tiny, poison):
    dirty = np.where(tiny.valid, tiny.truth, poison)
    assert scores_of(tiny.depth, dirty, tiny) == scores_of(tiny.depth, tiny.truth, tiny)
    before = label_change_scores(tiny.depth, tiny.truth, tiny.valid)
    assert label_change_scores(tiny.depth, dirty, tiny.valid) == before
    poses = {"K": tiny.K, "cam_to_world": tiny.poses}
    splits = [split_by_pose(truth, tiny.valid, **poses) for truth in (tiny.truth, dirty)]
    np.testing.assert_array_equal(splits[0].static, splits[1].static)
    np.testing.assert_array_equal(splits[0].moving, splits[1].moving)


def test_nothing_to_measure_has_no_value(tiny):
    nothing = np.zeros_like(tiny.valid)
    changes = change_scores(tiny.depth, tiny.truth, nothing, tiny.two_way)
    assert all(changes[name].isnan() for name in ("vel", "gain"))
    bends = bend_scores(tiny.depth, tiny.truth, nothing, tiny.two_way)
    assert all(bends[name].isnan() for name in ("acc", "rough"))
    assert label_change_scores(tiny.depth, tiny.truth, nothing)["ltg_static"].isnan()
    one = split_by_pose(tiny.truth[:1], tiny.valid[:1], K=tiny.K, cam_to_world=tiny.poses[:1])
    assert not one.static.any()
