import json
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from small_runs import read_log, resolve, train_until_cut

from steadydepth.data import rendered
from steadydepth.data.loader_workers import load_items
from steadydepth.data.samples import make_batch
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.files.video_write import write_video
from steadydepth.method.absolute_loss import log_l1
from steadydepth.method.alignment import align_clips
from steadydepth.method.pairing import pair_with_previous, unchanged
from steadydepth.method.relative_loss import relative_loss
from steadydepth.ops.warp import chain
from steadydepth.training.loop import train
from steadydepth.training.samples import open_samples
from steadydepth.training.setup import set_up, set_watchers
from steadydepth.training.step import train_step


@pytest.fixture(scope="module")
def folders(world, tmp_path_factory):
    """Sequences with depth, images of one frame, and a video file."""
    root = tmp_path_factory.mktemp("mixed")
    shutil.copytree(world, root / "clips")
    for frame, name in enumerate(("hall", "stairs", "attic")):
        for kind in ("rgb", "depth"):
            (root / "photos" / name / kind).mkdir(parents=True)
            source = world / "moving_000004" / kind / f"{frame:04d}.png"
            shutil.copy(source, root / "photos" / name / kind / "0000.png")
        scale = open_sequence(world / "moving_000004").depth_scale_m
        (root / "photos" / name / "meta.json").write_text(
            json.dumps({"fps": 1, "depth_scale_m": scale}), encoding="utf-8"
        )
    (root / "videos").mkdir()
    write_video(root / "videos" / "walk.mp4", open_sequence(world / "fixed_000003").read().frames, fps=15.0)
    return root


def make_config(folders, folder, steps=4, sources=None, **sections):
    sources = sources or [
        {"root": str(folders / "clips"), "share": 0.4},
        {"root": str(folders / "photos"), "single": True, "share": 0.2},
        {"root": str(folders / "videos"), "labels": "none", "motion": "dis", "share": 0.4},
    ]
    content = {
        "data": {"sources": sources, "clip_length": 3, "height": 48, "width": 64},
        "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 16},
        "optim": {"steps": steps, "batch": 5},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 1},
    }
    return resolve(content, sections)


@pytest.fixture
def batch(clip):
    """Four clips of five frames: measured, images, labelled and bare, in an order of no kind."""
    both = {name: torch.cat((value, value.flip(0))) for name, value in vars(clip).items() if torch.is_tensor(value)}
    return replace(clip, **both, labels=("none", "depth", "teacher", "single"), source=(2, 0, 3, 1))


def learn(model, batch, **settings):
    """The losses of one step that changes nothing, and the gradient of the last layer."""
    settings = {"relative_weight": 0.7, "max_grad_norm": 1e9, "frame_offsets": (1, 2)} | settings
    model = deepcopy(model)
    terms = train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), batch, **settings)
    return terms, model.decoder.head.weight.grad


def test_a_mixed_step_is_the_mean_over_clips_of_what_each_alone_asks_for(model, batch):
    terms, _ = learn(model, batch)
    with torch.no_grad():
        predicted = model(batch.frames)[0]
    everywhere = torch.ones_like(batch.valid[:1])
    pair = partial(pair_with_previous, frame_offsets=(1, 2))

    def still(i):
        pairs = pair(predicted[i : i + 1], everywhere, batch.motion[i : i + 1], batch.visible[i : i + 1])
        return relative_loss(pairs, unchanged(pairs))

    def labelled(i):
        known = [batch.valid[i : i + 1], batch.motion[i : i + 1], batch.visible[i : i + 1]]
        return relative_loss(pair(predicted[i : i + 1], *known), pair(batch.depth[i : i + 1], *known))

    errors = [log_l1(predicted[i : i + 1], batch.depth[i : i + 1], batch.valid[i : i + 1]) for i in range(4)]
    absolute = [torch.tensor(0.0), *errors[1:]]
    relative = [still(0), labelled(1), labelled(2), torch.tensor(0.0)]
    torch.testing.assert_close(terms.absolute, sum(absolute) / 4)
    torch.testing.assert_close(terms.relative, sum(relative) / 4)
    torch.testing.assert_close(terms.target.detach(), sum(absolute) / 4 + 0.7 * sum(relative) / 4)
    for source, i in ((0, 1), (1, 3), (2, 0), (3, 2)):
        expected = torch.stack((torch.tensor(1.0), absolute[i], relative[i]))
        torch.testing.assert_close(terms.of_sources[source], expected)


