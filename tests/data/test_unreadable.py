"""What cannot be read is named and costs the rest nothing; what is no depth is named by data check."""

import logging
import os
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from links import needs_links

from steadydepth.config_files import resolve_config
from steadydepth.data.checks import check_data
from steadydepth.data.cuts import shots_of
from steadydepth.data.loader import ClipSamples
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.shards.write import pack
from steadydepth.errors import InputError
from steadydepth.files.video_write import write_video

SETTINGS = {
    "length": 2, "height": 32, "width": 32, "motion": "none", "labels": "none", "seed": 0,
    "cached_clips": 0, "find_cuts": True,
}  # fmt: skip


@pytest.fixture
def videos(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.mp4", iter(frames), 10.0)
    return tmp_path


def test_training_names_and_leaves_out_what_cannot_be_read(videos, caplog):
    whole = (videos / "b.mp4").read_bytes()
    (videos / "b.mp4").write_bytes(whole[: len(whole) - 400])
    samples = ClipSamples(videos, **SETTINGS)
    assert sorted({sequence.name for sequence, _ in samples.clips}) == ["a", "c"]
    assert f"left out: {videos / 'b.mp4'}: " in caplog.text
    with pytest.raises(InputError, match=r"b\.mp4"):
        ClipSamples(videos, **SETTINGS, strict=True)


def test_where_nothing_can_be_read_all_is_named(videos):
    for path in videos.iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"3 input.s. failed, 0 written") as raised:
        ClipSamples(videos, **SETTINGS)
    assert all(f"{name}.mp4" in str(raised.value) for name in "abc")


def test_strict_is_a_key_of_a_config():
    config = {"data": {"root": "x", "strict": True}, "optim": {"steps": 1}, "run": {"folder": "y"}}
    assert resolve_config(config, "test").data.strict


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_a_name_that_is_not_utf8_has_its_cuts_kept(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = os.fsdecode(os.fsencode(videos) + b"/caf\xe9.mp4")
    (videos / "a.mp4").rename(name)
    for _ in range(2):
        assert shots_of(open_sequence(videos / name)) == [range(5)]
    assert len(list((tmp_path / "cache/steadydepth/cuts").iterdir())) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"borders": 3}', '{"borders": [null]}', "[" * 100])
def test_a_damaged_file_of_cuts_is_made_anew(videos, tmp_path, monkeypatch, content, caplog):
    caplog.set_level(logging.INFO, "steadydepth")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shots_of(open_sequence(videos / "a.mp4"))
    (kept,) = (tmp_path / "cache/steadydepth/cuts").iterdir()
    kept.write_text(content, encoding="utf-8")
    assert shots_of(open_sequence(videos / "a.mp4")) == [range(5)]
    assert caplog.text.count("looking for cuts") == 2


def write_sequence(root, name, depth):
    (root / name / "rgb").mkdir(parents=True)
    (root / name / "depth").mkdir()
    (root / name / "meta.json").write_bytes(b'\xef\xbb\xbf{"fps": 30, "depth_scale_m": 0.001}\r\n')
    gradient = np.add.outer(np.arange(20), np.arange(30))
    for number, codes in enumerate(depth):
        cv2.imwrite(
            str(root / name / f"rgb/{number:04d}.png"), (np.dstack([gradient] * 3) + 4 * number).astype(np.uint8)
        )
        cv2.imwrite(str(root / name / f"depth/{number:04d}.png"), codes)


def test_labels_that_are_none_are_named_once(tmp_path):
    fine = np.full((20, 30), 2000, np.uint16)
    full = np.where(np.arange(600).reshape(20, 30) % 3, fine, np.uint16(65535)).astype(np.uint16)
    write_sequence(tmp_path, "fine", [fine, fine])
    write_sequence(tmp_path, "empty", [np.zeros_like(fine), fine, np.zeros_like(fine)])
    write_sequence(tmp_path, "full", [full, full])
    empty, ends = check_data(tmp_path)
    assert f"{tmp_path / 'empty' / 'depth'}: no pixel is measured in 2 of 3 images" in empty
    assert f"{tmp_path / 'full' / 'depth'}: 33% of the pixels are 65535" in ends


def test_training_names_and_leaves_out_sequences_whose_labels_are_none(tmp_path, caplog):
    fine = np.full((20, 30), 2000, np.uint16)
    none = np.zeros_like(fine)
    full = np.where(np.arange(600).reshape(20, 30) % 3, fine, np.uint16(65535)).astype(np.uint16)
    write_sequence(tmp_path, "empty", [none] * 12)
    write_sequence(tmp_path, "fine", [fine, fine])
    write_sequence(tmp_path, "full", [full, full])
    write_sequence(tmp_path, "late", [none] * 10 + [fine] + [none])  # none of those looked at first
    settings = {**SETTINGS, "labels": "depth"}
    samples = ClipSamples(tmp_path, **settings)
    assert sorted({sequence.name for sequence, _ in samples.clips}) == ["fine", "late"]
    left_out = [record.message for record in caplog.records if record.message.startswith("left out: ")]
    assert len(left_out) == 2
    assert f"{tmp_path / 'empty/depth'}: no pixel is measured in 12 of 12 images" in left_out[0]
    assert f"{tmp_path / 'full/depth'}: 33% of the pixels are 65535" in left_out[1]
    for labels in ("depth", "single"):
        with pytest.raises(InputError, match=r"empty.depth: no pixel is measured"):
            ClipSamples(tmp_path, **{**settings, "labels": labels}, strict=True)
    # What does not use them does not mind.
    assert len({sequence.name for sequence, _ in ClipSamples(tmp_path, **SETTINGS, strict=True).clips}) == 4
    shutil.rmtree(tmp_path / "fine")
    shutil.rmtree(tmp_path / "late")
    with pytest.raises(InputError, match=r"(?s)2 input\(s\) failed.*empty.depth.*full.depth"):
        ClipSamples(tmp_path, **settings)


