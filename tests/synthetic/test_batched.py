"""The batched world: its rasterizer against rays, its labels against each other, and the same clips everywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from steadydepth.method.pairing import pair_with_previous
from steadydepth.synthetic.batched import Rendered, World, _View
from steadydepth.synthetic.meshes import meet_triangles
from steadydepth.synthetic.placement import KINDS, Draw, Placed, View, _add_cases, _add_counters
from steadydepth.synthetic.places import SKY_M, draw_scenes
from steadydepth.synthetic.rasterizer import prepare, rasterize, weights_at

SIZE = {"n_scenes": 4, "n_frames": 2, "height": 48, "width": 64}


def render(world: World, seed: int, *, n_scenes: int, n_frames: int, height: int, width: int) -> Rendered:
    scenes = draw_scenes(seed, world.pool, n_scenes=n_scenes, n_frames=n_frames)
    return world.render(scenes, height=height, width=width)


@pytest.fixture(scope="module")
def world() -> World:
    return World(torch.device("cpu"))


@pytest.fixture(scope="module")
def clips(world):
    return render(world, 3, **SIZE)


def project(corners: np.ndarray, K: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    depth = corners[..., 2]
    points = np.stack((corners[..., 0] / depth * K[0, 0] + K[0, 2], corners[..., 1] / depth * K[1, 1] + K[1, 2]), -1)
    return torch.from_numpy(points), torch.from_numpy(depth)


def test_the_rasterizer_meets_what_rays_meet():
    generator = np.random.default_rng(0)
    K = np.array([[40.0, 0, 31.5], [0, 40.0, 23.5], [0, 0, 1]])
    corners = generator.uniform([-1.5, -1.2, 1.0], [1.5, 1.2, 4.0], size=(60, 1, 3)) + generator.normal(
        0, 0.4, (60, 3, 3)
    )
    corners[..., 2] = np.maximum(corners[..., 2], 0.5)
    points, depth = project(corners, K)
    found, distance = rasterize(points, depth, torch.zeros(60, dtype=torch.int64), n_images=1, height=48, width=64)
    expected, face = meet_triangles(corners, K, np.arange(48.0), np.arange(64.0))
    same = found[0].numpy() == face
    assert same.mean() > 0.999  # a pixel centre on an edge may fall to either side
    hit = np.isfinite(expected) & same
    np.testing.assert_allclose(distance[0].numpy()[hit], expected[hit], rtol=1e-5)


def test_each_image_gets_its_own_faces_and_none_behind_the_camera():
    points = torch.tensor([[[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]]]).repeat(3, 1, 1)
    depth = torch.tensor([[2.0] * 3, [3.0] * 3, [-1.0] * 3])
    found, distance = rasterize(points, depth, torch.tensor([0, 1, 2]), n_images=3, height=4, width=4)
    assert found[0, 0, 0] == 0
    assert found[1, 0, 0] == 1
    assert (found[2] == -1).all()
    assert torch.isinf(distance[2]).all()
    assert distance[1, 0, 0] == 3


def test_weights_are_perspective_correct():
    # A board from 1 m to 3 m away: the middle of its image is not the middle of the board.
    points = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]], dtype=torch.float64)
    depth = torch.tensor([[1.0, 3.0, 1.0]], dtype=torch.float64)
    half = torch.tensor([5.0], dtype=torch.float64)
    weights = weights_at(prepare(points, depth), torch.tensor([0]), half, 0 * half)
    # 1 / z is 2/3 there, so z is 1.5, a quarter of the way.
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25, 0.0]], dtype=torch.float64))


def test_depth_and_motion_agree_from_frame_to_frame(clips):
    """Along the motion, what both frames see of the still world has the depth that the cameras say."""
    pairs = pair_with_previous(clips.depth, torch.isfinite(clips.depth), clips.motion, clips.visible)
    change = pairs.log_change[pairs.valid].abs()
    assert pairs.valid.float().mean() > 0.5
    assert change.median() < 0.05
    assert torch.isfinite(clips.light).all()
    assert (clips.light >= 0).all()


def test_a_camera_at_rest_has_no_motion(world):
    clips = render(world, 11, n_scenes=8, n_frames=2, height=48, width=64)
    at_rest = (clips.motion.abs() < 1e-3).all(dim=-1).float().mean(dim=(1, 2, 3)) > 0.5
    assert at_rest.any()
    assert not at_rest.all()
    depth = clips.depth[at_rest]
    unmoved = (clips.motion[at_rest].abs() < 1e-3).all(dim=-1) & clips.visible[at_rest]
    assert ((depth[:, 1:] - depth[:, :1]).abs()[unmoved] < 1e-3).float().mean() > 0.95


def test_open_streets_have_a_sky_that_is_as_far_as_the_world_goes(world):
    scenes = draw_scenes(2, world.pool, n_scenes=24, n_frames=2)
    assert 0 < scenes.is_open.sum() < 12
    clips = world.render(scenes, height=32, width=48)
    assert clips.depth.max() <= SKY_M
    is_sky = clips.depth == SKY_M
    assert not is_sky[~scenes.is_open].any()
    rows = is_sky[scenes.is_open].float().mean(dim=(0, 1, 3))
    assert rows[:4].mean() > 0.3  # above, where nothing stands before it
    assert rows[-4:].mean() < 0.02
    # What the sky sends does not hang on the lamps.
    dark = world.render(replace(scenes, lamp_light=0 * scenes.lamp_light), height=32, width=48)
    assert torch.equal(dark.depth, clips.depth)
    # Pixels beside things hold both.
    inside = F.max_pool2d((~is_sky).float().flatten(0, 1)[:, None], 3, 1, 1)[:, 0].unflatten(0, (24, 2)) == 0
    of_sky = (inside & scenes.is_open[:, None, None, None])[:, :, None].expand_as(clips.light)
    assert of_sky.any()
    torch.testing.assert_close(dark.light[of_sky], clips.light[of_sky])
    assert not torch.allclose(dark.light, clips.light)


def view_and_things(world, kind: str) -> tuple[Draw, View, Placed]:
    draw, n = Draw(7, 64), 40
    place = Placed(
        model=draw.whole(len(world.pool.size_m), n),
        turn=torch.eye(3).expand(64, n, 3, 3),
        scale=torch.full((64, n, 3), 0.2),
        position=draw.uniform(-1, 1, n, 3),
        like=torch.arange(n).expand(64, -1),
        is_built_in=torch.zeros(64, n, dtype=torch.bool),
    )
    view = View(
        kind=torch.full((64,), KINDS.index(kind)),
        half_m=torch.tensor([[2.0, 1.3, 3.0]]).expand(64, -1),
        eye=torch.tensor([0.0, -1.5, 0.0]).expand(64, -1),
        yaw=draw.uniform(-3, 3),
        table=torch.tensor([0.0, -0.7, 0.0]).repeat(64, 1),
    )
    view.table[:] += view.ahead
    return draw, view, place


def assert_untouched(found: Placed, place: Placed, rows: torch.Tensor) -> None:
    for name in vars(place):
        assert torch.equal(getattr(found, name)[rows], getattr(place, name)[rows])


def test_counters_stand_along_two_walls_and_carry_things(world):
    draw, view, place = view_and_things(world, "room")
    is_there = torch.arange(64) < 32
    found = _add_counters(draw, world.pool, view, place, is_there)
    assert_untouched(found, place, ~is_there)
    assert (found.is_built_in.sum(dim=1) == torch.where(is_there, 6, 0)).all()
    extent = (world.pool.size_m[found.model] * found.scale)[:32, :6]
    position = found.position[:32, :6]
    seen = position[..., 0] < 50
    assert seen[:, :2].all()  # front and worktop along the wall ahead
    assert 0 < seen.float().mean() < 1
    reach = position.abs() + 0.5 * extent
    flat, half = [0, 2], view.half_m[0]
    # In the room, one side against a wall, on the side that the camera looks to.
    assert (reach[seen][:, flat] < half[flat]).all()
    assert ((half[flat] - reach[seen][:, flat]).amin(dim=-1) < 0.01).all()
    assert ((position[..., flat] * view.ahead[:32, None, flat])[seen].amax(dim=-1) > 0).all()
    front, worktop, above = (position[:, i::3, 1] for i in range(3))
    torch.testing.assert_close(worktop, front - extent[:, ::3, 1])  # y points down
    assert (above[seen[:, 2::3]] < worktop[seen[:, 2::3]]).all()
    # What was put on it stands at its height, over it.
    moved = (found.position != place.position)[:32, 6:].any(dim=-1)
    assert moved.any()
    top = (worktop[:, :1] - extent[:, 1:2, 1]).expand_as(moved)
    torch.testing.assert_close(found.position[:32, 6:, 1][moved], top[moved])


def test_cases_stand_open_on_the_table(world):
    draw, view, place = view_and_things(world, "table")
    is_there = torch.arange(64) < 32
    found = _add_cases(draw, world.pool, view, place, is_there)
    assert_untouched(found, place, ~is_there)
    assert torch.equal(found.position[:, 0], place.position[:, 0])  # the table
    # In axes of the case its boards are around the middle of the table, and at the side of the camera is at most a lip.
    inward = found.turn[:32, 1:6].mT @ (found.position[:32, 1:6] - view.table[:32, None])[..., None]
    x, y, z = inward[..., 0].unbind(dim=-1)
    tall = (world.pool.size_m[found.model] * found.scale)[:32, 1:6, 1]
    shown = found.position[:32, 1:6, 0].abs() < 50
    assert shown[:, :3].all()
    assert 0 < shown[:, 3:].float().mean() < 1
    assert (z[:, 0] > 0.1).all()
    torch.testing.assert_close(x[:, 1], -x[:, 2])
    top, lip = shown[:, 3], shown[:, 4]
    torch.testing.assert_close(y[:, 3][top], -tall[:, 1][top])
    torch.testing.assert_close(z[:, 4][lip], -z[:, 0][lip])
    assert (tall[:, 4] < 0.5 * tall[:, 0]).all()
    away = (found.position[:32, 1] - view.table[:32]) * view.ahead[:32]
    assert (away.sum(dim=-1) > 0).float().mean() > 0.9  # the back is away from the camera


def test_some_cameras_are_turned(world):
    right = draw_scenes(3, world.pool, n_scenes=200, n_frames=1).cam_to_world[:, 0, :, 0]
    turned = right[:, 1].abs() > 0.2  # the right of the image looks up or down
    assert 0.05 < turned.float().mean() < 0.2


def test_corners_get_less_light_from_the_sky(world):
    scenes = draw_scenes(2, world.pool, n_scenes=24, n_frames=1)
    view = _View(world, scenes, 8, 8)
    half = scenes.half_m[:, None, None]
    up = torch.tensor([0.0, -1.0, 0.0]).expand(24, 1, 1, 3)
    middle, corner = torch.zeros(24, 1, 1, 3), torch.stack((half[..., 0], 0 * half[..., 0], half[..., 2]), -1)
    at_middle, at_corner = (view._openness(point, up)[:, 0, 0] for point in (middle, corner))
    assert (at_middle > 0.95).all()  # the floor takes no light from itself
    torch.testing.assert_close(at_corner[scenes.is_open], torch.ones(int(scenes.is_open.sum())))
    assert (at_corner[~scenes.is_open] < 0.55).all()
    below = view._openness(middle, -up)[:, 0, 0]  # the underside of what lies on the ground
    assert (below < 0.5).all()


def test_a_seed_gives_the_same_clips(world, clips):
    again = render(world, 3, **SIZE)
    other = render(world, 4, **SIZE)
    assert torch.equal(again.depth, clips.depth)
    assert torch.equal(again.light, clips.light)
    assert not torch.equal(other.depth, clips.depth)


class ComputedElsewhere(TorchDispatchMode):
    """Names of what is done to tensors that are not on the CPU."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(one.device.type != "cpu" for one in args if isinstance(one, torch.Tensor)):
            self.done.append(func)
        return func(*args, **kwargs or {})


