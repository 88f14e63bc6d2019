import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadydepth.exporters.graph_rewrites import ENLARGED_BY_SLICES, MovedTaps, enlarge_twice, move_taps


@pytest.mark.parametrize(("kernel", "bias"), [((3, 5), True), ((5, 3), False), ((1, 3), True)])
def test_moved_taps_are_the_convolution(kernel, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 1, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=bias)
    features = torch.randn(2, 4, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(MovedTaps(conv)(features), conv(features))


def test_only_convolutions_to_one_channel_of_the_same_size_are_exchanged():
    kept = [
        nn.Conv2d(4, 2, 3, padding=1),
        nn.Conv2d(2, 1, 3),
        nn.Conv2d(2, 1, 3, padding=1, stride=2),
        nn.Conv2d(2, 1, 3, padding=2, dilation=2),
        nn.Conv2d(2, 1, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 1, 1),
    ]
    inner = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    before = nn.ModuleList([*kept, inner])
    after = move_taps(copy.deepcopy(before))
    changed = [name for name, part in after.named_modules() if isinstance(part, MovedTaps)]
    assert changed == ["6.1"]
    assert [type(part) for part in after[:6]] == [nn.Conv2d] * 6
    assert isinstance(before[6][1], nn.Conv2d)  # a copy was changed


@pytest.mark.parametrize("size", [(5, 7), (1, 3), (4, 1), (1, 1)])
def test_enlarging_by_slices_is_bilinear(size):
    torch.manual_seed(0)
    image = torch.randn(2, 1, *size)
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge_twice(image), expected)


class Enlarging(nn.Module):
    """One channel to twice its size by a size and by a factor, and what is to stay as it is."""

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, ...]:
        def enlarge(image: Tensor, *, corners: bool = False, **by: object) -> Tensor:
            return F.interpolate(image, mode="bilinear", align_corners=corners, **by)

        taken_apart = enlarge(one, size=(6, 10)), enlarge(one, scale_factor=2)
        kept = enlarge(two, scale_factor=2), enlarge(one, size=(9, 10)), enlarge(one, size=(6, 10), corners=True)
        return *taken_apart, *kept


def test_only_one_channel_to_twice_its_size_is_enlarged_by_slices():
    torch.manual_seed(0)
    frames = torch.randn(1, 1, 3, 5), torch.randn(1, 2, 3, 5)
    program = torch.export.export(Enlarging(), frames, strict=False).run_decompositions(ENLARGED_BY_SLICES)
    left = [node for node in program.graph.nodes if "upsample" in str(node.target)]
    assert len(left) == 3
    torch.testing.assert_close(program.module()(*frames), Enlarging()(*frames))
