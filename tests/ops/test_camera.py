import torch

from steadydepth.ops.camera import move, project, relative_pose, unproject

K = torch.tensor([[10.0, 0.0, 3.0], [0.0, 20.0, 2.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def pose(x=0.0, y=0.0, z=0.0):
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([x, y, z])
    return matrix


def test_a_pixel_by_hand():
    points = unproject(torch.full((5, 7), 4.0, dtype=torch.float64), K)
    # Pixel x = 6, y = 1: ((6 - 3) / 10, (1 - 2) / 20, 1) * 4.
    torch.testing.assert_close(points[1, 6], torch.tensor([1.2, -0.2, 4.0], dtype=torch.float64))


def test_there_and_back_is_the_pixel_itself():
    depth = 1 + torch.rand(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    expected = torch.stack((x, y), dim=-1).double().expand(2, 5, 7, 2)
    torch.testing.assert_close(project(unproject(depth, K), K), expected)


def test_a_camera_that_steps_forward_sees_things_nearer():
    transform = relative_pose(pose(), pose(z=1.0))
    moved = move(unproject(torch.full((5, 7), 4.0, dtype=torch.float64), K), transform)
    torch.testing.assert_close(moved[..., 2], torch.full((5, 7), 3.0, dtype=torch.float64))
    # The image grows around the principal point (3, 2).
    torch.testing.assert_close(project(moved, K)[2, 6], torch.tensor([3 + 3 * 4 / 3, 2.0], dtype=torch.float64))


def test_poses_are_camera_to_world():
    point = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    visible = move(point, relative_pose(pose(x=1.0), pose(x=3.0, y=-1.0)))
    torch.testing.assert_close(visible, torch.tensor([-1.5, 1.0, 2.0], dtype=torch.float64))


def test_a_rotation_turns_before_it_shifts():
    quarter = pose(x=1.0)
    quarter[:3, :3] = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    moved = move(torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64), quarter)
    torch.testing.assert_close(moved, torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64))


def test_a_point_behind_the_camera_is_nowhere():
    points = torch.tensor([[0.0, 0.0, -1.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    assert project(points, K).isnan().all()
