"""The learned filter: what it leaves alone, what it remembers, and what it ships with."""

import math

import pytest
import torch
from safetensors.torch import save_file

from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.models.temporal_filter import FilterGates, TemporalFilter, load_gates
from steadydepth.ops.filter_step import N_FEATURES, from_log, guide_factor, padding, to_log
from steadydepth.types import InputError

B, T, H, W = 2, 6, 38, 50
CLAIMS = ("metric", "scale", "affine", "disparity")


def load_filter(claims):
    return TemporalFilter(claims, load_gates())


def draw(seed: int = 0, b: int = B, t: int = T):
    """Frames, depth around 2 that flickers, and motion of about a pixel."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.randn(b, 1, 5, 6, generator=generator), (H, W), mode="bilinear")
    depth = (0.7 + 0.3 * smooth + 0.05 * torch.randn(b, t, H, W, generator=generator)).exp()
    frames = torch.rand(b, 1, 3, H, W, generator=generator).expand(b, t, 3, H, W).contiguous()
    return frames, depth, torch.randn(b, t, H, W, 2, generator=generator)


@pytest.fixture(params=CLAIMS)
def network(request):
    return load_filter(request.param)


def test_the_first_frame_passes_unchanged(network):
    frames, depth, motion = draw()
    out, _ = network(frames[:, :1], depth[:, :1], motion=motion[:, :1])
    assert torch.equal(out, depth[:, :1])


def test_strength_0_changes_nothing(network):
    frames, depth, motion = draw()
    out, _ = network(frames, depth, motion=motion, strength=0.0)
    assert torch.equal(out, depth)


def test_flicker_of_a_still_view_falls_and_its_mean_stays(network):
    frames, depth, motion = draw(t=24)
    out, _ = network(frames, depth, motion=torch.zeros_like(motion))
    logs = out.detach().log(), depth.log()
    flicker = [(one[:, 8:].diff(dim=1)).abs().mean() for one in logs]
    assert flicker[0] < 0.3 * flicker[1]
    assert abs(float(logs[0].mean() - logs[1].mean())) < 0.01


def test_strength_is_a_trade_off():
    frames, depth, motion = draw(t=16)
    network = load_filter("metric")
    motion = torch.zeros_like(motion)
    flicker = [
        float(network(frames, depth, motion=motion, strength=s)[0].detach().log()[:, 8:].diff(dim=1).abs().mean())
        for s in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert flicker == sorted(flicker, reverse=True)
    assert flicker[0] > 2 * flicker[-1]


def test_a_batch_does_not_mix_its_streams(network):
    frames, depth, motion = draw()
    both, _ = network(frames, depth, motion=motion, strength=torch.tensor([1.0, 0.5]))
    for i, strength in enumerate((1.0, 0.5)):
        part = slice(i, i + 1)
        alone, _ = network(frames[part], depth[part], motion=motion[part], strength=strength)
        torch.testing.assert_close(both[part], alone, rtol=1e-5, atol=1e-5)


def test_chunks_and_single_frames_give_what_the_video_at_once_gives(network):
    frames, depth, motion = draw()
    at_once, last = network(frames, depth, motion=motion)
    for size in (1, 4):
        parts, state = [], None
        for first in range(0, T, size):
            part = slice(first, first + size)
            out, state = network(frames[:, part], depth[:, part], state, motion=motion[:, part])
            parts.append(out)
        assert torch.equal(torch.cat(parts, 1), at_once)
        assert all(torch.equal(state[name], last[name]) for name in last)


def test_states_are_stacked_and_taken_apart(network):
    frames, depth, motion = draw()
    states = [network(frames[i : i + 1, :3], depth[i : i + 1, :3], motion=motion[i : i + 1, :3])[1] for i in range(B)]
    stacked = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    at_once, _ = network(frames, depth, motion=motion)
    rest, _ = network(frames[:, 3:], depth[:, 3:], stacked, motion=motion[:, 3:])
    torch.testing.assert_close(rest, at_once[:, 3:], rtol=1e-5, atol=1e-5)


def test_without_a_state_it_begins_anew(network):
    frames, depth, motion = draw()
    network(frames, depth, motion=motion)
    assert torch.equal(network(frames[:, 3:4], depth[:, 3:4], motion=motion[:, 3:4])[0], depth[:, 3:4])


@pytest.mark.parametrize("claims", ["metric", "scale"])
def test_a_factor_of_depth_stays_one(claims):
    frames, depth, motion = draw()
    network = load_filter(claims)
    out, _ = network(frames, depth, motion=motion)
    scaled, _ = network(frames, 1000 * depth, motion=motion)
    torch.testing.assert_close(scaled, 1000 * out, rtol=1e-4, atol=0)


@pytest.mark.parametrize("claims", ["affine", "disparity"])
def test_a_factor_and_an_offset_stay_the_same(claims):
    """So values of both signs are as good as others."""
    frames, depth, motion = draw()
    network = load_filter(claims)
    out, _ = network(frames, depth, motion=motion)
    centred, _ = network(frames, 5 * (depth - depth.mean()), motion=motion)
    assert (centred < 0).any()
    torch.testing.assert_close(centred, 5 * (out - depth.mean()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("claims", CLAIMS)
def test_the_map_to_log_depth_has_an_inverse(claims):
    _, depth, _ = draw()
    if claims in ("affine", "disparity"):
        depth = depth - 2.5
    unit = torch.tensor([[0.0, 1.7], [0.0, 0.6]])[:, None]
    log_depth = to_log(depth, unit, claims)
    torch.testing.assert_close(from_log(log_depth, unit, claims), depth, rtol=1e-4, atol=1e-5)
    rises = 1 if claims != "disparity" else -1
    assert bool(((to_log(depth * 1.01, unit, claims) - log_depth) * depth.sign() * rises > 0).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_passes_and_is_never_remembered(network, bad):
    frames, depth, motion = draw()
    motion = torch.zeros_like(motion)
    dirty = depth.clone()
    dirty[:, 2, 10:14, 20:30] = bad
    out, state = network(frames, dirty, motion=motion)
    hole = torch.zeros(H, W, dtype=torch.bool)
    hole[10:14, 20:30] = True
    assert torch.equal(out[:, 2, hole].nan_to_num(7), dirty[:, 2, hole].nan_to_num(7))
    assert out[:, 3:].isfinite().all()
    assert out[:, 2][:, ~hole].isfinite().all()
    # Nothing is remembered there, so the next frame passes but for what its neighbours have in common.
    after = network(frames[:, :3], dirty[:, :3], motion=motion[:, :3])[1]
    assert (after["known"][:, hole] == 0).all()
    assert (after["filtered"][:, hole] == 0).all()
    assert all(tensor.isfinite().all() for tensor in state.values())


class Given(FilterGates):
    """Gates that are the same everywhere, and what they were shown."""

    def __init__(self, *gates):
        super().__init__(width=1)
        self.given, self.shown = torch.tensor(gates).view(1, 4, 1, 1), []

    def forward(self, features):
        self.shown.append(features[0])
        return self.given.expand(len(features), 4, *features.shape[-2:])


def pair_of(first, second):
    return torch.stack((first, second))[None]


def squash(change):
    return math.copysign(0.5 * math.log1p(50 * abs(change)), change)


def test_what_the_gates_keep_by_hand():
    frames, still = torch.full((1, 2, 3, 24, 32), 0.5), torch.zeros(1, 2, 24, 32, 2)
    gates = Given(0.5, 0.2, 0.8, 10.0)
    # All is farther by 10 %: a low frequency, of which 0.98 x strength 0.5 x 0.8 of the difference is kept.
    near = torch.full((24, 32), 2.0)
    out, _ = TemporalFilter("metric", gates)(frames, pair_of(near, near * math.exp(0.1)), motion=still, strength=0.5)
    torch.testing.assert_close(out[0, 1], near * math.exp(0.1 - 0.98 * 0.5 * 0.8 * 0.1), rtol=1e-5, atol=0)
    # Every second pixel by 5 % more or less: detail, kept less the larger it is beside a tenth.
    detail = 0.05 * (1 - 2 * ((torch.arange(24)[:, None] + torch.arange(32)) % 2))
    out, state = TemporalFilter("metric", gates)(frames, pair_of(detail.exp(), near / 2), motion=still)
    kept = 0.98 * 0.5 / (1 + 0.5**2)
    torch.testing.assert_close(out[0, 1].log(), kept * detail, rtol=1e-4, atol=1e-6)
    # The frame before was the first, of age 1; the mean of its spread, 0, and of this one's.
    torch.testing.assert_close(state["age"], torch.full((1, 24, 32), 1 + kept), rtol=1e-4, atol=0)
    torch.testing.assert_close(state["spread"], torch.full((1, 24, 32), 0.05 / 2), rtol=1e-4, atol=0)


def test_what_the_network_is_shown_of_a_still_view_by_hand():
    row, column = torch.arange(24.0)[:, None].expand(24, 32), torch.arange(32.0).expand(24, 32)
    slope = (0.03 * row + 0.01 * column).exp()
    # Red rises to the right and green downwards; the second frame is half as bright, and blue is added.
    image = torch.stack((column / 100, row / 50, torch.zeros_like(row)))
    darker = image / 2 + torch.tensor([0.0, 0.0, 0.1]).view(3, 1, 1)
    gates = Given(0.5, 0.5, 0.5, 1.0)
    TemporalFilter("metric", gates)(
        pair_of(image, darker), pair_of(slope, slope * math.exp(0.1)), motion=torch.zeros(1, 2, 24, 32, 2), strength=0.7
    )
    shown = gates.shown[1]
    # Nearer than before by 0.1 in all of it, what is common and low alike; nothing is left beside that.
    changed = [squash(-0.1), squash(0.1), 0, squash(-0.1), 0, squash(-0.1), squash(-0.1), squash(0.1), 0]
    share = (darker.mean((1, 2)).sum() + 1e-3) / (image.mean((1, 2)).sum() + 1e-3)
    residual = torch.nn.functional.avg_pool2d((darker - share * image).abs().mean(0)[None], 2)
    edges, texture = math.hypot(0.03, 0.01), (0.01 / 2 + 0.02 / 2 + 1e-4) / 3
    still = math.log1p(1e-4)
    others = [squash(edges), 10 * texture, math.log(2) / 2, 0, 1, still, still, 0, 0.7]
    assert shown.shape == (N_FEATURES, 12, 16)
    for number, expected in (*enumerate(changed), *enumerate(others, start=10)):
        found = shown[number, :-1, :-1]  # there is nothing beyond the last pixels to differ from
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-3, atol=1e-3, msg=f"{number}")
    torch.testing.assert_close(shown[9:10], 10 * residual, rtol=1e-4, atol=1e-5)


def test_what_the_network_is_shown_of_motion_by_hand():
    row, column = torch.arange(24.0)[:, None].expand(24, 32), torch.arange(32.0).expand(24, 32)
    gates, motion = Given(0.5, 0.5, 0.5, 1.0), torch.stack((-0.02 * column, -0.04 * row), -1)
    still = torch.full((1, 2, 3, 24, 32), 0.5)
    TemporalFilter("metric", gates)(still, torch.ones(1, 2, 24, 32), motion=motion.expand(1, 2, 24, 32, 2))
    # At half the size, motion is half as long; it changes by as much from one pixel to the next.
    x, y = (0.02 * (column[:12, :16] + 0.25)), (0.04 * (row[:12, :16] + 0.25))
    size, change, widening = gates.shown[1][15:18]
    torch.testing.assert_close(size, torch.hypot(x, y).log1p(), rtol=1e-4, atol=1e-4)
    inner = change[:-1, :-1]
    torch.testing.assert_close(inner, torch.full_like(inner, math.log1p((0.02 + 0.04) / 2)), rtol=1e-4, atol=1e-4)
    inner = widening[1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, -0.06), rtol=1e-4, atol=1e-5)


def test_a_hole_in_a_cell_leaves_the_mean_of_the_rest():
    """At guide size, half of this: 1 to the left and 4 to the right, counted from their geometric mean."""
    depth = torch.where(torch.arange(152) < 76, 1.0, 4.0).expand(1, 1, 152, 152).clone()
    depth[..., 20, 100], depth[..., 40:42, 100:102] = torch.nan, torch.nan
    _, state = load_filter("metric")(torch.rand(1, 1, 3, 152, 152), depth, motion=torch.zeros(1, 1, 76, 76, 2))
    right = (4 / state["unit"][0, 1]).log()
    torch.testing.assert_close(state["raw"][0, 10, [0, 49, 50, 75]], torch.stack([right - math.log(4), *[right] * 3]))
    assert state["raw"][0, 20, 50] == 0


def test_a_depth_that_is_not_above_0_passes_where_depth_is_claimed():
    frames, depth, motion = draw()
    depth[:, :, 5, 5] = 0.0
    depth[:, :, 5, 6] = -1.0
    out, _ = load_filter("metric")(frames, depth, motion=motion)
    assert torch.equal(out[:, :, 5, 5:7], depth[:, :, 5, 5:7])
    assert out.isfinite().all()


@pytest.mark.parametrize("motion", [float("nan"), 1e4])
def test_what_was_out_of_the_image_or_is_unknown_passes(motion):
    frames, depth, _ = draw()
    out, _ = load_filter("metric")(frames, depth, motion=torch.full((B, T, H, W, 2), motion))
    assert torch.equal(out, depth)


@pytest.mark.parametrize("size", [(12, 17), (33, 47), (96, 128), (241, 323)])
def test_any_size(size):
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(1, 2, *size, generator=generator) + 1
    guide = [(side + more) // guide_factor(*size) for side, more in zip(size, padding(*size), strict=True)]
    out, state = load_filter("scale")(
        torch.rand(1, 2, 3, *size, generator=generator), depth, motion=torch.zeros(1, 2, *guide, 2)
    )
    assert out.shape == depth.shape
    assert all(len(tensor) == 1 for tensor in state.values())


def test_the_gradient_reaches_every_weight():
    frames, depth, motion = draw()
    network = TemporalFilter()
    torch.nn.init.normal_(network.gates.head.weight, generator=torch.Generator().manual_seed(0))
    out, _ = network(frames, depth, motion=motion)
    out.log().diff(dim=1).square().mean().backward()
    assert all(weight.grad is not None and bool((weight.grad != 0).any()) for weight in network.parameters())


def test_an_untrained_network_keeps_most_of_what_differs_by_little():
    gates = FilterGates(width=3)
    features = torch.randn(1, N_FEATURES, 4, 5, generator=torch.Generator().manual_seed(0))
    kept = 1 / (1 + math.exp(-1))
    for reach, expected in ((-2, math.exp(2)), (-9, math.exp(8)), (3, math.exp(-2))):
        gates.head.bias.data[3] = reach
        start = torch.tensor([kept, kept, kept, expected]).view(1, 4, 1, 1).expand(1, 4, 4, 5)
        torch.testing.assert_close(gates(features), start)


def test_the_network_sees_seven_pixels_to_each_side():
    torch.manual_seed(0)
    gates = FilterGates()
    torch.nn.init.normal_(gates.head.weight)
    features = torch.randn(1, N_FEATURES, 19, 21, requires_grad=True)
    (gradient,) = torch.autograd.grad(gates(features)[0, :, 9, 10].sum(), features)
    rows, columns = (gradient.abs().sum((0, 1, axis)).nonzero().flatten() for axis in (3, 2))
    # Dilated by 1, 2 and 4.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 16, 3, 17)


def test_weights_of_another_width_are_loaded_and_others_refused(tmp_path):
    narrow = FilterGates(width=8)
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    loaded = load_gates(tmp_path / "narrow.safetensors")
    assert not loaded.training
    for name, weight in narrow.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    save_file({"body.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no weights of this version's learned filter"):
        load_gates(tmp_path / "other.safetensors")


def test_it_ships_small():
    assert WEIGHTS.stat().st_size < 200_000


def test_a_missing_file_of_weights_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: no such file of weights"):
        load_gates(tmp_path / "none.safetensors")


def test_a_filter_that_was_cut_when_it_was_copied_is_named(tmp_path):
    weights = tmp_path / WEIGHTS.name
    for size in (0, 100, 9000):
        weights.write_bytes(WEIGHTS.read_bytes()[:size])
        with pytest.raises(InputError, match=rf"{weights.name}: cannot be read as weights"):
            load_gates(weights)
