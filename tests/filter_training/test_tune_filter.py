"""The learned filter tuned to a model and its videos: what it learns from, and what it leaves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from steadydepth.data.sequence_listing import find_sequences
from steadydepth.data.shards.write import pack
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.video_write import write_video
from steadydepth.filter_training.learner import Learner
from steadydepth.filter_training.tune import _read_shots, _with_label, tune_filter
from steadydepth.inference.filters import choose_filter
from steadydepth.inference.predictor import Predictor
from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.models.temporal_filter import load_gates
from steadydepth.synthetic.world import make_clip, make_world
from steadydepth.types import InputError


class Uneasy(nn.Module):
    """Metres from brightness, which changes from frame to frame in the synthetic world."""

    claims = "metric"

    def forward(self, frames, state=None):
        return 1 + 2 * frames.mean(2), {}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    make_world(folder / "world", n_clips=1, seed=8, n_frames=14, height=48, width=64, workers=1)
    clip = make_clip(9, fixed_camera=True, n_frames=12, height=48, width=64)
    write_video(folder / "film.mp4", clip.frames, 10.0)
    return folder


def test_a_tuned_filter_is_a_filter_by_its_folder_and_never_worse_where_it_was_held_back(root, tmp_path):
    found = tune_filter([root / "world", root / "film.mp4"], model=Uneasy(), out=tmp_path / "tuned", batches=3)
    noted = json.loads((tmp_path / "tuned" / "tuning.json").read_text(encoding="utf-8"))
    assert noted["videos"] == ["fixed_000008", "film.mp4"]
    assert noted["is_better"] == found.is_better
    assert choose_filter(str(tmp_path / "tuned")).weights == tmp_path / "tuned" / WEIGHTS.name
    written, shipped = load_file(tmp_path / "tuned" / WEIGHTS.name), load_gates().state_dict()
    differs = [not torch.equal(written[name], shipped[name]) for name in shipped]
    assert all(differs) if found.is_better else not any(differs)
    assert {path.name for path in (tmp_path / "tuned").iterdir()} == {"metrics.jsonl", WEIGHTS.name, "tuning.json"}
    lines = (tmp_path / "tuned" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    with pytest.raises(InputError, match="exists and is never overwritten"):
        tune_filter(root / "film.mp4", model=Uneasy(), out=tmp_path / "tuned", batches=1)


def test_a_tuning_that_is_cut_goes_on_to_the_same_filter(root, tmp_path, monkeypatch):
    order = {"model": Uneasy(), "batches": 4}
    plain = tune_filter(root / "film.mp4", out=tmp_path / "plain", **order)
    save = Learner.save

    def save_and_lose(learner):
        save(learner)
        if learner.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "save", save_and_lose)
        with pytest.raises(KeyboardInterrupt):
            tune_filter(root / "film.mp4", out=tmp_path / "cut", **order)
    with pytest.raises(InputError, match="unknown; choose one of"):
        choose_filter(str(tmp_path / "cut"))
    with pytest.raises(InputError, match="other settings was interrupted here"):
        tune_filter(root / "world", out=tmp_path / "cut", **order)
    cut = tune_filter(root / "film.mp4", out=tmp_path / "cut", **order)
    assert cut.scores == plain.scores
    one, other = (load_file(tmp_path / name / WEIGHTS.name) for name in ("plain", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_without_a_label_it_learns_from_depth_filtered_there_and_back(root):
    from steadydepth.inference.predictor import Predictor

    (shot,) = _read_shots(root / "film.mp4", Predictor(Uneasy()))
    assert shot.frames.shape == (12, 48, 64, 3)
    changes = [np.abs(np.diff(one, axis=0)).mean() for one in (shot.raw, shot.target)]
    assert changes[1] < 0.5 * changes[0]
    assert abs(float((shot.raw - shot.target).mean())) < 0.15


def test_a_label_that_is_masked_out_teaches_nothing(tmp_path):
    clip = make_clip(9, fixed_camera=True, n_frames=10, height=48, width=64)
    masked = np.zeros(clip.depth.shape, bool)
    masked[:, 8:24, 8:32] = True
    clean = replace(clip, name="clean", depth=np.where(masked, 0, clip.depth), valid=clip.valid & ~masked)
    junk = replace(clip, name="junk", depth=np.where(masked, 60, clip.depth), valid=clip.valid & ~masked)
    targets = []
    for one in (clean, junk):
        write_sequence(tmp_path, one, depth_scale_m=0.001, source=None, licence=None)
        targets.append(next(_read_shots(tmp_path / one.name, Predictor(Uneasy()))).target)
    np.testing.assert_array_equal(*targets)


def test_a_label_counts_up_to_a_straight_line_in_log_depth():
    generator = np.random.default_rng(0)
    truth = generator.uniform(1, 5, (3, 8, 9)).astype(np.float32)
    truth[:, :2] = 0
    raw = (0.3 + 0.5 * np.log(np.where(truth > 0, truth, 1))).astype(np.float32)
    target = _with_label(raw, np.full_like(raw, 7), truth)
    np.testing.assert_allclose(target[:, 2:], raw[:, 2:], atol=1e-5)
    assert (target[:, :2] == 7).all()


def test_videos_that_are_too_short_or_missing_are_named(root, tmp_path):
    clip = make_clip(9, fixed_camera=True, n_frames=4, height=48, width=64)
    write_video(tmp_path / "short.mp4", clip.frames, 10.0)
    with pytest.raises(InputError, match=r"short\.mp4: no shot has 8 frames"):
        tune_filter(tmp_path / "short.mp4", model=Uneasy(), out=tmp_path / "tuned")
    with pytest.raises(InputError, match=r"none\.mp4 does not exist"):
        tune_filter(tmp_path / "none.mp4", model=Uneasy(), out=tmp_path / "tuned")
    with pytest.raises(InputError, match="batches 0: give 1 or more"):
        tune_filter(root / "film.mp4", model=Uneasy(), out=tmp_path / "tuned", batches=0)


def test_a_video_that_cannot_be_read_costs_the_others_nothing(root, tmp_path, caplog):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a_text.mp4").write_text("no video", encoding="utf-8")
    with pytest.raises(InputError, match=r"1 input\(s\) failed.*\n.*a_text\.mp4: cannot be read as video"):
        tune_filter(videos, model=Uneasy(), out=tmp_path / "tuned", batches=1)
    for name in ("film.mp4", "z_cut.mp4"):
        (videos / name).write_bytes((root / "film.mp4").read_bytes())
    data = (videos / "z_cut.mp4").read_bytes()
    (videos / "z_cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    tune_filter(videos, model=Uneasy(), out=tmp_path / "tuned", batches=1)
    assert "left out: " in caplog.text
    assert "a_text.mp4: cannot be read" in caplog.text
    assert "z_cut.mp4: truncated" in caplog.text
    alone = tune_filter(root / "film.mp4", model=Uneasy(), out=tmp_path / "alone", batches=1)
    weights = [load_file(tmp_path / name / WEIGHTS.name) for name in ("tuned", "alone")]
    assert alone is not None
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


def test_it_learns_from_shards_as_from_a_folder(root, tmp_path):
    pack(root / "world", tmp_path / "packed")
    packed = next(_read_shots(find_sequences(tmp_path / "packed")[0], Predictor(Uneasy())))
    loose = next(_read_shots(find_sequences(root / "world")[0], Predictor(Uneasy())))
    np.testing.assert_array_equal(packed.target, loose.target)
