import pytest
import torch

from steadydepth.ops.warp import all_neighbours, as_grid, follow, pixel_grid, sample, snap_to_known, warp


@pytest.fixture
def image():
    return 1 + torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_grid_counts_columns_then_rows():
    grid = pixel_grid(5, 7, torch.zeros(1))
    assert grid.shape == (5, 7, 2)
    assert grid[4, 6].tolist() == [6, 4]


def test_samples_are_bilinear_with_centres_at_integers(image):
    at = torch.tensor([[[[2.0, 3.0], [2.25, 3.0], [2.0, 3.5]]]], dtype=torch.float64).expand(2, 1, 3, 2)
    found = sample(image, at)[:, :, 0]
    torch.testing.assert_close(found[..., 0], image[..., 3, 2])
    torch.testing.assert_close(found[..., 1], 0.75 * image[..., 3, 2] + 0.25 * image[..., 3, 3])
    torch.testing.assert_close(found[..., 2], 0.5 * image[..., 3, 2] + 0.5 * image[..., 4, 2])


def test_outside_the_border_is_repeated(image):
    at = torch.tensor([[[[-4.0, 1.0], [6.5, 9.0]]]], dtype=torch.float64).expand(2, 1, 2, 2)
    found = sample(image, at)[:, :, 0]
    torch.testing.assert_close(found[..., 0], image[..., 1, 0])
    torch.testing.assert_close(found[..., 1], image[..., 4, 6])


def test_no_points_give_no_samples(image):
    assert sample(image, torch.zeros(2, 1, 0, 2, dtype=torch.float64)).shape == (2, 3, 1, 0)


def test_every_neighbour_that_is_read_must_be_in_the_mask():
    mask = torch.ones(1, 5, 7, dtype=torch.bool)
    mask[0, 2, 3] = False
    places = {
        (2.5, 2.0): False,  # reads 2 and 3
        (2.0, 2.0): True,  # reads 2 only
        (2.5, 1.5): False,
        (3.5, 3.5): True,
        (6.0, 4.0): True,  # the last pixel
        (6.1, 4.0): False,  # reads past it
        (-0.1, 1.0): False,
        (float("nan"), 1.0): False,
        (1.0, float("inf")): False,
    }
    at = torch.tensor(list(places))[None, None]
    assert all_neighbours(mask, at)[0, 0].tolist() == list(places.values())


def test_where_not_all_neighbours_are_in_the_mask_the_nearest_is_taken():
    mask = torch.ones(1, 5, 7, dtype=torch.bool)
    mask[0, 2, 3] = False
    mask[0, 4, 6] = False
    snapped = {
        (2.4, 2.0): (2.0, 2.0),
        (3.4, 1.4): (3.0, 1.0),
        (1.25, 3.5): (1.25, 3.5),  # all four are there
        (6.0, 3.3): (6.0, 3.0),
        (2.6, 2.0): None,  # nearest to the one that is not
        (5.8, 3.9): None,
        (6.1, 1.0): None,  # past the border, though the nearest is there
        (-0.1, 1.0): None,
        (float("nan"), 1.0): None,
        (1.0, float("inf")): None,
    }
    at = torch.tensor(list(snapped))[None, None]
    found, known = snap_to_known(mask, at)
    assert known[0, 0].tolist() == [to is not None for to in snapped.values()]
    assert found[known].tolist() == [list(to) for to in snapped.values() if to]


def test_of_a_full_mask_every_place_in_the_image_is_read_as_it_is():
    mask = torch.ones(2, 5, 7, dtype=torch.bool)
    at = 9 * torch.rand(2, 30, 20, 2, generator=torch.Generator().manual_seed(0)) - 1
    at[0, 0] = torch.tensor([6.0, 4.0])
    at[1, 2, 3, 0] = torch.nan
    found, known = snap_to_known(mask, at)
    assert found is at
    assert torch.equal(known, all_neighbours(mask, at))
    assert 0 < known.float().mean() < 1


def test_depth_is_brought_along_the_motion_in_log(image):
    depth = image[:, 0]
    motion = torch.zeros(2, 5, 7, 2, dtype=torch.float64)
    motion[..., 0] = -0.5
    grid = as_grid(follow(motion), 5, 7)
    brought = warp(depth, grid)
    torch.testing.assert_close(brought[:, :, 1:], (depth[:, :, :-1] * depth[:, :, 1:]).sqrt())
    torch.testing.assert_close(brought[:, :, 0], depth[:, :, 0])
    torch.testing.assert_close(warp(3 * depth, grid), 3 * brought)


def test_motion_that_is_not_finite_harms_only_its_own_pixel(image):
    motion = torch.zeros(2, 5, 7, 2, dtype=torch.float64)
    motion[0, 1, 2] = float("nan")
    assert torch.isfinite(warp(image[:, 0], as_grid(follow(motion), 5, 7))).all()
    assert follow(motion)[0, 1, 2].tolist() == [-2, -2]