def test_labels_packed_in_shards_are_looked_at_too(tmp_path, caplog):
    fine = np.full((20, 30), 2000, np.uint16)
    write_sequence(tmp_path / "data", "empty", [np.zeros_like(fine)] * 3)
    write_sequence(tmp_path / "data", "fine", [fine] * 3)
    pack(tmp_path / "data", tmp_path / "shards")
    samples = ClipSamples(tmp_path / "shards", **{**SETTINGS, "labels": "depth"})
    assert {sequence.name for sequence, _ in samples.clips} == {"fine"}
    assert "no pixel is measured in 3 of 3 images" in caplog.text


def test_a_damaged_image_costs_its_clips_alone(world, tmp_path, caplog):
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    broken = sorted((root / sorted(path.name for path in root.iterdir())[0] / "rgb").iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:200])
    changes = {"labels": "depth", "height": 48, "width": 64, "numbers": range(40)}
    samples = ClipSamples(root, **{**SETTINGS, **changes})
    items = [samples[number] for number in range(40)]
    assert str(broken) in caplog.text
    assert caplog.text.count(str(broken)) <= 2  # the two clips that it is in, once each
    fine = ClipSamples(world, **{**SETTINGS, **changes})
    same = [torch.equal(one["frames"], fine[number]["frames"]) for number, one in enumerate(items)]
    assert 20 < sum(same) < 40  # what is fine is what it would have been
    again = ClipSamples(root, **{**SETTINGS, **changes})
    assert all(torch.equal(again[number]["frames"], items[number]["frames"]) for number in (0, same.index(False)))
    assert 0 < len(again.frames_to_watch(len(again.clips))) == len(again.clips) - 2
    strict = ClipSamples(root, **{**SETTINGS, **changes}, strict=True)
    with pytest.raises(InputError, match=broken.name):
        list(map(strict.__getitem__, range(40)))


def test_sequences_without_the_flow_that_is_asked_for_are_named_once_and_left_out(world, tmp_path, caplog):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    first, *others = sorted(path.name for path in root.iterdir())
    shutil.rmtree(root / first / "flow")
    asked = {**SETTINGS, "motion": "flow"}
    samples = ClipSamples(root, **asked)
    assert {sequence.name for sequence, _ in samples.clips} == set(others)
    assert caplog.text.count("has no flow/") == 1
    assert f"left out: {root / first}: has no flow/; add it, or set data.motion" in caplog.text
    with pytest.raises(InputError, match=f"{re.escape(str(first))}: has no flow/"):
        ClipSamples(root, **asked, strict=True)
    for name in others:
        shutil.rmtree(root / name / "flow")
    with pytest.raises(InputError, match=f"{re.escape(str(first))}: has no flow/") as raised:
        ClipSamples(root, **asked)
    assert str(raised.value).count("\n") == 0
    assert len(ClipSamples(root, **asked, strides=(0,)).clips) > 0  # the same frame over and over moves nowhere


def test_sequences_without_depth_or_too_short_are_named_and_left_out(tmp_path, caplog):
    fine = np.full((20, 30), 2000, np.uint16)
    for name, n_frames in (("a", 3), ("bare", 3), ("c", 1)):
        write_sequence(tmp_path, name, [fine] * n_frames)
    shutil.rmtree(tmp_path / "bare" / "depth")
    settings = {**SETTINGS, "labels": "depth"}
    assert {sequence.name for sequence, _ in ClipSamples(tmp_path, **settings).clips} == {"a"}
    bare, brief = (record.message for record in caplog.records)
    assert bare.startswith(f"left out: {tmp_path / 'bare'}: has no depth/; data.labels=teacher trains without")
    assert brief == f"left out: {tmp_path}: 1 sequence(s) of fewer than data.clip_length 2 frames: c"
    with pytest.raises(InputError, match=r"bare: has no depth/"):
        ClipSamples(tmp_path, **settings, strict=True)


@needs_links
@pytest.mark.parametrize("kind", ["depth", "valid"])
def test_labels_behind_a_link_that_leads_nowhere_are_named(tmp_path, kind):
    """A disk that is not mounted: the sequence is none without labels, nor one in which all is valid."""
    write_sequence(tmp_path, "a", [np.full((20, 30), 2000, np.uint16)])
    shutil.rmtree(tmp_path / "a" / kind, ignore_errors=True)
    (tmp_path / "a" / kind).symlink_to("/nowhere/labels")
    with pytest.raises(InputError, match=rf"a.{kind}: is no folder, or a link that leads to none"):
        open_sequence(tmp_path / "a")
    assert any(str(Path("a", kind)) + ": is no folder" in fault for fault in check_data(tmp_path))
