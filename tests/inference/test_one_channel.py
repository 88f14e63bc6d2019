import copy

import pytest
import torch
from torch import nn

from steadydepth.inference.one_channel import MovedTaps, move_taps


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
