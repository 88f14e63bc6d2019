from dataclasses import replace

import numpy as np
import pytest

from steadydepth.data.clips import Sample, clip_motion, clip_starts, fit_clip, fitting_strides, hold_frame, skip_frames
from steadydepth.data.samples import Augmentation, augment_sample
from steadydepth.errors import InputError
from steadydepth.ops.photometric import Photometric
from steadydepth.types import Clip


def test_every_start_that_leaves_room_for_a_clip_and_no_other():
    assert list(clip_starts(5, 3)) == [0, 1, 2]
    assert list(clip_starts(3, 3)) == [0]
    assert list(clip_starts(2, 3)) == []


def test_fitting_keeps_flow_and_cameras_true_to_the_smaller_depth(fixed_clip, moving_clip):
    """Static points of the fitted clip still land where its own depth, K and poses say."""
    small = fit_clip(moving_clip, 24, 24)
    assert small.frames.shape == (5, 24, 24, 3)
    assert small.depth.shape == (5, 24, 24)
    y, x = np.mgrid[:24, :24]
    pixels = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    camera = np.vstack([np.linalg.inv(small.K) @ pixels * small.depth[0].ravel(), np.ones(x.size)])
    visible = np.linalg.inv(small.cam_to_world[1]) @ small.cam_to_world[0] @ camera
    expected = ((small.K @ visible[:3])[:2] / visible[2] - pixels[:2]).T.reshape(24, 24, 2)
    static = (small.objects[0] == 0) & small.flow_valid[0]
    # The nearest pixel is up to half an old pixel away from the new centre.
    assert np.median(np.abs(small.flow[0] - expected)[static]) < 0.05
    assert fit_clip(fixed_clip, 48, 64) is fixed_clip


def test_measured_depth_is_never_blended(moving_clip):
    small = fit_clip(moving_clip, 20, 30)
    assert set(np.unique(small.depth)) <= set(np.unique(moving_clip.depth))


def test_labels_lie_where_what_they_belong_to_lies():
    ramp = np.tile(np.arange(96, dtype=np.uint8), (1, 48, 1))
    clip = Clip("ramp", np.repeat(ramp[..., None], 3, axis=-1), 10.0, depth=ramp + np.float32(1), valid=ramp > 30)
    small = fit_clip(clip, 16, 32)
    np.testing.assert_array_equal(small.depth - 1, small.frames[..., 0])
    np.testing.assert_array_equal(small.valid, small.frames[..., 0] > 30)


def test_motion_points_back_to_where_the_pixel_was(moving_clip):
    motion, visible = clip_motion(moving_clip, "flow")
    assert motion.shape == (4, 48, 64, 2)
    for t in range(4):
        y, x = np.nonzero(visible[t])
        from_x, from_y = x + motion[t, y, x, 0], y + motion[t, y, x, 1]
        near_x = np.clip(np.round(from_x).astype(int), 0, 63)
        near_y = np.clip(np.round(from_y).astype(int), 0, 47)
        forward = moving_clip.flow[t, near_y, near_x]
        closed = np.hypot(*(forward + motion[t, y, x]).T)
        assert np.median(closed) < 0.1


def test_flow_between_frames_finds_the_motion_of_a_shifted_image(moving_clip):
    frame = moving_clip.frames[0]
    shifted = np.roll(frame, 3, axis=1)
    motion, visible = clip_motion(Clip("shifted", np.stack([frame, shifted]), fps=15.0), "dis")
    inner = visible[0, 8:-8, 8:-8]
    assert inner.mean() > 0.8
    np.testing.assert_allclose(np.median(motion[0, 8:-8, 8:-8][inner], axis=0), [-3, 0], atol=0.1)


def test_flow_that_is_not_there_is_named_with_the_way_out(moving_clip):
    with pytest.raises(InputError, match=r"moving_000011: has no flow/.*data\.motion"):
        clip_motion(replace(moving_clip, flow=None, flow_valid=None), "flow")
    assert clip_motion(moving_clip, "none") == (None, None)


def test_skipping_frames_chains_the_motion(moving_clip):
    """Two steps of motion land where one step of geometry over two frames says, for static points."""
    motion, visible = clip_motion(moving_clip, "flow")
    sample = skip_frames(Sample(moving_clip, motion, visible), 2)
    assert len(sample.clip.frames) == len(sample.clip.depth) == len(sample.clip.cam_to_world) == 3
    assert sample.motion.shape == (2, 48, 64, 2)
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    clip = sample.clip
    for pair in range(2):
        later, earlier = pair + 1, pair
        camera = np.vstack([np.linalg.inv(clip.K) @ pixels * clip.depth[later].ravel(), np.ones(x.size)])
        there = np.linalg.inv(clip.cam_to_world[earlier]) @ clip.cam_to_world[later] @ camera
        expected = ((clip.K @ there[:3])[:2] / there[2] - pixels[:2]).T.reshape(48, 64, 2)
        known = sample.visible[pair] & (clip.objects[later] == 0)
        assert known.mean() > 0.3
        assert np.median(np.abs(sample.motion[pair] - expected)[known]) < 0.05


def test_frames_are_coded_in_bytes_up_to_the_worst_quality_and_have_no_label_where_there_is_none(monkeypatch):
    frames = np.random.default_rng(0).integers(1, 256, (3, 8, 10, 3), np.uint8)
    coded, qualities = [], set()

    def recode(images, *, crf):
        coded.append(images)
        qualities.add(crf)
        return images

    monkeypatch.setattr("steadydepth.data.samples.recode", recode)
    # Light that takes a little away: what is left is rounded, not cut off.
    monkeypatch.setattr("steadydepth.data.samples.augment_photometric", lambda frame, *_: frame - np.float32(0.4 / 255))
    light = Photometric(exposure=0.1)
    for seed in range(30):
        generator = np.random.default_rng(seed)
        sample = Sample(Clip("bare", frames, 10.0), None, None)
        item = augment_sample(sample, generator, Augmentation(photometric=light, max_crf=2))
    assert qualities == {0, 1, 2}
    assert all(np.array_equal(images, frames) for images in coded)
    assert item.keys() == {"frames", "depth", "valid"}
    assert item["depth"].shape == item["valid"].shape == (3, 8, 10)
    assert not item["depth"].any()
    assert not item["valid"].any()


def test_frames_of_a_video_without_a_label_are_skipped_and_held():
    frames = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((5, 2, 3, 3), np.uint8)
    bare = Clip("bare", frames, 10.0)
    skipped = skip_frames(Sample(bare, None, None), 2)
    assert skipped.clip.frames[:, 0, 0, 0].tolist() == [0, 2, 4]
    held = hold_frame(replace(bare, frames=frames[3:4]), 3, moves=False)
    assert held.clip.frames[:, 0, 0, 0].tolist() == [3, 3, 3]
    for sample in (skipped, held):
        assert sample.clip.depth is sample.clip.valid is sample.motion is None
    assert held.is_still


def test_strides_that_do_not_fit_are_left_out():
    assert fitting_strides(7, 3, (1, 2, 3, 4)) == [1, 2, 3]
    assert fitting_strides(6, 3, (2, 3)) == [2]
    assert fitting_strides(3, 3, (2,)) == [1]