@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_depth_of_clips_without_labels_never_reaches_the_step(model, batch, poison):
    dirty = replace(batch, depth=batch.depth.clone())
    dirty.depth[0] = poison
    clean_terms, clean = learn(model, batch)
    terms, gradient = learn(model, dirty)
    assert torch.equal(terms.target, clean_terms.target)
    assert torch.equal(gradient, clean)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_images_are_not_compared_with_each_other_and_each_is_aligned_to_its_own_label(model, batch):
    images = replace(
        batch, depth=batch.depth * torch.linspace(1, 2, 5)[:, None, None], labels=("single",) * 4, source=()
    )
    with torch.no_grad():
        predicted = model(batch.frames)[0]
    terms, _ = learn(model, images, claims="scale")
    assert terms.relative.item() == 0
    # A factor for each image: the median of its label over the median of what is predicted.
    errors = []
    for depth, label, valid in zip(*(one.flatten(0, 1) for one in (predicted, images.depth, batch.valid)), strict=True):
        factor = label[valid].median() / depth[valid].median()
        errors.append((factor * depth[valid]).log() - label[valid].log())
    torch.testing.assert_close(terms.absolute, torch.cat(errors).abs().mean(), rtol=1e-4, atol=1e-5)
    as_clip = log_l1(align_clips(predicted, images.depth, batch.valid, "scale"), images.depth, batch.valid)
    assert not torch.isclose(terms.absolute, as_clip, rtol=1e-3)
    _, gradient = learn(model, images, relative_weight=100.0)
    _, alone = learn(model, images, relative_weight=0.0)
    assert torch.equal(gradient, alone)


def test_a_step_chains_the_motion_once(model, clip, monkeypatch):
    frame_offsets = []
    monkeypatch.setattr(
        "steadydepth.method.pairing.chain",
        lambda motion, visible, offset: frame_offsets.append(offset) or chain(motion, visible, offset),
    )
    learn(model, clip)
    assert frame_offsets == [1, 2]


def test_one_source_is_no_other_step_than_no_source(model, clip):
    (terms, gradient), (same, other) = (
        learn(model, one) for one in (clip, replace(clip, labels=("depth",) * 2, source=(0, 0)))
    )
    assert torch.equal(terms.target, same.target)
    assert torch.equal(gradient, other)


def test_a_mixed_run_learns_from_every_source_and_logs_each(folders, tmp_path):
    config = make_config(
        folders,
        tmp_path / "run",
        steps=24,
        optim={"learning_rate": 3e-3},
        loss={"relative_ramp": 0.0},
        run={"checkpoint_every": 24},
    )
    lines = read_log(train(config))
    clips, photos, videos = ([line["sources"][i] for line in lines] for i in range(3))
    assert [one["root"] for one in lines[0]["sources"]] == [
        str(folders / name) for name in ("clips", "photos", "videos")
    ]
    # Shares 0.4, 0.2 and 0.4 of a batch of five, in every step.
    assert {tuple(source["clips"] for source in line["sources"]) for line in lines} == {(2, 1, 2)}
    assert {one["absolute"] for one in videos} == {one["relative"] for one in photos} == {None}
    for line in lines:
        of_sources = [0.4 * line["sources"][0]["absolute"], 0.2 * line["sources"][1]["absolute"]]
        assert line["absolute"] == pytest.approx(sum(of_sources), rel=1e-4)
        steady = 0.4 * (line["sources"][0]["relative"] + line["sources"][2]["relative"])
        assert line["relative"] == pytest.approx(steady, rel=1e-4)

    def fell(losses):
        return sum(losses[-4:]) / sum(losses[:4])

    assert fell([one["absolute"] for one in clips]) < 0.6
    assert fell([one["absolute"] for one in photos]) < 0.7
    assert fell([one["relative"] for one in clips]) < 0.8
    assert fell([one["relative"] for one in videos]) < 0.8


