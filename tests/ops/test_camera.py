import torch

from steadydepth.ops.camera import unproject

K = torch.tensor([[10.0, 0.0, 3.0], [0.0, 20.0, 2.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def test_a_pixel_by_hand():
    points = unproject(torch.full((5, 7), 4.0, dtype=torch.float64), K)
    # Pixel x = 6, y = 1: ((6 - 3) / 10, (1 - 2) / 20, 1) * 4.
    torch.testing.assert_close(points[1, 6], torch.tensor([1.2, -0.2, 4.0], dtype=torch.float64))


def test_there_and_back_is_the_pixel_itself():
    depth = 1 + torch.rand(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    expected = torch.stack((x, y), dim=-1).double().expand(2, 5, 7, 2)
    image = unproject(depth, K) @ K.T
    torch.testing.assert_close(image[..., :2] / image[..., 2:], expected)
