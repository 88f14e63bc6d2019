from dataclasses import replace

import numpy as np
import pytest
import torch

from steadydepth.data.clips import Sample, clip_motion, fit_clip
from steadydepth.data.geometric import View, view_sample
from steadydepth.data.loader import ClipSamples
from steadydepth.data.samples import Augmentation, augment_sample
from steadydepth.ops.camera import unproject
from steadydepth.ops.photometric import Photometric
from steadydepth.ops.warp import sample as sample_at
from steadydepth.types import Clip


def test_a_quarter_turn_is_exact():
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    depth = np.random.default_rng(1).random((3, 6, 6), np.float32) + 1
    flow = np.zeros((2, 6, 6, 2), np.float32)
    flow[..., 0], flow[..., 1] = 1, 3
    clip = Clip("a", frames, 30.0, depth=depth, valid=depth > 1.5, flow=flow, flow_valid=depth[:2] > 1.2)
    turned = view_sample(Sample(clip, None, None), View(turn_rad=np.pi / 2)).clip
    # x right and y down: what was to the right is now below.
    np.testing.assert_array_equal(turned.frames, np.rot90(frames, -1, axes=(1, 2)))
    np.testing.assert_array_equal(turned.depth, np.rot90(depth, -1, axes=(1, 2)))
    np.testing.assert_array_equal(turned.valid, np.rot90(depth > 1.5, -1, axes=(1, 2)))
    np.testing.assert_array_equal(turned.flow_valid, np.rot90(depth[:2] > 1.2, -1, axes=(1, 2)))
    np.testing.assert_allclose(turned.flow, np.broadcast_to([-3.0, 1.0], flow.shape), atol=1e-6)


def test_a_zoom_of_three_into_a_corner_by_hand():
    depth = np.arange(1, 25, dtype=np.float32).reshape(1, 4, 6)
    K = np.array([[5.0, 0, 2.5], [0, 7.0, 1.5], [0, 0, 1]])
    clip = Clip("a", np.zeros((1, 4, 6, 3), np.uint8), 30.0, depth=depth, valid=depth > 0, K=K)
    zoomed = view_sample(Sample(clip, None, None), View(zoom=3.0, left=1.0, top=0.0)).clip
    # Three by three pixels show one: the last two columns and the first one and a third of the rows.
    np.testing.assert_array_equal(zoomed.depth[0], depth[0][np.ix_([0, 0, 0, 1], [4, 4, 4, 5, 5, 5])])
    assert zoomed.valid.all()
    # The outer edges, half a pixel before the first centre: 3 (2.5 + 0.5) - 0.5 - 12 and 3 (1.5 + 0.5) - 0.5.
    np.testing.assert_allclose(zoomed.K, [[15, 0, -3.5], [0, 21, 5.5], [0, 0, 1]])


def test_no_zoom_and_no_turn_change_nothing(moving_clip):
    sample = Sample(moving_clip, *clip_motion(moving_clip, "flow"))
    same = view_sample(sample, View())
    for name in ("frames", "depth", "valid", "objects", "flow", "flow_valid", "K", "cam_to_world"):
        np.testing.assert_allclose(getattr(same.clip, name), getattr(moving_clip, name), atol=1e-6, err_msg=name)
    np.testing.assert_allclose(same.motion, sample.motion, atol=1e-6)


def _moved_by_pose(clip, t, other):
    """Where each pixel of frame t lies in the other frame by depth and pose, and how deep."""
    K, poses = torch.from_numpy(clip.K), torch.from_numpy(clip.cam_to_world)
    move = torch.linalg.inv(poses[other]) @ poses[t]
    points = torch.from_numpy(unproject(clip.depth[t].astype(np.float64), clip.K)) @ move[:3, :3].T + move[:3, 3]
    image = points @ K.T
    ahead = image[..., 2:] > 0  # where there is a label
    at = torch.where(ahead, image[..., :2] / torch.where(ahead, image[..., 2:], 1), torch.nan)
    return at.numpy(), points[..., 2].numpy()


