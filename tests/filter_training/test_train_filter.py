"""Training of the learned filter: what it learns from, and that it learns."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from waiting import wait_until

from steadydepth.config import FilterConfig
from steadydepth.config_files import load_filter_config
from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.data.shards.write import pack
from steadydepth.filter_training import learner as learner_module
from steadydepth.filter_training import train
from steadydepth.filter_training.clips import MARGIN_PX, _chain, _sampled, cut_to, draw_clip, label_clip
from steadydepth.filter_training.imagined import imagine
from steadydepth.filter_training.train import train_filter
from steadydepth.models.temporal_filter import FilterGates
from steadydepth.synthetic.world import make_clip, make_world
from steadydepth.types import Clip, InputError


@pytest.fixture(scope="module")
def labelled(moving_clip):
    return label_clip(moving_clip)


def test_motion_over_two_frames_is_that_over_one_and_then_the_next(labelled):
    motion, visible = _chain(labelled, np.array([0, 2, 2, 1]))
    two = labelled.backward[1] + _sampled(labelled.backward[0], labelled.backward[1])
    np.testing.assert_allclose(motion[1][visible[1]], two[visible[1]], atol=1e-5)
    assert visible[1].mean() > 0.5
    assert (motion[2] == 0).all()
    assert visible[2].all()
    np.testing.assert_array_equal(motion[3], labelled.forward[1])


def test_a_clip_without_flow_is_refused(moving_clip):
    with pytest.raises(InputError, match="has no depth or no flow"):
        label_clip(Clip(moving_clip.name, moving_clip.frames, moving_clip.fps))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_drawn_fits_together(labelled, seed):
    """Where the true motion says that a point is shown again, it has about the depth that it had."""
    drawn = draw_clip(labelled, labelled, 4, np.random.default_rng(seed))
    t, height, width = 4, 48 - MARGIN_PX, 64 - MARGIN_PX
    assert drawn.frames.shape == (t, height, width, 3)
    assert drawn.depth.shape == drawn.visible.shape == (t, height, width)
    changes = []
    for i in range(1, t):
        before = _sampled(drawn.depth[i - 1], drawn.true_motion[i])
        changes.append(np.abs(np.log(drawn.depth[i]) - np.log(np.maximum(before, 1e-3)))[drawn.visible[i]])
    assert np.median(np.concatenate(changes)) < 0.03


def test_after_a_cut_no_point_has_been_seen_before(labelled):
    one, other = (draw_clip(labelled, labelled, 4, np.random.default_rng(seed)) for seed in (0, 1))
    both = cut_to(one, other, 2)
    for name in ("frames", "depth", "true_motion"):
        expected = np.concatenate((getattr(one, name)[:2], getattr(other, name)[2:]))
        np.testing.assert_array_equal(getattr(both, name), expected)
    assert not both.visible[2].any()


def test_an_imagined_network_flickers_about_what_it_would_predict_without(clip):
    generator = torch.Generator().manual_seed(0)
    imagined = imagine(clip.frames, clip.depth, generator)
    truth = clip.depth.log()
    assert imagined.predicted.shape == imagined.steady.shape == truth.shape
    error = imagined.predicted - imagined.steady
    assert 0.01 < float(error.diff(dim=1).abs().mean()) < 0.5
    for network, depth in zip(imagined.steady, truth, strict=True):
        assert float(torch.corrcoef(torch.stack((network.flatten(), depth.flatten())))[0, 1]) > 0.8


def test_the_same_seed_imagines_the_same(clip):
    one, other = (imagine(clip.frames, clip.depth, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.predicted, other.predicted)


@pytest.fixture
def config(tmp_path):
    return FilterConfig(
        out=tmp_path / "weights.safetensors",
        data=tmp_path / "world",
        clips=2,
        clip_length=6,
        workers=1,
        sequences=2,
        batch=1,
        frames=5,
        chunk=3,
        width=4,
        log_every=1,
    )


def test_the_base_network_is_asked_where_the_filter_learns(config, monkeypatch):
    asked = []

    class Base(nn.Module):
        def to(self, device):
            asked.append(device)
            return self

        def forward(self, frames, state):
            return frames.mean(dim=2) + 1, {}

    monkeypatch.setattr(train, "load_model", lambda name: Base())
    clips = train._read_clips(config.model_copy(update={"base": "base"}))
    assert asked == [config.device]
    np.testing.assert_allclose(clips[0].predicted, clips[0].frames.mean(axis=-1) / 255 + 1, rtol=1e-6)


def test_the_same_config_trains_the_same_filter_and_every_weight_moves(config, tmp_path):
    first = load_file(train_filter(config))
    again = load_file(train_filter(config.model_copy(update={"out": tmp_path / "again.safetensors"})))
    other = load_file(train_filter(config.model_copy(update={"out": tmp_path / "other.safetensors", "seed": 1})))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert all((weight != 0).any() for weight in first.values())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_training_that_is_killed_goes_on_to_the_same_weights(config, tmp_path, workers):
    config = config.model_copy(update={"sequences": 6, "log_every": 2, "workers": workers})
    # By this process alone: who draws the sequences changes nothing.
    alone = {"out": tmp_path / "plain.safetensors", "workers": 1}
    plain = load_file(train_filter(config.model_copy(update=alone)))
    folder = config.out.with_suffix(".learning")
    # As many threads as here: with more of them sums are rounded otherwise.
    code = "import sys, torch; torch.set_num_threads(1); import steadydepth; steadydepth.train_filter(sys.argv[1])"
    (tmp_path / "filter.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "filter.yaml"]) as process:
        wait_until(lambda: process.poll() is not None or (folder / "checkpoint.pt").is_file())
        assert process.poll() is None
        drawing = psutil.Process(process.pid).children()
        process.kill()
    assert psutil.wait_procs(drawing, timeout=60)[1] == []
    assert not config.out.exists()
    with pytest.raises(InputError, match="other settings was interrupted here"):
        train_filter(config.model_copy(update={"width": 8}))
    assert (folder / "checkpoint.pt").is_file()
    cut = load_file(train_filter(config))
    assert all(torch.equal(plain[name], cut[name]) for name in plain)
    assert not folder.exists()


def test_a_training_that_is_asked_to_stop_says_so_and_goes_on(config, tmp_path, monkeypatch):
    config = config.model_copy(update={"sequences": 4, "log_every": 3})
    plain = load_file(train_filter(config.model_copy(update={"out": tmp_path / "plain.safetensors"})))

    draw = train._draw

    def draw_and_ask(clips, config, number):
        if number == 1:
            signal.raise_signal(signal.SIGTERM)
        return draw(clips, config, number)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_draw", draw_and_ask)
        assert train_filter(config) is None
    learner = train.Learner(FilterGates(config.width), config, config.out.with_suffix(".learning"))
    assert (learner.number, len(learner.found)) == (2, 4)  # two chunks of each sequence
    cut = load_file(train_filter(config))
    assert all(torch.equal(plain[name], cut[name]) for name in plain)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_what_was_found_before_a_cut_goes_on_on_the_device_of_the_training(config, tmp_path, monkeypatch):
    """Means are taken over both; the meta device stands for a GPU."""
    learner = train.Learner(FilterGates(config.width), config, tmp_path / "learning")
    learner.found = [{"target": torch.tensor(0.5)}]
    learner.save()
    monkeypatch.setattr(learner_module, "find_device", torch.device)
    there = config.model_copy(update={"device": "meta"})
    again = train.Learner(FilterGates(config.width), there, tmp_path / "learning")
    assert [one["target"].device.type for one in again.found] == ["meta"]


def test_it_goes_on_from_weights_and_learns_from_more_folders_of_the_same_size(config, tmp_path):
    first = train_filter(config)
    make_world(tmp_path / "more", n_clips=1, seed=3, n_frames=6, workers=1)
    going_on = {"weights": first, "learning_rate": 1e-9, "more_data": [tmp_path / "more"]}
    later = train_filter(config.model_copy(update={"out": tmp_path / "later.safetensors", **going_on}))
    changed = load_file(later)
    for name, weight in load_file(first).items():
        torch.testing.assert_close(changed[name], weight, rtol=0, atol=1e-6)
    make_world(tmp_path / "more", n_clips=1, seed=4, n_frames=6, height=64, width=64, workers=1)
    with pytest.raises(InputError, match=r"64 x 64 and others of 96 x 128: render all of one size"):
        train_filter(config.model_copy(update={"out": tmp_path / "none.safetensors", **going_on}))


def test_no_clip_of_further_folders_crosses_a_cut_that_is_noted(config, tmp_path):
    make_world(tmp_path / "more", n_clips=1, seed=3, n_frames=7, workers=1)
    pack(tmp_path / "more", tmp_path / "packed", codec="png")
    config = config.model_copy(update={"more_data": [tmp_path / "packed"]})

    def note(*cuts):
        index = tmp_path / "packed" / "index.json"
        noted = json.loads(index.read_text(encoding="utf-8"))
        noted["sequences"][0]["cuts"] = cuts
        index.write_text(json.dumps(noted | {"version": 2}), encoding="utf-8")

    note(3, 6)
    read = train._read_clips(config)
    # The one frame behind the second cut shows no motion.
    assert [len(clip.frames) for clip in read] == [6, 6, 3, 3]
    frames = open_sequence(find_sequences(tmp_path / "more")[0]).read().frames
    np.testing.assert_array_equal(read[-1].frames, frames[3:6])
    note(*range(1, 7))
    with pytest.raises(InputError, match="no two frames of one shot"):
        train._read_clips(config)


def test_the_shipped_recipe_is_read(tmp_path):
    path = tmp_path / "filter.yaml"
    path.write_text("out: weights.safetensors\nwidht: 3\n", encoding="utf-8")
    with pytest.raises(InputError, match="widht: unknown"):
        load_filter_config(path)


def test_a_clip_with_pixels_without_depth_is_refused_before_anything_is_learnt():
    clip = make_clip(0, fixed_camera=True, n_frames=3, height=48, width=64)
    valid = clip.valid.copy()
    valid[1, 4, 5] = False
    with pytest.raises(InputError, match="has pixels without depth"):
        label_clip(replace(clip, valid=valid))
