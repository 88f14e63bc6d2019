import math

import pytest
import torch
from torch import nn

from steadydepth.method.parameter_groups import train_only
from steadydepth.method.update import build_optimizer, learning_rate_at, set_learning_rate, update_weights


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(2, 3)
        self.decoder = nn.Linear(3, 1)


def test_groups_hold_every_weight_once_with_its_rate_and_decay():
    model = Two()
    optimizer = build_optimizer(model, learning_rate=0.1, encoder_learning_rate=0.3, weight_decay=0.05)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
        for name, own in model.named_parameters()
        if own is weight
    }
    assert found == {
        "encoder.weight": (pytest.approx(0.03), 0.05),
        "encoder.bias": (pytest.approx(0.03), 0.0),
        "decoder.weight": (0.1, 0.05),
        "decoder.bias": (0.1, 0.0),
    }
    model.encoder.requires_grad_(False)
    rest = build_optimizer(model, learning_rate=0.1, encoder_learning_rate=0.3, weight_decay=0.05)
    held = [weight for group in rest.param_groups for weight in group["params"]]
    assert {id(one) for one in held} == {id(one) for one in model.decoder.parameters()}
    set_learning_rate(optimizer, 1.0)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.3, 1.0]


def test_only_norms_themselves_are_norms():
    class ConvNormAct(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    model = nn.Sequential(ConvNormAct(), nn.Linear(4, 1))
    train_only(model, ["norms"])
    assert [name for name, one in model.named_parameters() if one.requires_grad] == ["0.bn.weight", "0.bn.bias"]


def test_the_rate_rises_then_falls_to_a_hundredth():
    rates = [learning_rate_at(step, steps=100, learning_rate=2.0, warmup=0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 0.5))))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.02 < rates[99] < 0.021


def test_a_step_goes_down_the_cut_gradient_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    assert update_weights(model, optimizer, (model.weight * 4).sum(), max_grad_norm=1.0)
    assert model.weight.item() == pytest.approx(1 - 0.5 * 1.0, rel=1e-4)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_no_weight(factor):
    model = Two()
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer = build_optimizer(model, learning_rate=0.1, encoder_learning_rate=1.0, weight_decay=0.0)
    loss = model.decoder(model.encoder(torch.ones(1, 2))).sum() * factor
    assert not update_weights(model, optimizer, loss, max_grad_norm=1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert not optimizer.state


def test_the_gradients_of_parts_are_averaged_and_the_weights_change_with_the_last():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    assert update_weights(model, optimizer, (model.weight * 4).sum(), max_grad_norm=9.0, part=1, parts=2)
    assert model.weight.item() == 1.0
    assert update_weights(model, optimizer, (model.weight * 2).sum(), max_grad_norm=9.0, part=2, parts=2)
    assert model.weight.item() == pytest.approx(1 - 0.5 * (4 + 2) / 2)


@pytest.mark.parametrize("spoiled", [1, 2])
def test_one_part_that_is_not_finite_spoils_the_step(spoiled):
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for part in (1, 2):
        # Added, not multiplied: the gradient of the loss itself is finite.
        loss = model.weight.sum() + (float("inf") if part == spoiled else 0.0)
        is_finite = update_weights(model, optimizer, loss, max_grad_norm=1.0, part=part, parts=2)
    assert not is_finite
    assert torch.equal(model.weight, before)
