import numpy as np
import pytest
import torch

from steadydepth.ops.sampling import places_at, sample, sees_only
from steadydepth.ops.warp import all_neighbours
from steadydepth.ops.warp import sample as sample_tensor

HEIGHT, WIDTH, N = 7, 9, 200


def random_places():
    generator = np.random.default_rng(0)
    at = generator.uniform(-2, 11, (N, 2))
    at[:40] = np.rint(at[:40])  # on pixels, and on the border
    at[40:60, 0] = np.rint(at[40:60, 0])
    at[60], at[61] = (np.nan, 3), (4, np.inf)
    return at


@pytest.mark.parametrize("n_channels", [1, 2, 5])
def test_samples_are_those_of_the_tensor_version(n_channels):
    at, generator = random_places(), np.random.default_rng(1)
    images = generator.normal(size=(n_channels, HEIGHT, WIDTH))
    found = sample(images.reshape(n_channels, -1), places_at(*at.T, HEIGHT, WIDTH))
    finite = np.isfinite(at).all(axis=1)
    expected = sample_tensor(torch.from_numpy(images)[None], torch.from_numpy(at[finite])[None, None])[0, :, 0]
    np.testing.assert_allclose(found[:, finite], expected.numpy(), atol=1e-12)


def test_what_is_read_is_what_the_tensor_version_reads():
    at, mask = random_places(), np.random.default_rng(2).random((HEIGHT, WIDTH)) > 0.3
    found = sees_only(mask.ravel(), places_at(*at.T, HEIGHT, WIDTH))
    expected = all_neighbours(torch.from_numpy(mask)[None], torch.from_numpy(at)[None, None])[0, 0].numpy()
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    assert not found.all()


def test_a_place_on_a_pixel_reads_that_pixel_alone():
    values = np.full((1, HEIGHT * WIDTH), np.nan)
    values[0, 2 * WIDTH + 3] = 5
    assert sample(values, places_at(np.array([3.0]), np.array([2.0]), HEIGHT, WIDTH)).tolist() == [[5]]


def test_many_samples_are_those_of_each():
    generator = np.random.default_rng(3)
    values, x, y = generator.normal(size=(3, 40 * 50)), *generator.uniform(0, 39, (2, 9000))
    places = places_at(x, y, 40, 50)
    chosen = generator.permutation(9000)[:100]
    np.testing.assert_array_equal(sample(values, places)[:, chosen], sample(values, places.only(chosen)))
