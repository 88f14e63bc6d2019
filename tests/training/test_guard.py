"""The guard of runs without labels: what it measures, on which frames, and when it takes a run back."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from steadydepth import metrics
from steadydepth.data.clips import hold_out
from steadydepth.training.guard import Guard
from steadydepth.training.state import TrainingState, back_off


class Brightness(nn.Module):
    """Bright is far, as a power of the image; or near, in inverse depth."""

    def __init__(self, claims="scale"):
        super().__init__()
        self.power, self.claims = nn.Parameter(torch.tensor(1.0)), claims

    def forward(self, frames, state=None):
        return (0.1 + frames.mean(dim=2)) ** self.power, {}


@pytest.fixture
def clips():
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 240, (3, 1, 5, 7, 3)) + generator.integers(0, 10, (3, 4, 5, 7, 3))
    return list(np.kron(blocks, np.ones((1, 1, 4, 4, 1))).astype(np.uint8))


def guard_of(model, clips, *, min_correlation=0.0, min_edges_kept=0.0):
    return Guard(
        deepcopy(model).eval().requires_grad_(False),
        clips,
        min_correlation=min_correlation,
        min_edges_kept=min_edges_kept,
    )


def test_what_it_finds_is_that_of_evaluate_over_all_clips(clips):
    model = Brightness()
    guard = guard_of(model, clips)
    names = ("log_depth_correlation", "edges_kept", "flicker_flow")

    def found(power):
        nn.init.constant_(model.power, power)
        scores = guard.compare(model, torch.device("cpu"))
        assert scores["flicker_flow_before"] == before
        return [scores[name] for name in names]

    before = guard.compare(model, torch.device("cpu"))["flicker_flow_before"]
    weighed = [metrics.flow_flicker(0.1 + clip.mean(axis=-1) / 255, metrics.image_flow(clip)) for clip in clips]
    total = sum(float(one["n_followed"]) for one in weighed)
    expected = sum(float(one["flicker_flow"].nan_to_num() * one["n_followed"]) for one in weighed) / total
    assert total > 100
    assert before == pytest.approx(expected, rel=1e-5)
    assert found(1.0) == pytest.approx([1, 1, before])
    assert found(0.7) == pytest.approx([1, 0.7, 0.7 * before])
    assert found(0.0) == [0, 0, 0]


def test_inverse_depth_is_compared_with_one_offset_for_both(clips):
    model = Brightness("disparity")
    guard = guard_of(model, clips[:1])
    nn.init.constant_(model.power, 2.0)
    found = guard.compare(model, torch.device("cpu"))
    image = 0.1 + clips[0].mean(axis=-1) / 255
    depth, other = (1 / (values / image.mean() + 0.1) for values in (image**2, image))
    expected = float(metrics.edges_kept(depth, other))
    assert found["edges_kept"] == pytest.approx(expected, rel=1e-5)
    correlation = metrics.log_depth_correlation(depth, other)["log_depth_correlation"]
    assert found["log_depth_correlation"] == pytest.approx(float(correlation), rel=1e-5)


def test_a_teacher_without_edges_has_all_of_them_kept():
    flat = [np.full((2, 8, 9, 3), 100, np.uint8)]
    found = guard_of(Brightness(), flat).compare(Brightness(), torch.device("cpu"))
    assert found == {"log_depth_correlation": 0, "edges_kept": 1, "flicker_flow": 0, "flicker_flow_before": 0}


def test_it_puts_back_the_weights_before_where_edges_are_lost_and_stops_when_that_is_of_no_use(clips):
    model, accelerator = Brightness(), Accelerator(cpu=True)
    guard = guard_of(model, clips, min_correlation=0.9, min_edges_kept=0.75)
    guard.keep(model)
    nn.init.constant_(model.power, 0.8)
    assert guard.too_little(guard.check(model, accelerator)) == []
    assert guard.backed_off == 0
    nn.init.constant_(model.power, 0.7)  # a correlation of 1
    found = guard.check(model, accelerator)
    assert guard.too_little(found) == ["edges_kept"]
    assert guard.backed_off == 1
    assert model.power.item() == pytest.approx(0.8)
    for times in range(2, 6):
        assert not guard.stopped
        nn.init.constant_(model.power, 0.7)
        guard.check(model, accelerator)
        assert guard.backed_off == times
        assert model.power.item() == pytest.approx(0.8)
    assert guard.stopped


def test_where_the_first_look_is_too_little_the_start_is_put_back(clips):
    model = Brightness()
    guard = guard_of(model, clips, min_edges_kept=0.9)
    guard.keep(model)
    nn.init.constant_(model.power, 0.5)
    guard.check(model, Accelerator(cpu=True))
    assert guard.backed_off == 1
    assert model.power.item() == 1


def test_what_is_0_stops_nothing_and_what_is_no_number_is_too_little(clips):
    assert guard_of(Brightness(), clips).too_little({"log_depth_correlation": -1.0, "edges_kept": 0.0}) == []
    guard = guard_of(Brightness(), clips, min_correlation=0.9, min_edges_kept=0.5)
    nothing = {"log_depth_correlation": float("nan"), "edges_kept": 0.4}
    assert guard.too_little(nothing) == ["log_depth_correlation", "edges_kept"]


def test_clips_are_held_out_evenly_and_none_of_their_frames_is_trained_on():
    shots = [range(30), range(40, 42), range(50, 110)]
    parts, taken = hold_out(shots, 3, 8)
    # A tenth of 92 frames is three clips, around the frames 15, 46 and 76 of those in a row.
    assert taken == [(0, 14), (2, 63), (2, 93)]
    assert parts == [[range(14), range(17, 30)], [range(40, 42)], [range(50, 63), range(66, 93), range(96, 110)]]
    assert hold_out(shots, 3, 1)[1] == [(2, 63)]


def test_nothing_is_held_out_of_short_videos():
    assert hold_out([range(29)], 3, 8) == ([[range(29)]], [])
    # Where the middle falls into a shot that is shorter than a clip there is none.
    shots = [range(20), range(20, 22), range(22, 42)]
    assert hold_out(shots, 4, 1) == ([[shot] for shot in shots], [])


@pytest.mark.parametrize("seed", range(20))
def test_held_out_clips_lie_inside_their_shots_and_do_not_overlap(seed):
    generator = np.random.default_rng(seed)
    shots, first = [], 0
    for length in generator.integers(1, 80, 6).tolist():
        shots.append(range(first, first + length))
        first += length
    parts, taken = hold_out(shots, 4, 8)
    left = [frame for of_shot in parts for part in of_shot for frame in part]
    out = [frame for number, start in taken for frame in range(start, start + 4)]
    assert sorted(left + out) == list(range(first))
    assert all(start in shots[number] and start + 3 in shots[number] for number, start in taken)
    assert len(out) <= first / 10


def test_backing_off_takes_the_average_half_the_rate_and_no_momentum():
    model, average = nn.Linear(1, 1, bias=False), AveragedModel(nn.Linear(1, 1, bias=False))
    nn.init.constant_(average.module.weight, 3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    assert optimizer.state
    state = TrainingState(model, average, optimizer, step=7, rate_share=0.5, skipped_in_a_row=1)
    after = back_off(state, Accelerator(cpu=True))
    assert (after.step, after.rate_share, after.skipped_in_a_row) == (7, 0.25, 1)
    assert model.weight.item() == 3
    assert not optimizer.state
