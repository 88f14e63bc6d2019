import json

import numpy as np
import pytest

from steadydepth.data.checks import check_data
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.ops.optical_flow import invert_flow
from steadydepth.synthetic import world
from steadydepth.synthetic.effects import Extras
from steadydepth.synthetic.rolling_shutter import Strip
from steadydepth.synthetic.scene import draw_scene, draw_texture
from steadydepth.synthetic.shading import blur_levels, blur_textures
from steadydepth.synthetic.world import make_clip, make_world


def lift(clip, t):
    """World points of every pixel of frame t, by the textbook, in loops of matrices."""
    height, width = clip.depth.shape[1:]
    y, x = np.mgrid[:height, :width]
    rays = np.linalg.inv(clip.K) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    camera = np.vstack([rays * clip.depth[t].ravel(), np.ones(x.size)])
    return clip.cam_to_world[t] @ camera


@pytest.fixture(scope="module", params=[Extras(), Extras(shake=True, deform=True, blur=True)], ids=["plain", "extras"])
def travelling_clip(request):
    return make_clip(11, fixed_camera=False, n_frames=5, height=48, width=64, extras=request.param)


def test_the_same_seed_gives_the_same_clip_and_another_seed_another():
    sizes = {"n_frames": 2, "height": 33, "width": 40}
    first, again, other = (make_clip(seed, fixed_camera=False, **sizes) for seed in (5, 5, 6))
    for name in ("frames", "depth", "flow", "objects", "cam_to_world"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert np.abs(first.depth - other.depth).mean() > 0.1


def test_flow_of_static_points_is_what_depth_and_poses_say(travelling_clip):
    clip = travelling_clip
    height, width = clip.depth.shape[1:]
    y, x = np.mgrid[:height, :width]
    for t in range(len(clip.depth) - 1):
        visible = np.linalg.inv(clip.cam_to_world[t + 1]) @ lift(clip, t)
        landed = (clip.K @ visible[:3])[:2] / visible[2]
        expected = (landed - np.stack([x.ravel(), y.ravel()])).T.reshape(height, width, 2)
        static = (clip.objects[t] == 0) & clip.flow_valid[t]
        assert static.mean() > 0.3
        np.testing.assert_allclose(clip.flow[t][static], expected[static], atol=2e-3)


def test_depth_at_the_end_of_the_flow_is_that_of_the_moved_point(travelling_clip):
    """Where the next frame still sees a point, its depth there is the point's depth: geometry, poses and flow agree."""
    clip = travelling_clip
    for t in range(len(clip.depth) - 1):
        back, visible = invert_flow(clip.flow[t], clip.flow_valid[t])
        y, x = np.nonzero(visible & (clip.objects[t + 1] == 0))
        from_x = np.round(x + back[y, x, 0]).astype(int)
        from_y = np.round(y + back[y, x, 1]).astype(int)
        there = lift(clip, t).reshape(4, *clip.depth.shape[1:])[:, from_y, from_x]
        z = (np.linalg.inv(clip.cam_to_world[t + 1]) @ there)[2]
        error = np.abs(np.log(z / clip.depth[t + 1][y, x]))
        # Rounding to the nearest pixel moves the point by up to half a pixel: a slope, not an error.
        assert np.median(error) < 0.005
        assert len(x) > 0.4 * visible.size


def test_a_fixed_camera_stands_still_and_only_objects_change(fixed_clip):
    clip = fixed_clip
    assert np.ptp(clip.cam_to_world, axis=0).max() == 0
    static = (clip.objects == 0).all(axis=0)
    assert static.mean() > 0.5
    assert np.ptp(clip.depth, axis=0)[static].max() == 0
    assert np.abs(clip.flow[:, static]).max() < 1e-4


def test_what_is_kept_of_a_fixed_camera_is_what_each_frame_gives_anew():
    scene = draw_scene(np.random.default_rng(15), n_frames=3, fps=15.0, height=34, width=46, fixed_camera=True)
    strip = Strip(scene, np.arange(34))
    kept, anew = (world._label(strip, 46, fixed_camera=fixed, readout=None) for fixed in (True, False))
    for name in ("depth", "objects", "flow_valid"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(anew, name))
    np.testing.assert_allclose(kept.flow, anew.flow, atol=1e-9)
    textures = blur_textures(scene)
    light = (world._render(strip, 46, textures, fixed_camera=fixed) for fixed in (True, False))
    for one, other in zip(*light, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_light_changes_from_frame_to_frame_though_nothing_moves(fixed_clip):
    static = (fixed_clip.objects == 0).all(axis=0)
    brightness = fixed_clip.frames[:, static].mean(axis=(1, 2))
    assert np.ptp(brightness) / brightness.mean() > 0.05


def test_moving_objects_move_in_depth():
    changes = []
    for seed in range(4):
        clip = make_clip(seed, fixed_camera=True, n_frames=6, height=48, width=64)
        moving = (clip.objects[:-1] > 0) & (clip.objects[:-1] == clip.objects[1:])
        changes.append(np.abs(np.diff(np.log(clip.depth), axis=0))[moving].mean())
    assert np.mean(changes) > 0.003


def test_textures_wrap_around_without_a_seam():
    generator = np.random.default_rng(0)
    for _ in range(10):
        blurred = blur_levels(draw_texture(generator), 5)[-1]
        inside = np.abs(np.diff(blurred, axis=1)).mean()
        seam = np.abs(blurred[:, 0] - blurred[:, -1]).mean()
        assert seam < 4 * inside + 1e-3


def test_written_sequences_are_without_fault_and_read_back(world):
    assert check_data(world) == []
    sequences = [open_sequence(world / name) for name in ("fixed_000003", "moving_000004")]
    assert [one.fixed_camera for one in sequences] == [True, False]
    original = make_clip(4, fixed_camera=False, n_frames=5, height=48, width=64)
    stored = sequences[1].read()
    np.testing.assert_array_equal(stored.frames, original.frames)
    np.testing.assert_allclose(stored.depth, original.depth, atol=0.000126)
    np.testing.assert_allclose(stored.flow, original.flow, atol=1 / 128 + 1e-6)


def test_an_interrupted_world_goes_on_and_keeps_what_is_there(tmp_path):
    sizes = {"n_frames": 2, "height": 33, "width": 40, "workers": 1}
    make_world(tmp_path, n_clips=1, seed=0, **sizes)
    before = (tmp_path / "fixed_000000" / "meta.json").stat().st_mtime_ns
    made = []
    paths = make_world(tmp_path, n_clips=2, seed=0, on_clip=made.append, **sizes)
    assert [path.name for path in paths] == ["fixed_000000", "moving_000001"]
    assert [path.name for path in made] == ["moving_000001"]
    assert (tmp_path / "fixed_000000" / "meta.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "moving_000001" / "meta.json").read_text(encoding="utf-8"))["fixed_camera"] is False


def test_a_single_frame_has_no_flow():
    clip = make_clip(0, fixed_camera=True, n_frames=1, height=33, width=40)
    assert clip.flow.shape == (0, 33, 40, 2)
