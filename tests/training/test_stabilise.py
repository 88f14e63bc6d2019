"""Stabilising with nothing to choose: what is trained on, the learning rate, what is said of what was reached."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from small_runs import HOLDER, Cut, resolve

from steadydepth import stabilise as stabilise_and_report
from steadydepth.config_files import load_config
from steadydepth.data.conversion import convert_video
from steadydepth.data.loader_workers import load_items
from steadydepth.data.samples import make_batch
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.files.video_read import probe_video
from steadydepth.method.parameter_groups import coarse_parameters
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.load import load_model
from steadydepth.training.checkpoint import save_model
from steadydepth.training.label_free import learning_rate
from steadydepth.training.label_free import stabilise as room
from steadydepth.training.label_free.learning_rate import find_learning_rate, largest_rate, times_longer
from steadydepth.training.label_free.stabilise import Stabilised
from steadydepth.training.lock import LOCK
from steadydepth.training.samples import open_samples
from steadydepth.training.setup import label_videos, set_up
from steadydepth.types import InputError


@pytest.fixture
def start(model, tmp_path):
    save_model(model, tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for number in range(23):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()
    assert probe_video(path).n_frames == 23
    return path


def test_one_call_leaves_the_model_its_scores_and_a_page_and_goes_on_where_it_was_cut(world, tmp_path, start):
    out = tmp_path / "calm"
    options = {"model": start, "out": out, "steps": 2, "device": "cpu", "strength": 0.5}
    found = stabilise_and_report(world, **options)
    config = load_config(out / "config.yaml")
    assert (config.data.height, config.data.width, config.data.teacher_strength) == (64, 64, 0.5)
    assert config.optim.learning_rate == found.learning_rate
    assert (found.steps, config.optim.steps) == (2, 2)
    before, after = (
        json.loads((out / name / "metrics.json").read_text(encoding="utf-8")) for name in ("before", "after")
    )
    assert (found.before, found.after) == (before["mean"], after["mean"])
    assert before["header"]["model"] == str(start)
    assert "edges_kept" in after["mean"]
    assert not (out / "teacher").exists()
    assert load_model(out).state_dict().keys() == load_model(start).state_dict().keys()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.index("before") < page.index("after")
    saved = (out / "model.safetensors").read_bytes()
    assert stabilise_and_report(world, **options) == found
    assert (out / "model.safetensors").read_bytes() == saved
    for other in ({"model": "other"}, {"seed": 1}, {"strength": 0.4}, {"layers": "coarse"}, {"max_side": 96}):
        with pytest.raises(InputError, match=f"a run with other {next(iter(other))} lives here: give what was"):
            stabilise_and_report(world, **options | other)
    with pytest.raises(InputError, match="a run with other videos lives here"):
        stabilise_and_report(world / "fixed_000003", **options)
    (out / room.NOTE).unlink()  # as version 0.2.0 left it
    assert stabilise_and_report(world, **options) == found
    for other in ({"model": "other"}, {"seed": 1}, {"steps": 3}):
        with pytest.raises(InputError, match=f"a run with other {next(iter(other))} lives here: give what was"):
            stabilise_and_report(world, **options | other)


def test_another_call_takes_nothing_of_one_that_was_cut_before_its_training(world, tmp_path, start, video, monkeypatch):
    def cut(*_, **__):
        raise Cut

    out, options = tmp_path / "calm", {"out": tmp_path / "calm", "steps": 2, "device": "cpu", "max_side": 64}
    with monkeypatch.context() as patch:
        patch.setattr(room, "_tune", cut)
        with pytest.raises(Cut):
            room.stabilise(video, model=start, **options)
    assert [path.name for path in (out / "videos").iterdir()] == ["walk"]
    torch.manual_seed(1)
    save_model(DepthNet("test_efficientnet", decoder_width=16).eval(), tmp_path / "other")
    room.stabilise(world, model=tmp_path / "other", **options)
    assert sorted(path.name for path in (out / "videos").iterdir()) == ["fixed_000003", "moving_000004"]
    before = json.loads((out / "before" / "metrics.json").read_text(encoding="utf-8"))
    assert before["header"]["model"] == str(tmp_path / "other")
    assert list(before["clips"]) == ["fixed_000003", "moving_000004"]


def test_a_cut_between_a_video_and_its_link_costs_no_video(tmp_path, video, monkeypatch):
    def convert_and_cut(*args, **options):
        convert_video(*args, **options)
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(room, "convert_video", convert_and_cut)
        with pytest.raises(Cut):
            room._gather([video], tmp_path / "out", n_frames=30, max_side=32)
    room._gather([video], tmp_path / "out", n_frames=30, max_side=32)
    assert open_sequence(tmp_path / "out" / "measured" / "walk").n_frames == 23


def test_a_folder_with_videos_of_somebody_is_left_alone(tmp_path, start, video, monkeypatch):
    with pytest.raises(InputError, match=r"walk\.mp4 is a file, and .*walk\.mp4 is to be a folder"):
        room.stabilise(video, model=start, out=video)
    for name in ("videos", "before"):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(InputError, match=f"holds {name}, .*: choose another folder, or, .*delete {name} and call"):
            room.stabilise(video, model=start, out=tmp_path / name)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [LOCK, name]
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.yaml").touch()
    with pytest.raises(InputError, match="another run lives here: choose another folder"):
        room.stabilise(video, model=start, out=tmp_path / "trained")

    def begin(*_, **__):
        raise Cut

    # The way on that was named.
    (tmp_path / "videos" / "videos").rmdir()
    monkeypatch.setattr(room, "_gather", begin)
    with pytest.raises(Cut):
        room.stabilise(video, model=start, out=tmp_path / "videos")


def test_what_another_call_prepares_is_not_deleted(tmp_path, start, video):
    out = tmp_path / "calm"
    (out / "videos" / "walk").mkdir(parents=True)
    (out / room.NOTE).write_text('{"videos": ["of the call that is at work"]}', encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", HOLDER, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="another process trains here"):
            room.stabilise(video, model=start, out=out)
        other.communicate(b"\n")
    assert (out / "videos" / "walk").is_dir()


def test_coarse_layers_alone_are_trained_where_they_are_asked_for(world, tmp_path, start):
    room.stabilise(world, model=start, out=tmp_path / "calm", steps=2, device="cpu", layers="coarse")
    before, after = (dict(load_model(folder).named_parameters()) for folder in (start, tmp_path / "calm"))
    config = load_config(tmp_path / "calm" / "config.yaml")
    coarse = coarse_parameters(load_model(start), config.data.height, config.data.width)
    assert {name for name in before if not torch.equal(before[name], after[name])} <= coarse
    assert any(not torch.equal(before[name], after[name]) for name in coarse)
    with pytest.raises(InputError, match="layers 'fine': train all or coarse"):
        room.stabilise(world, model=start, out=tmp_path / "other", layers="fine")


def test_long_videos_are_taken_in_pieces_evenly_spread_and_short_ones_whole(tmp_path, video, world, monkeypatch):
    assert room._pieces(500, 1.0) == [(0, 500)]
    assert room._pieces(500, 0.5) == [(0, 120), (380, 500)]
    assert room._pieces(1000, 0.36) == [(0, 120), (440, 560), (880, 1000)]
    assert room._pieces(100, 0.1) == [(0, 100)]
    monkeypatch.setattr(room, "PIECE", 5)
    monkeypatch.setattr(room, "MOST_MEASURED", 8)
    room._gather([video, world / "fixed_000003"], tmp_path / "out", n_frames=14, max_side=32)
    videos = sorted((tmp_path / "out" / "videos").iterdir())
    assert [path.name for path in videos] == ["fixed_000003", "walk_000000", "walk_000018"]
    assert open_sequence(videos[0]).n_frames == 5
    last = open_sequence(videos[2])
    assert (last.n_frames, last.height, last.width) == (5, 24, 32)
    assert abs(float(last.read_frames(0, 1).mean()) - 180) < 4
    measured = sorted(path.name for path in (tmp_path / "out" / "measured").iterdir())
    assert measured == ["walk_000000", "walk_000018"]
    assert open_sequence(tmp_path / "out" / "measured" / "walk_000018").n_frames == 5


def test_a_video_that_cannot_be_read_costs_the_others_nothing(tmp_path, video, monkeypatch, caplog):
    (tmp_path / "text.mp4").write_text("no video", encoding="utf-8")
    (tmp_path / "damaged.mp4").write_bytes(video.read_bytes())
    with pytest.raises(InputError, match=r"1 input\(s\) failed.*\n.*text\.mp4: cannot be read as video"):
        room._gather([tmp_path / "text.mp4"], tmp_path / "none", n_frames=14, max_side=32)

    def convert(path, *others, **options):
        if path.name == "damaged.mp4":  # a frame in its middle, which only decoding finds
            raise InputError("damaged.mp4: truncated or damaged at 1.00 s")
        return convert_video(path, *others, **options)

    monkeypatch.setattr(room, "convert_video", convert)
    room._gather([tmp_path], tmp_path / "out", n_frames=1000, max_side=32)
    for folder in ("videos", "measured"):
        assert [path.name for path in (tmp_path / "out" / folder).iterdir()] == ["walk"]
    assert "left out: " in caplog.text
    assert "text.mp4: cannot be read" in caplog.text
    assert "left out: damaged.mp4" in caplog.text


def test_what_is_to_run_on_the_cpu_is_measured_there_too(tmp_path, start, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    measured = []
    monkeypatch.setattr(room, "evaluate", lambda one, *_, reference, **__: measured.extend((one, reference)))
    monkeypatch.setattr(room, "read_report", lambda path: {"mean": {}})
    room._measure(str(start), tmp_path, room.AFTER, "cpu", reference=str(start))
    assert [one.device for one in measured] == [torch.device("cpu")] * 2


def test_a_call_again_measures_where_its_run_was_planned(world, tmp_path, start, monkeypatch):
    room.stabilise(world, model=start, out=tmp_path / "calm", steps=1, device="cpu")
    measured = []
    monkeypatch.setattr(room, "_measure", lambda model, out, folder, device, **_: measured.append(device) or {})
    room.stabilise(world, model=start, out=tmp_path / "calm", steps=1)
    assert measured == ["cpu", "cpu"]


@pytest.mark.parametrize("n_frames", [1, 2])
def test_videos_too_short_to_learn_from_are_refused_at_once_in_words_of_this_command(tmp_path, start, n_frames):
    (tmp_path / "short" / "rgb").mkdir(parents=True)
    for number in range(n_frames):
        cv2.imwrite(str(tmp_path / "short" / "rgb" / f"{number:04d}.png"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "short" / "meta.json").write_text('{"fps": 10}', encoding="utf-8")
    with pytest.raises(
        InputError, match=rf"short: has {n_frames} frames?, .* 3 in a row: give a longer video"
    ) as found:
        room.stabilise(tmp_path / "short", model=start, out=tmp_path / "calm", steps=2, device="cpu")
    assert "clip_length" not in str(found.value)
    assert not (tmp_path / "calm" / "videos").exists()


def test_what_is_no_model_is_refused_before_the_videos_are_prepared(tmp_path, video):
    with pytest.raises(InputError, match="no model"):
        room.stabilise(video, model=tmp_path / "none", out=tmp_path / "calm")
    assert not (tmp_path / "calm/videos").exists()


def test_two_videos_of_one_name_and_numbers_that_are_none_are_refused(tmp_path, video, start):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "walk.mp4").write_bytes(video.read_bytes())
    with pytest.raises(InputError, match="two sequences of one name"):
        room.stabilise([video, tmp_path / "other"], model=start, out=tmp_path / "out")
    for minutes in (0.0, math.nan, math.inf):
        with pytest.raises(InputError, match=f"minutes is {minutes:g}; give a finite number above 0"):
            room.stabilise(video, model=start, out=tmp_path / "out", minutes=minutes)
    with pytest.raises(InputError, match="steps is 0; give 1 or more"):
        room.stabilise(video, model=start, out=tmp_path / "out", steps=0)


@pytest.mark.parametrize(
    ("flicker", "edges", "works", "words"),
    [
        (0.5, 0.97, True, "steadier: 0.50 of the flicker is left, and 0.97 of the edges"),
        (0.95, 1.0, False, "it is not steadier: 0.95 of the flicker"),
        (0.3, 0.6, False, "edges were lost: 0.30 of the flicker is left, and 0.60 of the edges"),
        (0.5, None, True, "0.50 of the flicker"),
        (None, 1.0, False, "no flicker could be measured"),
    ],
)
def test_what_is_said_is_what_was_reached(tmp_path, flicker, edges, works, words):
    after = {"flicker_flow": None if flicker is None else 2 * flicker, "edges_kept": edges}
    found = Stabilised(tmp_path, 5, 1e-4, {"flicker_flow": 2.0}, after)
    assert found.has_worked is works
    assert words in found.verdict
    assert replace(found, before={"flicker_flow": None}).flicker_left is None


def test_the_learning_rate_is_where_the_loss_becomes_worse_by_the_number_of_scenes():
    assert [times_longer(n) for n in (1, 20, 60, 100, 1000)] == pytest.approx([1.5, 1.5, 4.75, 8, 8])
    # Half of the way from 0.98 to 1.06 of the loss before is half of the way from 1e-4 to 3e-4 in the logarithm.
    assert largest_rate({0.0: 1.0, 3e-5: 0.99, 1e-4: 0.98, 3e-4: 1.06}) == pytest.approx(1e-4 * 3**0.5)
    assert largest_rate({0.0: 2.0, 1e-4: 1.0, 3e-4: float("nan")}) == 1e-4
    assert largest_rate({0.0: 1.0, 3e-6: 1.5}) == 3e-6
    assert largest_rate({0.0: 1.0, 1e-3: 0.9, 3e-3: 0.8}) == 3e-3


def test_the_range_test_leaves_the_model_as_it_was(world, tmp_path, start):
    content = {
        "data": {"root": str(world), "labels": "teacher", "motion": "none", "height": 48, "width": 64, "noise": 0.05},
        "model": {"init": str(start)},
        "loss": {"relative_ramp": 0.0},
        "optim": {"steps": 20, "batch": 2, "encoder_learning_rate": 1.0},
        "run": {"folder": str(tmp_path / "run"), "device": "cpu"},
    }
    setup, state = set_up(resolve(content, {}))
    setup = label_videos(setup)
    samples = open_samples(setup.config, 0, 0, 1, teacher_depth=setup.teacher_depth)
    items = load_items(samples, batch=2, workers=0)
    batches = [make_batch(next(items)) for _ in range(learning_rate.N_STEPS + learning_rate.N_KEPT)]
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    found = find_learning_rate(setup, state.model, batches, n_scenes=60)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name])
    tried = list(found.losses)
    assert tried == [0.0, *learning_rate.RATES[: len(tried) - 1]]
    assert found.losses[tried[-1]] > 1.2 * found.losses[0.0] or len(tried) == len(learning_rate.RATES) + 1
    assert found.learning_rate == pytest.approx(min(4.75 * largest_rate(found.losses), learning_rate.MOST), rel=0.05)
    assert found.step_s > 0
