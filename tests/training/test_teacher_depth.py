"""The filtered teacher: what is written for each video, and that a sample is labelled with it."""

import shutil

import numpy as np
import pytest
import torch
from small_runs import resolve

from steadydepth.data.clips import fit_clip
from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.inference.filters import choose_filter
from steadydepth.inference.network import Network
from steadydepth.inference.session import Session
from steadydepth.metrics import edges_kept
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.load import load_model
from steadydepth.training.checkpoint import save_model
from steadydepth.training.label_free.teacher_depth import contrast_lost, remove_teacher_depth, write_teacher_depth
from steadydepth.training.samples import open_samples
from steadydepth.training.setup import set_up
from steadydepth.types import InputError

CPU = torch.device("cpu")


def config_of(world, folder, **data):
    content = {
        "data": {
            "root": str(world),
            "labels": "teacher",
            "motion": "none",
            "clip_length": 3,
            "height": 40,
            "width": 56,
        },
        "model": {"init": "somewhere"},
        "optim": {"steps": 2, "batch": 2},
        "run": {"folder": str(folder), "device": "cpu"},
    }
    return resolve(content, {"data": data})


def shown(path, config):
    clip = fit_clip(open_sequence(path).read(), config.data.height, config.data.width)
    return clip.frames


@pytest.mark.parametrize("strength", [0.0, 0.9])
def test_the_files_hold_what_the_session_gives_at_the_training_size(world, tmp_path, model, strength):
    config = config_of(world, tmp_path, teacher_strength=strength)
    (files,) = write_teacher_depth(model, config, CPU)
    paths = find_sequences(world)
    assert sorted(files) == sorted(path.name for path in paths)
    for path in paths:
        session = Session(Network(model), filter=choose_filter("learned_offline", strength) if strength else None)
        expected = np.stack([result.depth for result in session.run(shown(path, config))])
        np.testing.assert_array_equal(np.load(files[path.name]), expected)


def test_files_that_are_there_are_taken_and_are_removed_when_asked(world, tmp_path, model):
    config = config_of(world, tmp_path)
    (files,) = write_teacher_depth(model, config, CPU)
    path = next(iter(files.values()))
    np.save(path, np.full((5, 40, 56), 7, np.float32))
    write_teacher_depth(model, config, CPU)
    assert (np.load(path) == 7).all()
    remove_teacher_depth(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_samples_have_the_depth_of_their_own_frames_mirrored_with_them(world, tmp_path, model):
    config = config_of(world, tmp_path)
    (files,) = write_teacher_depth(model, config, CPU)
    name = "fixed_000003"
    numbers = np.arange(5 * 40 * 56, dtype=np.float32).reshape(5, 40, 56) + 1
    numbers[2, 3, 4] = np.nan
    for one in files.values():
        np.save(one, numbers)
    samples = open_samples(config, 0, 0, 1, teacher_depth=[files])
    assert {samples.describe(number)["sequence"] for number in range(4)} <= set(files)
    for number in range(4):
        place, item = samples.describe(number), samples.sample(number)
        depth, valid = numbers[place["frames"]], np.isfinite(numbers[place["frames"]])
        frames = shown(world / place["sequence"], config)[place["frames"]]
        if not np.array_equal(item["frames"].numpy(), frames):
            frames, depth, valid = (one[:, :, ::-1] for one in (frames, depth, valid))
        np.testing.assert_array_equal(item["frames"].numpy(), frames)
        np.testing.assert_array_equal(item["valid"].numpy(), valid)
        np.testing.assert_array_equal(item["depth"].numpy(), np.where(valid, depth, 0))
        assert item["labels"] == "teacher"
    assert name in files


def test_a_video_that_is_added_meanwhile_takes_no_other_ones_file(world, tmp_path, model):
    shutil.copytree(world, tmp_path / "videos")
    first = find_sequences(tmp_path / "videos")[0]
    first.rename(tmp_path / "later")
    config = config_of(tmp_path / "videos", tmp_path / "run")
    (before,) = write_teacher_depth(model, config, CPU)
    (tmp_path / "later").rename(first)
    (after,) = write_teacher_depth(model, config, CPU)
    assert after.items() > before.items()
    assert len(set(after.values())) == len(after)


def test_the_teacher_is_the_starting_model_whatever_its_upsampling_becomes(tmp_path):
    save_model(DepthNet("test_efficientnet", decoder_width=8), tmp_path / "start")
    content = {
        "data": {"root": "x", "labels": "teacher", "motion": "none", "height": 64, "width": 64},
        "model": {"init": str(tmp_path / "start"), "upsampling": "guided"},
        "optim": {"steps": 2},
        "run": {"folder": str(tmp_path / "run"), "device": "cpu"},
    }
    setup, _ = set_up(resolve(content, {}))
    frames = torch.rand(1, 1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(setup.teacher(frames)[0], load_model(tmp_path / "start").eval()(frames)[0])


def test_a_video_that_cannot_be_read_is_left_out_or_refused(world, tmp_path, model, caplog):
    videos = tmp_path / "videos"
    shutil.copytree(world, videos)
    broken = videos / "fixed_000003" / "rgb" / "0002.png"
    broken.write_bytes(broken.read_bytes()[:100])
    config = config_of(videos, tmp_path / "run")
    (files,) = write_teacher_depth(model, config, CPU)
    assert "left out: " in caplog.text
    assert "0002.png" in caplog.text
    assert "fixed_000003" not in files
    assert len(files) == 1
    assert {clip[0].name for clip in open_samples(config, 0, 0, 1, teacher_depth=[files]).clips} == set(files)
    with pytest.raises(InputError, match=r"0002\.png"):
        write_teacher_depth(model, config_of(videos, tmp_path / "strict", strict=True), CPU)


def test_a_video_that_cannot_be_opened_is_left_out_of_the_contrast_as_well(world, tmp_path, model):
    videos = tmp_path / "videos"
    shutil.copytree(world, videos)
    (videos / "fixed_000003" / "meta.json").write_text("{}", encoding="utf-8")
    config = config_of(videos, tmp_path / "run")
    (files,) = write_teacher_depth(model, config, CPU)
    assert len(files) == 1
    assert contrast_lost(model, config, [files], CPU) >= 1


def test_the_contrast_that_the_filter_took_is_asked_for(world, tmp_path, model):
    with torch.no_grad():
        model.decoder.head.weight *= 30  # edges above 5 %
    config = config_of(world, tmp_path, teacher_strength=0.0)
    (files,) = write_teacher_depth(model, config, CPU)
    assert contrast_lost(model, config, [files], CPU) == pytest.approx(1, abs=1e-3)
    softer, kept = {}, []
    for path in find_sequences(world):
        own = np.load(files[path.name])
        soft = own**0.9
        np.save(files[path.name], soft)
        softer[path.name] = files[path.name]
        kept.append(float(edges_kept(soft, own)))
    assert kept == pytest.approx([0.9, 0.9], abs=1e-3)
    assert contrast_lost(model, config, [softer], CPU) == pytest.approx(1 / 0.9, rel=1e-3)
    for file in files.values():
        np.save(file, np.load(file) ** 0.5)
    assert contrast_lost(model, config, [files], CPU) == 1.25
