"""metrics.json that was edited by hand, or is something else, is one message with the file, the keys and a way out."""

import json

import pytest

from steadydepth.errors import InputError
from steadydepth.evaluation.stored_report import read_report

VALUES = {"abs_rel": 0.1, "flicker": None, "n_frames": 12}
REPORT = {
    "version": 1,
    "header": {"data": "world", "n_clips": 1, "n_frames": 12, "align": "none", "max_depth": 80.0, "noted": [1, 2]},
    "mean": VALUES,
    "mean_fixed": {},
    "clips": {"a": VALUES | {"fixed_camera": True, "negative_scale": False, "colour": "red"}},
    "controls": {"ema": {"mean": VALUES, "clips": {"a": VALUES}}},
    "interval": {"abs_rel": [0.05, 0.2], "flicker": None},
    "lengths": {"8": {"mean": VALUES}},
    "curves": {"a": {"abs_rel": [0.1, None]}},
}


def edited(place, value):
    """REPORT with another value at a place, or without it where the value is `...`."""
    report = json.loads(json.dumps(REPORT))
    *sections, key = place.split("/")
    section = report
    for name in sections:
        section = section[name]
    if value is ...:
        del section[key]
    else:
        section[key] = value
    return report


def test_a_report_is_given_as_it_stands_there(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(REPORT), encoding="utf-8")
    assert read_report(tmp_path) == read_report(tmp_path / "metrics.json") == REPORT


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("header/data", ..., "header.data is missing"),
        ("header/data", ["world"], r"header.data is \['world'\]"),
        ("header/n_clips", "8", "header.n_clips is '8'"),
        ("header/model", 3, "header.model is 3"),
        ("header", [], r"header is \[\]"),
        ("mean", ..., "mean is missing"),
        ("mean/abs_rel", "0.1", "mean: abs_rel is '0.1', and a number or null"),
        ("mean_moving", [1], r"mean_moving is \[1\]"),
        ("clips", [], r"clips is \[\]"),
        ("clips/a", 1, "clips.a is 1"),
        ("clips/a/flicker", [1.0], r"clips.a: flicker is \[1.0\], and a number or null"),
        ("clips/a/n_frames", "12", "clips.a: n_frames is '12'"),
        ("controls/ema/mean", ..., "controls.ema.mean is missing"),
        ("controls/ema/clips", ..., "controls.ema.clips is missing"),
        ("controls", [], r"controls is \[\]"),
        ("interval/abs_rel", 0.1, "interval.abs_rel is 0.1"),
        ("interval/abs_rel", [0.1], r"interval.abs_rel is \[0.1\]"),
        ("lengths/8", {}, "lengths.8.mean is missing"),
        ("curves/a/abs_rel", 0.1, "curves.a.abs_rel is 0.1"),
    ],
)
def test_a_key_that_is_missing_or_of_another_type_is_named(tmp_path, place, value, told):
    (tmp_path / "metrics.json").write_text(json.dumps(edited(place, value)), encoding="utf-8")
    rule = (
        rf"metrics\.json: is no metrics\.json as steadydepth evaluate writes it: {told}.*evaluate again, or correct it"
    )
    with pytest.raises(InputError, match=rule):
        read_report(tmp_path)


def test_many_mistakes_are_one_line(tmp_path):
    report = REPORT | {"clips": {str(number): {"abs_rel": "0.1"} for number in range(300)}}
    (tmp_path / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(InputError, match=r"clips\.4: abs_rel is '0.1', and a number or null; and 295 more: ") as raised:
        read_report(tmp_path)
    assert "clips.5" not in str(raised.value)


def test_what_is_no_metrics_json_is_named(tmp_path):
    contents = {"{": "cannot be read", "[]": "is no metrics.json", '{"mean": {}}': "is no metrics", "\xff": "cannot be"}
    for content, rule in (contents | {"[" * 100_000: "cannot be read"}).items():
        (tmp_path / "other.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=rf"other\.json: {rule}"):
            read_report(tmp_path / "other.json")
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_report(tmp_path / "none.json")