def test_a_world_has_the_same_bits_on_every_device(world):
    """Each device rounds powers and means in its own way, and the name of clips that are kept is of these bits."""
    with ComputedElsewhere() as computed:
        elsewhere = World(torch.device("meta"))
    assert computed.done == []
    for name in ("texels", "side", "start"):
        there, here = getattr(elsewhere.free, name), getattr(world.free, name)
        assert (there.device.type, there.shape, there.dtype) == ("meta", here.shape, here.dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_what_the_cpu_renders(clips):
    there = render(World(torch.device("cuda")), 3, **SIZE)
    same = (there.depth.cpu() / clips.depth - 1).abs() < 1e-3
    assert same.float().mean() > 0.995  # rounding moves edges
    assert (there.light.cpu() - clips.light).abs().mean() < 0.01


def test_what_is_out_of_view_is_left_out_without_a_trace(world, monkeypatch):
    scenes = draw_scenes(5, world.pool, n_scenes=4, n_frames=2)
    culled = world.render(scenes, height=48, width=64)
    monkeypatch.setattr(_View, "_in_view", lambda view: torch.ones_like(view.scenes.model, dtype=torch.bool))
    complete = world.render(scenes, height=48, width=64)
    assert torch.equal(culled.depth, complete.depth)
    torch.testing.assert_close(culled.motion, complete.motion)
