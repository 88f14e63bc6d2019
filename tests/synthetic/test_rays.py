import numpy as np
import pytest
import torch

from steadydepth.synthetic.rays import meet_box

HALF = np.array([[2.0], [1.0], [3.0]], np.float32)


def lengths(origin, *rays, from_inside, kind):
    arrays = np.array(origin, np.float32)[:, None], np.array(rays, np.float32).T, HALF
    if kind == "torch":
        return meet_box(*map(torch.tensor, arrays), from_inside=from_inside).numpy()
    return meet_box(*arrays, from_inside=from_inside)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("side", [-0.5, 0.0, 0.5])
def test_a_ray_along_two_walls_leaves_by_the_third(kind, side):
    along_z = lengths((side, 0.3, -1.0), (0, 0, 1), (0, 0.5, 1), (0.25, 0, 1), from_inside=True, kind=kind)
    assert along_z == pytest.approx([4.0, 1.4, min((2 - side) / 0.25, 4.0)])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_ray_along_a_wall_meets_a_box_only_between_its_planes(kind):
    ahead, beside = (lengths((x, 0.3, -5.0), (0, 0, 1), from_inside=False, kind=kind).item() for x in (1.5, 2.5))
    assert (ahead, beside) == (2.0, np.inf)
    assert lengths((-2.5, 0.3, -5.0), (0, 0, 1), from_inside=False, kind=kind).item() == np.inf
