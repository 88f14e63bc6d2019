import numpy as np
import pytest

from steadydepth.synthetic.effects import Extras, at_moments, draw_readout
from steadydepth.synthetic.rays import cast, make_grid
from steadydepth.synthetic.rolling_shutter import Readout
from steadydepth.synthetic.scene import draw_scene
from steadydepth.synthetic.world import make_clip

SEED, HEIGHT, WIDTH = 11, 33, 44
SIZES = {"n_frames": 4, "height": HEIGHT, "width": WIDTH}


@pytest.fixture(scope="module")
def clip():
    return make_clip(SEED, fixed_camera=False, extras=Extras(rolling=True), **SIZES)


@pytest.fixture(scope="module")
def scenes():
    """The scene at the moment of each row, drawn as the clip draws it."""
    scene = draw_scene(np.random.default_rng(SEED), fps=15.0, fixed_camera=False, **SIZES)
    return [at_moments(scene, np.array([moment])) for moment in draw_readout(SEED, HEIGHT)]


def test_rows_are_read_from_the_top_within_the_time_of_a_frame():
    for seed in (3, 4):
        moments = draw_readout(seed, HEIGHT)
        assert moments[HEIGHT // 2] == 0
        steps = np.diff(moments)
        np.testing.assert_allclose(steps, steps[0])
        assert 0.3 <= steps[0] * HEIGHT <= 0.9


def test_each_row_shows_the_scene_at_its_moment(clip, scenes):
    ids = np.array([solid.object_id for solid in scenes[0].solids])
    for row in (0, 9, 32):
        grid = make_grid(scenes[row], np.arange(HEIGHT, dtype=float), np.arange(WIDTH, dtype=float))
        for t in range(4):
            hits = cast(scenes[row], t, grid, list(range(len(ids))))
            np.testing.assert_allclose(clip.depth[t, row], hits.depth[row], rtol=1e-6)
            np.testing.assert_array_equal(clip.objects[t, row], ids[hits.solid[row]])


def rows_crossed(scenes, points, t):
    """Where world points are seen in frame t: columns and rows, by looking at every row at its moment."""
    visible = []
    for scene in scenes:
        there = np.linalg.inv(scene.cam_to_world[t])[:3] @ points
        visible.append((scene.K @ there)[:2] / there[2])
    u, v = np.array(visible).transpose(1, 0, 2)  # moment, point
    away = v - np.arange(len(scenes))[:, None]
    crossing = ((away[:-1] >= 0) & (away[1:] < 0)).argmax(axis=0)
    n = np.arange(points.shape[1])
    share = away[crossing, n] / (away[crossing, n] - away[crossing + 1, n])
    inside = (away[0] >= 0) & (away[-1] < 0)
    return [a[crossing, n] + share * (a[crossing + 1, n] - a[crossing, n]) for a in (u, v)], inside


def test_a_standing_point_is_seen_next_in_the_row_that_is_exposed_when_it_is_there(clip, scenes):
    checked, moved = 0, 0.0
    for row in range(0, HEIGHT, 4):
        for t in range(3):
            columns = np.flatnonzero(clip.objects[t, row] == 0)
            depth, K = clip.depth[t, row, columns], clip.K
            rays = np.stack(((columns - K[0, 2]) / K[0, 0], np.full(len(columns), (row - K[1, 2]) / K[1, 1])))
            points = scenes[row].cam_to_world[t] @ np.vstack((rays * depth, depth, np.ones(len(columns))))
            (u, v), inside = rows_crossed(scenes, points, t + 1)
            found = clip.flow[t, row, columns] + np.stack((columns, np.full(len(columns), row)), axis=-1)
            np.testing.assert_allclose(found[inside], np.stack((u, v), axis=-1)[inside], atol=0.02)
            checked, moved = checked + inside.sum(), max(moved, np.abs(clip.flow[t, row]).max())
    assert checked > 300
    assert moved > 2


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        # Of 5 rows, and s from -1 at the first to 1 at the last: v = 2.25 + s / 2 is in row 2 + 2 s at s = 1 / 6.
        ([(10, 1.75, 4), (12, 2.25, 3.5), (14, 2.75, 3)], (12 + 1 / 3, 2 + 1 / 3, 3)),
        # v = 2.25 + s / 2 + s^2 is in row 2 + 2 s at s = (3 - sqrt(5)) / 4.
        ([(0, 2.75, 1), (0, 2.25, 1), (0, 3.75, 1)], (0, 2 + (3 - 5**0.5) / 2, 1)),
        # Below the image at all times: where it is when the last row is read.
        ([(10, 5.5, 4), (12, 6, 3.5), (14, 6.5, 3)], (14, 6.5, 3)),
    ],
)
def test_the_row_in_which_a_point_is_seen_next_by_hand(scenes, positions, expected):
    moments = scenes[:3]
    where = {
        id(scene): np.array(position, float).reshape(3, 1, 1)
        for scene, position in zip(moments, positions, strict=True)
    }
    found = Readout(*moments, n_rows=5).settle(lambda scene: where[id(scene)])
    np.testing.assert_allclose(found.ravel(), expected, atol=0.01)


def test_what_stands_before_a_fixed_camera_is_as_without_it_and_poses_are_the_same(clip):
    plain, rolled = (
        make_clip(6, fixed_camera=True, extras=Extras(rolling=rolling), **SIZES) for rolling in (False, True)
    )
    still = (plain.objects == 0) & (rolled.objects == 0)
    np.testing.assert_allclose(rolled.depth[still], plain.depth[still], rtol=1e-6)
    assert (plain.objects != rolled.objects).any()
    same = make_clip(SEED, fixed_camera=False, **SIZES)
    np.testing.assert_array_equal(same.cam_to_world, clip.cam_to_world)
    again = make_clip(SEED, fixed_camera=False, extras=Extras(rolling=True), **SIZES)
    np.testing.assert_array_equal(again.frames, clip.frames)
