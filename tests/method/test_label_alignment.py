import pytest
import torch

from steadydepth.method.absolute_loss import absolute_loss
from steadydepth.method.alignment import align_clips, as_depth
from steadydepth.method.pairing import pair_with_previous
from steadydepth.method.relative_loss import relative_loss


def random_depth(seed, shape=(2, 3, 4, 5)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 3 + 0.5


WRONG = {
    "scale": lambda depth: 0.3 * depth,
    "affine": lambda depth: 0.3 * depth + 2,
    "disparity": lambda depth: 0.7 / depth + 0.4,
}


@pytest.mark.parametrize("claims", WRONG)
def test_what_a_model_may_be_wrong_by_costs_nothing(claims):
    truth = random_depth(0)
    valid = random_depth(1) > 1
    aligned = align_clips(WRONG[claims](truth), torch.where(valid, truth, torch.nan), valid, claims)
    torch.testing.assert_close(aligned, truth, rtol=1e-4, atol=1e-4)
    assert absolute_loss(aligned, truth, valid).item() < 1e-4
    assert relative_loss(pair_with_previous(aligned, valid), pair_with_previous(truth, valid)).item() < 1e-4


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (5.0, -3.0), (-2.0, 0.5), (1e-3, 0.0), (40.0, -400.0)])
@pytest.mark.parametrize("claims", ["affine", "disparity"])
def test_factor_and_offset_cost_nothing_of_any_sign_and_size(claims, factor, offset):
    truth = random_depth(7).double()
    valid = random_depth(8) > 1
    predicted = factor * (truth if claims == "affine" else 1 / truth) + offset
    torch.testing.assert_close(align_clips(predicted, truth, valid, claims), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("claims", ["affine", "disparity"])
def test_values_about_zero_become_a_depth_by_hand(claims):
    like = torch.tensor([[[[-1.0, 0.0, 1.0, 2.0]]], [[[0.0, 2.0, 4.0, 6.0]]]])
    predicted = torch.tensor([[[[-1.5, -1.0, 0.5, 2.0]]], [[[0.0, 3.0, 6.0, 9.0]]]])
    # Less the smallest value where that is below 0, over the mean 1.5 of what is left; over the mean 3.
    shifted = torch.tensor([[[[0.1, 0.1, 1.1, 2.1]]], [[[0.1, 1.1, 2.1, 3.1]]]])
    expected = 1 / shifted if claims == "disparity" else shifted
    torch.testing.assert_close(as_depth(predicted, like, claims), expected)
    assert as_depth(predicted, like, "scale") is predicted


@pytest.mark.parametrize(
    ("claims", "predicted"),
    [("scale", [1, 2, 3, 0]), ("affine", [2, 4, 6, -5]), ("disparity", [1, 1 / 2, 1 / 3, 1e6])],
)
def test_an_aligned_depth_is_at_least_a_millimetre(claims, predicted):
    truth, predicted = (torch.tensor(values).view(1, 1, 1, 4) for values in ([1.0, 2.0, 3.0, torch.nan], predicted))
    aligned = align_clips(predicted.float(), truth, truth > 0, claims)
    torch.testing.assert_close(aligned.flatten(), torch.tensor([1.0, 2.0, 3.0, 0.001]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("claims", "expected"), [("scale", 4.0), ("affine", 4.0), ("disparity", 0.25)])
def test_a_clip_without_a_label_is_not_aligned(claims, expected):
    depth = torch.full((1, 2, 1, 3), 4.0)
    aligned = align_clips(depth, torch.full_like(depth, torch.nan), torch.zeros_like(depth, dtype=torch.bool), claims)
    torch.testing.assert_close(aligned, torch.full_like(depth, expected))


@pytest.mark.parametrize("claims", WRONG)
def test_single_images_are_each_aligned_to_their_own_label(claims):
    truth = random_depth(9)
    factors = torch.tensor([0.5, 1.0, 3.0]).view(3, 1, 1)
    predicted, valid = WRONG[claims](truth) * factors, torch.ones_like(truth, dtype=torch.bool)
    torch.testing.assert_close(align_clips(predicted, truth, valid, claims, single=True), truth, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(align_clips(predicted, truth, valid, claims), truth, rtol=0.1)


def test_a_median_of_zero_takes_the_factor_zero():
    predicted, truth = (torch.tensor(values).view(1, 1, 1, 3) for values in ([0.0, 0.0, 3.0], [1.0, 2.0, 3.0]))
    predicted.requires_grad_()
    aligned = align_clips(predicted, truth, truth > 0, "scale")
    assert aligned.flatten().tolist() == pytest.approx([0.001] * 3)
    (gradient,) = torch.autograd.grad(aligned.sum(), predicted)
    assert torch.isfinite(gradient).all()


def test_metres_are_left_alone():
    depth = random_depth(2)
    assert align_clips(depth, random_depth(3), depth > 1, "metric") is depth


@pytest.mark.parametrize("claims", WRONG)
def test_flicker_is_not_aligned_away(claims):
    """One fit for the clip: a factor that comes and goes stays in the loss, which a fit for each frame would hide."""
    truth = random_depth(4)[:, :1].expand(2, 4, 4, 5)
    valid = torch.ones_like(truth, dtype=torch.bool)
    factor = torch.tensor([1.0, 1.2, 1.0, 1.2]).view(1, 4, 1, 1)
    aligned = align_clips(WRONG[claims](truth * factor), truth, valid, claims)
    assert relative_loss(pair_with_previous(aligned, valid), pair_with_previous(truth, valid)).item() > 0.05


@pytest.mark.parametrize("claims", WRONG)
def test_the_gradient_goes_through_the_fit_and_stays_finite_without_a_label(claims):
    truth = random_depth(5, (2, 2, 3, 3)).double()
    predicted = WRONG[claims](random_depth(6, truth.shape)).double().requires_grad_()
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[1] = False

    def loss(predicted):
        return absolute_loss(align_clips(predicted, truth, valid, claims), truth, valid)

    assert torch.autograd.gradcheck(loss, (predicted,))
    (gradient,) = torch.autograd.grad(loss(predicted), predicted)
    assert (gradient[1] == 0).all()
    # A common factor is free: the loss does not change along the prediction itself.
    if claims == "scale":
        assert float((gradient * predicted.detach()).sum()) == pytest.approx(0, abs=1e-9)
