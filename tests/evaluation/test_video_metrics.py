"""Metrics with update and compute: the numbers of evaluate."""

from dataclasses import replace

import pytest
import torch

from steadydepth import metrics
from steadydepth.errors import InputError
from steadydepth.evaluation.evaluate import evaluate_clip
from steadydepth.metrics.protocols import METRICS


def test_clips_one_by_one_come_to_the_means_over_clips(fixed_clip, moving_clip):
    found = metrics.VideoMetrics(claims="scale", max_depth=10.0)
    assert set(found.compute().values()) == {None}
    depths = {clip.name: 2 * clip.depth**1.1 for clip in (fixed_clip, moving_clip)}
    own = [found.update(depths[clip.name], clip) for clip in (fixed_clip, moving_clip)]
    options = {"claims": "scale", "max_depth": 10.0}
    assert own == [evaluate_clip(depths[clip.name], clip, **options) for clip in (fixed_clip, moving_clip)]
    mean = found.compute()
    assert list(mean) == list(METRICS)
    for name in ("abs_rel", "edge_gain", "boundary_f1", "flicker_flow"):
        assert mean[name] == pytest.approx((own[0][name] + own[1][name]) / 2)
    assert mean["flicker"] == own[0]["flicker"]  # the other camera moves
    assert mean["edge_gain"] == pytest.approx(1.1, rel=1e-3)


def test_reset_forgets_and_tensors_do_as_well(fixed_clip, moving_clip):
    found = metrics.VideoMetrics(claims="metric")
    found.update(moving_clip.depth, moving_clip)
    found.reset()
    found.update(torch.from_numpy(fixed_clip.depth), fixed_clip)
    assert found.compute()["abs_rel"] == 0
    assert len(found.clips) == 1


def test_what_cannot_be_scored_is_refused_and_changes_nothing(fixed_clip):
    found = metrics.VideoMetrics(claims="metric", align="frame")
    with pytest.raises(InputError, match="align 'frame'"):
        found.update(fixed_clip.depth, fixed_clip)
    with pytest.raises(InputError, match="4 predicted frames for 5"):
        metrics.VideoMetrics(claims="metric").update(fixed_clip.depth[:4], fixed_clip)
    assert found.clips == []


@pytest.mark.parametrize("part", ["depth", "valid", "objects"])
def test_a_label_that_cannot_belong_to_the_frames_is_named(fixed_clip, part):
    wrong = replace(fixed_clip)
    object.__setattr__(wrong, part, getattr(fixed_clip, part)[:, ::2, ::2])  # where types are checked, no Clip takes it
    with pytest.raises(InputError, match=rf"the label {part} is \(5, 24, 32\), frames are \(5, 48, 64\)"):
        metrics.VideoMetrics(claims="metric").update(fixed_clip.depth, wrong)
