"""What cannot be scored is refused in one message that says what is wrong and what to do."""

import logging

import numpy as np
import pytest

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.evaluation.evaluate import evaluate, evaluate_clip
from steadydepth.files.predictions import write_predictions


def write(folder, world, change=lambda depth: depth, claims="metric"):
    for path in sorted(world.iterdir()):
        write_predictions(folder, path.name, np.float32(change(open_sequence(path).read().depth)), claims)
    return folder


def test_predictions_of_no_sequence_of_the_data(world, tmp_path):
    write_predictions(tmp_path, "elsewhere", np.ones((5, 48, 64), np.float32), "metric")
    with pytest.raises(InputError, match=r"(?s)elsewhere.*fixed_000003.*no name is in both"):
        evaluate(tmp_path, world)


def test_one_prediction_too_many_is_a_warning(world, tmp_path, caplog):
    write_predictions(write(tmp_path, world), "elsewhere", np.ones((5, 48, 64), np.float32), "metric")
    with caplog.at_level(logging.WARNING):
        assert evaluate(tmp_path, world, controls=False)["header"]["n_clips"] == 2
    assert "elsewhere" in caplog.text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda depth: depth[:4], "4 predicted frames for 5 frames"),
        (lambda depth: depth.transpose(0, 2, 1), "another shape"),
        (lambda depth: depth[:, :, :40], "48 x 40, frames 48 x 64"),
        (lambda depth: np.full_like(depth, np.nan), "every predicted value is NaN"),
    ],
)
def test_a_prediction_that_cannot_belong_to_its_clip(world, tmp_path, change, why):
    with pytest.raises(InputError, match=f"(?s)fixed_000003.*{why}"):
        evaluate(write(tmp_path, world, change), world)


@pytest.mark.parametrize("size", [(24, 32), (24, 31), (96, 128), (42, 56), (48, 66)])
def test_a_size_that_only_rounding_made_another_shape_is_resized(fixed_clip, size):
    values = evaluate_clip(np.full((5, *size), 3, np.float32), fixed_clip, claims="metric")
    assert values["abs_rel"] > 0


def test_strict_names_the_frame_that_is_not_finite_and_without_it_they_are_named(world, tmp_path, caplog):
    def poison(depth):
        depth = depth.copy()
        depth[3, 7, 8] = np.inf
        return depth

    write(tmp_path, world, poison)
    caplog.set_level(logging.WARNING)
    with pytest.raises(InputError, match=r"fixed_000003, frame 3: .*not finite"):
        evaluate(tmp_path, world, strict=True)
    assert evaluate(tmp_path, world, controls=False)["header"]["n_nonfinite"] == 2
    assert "NaN or infinite" in caplog.text
    assert "1 in fixed_000003, 1 in moving_000004" in caplog.text


def test_labels_of_which_no_pixel_counts_are_named(world, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    report = evaluate(write(tmp_path, world), world, controls=False)
    assert report["mean"]["abs_rel"] == 0
    assert not caplog.text
    report = evaluate(tmp_path, world, controls=False, max_depth=0.01)
    assert report["mean"]["abs_rel"] is None
    assert "fixed_000003, moving_000004; look at depth_scale_m of meta.json, and at max_depth" in caplog.text


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1100, "the predictions are about 1100 times the labels, so the predictions seem to be in millimetres"),
        (100, "the predictions are about 100 times the labels, so the predictions seem to be in centimetres"),
        (0.001, "the labels are about 1000 times the predictions, so the labels seem to be in millimetres"),
        (10, ""),
        (1, ""),
    ],
)
def test_metres_that_are_another_unit_are_named_once(world, tmp_path, caplog, factor, words):
    write(tmp_path, world, lambda depth: factor * depth)
    evaluate(tmp_path, world, controls=False)
    assert [words in record.getMessage() for record in caplog.records] == ([True] if words else [])
    caplog.clear()
    evaluate(tmp_path, world, controls=False, align="scale")
    write(tmp_path, world, lambda depth: factor * depth, claims="scale")
    evaluate(tmp_path, world, controls=False)
    assert not caplog.records


def test_an_inverted_prediction_is_flagged_and_its_clips_are_named(world, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        report = evaluate(write(tmp_path, world, claims="disparity"), world, controls=False)
    assert report["mean"]["negative_scale"] == 1
    assert "negative scale" in caplog.text
    assert "fixed_000003, moving_000004" in caplog.text


@pytest.mark.parametrize("claims", ["metric", "affine"])
@pytest.mark.parametrize("align", ["per_frame", "per-frame", "frame", "per_image", "image"])
def test_aligning_each_frame_is_refused_with_the_reason(fixed_clip, claims, align):
    with pytest.raises(InputError, match=r"once for a clip.*flicker"):
        evaluate_clip(fixed_clip.depth, fixed_clip, claims=claims, align=align)


def test_affine_claims_are_told_what_they_are_allowed(fixed_clip):
    with pytest.raises(InputError, match="one factor and offset a clip"):
        evaluate_clip(fixed_clip.depth, fixed_clip, claims="affine", align="per_frame")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lengths": (8, 1)}, r"lengths \[1\]"),
        ({"opw": "raft"}, "choose khan, or nvds"),
        ({"jobs": 0}, "jobs 0"),
        ({"protocol": "vda_nyu"}, "crop eigen_nyu is for 480 x 640"),
        ({"protocol": "sintell"}, "choose one of plain"),
        ({"align": "per_frame"}, "once for a clip"),
    ],
)
def test_options_that_make_no_sense(world, tmp_path, options, why):
    with pytest.raises(InputError, match=why):
        evaluate(write(tmp_path, world), world, controls=False, **options)
