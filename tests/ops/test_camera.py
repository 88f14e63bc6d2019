import numpy as np

from steadydepth.ops.camera import unproject

K = np.array([[10.0, 0.0, 3.0], [0.0, 20.0, 2.0], [0.0, 0.0, 1.0]])


def test_a_pixel_by_hand():
    points = unproject(np.full((5, 7), 4.0), K)
    # Pixel x = 6, y = 1: ((6 - 3) / 10, (1 - 2) / 20, 1) * 4.
    np.testing.assert_allclose(points[1, 6], [1.2, -0.2, 4.0])


def test_there_and_back_is_the_pixel_itself_in_the_type_of_the_depth():
    depth = 1 + np.random.default_rng(0).random((5, 7), np.float32)
    y, x = np.indices((5, 7))
    points = unproject(depth, K)
    assert points.dtype == np.float32
    image = points @ K.T
    np.testing.assert_allclose(image[..., :2] / image[..., 2:], np.stack((x, y), -1), atol=1e-5)