@pytest.mark.parametrize("seed", range(4))
def test_flow_and_depth_with_pose_still_land_on_the_next_frame(moving_clip, seed):
    generator = np.random.default_rng(seed)
    view = Augmentation(max_zoom=1.6, max_rotation_deg=10.0).draw_view(generator)
    clip = view_sample(Sample(moving_clip, None, None), view).clip
    t = seed % 4
    y, x = np.mgrid[:48, :64]
    by_flow = np.stack((x, y), axis=-1) + clip.flow[t]
    by_pose, depth_there = _moved_by_pose(clip, t, t + 1)
    inside = ((by_flow >= 0) & (by_flow <= [63, 47])).all(axis=-1) & clip.flow_valid[t]
    static = inside & clip.valid[t] & (clip.objects[t] == 0)
    assert static.mean() > 0.3
    gap = np.linalg.norm(by_flow - by_pose, axis=-1)[static]
    # Depth is that of the nearest pixel, up to 0.7 of one away.
    assert np.median(gap) < 0.02
    assert np.quantile(gap, 0.95) < 0.2
    following = torch.from_numpy(clip.depth[t + 1]).double()[None, None]
    for landing in (by_flow, by_pose):
        found = sample_at(following, torch.from_numpy(landing)[None])[0, 0].numpy()
        off = np.abs(np.log(found.clip(1e-3) / depth_there.clip(1e-3)))[static]
        # But for what something else comes to cover.
        assert np.median(off) < 0.005
        assert np.quantile(off, 0.8) < 0.02


def test_scaled_cut_zoomed_turned_and_mirrored_motion_is_still_that_of_depth_and_pose(moving_clip):
    fitted = fit_clip(moving_clip, 40, 48)
    sample, mirror, were_mirrored = Sample(fitted, *clip_motion(fitted, "flow")), np.diag([-1.0, 1, 1, 1]), []
    for seed in range(4):
        settings = {"max_zoom": 1.6, "max_rotation_deg": 10.0}
        item = augment_sample(sample, np.random.default_rng(seed), Augmentation(flip=True, **settings))
        generator = np.random.default_rng(seed)
        clip = view_sample(sample, Augmentation(**settings).draw_view(generator)).clip
        were_mirrored.append(generator.random() < 0.5)
        K, poses, objects = clip.K.copy(), clip.cam_to_world, clip.objects
        if were_mirrored[-1]:
            K[0, 2], poses, objects = 47 - K[0, 2], mirror @ poses @ mirror, objects[..., ::-1]
        viewed = replace(clip, depth=item["depth"].numpy(), K=K, cam_to_world=poses)
        y, x = np.mgrid[:40, :48]
        for pair in range(4):
            by_pose, depth_there = _moved_by_pose(viewed, pair + 1, pair)
            by_motion = np.stack((x, y), axis=-1) + item["motion"][pair].numpy()
            static = item["visible"][pair].numpy() & item["valid"][pair + 1].numpy() & (objects[pair + 1] == 0)
            assert static.mean() > 0.3
            gap = np.linalg.norm(by_motion - by_pose, axis=-1)[static]
            assert np.median(gap) < 0.05
            assert np.quantile(gap, 0.9) < 0.3
            before = item["depth"][pair].double()[None, None]
            found = sample_at(before, torch.from_numpy(by_motion)[None])[0, 0].numpy()
            assert np.median(np.abs(np.log(found.clip(1e-3) / depth_there.clip(1e-3)))[static]) < 0.01
    assert set(were_mirrored) == {True, False}


def test_motion_follows_as_the_inverse_of_flow_does(moving_clip):
    view = View(zoom=1.4, turn_rad=0.1, left=0.2, top=0.7)
    ours = view_sample(Sample(moving_clip, *clip_motion(moving_clip, "flow")), view)
    motion, visible = clip_motion(ours.clip, "flow")
    both = visible & ours.visible
    assert both.mean() > 0.5
    assert np.quantile(np.linalg.norm(ours.motion - motion, axis=-1)[both], 0.9) < 0.1


def test_views_are_drawn_only_when_asked_for(moving_clip, world):
    sample = Sample(moving_clip, *clip_motion(moving_clip, "flow"))
    light = Augmentation(flip=True, photometric=Photometric(exposure=0.2))
    still = augment_sample(sample, np.random.default_rng(5), light)
    again = augment_sample(sample, np.random.default_rng(5), replace(light, max_zoom=1.0, max_rotation_deg=0.0))
    assert all(torch.equal(still[name], again[name]) for name in still)
    for views in ({"max_zoom": 1.5, "max_rotation_deg": 5.0}, {"max_zoom": 1.5}, {"max_rotation_deg": 5.0}):
        moved = augment_sample(sample, np.random.default_rng(5), replace(light, **views))
        assert not torch.equal(still["depth"], moved["depth"])
    samples = ClipSamples(
        world, length=3, height=40, width=56, motion="flow", labels="depth", seed=7, cached_clips=4,
        augmentation=Augmentation(max_zoom=1.5, max_rotation_deg=5.0), numbers=range(3),
    )  # fmt: skip
    assert torch.equal(samples[2]["depth"], samples.sample(2)["depth"])
