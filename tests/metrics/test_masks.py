"""Masks are True and False, or 0 and 1 of any kind; weights are refused."""

import numpy as np
import pytest
import torch

from steadydepth import metrics
from steadydepth.errors import InputError


def all_masked(tiny, kind):
    """Every score that takes a mask, the masks through `kind`."""
    kept, moving, static = kind(tiny.valid), kind(tiny.moving), kind(tiny.valid & ~tiny.moving)
    poses = {"K": tiny.K, "cam_to_world": tiny.poses}
    flow = metrics.label_flow(tiny.two_way.forward, kind(tiny.two_way.forward_visible), tiny.truth, kept)
    split = metrics.split_by_objects(moving, kept)
    pose_split = metrics.split_by_pose(tiny.truth, kept, **poses, visible_next=kept)
    return {
        "set": metrics.fixed_static_set(tiny.truth, kept, moving),
        "split": np.stack((split.static, split.moving, pose_split.static, pose_split.moving)),
        "scale": metrics.fit_scale(tiny.depth, tiny.truth, kept).scale,
        "tae": metrics.tae(tiny.depth, kept, **poses),
        "tcc": metrics.tcc(tiny.depth, tiny.truth, kept),
        **metrics.accuracy_scores(tiny.depth, tiny.truth, kept),
        **metrics.fixed_camera_scores(tiny.depth, kept, kind(np.ones((12, 16), bool))),
        **metrics.rigid_error(tiny.depth, tiny.truth, kept, static, **poses),
        **metrics.warping_scores(
            tiny.depth, tiny.frames, tiny.two_way, kind(tiny.two_way.forward_visible), kept, landing=kept
        ),
        **metrics.flow_flicker(tiny.depth, tiny.two_way, kept),
        **metrics.flow_roughness(tiny.depth, tiny.two_way, kept),
        **metrics.change_scores(tiny.depth, tiny.truth, moving, flow),
        **metrics.bend_scores(tiny.depth, tiny.truth, moving, flow),
        **metrics.label_change_scores(tiny.depth, tiny.truth, kept),
    }


@pytest.mark.parametrize(
    "kind",
    [
        lambda mask: mask.astype(np.float32),
        lambda mask: mask.astype(np.uint8),
        lambda mask: torch.from_numpy(mask).double(),
        lambda mask: torch.from_numpy(mask).long(),
    ],
)
def test_a_mask_of_ones_and_zeros_is_a_mask(tiny, kind):
    expected = all_masked(tiny, lambda mask: mask)
    for name, value in all_masked(tiny, kind).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("wrong", [0.5, -1.0, 255.0, float("nan")])
def test_a_mask_of_anything_else_is_refused(tiny, wrong):
    mask = tiny.valid.astype(np.float64)
    mask[0, 3, 4] = wrong
    for refuse in (
        lambda: metrics.accuracy_scores(tiny.depth, tiny.truth, mask),
        lambda: metrics.tae(tiny.depth, mask, K=tiny.K, cam_to_world=tiny.poses),
        lambda: metrics.fit_scale(tiny.depth, tiny.truth, mask),
        lambda: metrics.flow_flicker(tiny.depth, tiny.two_way, mask),
    ):
        with pytest.raises(InputError, match=f"a mask holds {wrong}: .* such as mask > 0.5"):
            refuse()


@pytest.mark.parametrize("frames", [np.s_[:, ::2], np.s_[1:]])
def test_flow_of_another_size_or_length_than_the_depth_is_refused(tiny, frames, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    depth, truth, moving, kept = (each[frames] for each in (tiny.depth, tiny.truth, tiny.moving, tiny.valid))
    for score in (
        lambda: metrics.flow_flicker(depth, tiny.two_way),
        lambda: metrics.flow_roughness(depth, tiny.two_way),
        lambda: metrics.opw_nvds(depth, tiny.frames, tiny.two_way),
        lambda: metrics.warping_scores(depth, tiny.frames, tiny.two_way, tiny.two_way.forward_visible, kept),
        lambda: metrics.change_scores(depth, truth, moving, tiny.two_way),
        lambda: metrics.bend_scores(depth, truth, moving, tiny.two_way),
    ):
        with pytest.raises(InputError, match=r"flow is .*, and for this depth .*: resize the depth first"):
            score()


def test_depth_of_one_frame_without_its_axis_is_refused(monkeypatch, tiny):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(InputError, match=r"depth is \(12, 16\); it is \(t, h, w\)"):
        metrics.accuracy_scores(tiny.depth[0], tiny.truth[0], tiny.valid[0])