def test_a_mixed_run_cut_and_resumed_equals_one_never_cut(folders, tmp_path, monkeypatch):
    log = {"run": {"log_every": 2}}
    uncut = train(make_config(folders, tmp_path / "uncut", **log))
    config = make_config(folders, tmp_path / "cut", **log)
    train_until_cut(config, 3, monkeypatch)
    resumed = train(config)
    assert read_log(uncut) == read_log(resumed)
    assert len(read_log(uncut)) == 2
    assert (uncut / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


def test_processes_see_together_what_one_sees_alone(folders, tmp_path):
    config = make_config(folders, tmp_path, steps=3, optim={"batch": 4})
    alone = open_samples(config, 0, 0, 1)
    ranks = [open_samples(config, 0, rank, 2) for rank in (0, 1)]
    assert sorted(number for one in ranks for number in one.numbers) == list(alone.numbers)
    for one in ranks:
        for item, number in enumerate(one.numbers):
            assert torch.equal(one[item]["frames"], alone[number]["frames"])
            assert one[item]["source"] == alone[number]["source"]


def test_a_starting_model_labels_videos_beside_clips_and_no_guard_stops_it(folders, tmp_path):
    first = train(make_config(folders, tmp_path / "first", steps=1))
    sources = [
        {"root": str(folders / "clips"), "share": 1},
        {"root": str(folders / "videos"), "labels": "teacher", "motion": "dis", "share": 1},
    ]
    config = make_config(folders, tmp_path / "second", steps=2, sources=sources, model={"init": str(first)})
    setup, _ = set_up(config)
    assert setup.teacher is not None
    assert set_watchers(setup).guard is None
    line = read_log(train(config))[0]
    assert all(line["sources"][1][name] is not None for name in ("absolute", "relative"))


def mistakes_of(folders, tmp_path, **changes):
    with pytest.raises(InputError) as caught:
        make_config(folders, tmp_path, **changes)
    return str(caught.value)


def test_all_mistakes_of_the_sources_are_listed_at_once(folders, tmp_path):
    wrong = [{"root": "a", "labels": "depht", "shar": 1}, {"share": 0}, {"root": "c", "single": True, "labels": "none"}]
    message = mistakes_of(folders, tmp_path, sources=wrong, optim={"batch": 0})
    for mistake in (
        "5 mistakes",
        "data.sources.0.labels: 'depht': ",
        "data.sources.0.shar: unknown; data.sources.0 has root, synthetic, labels, share, single, motion",
        "data.sources.1.share: 0: ",
        "data.sources.2: single: images have the absolute loss alone",
        "optim.batch: 0: ",
    ):
        assert mistake in message
    bare = [{"root": "a", "labels": "none"}]
    message = mistakes_of(folders, tmp_path, sources=bare, loss={"relative": "disparity", "motion_gain_weight": 1})
    for mistake in ("3 mistakes", "loss.relative: ", "loss.motion_gain_weight: ", "data.sources: without any labels"):
        assert mistake in message
    for sources, data in (([{"root": "b", "single": True}], {"strides": [0, 1]}), ([{"root": "a"}], {"strides": [1]})):
        message = mistakes_of(folders, tmp_path, sources=sources, data=data, loss={"relative_features": 0.1})
        assert "1 mistake:\n  loss.relative_features: " in message
        assert "add 0 to data.strides" in message
    labelled = [{"root": "a"}, {"root": "b", "labels": "teacher"}]
    assert "1 mistake:\n  data: labels teacher" in mistakes_of(folders, tmp_path, sources=labelled)
    both = mistakes_of(folders, tmp_path, data={"root": "a"})
    assert "1 mistake:\n  data: give either root or sources" in both


def test_a_folder_without_depth_is_no_labelled_source(folders, tmp_path):
    sources = [{"root": str(folders / "clips")}, {"root": str(folders / "videos"), "motion": "dis"}]
    with pytest.raises(InputError, match=r"walk\.mp4: has no depth/|walk: has no depth/"):
        train(make_config(folders, tmp_path / "run", sources=sources))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", [{}, {"noise": 0.01}])
def test_frames_that_are_read_and_such_as_are_rendered_have_one_range(folders, tmp_path, monkeypatch, data):
    monkeypatch.setattr(rendered, "CLIPS_AT_ONCE", 2)  # rendered together; in use there are more
    sources = [{"root": str(folders / "clips")}, {"synthetic": {}}]
    config = make_config(folders, tmp_path, sources=sources, steps=1, optim={"batch": 2}, data=data)
    (items,) = load_items(open_samples(config, 0, 0, 1), batch=2, workers=0)
    brightest = make_batch(items).frames.amax(dim=(1, 2, 3, 4))
    assert ((brightest > 0.4) & (brightest <= 1)).all()
