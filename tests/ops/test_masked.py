import pytest
import torch

from steadydepth.ops.masked import masked_mean


def test_means_by_hand():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert masked_mean(values, torch.tensor([True, False, True])) == 3.5
    rows = torch.tensor([[1.0, 2.0, 6.0], [4.0, 5.0, 9.0], [7.0, 8.0, 9.0]])
    valid = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    assert masked_mean(rows, valid, dim=(1,)).tolist() == [3.5, 5.0, 0.0]
    assert masked_mean(rows, valid) == 4.0


@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_what_does_not_count_reaches_neither_value_nor_gradient(poison):
    values = torch.tensor([1.0, poison, 6.0], requires_grad=True)
    masked_mean(values, torch.tensor([True, False, True])).backward()
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_nothing_gives_a_differentiable_zero():
    values = torch.full((2, 3), float("nan"), requires_grad=True)
    result = masked_mean(values, torch.zeros(2, 3, dtype=torch.bool))
    result.backward()
    assert result == 0
    assert (values.grad == 0).all()
