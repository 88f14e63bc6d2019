import numpy as np
import pytest
import torch
import torch.nn.functional as F

from steadydepth.ops.resize import fit_image, resize_depth, shrink_image


@pytest.mark.parametrize("size", [(5, 9), (13, 4), (40, 17), (7, 6)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_depth_is_resized_as_torch_does_with_half_pixel_centres(size, kind):
    depth = np.random.default_rng(0).normal(size=(7, 6)).astype(kind)  # signed: disparity up to an offset may be
    found = resize_depth(depth, *size)
    expected = F.interpolate(torch.from_numpy(depth)[None, None], size, mode="bilinear", align_corners=False)
    assert found.dtype == kind
    np.testing.assert_allclose(found, expected[0, 0].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_there_reaches_only_the_pixels_that_read_it(hole):
    depth = np.full((4, 5), 3.0, np.float32)
    depth[0, 0] = hole
    found = resize_depth(depth, 8, 10)
    # Twice the size: the first two rows and columns read the corner, the next one its neighbour at 1 : 3, and so on.
    assert np.isnan(found[:3, :3]).sum() == 9
    assert np.isfinite(found).sum() == 80 - 9
    assert (found[np.isfinite(found)] == 3).all()


def test_a_hole_is_no_zero_in_the_mean_of_those_beside_it():
    depth = np.full((6, 7), 3.0, np.float32)
    depth[2, 3] = np.nan
    found = resize_depth(depth, 49, 50)  # where some pixels read the hole with a weight below 0.001
    np.testing.assert_allclose(found[np.isfinite(found)], 3, rtol=1e-6)


def test_a_value_of_zero_is_a_value():
    depth = np.array([[0.0, 4.0]], np.float32)
    np.testing.assert_allclose(resize_depth(depth, 1, 4), [[0, 1, 3, 4]])


def test_images_are_halved_by_exact_means():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    means = image.reshape(4, 2, 6, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(fit_image(image, 4, 6), means, atol=0.5)
    assert fit_image(image, 8, 12) is image


def test_images_that_cannot_be_halved_are_shrunk_by_the_share_of_each_pixel():
    thirds = np.random.default_rng(0).integers(0, 256, (9, 15, 3), np.uint8)
    np.testing.assert_allclose(fit_image(thirds, 3, 5), thirds.reshape(3, 3, 5, 3, 3).mean(axis=(1, 3)), atol=0.51)
    # Two and a half of five pixels each.
    row = np.array([0, 0, 100, 0, 200], np.uint8)[None, :, None].repeat(3, axis=2)
    assert fit_image(row, 1, 2)[0, :, 0].tolist() == [20, 100]
    assert fit_image(row.transpose(1, 0, 2), 2, 1)[:, 0, 0].tolist() == [20, 100]


def test_an_image_is_shrunk_to_its_longer_side_and_never_enlarged():
    image = np.zeros((40, 80, 3), np.uint8)
    assert shrink_image(image, 20).shape == (10, 20, 3)
    assert shrink_image(image, 100) is image
    assert shrink_image(image, None) is image
    assert shrink_image(np.zeros((1, 300, 3), np.uint8), 20).shape == (1, 20, 3)
    turned = image.transpose(1, 0, 2)
    turned.flags.writeable = False
    assert shrink_image(turned, None).flags.c_contiguous
    assert shrink_image(turned, None).flags.writeable
