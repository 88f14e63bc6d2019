import pytest
import torch

from steadydepth.ops.masked import masked_mean, weighted_mean


def test_means_by_hand():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert masked_mean(values, torch.tensor([True, False, True])) == 3.5
    assert weighted_mean(values, torch.tensor([1.0, 0.0, 3.0])) == 4.75


@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_what_does_not_count_reaches_neither_value_nor_gradient(poison):
    values = torch.tensor([1.0, poison, 6.0], requires_grad=True)
    masked_mean(values, torch.tensor([True, False, True])).backward()
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    values = torch.tensor([1.0, poison, 6.0], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([1.0, 0.0, 3.0]))
    mean.backward()
    assert float(mean.detach()) == 4.75
    assert values.grad.tolist() == [0.25, 0.0, 0.75]


def test_nothing_gives_a_differentiable_zero():
    for mean in (
        lambda values: masked_mean(values, torch.zeros(2, 3, dtype=torch.bool)),
        lambda values: weighted_mean(values, torch.zeros(2, 3)),
    ):
        values = torch.full((2, 3), float("nan"), requires_grad=True)
        result = mean(values)
        result.backward()
        assert result == 0
        assert (values.grad == 0).all()
