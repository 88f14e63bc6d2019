from copy import deepcopy
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from small_runs import read_log, resolve, train_until_cut
from torch import nn

from steadydepth.config_files import dump_config
from steadydepth.method.update import build_optimizer
from steadydepth.models.decoders import GuidedDecoder, LightDecoder
from steadydepth.models.features import last_layer
from steadydepth.models.load import load_model
from steadydepth.training import step
from steadydepth.training.loop import _claim_folder, outcome, train
from steadydepth.training.samples import open_samples, sample_numbers
from steadydepth.training.setup import average_weights, build_model, set_up
from steadydepth.training.step import relative_weight_at, set_training_mode, take_step, train_step
from steadydepth.types import InputError


def make_config(world, folder, steps=4, **sections):
    content = {
        "data": {"root": str(world), "clip_length": 3, "height": 48, "width": 64, "exposure": 0.1},
        "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 16},
        "optim": {"steps": steps, "batch": 2},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 2},
    }
    return resolve(content, sections)


def test_a_step_moves_every_weight(model, clip):
    model.train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = build_optimizer(model, learning_rate=1e-2, encoder_learning_rate=1.0, weight_decay=0.0)
    terms = train_step(model, optimizer, clip, relative_weight=1.0, max_grad_norm=1.0)
    assert terms.target.item() == pytest.approx(terms.absolute.item() + terms.relative.item(), rel=1e-5)
    still = [name for name, weight in model.named_parameters() if torch.equal(before[name], weight)]
    assert still == []


def test_the_weight_of_the_relative_loss_reaches_the_gradient(model, clip):
    moved = []
    for weight in (0.0, 3.0):
        copy = deepcopy(model).train()
        optimizer = build_optimizer(copy, learning_rate=1e-2, encoder_learning_rate=1.0, weight_decay=0.0)
        train_step(copy, optimizer, clip, relative_weight=weight, max_grad_norm=1.0)
        moved.append(copy.decoder.head.weight.detach().clone())
    assert not torch.allclose(moved[0], moved[1], atol=1e-6)


def test_a_run_starts_from_another_end_of_its_model(model, world, tmp_path):
    model.save_pretrained(tmp_path / "bilinear")

    def start(init, upsampling):
        return build_model(make_config(world, tmp_path / "run", model={"init": str(init), "upsampling": upsampling}))

    assert isinstance(start(tmp_path / "bilinear", None).decoder, LightDecoder)
    assert isinstance(start(tmp_path / "bilinear", "bilinear").decoder, LightDecoder)
    guided = start(tmp_path / "bilinear", "guided")
    assert isinstance(guided.decoder, GuidedDecoder)
    assert torch.equal(guided.decoder.guide[0].weight, start(tmp_path / "bilinear", "guided").decoder.guide[0].weight)
    guided.save_pretrained(tmp_path / "guided")
    assert isinstance(start(tmp_path / "guided", None).decoder, GuidedDecoder)
    assert isinstance(start(tmp_path / "guided", "guided").decoder, GuidedDecoder)
    with pytest.raises(InputError, match=r"upsampling: bilinear: .*guided is guided, and stays so: leave it out"):
        start(tmp_path / "guided", "bilinear")
    with pytest.raises(InputError, match=r"upsampling: guided: .* is no network that train wrote: leave it out"):
        start("test_compiled:build,claims=scale", "guided")


def test_features_reach_the_gradient_where_there_is_a_still(model, clip):
    still = replace(clip, is_still=torch.ones(len(clip.frames), dtype=torch.bool))
    moved = {}
    for weight in (0.0, 3.0):
        for name, batch in (("clip", clip), ("still", still)):
            copy = deepcopy(model).train()
            optimizer = torch.optim.SGD(copy.parameters(), lr=1e-2)
            options = {"feature_weight": weight, "last_layer": last_layer(copy, 48, 64)} if weight else {}
            train_step(copy, optimizer, batch, relative_weight=1.0, max_grad_norm=1.0, **options)
            moved[name, weight] = copy.decoder.mixes[0][1].weight.detach().clone()
    torch.testing.assert_close(moved["clip", 0.0], moved["clip", 3.0], rtol=0, atol=1e-6)
    assert (moved["still", 0.0] - moved["still", 3.0]).abs().max() > 1e-4


def test_a_toy_run_halves_its_loss(world, tmp_path):
    config = make_config(
        world,
        tmp_path / "run",
        steps=25,
        optim={"learning_rate": 3e-3},
        data={"exposure": 0.0},
        run={"checkpoint_every": 25},
    )
    losses = [line["absolute"] for line in read_log(train(config))]
    assert sum(losses[-3:]) / 3 < 0.5 * losses[0]


@pytest.fixture(scope="module")
def uncut(world, tmp_path_factory):
    return train(make_config(world, tmp_path_factory.mktemp("uncut")))


@pytest.mark.parametrize("cut_after", [1, 2, 3])
def test_a_run_cut_and_resumed_equals_one_never_cut(world, tmp_path, monkeypatch, uncut, cut_after):
    config = make_config(world, tmp_path / "cut")
    train_until_cut(config, cut_after, monkeypatch)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    resumed = train(config)
    assert read_log(uncut) == read_log(resumed)
    assert (uncut / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


def test_a_finished_run_is_left_as_it_is(world, tmp_path):
    config = make_config(world, tmp_path / "run", steps=2)
    train(config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    train(config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_starts_from_the_path_of_its_config(world, tmp_path):
    (tmp_path / "run.yaml").write_text(dump_config(make_config(world, tmp_path / "run", steps=1)), encoding="utf-8")
    assert train(str(tmp_path / "run.yaml")) == tmp_path / "run"
    assert len(read_log(tmp_path / "run")) == 1


def test_another_run_does_not_take_the_folder(world, tmp_path):
    train(make_config(world, tmp_path / "run", steps=1))
    with pytest.raises(InputError, match=r"another run lives in this folder.*steps: 1 there.*steps: 2 here"):
        train(make_config(world, tmp_path / "run", steps=2))


def test_what_a_teacher_labelled_for_another_config_is_not_taken(world, tmp_path):
    """A run that was cut while its videos were labelled has no checkpoint, and may begin with another config."""
    kept = tmp_path / "teacher" / "0" / "0000.npy"
    kept.parent.mkdir(parents=True)
    kept.touch()
    _claim_folder(make_config(world, tmp_path, steps=3), has_begun=False)
    _claim_folder(make_config(world, tmp_path, steps=3), has_begun=False)
    assert kept.is_file()
    _claim_folder(make_config(world, tmp_path, steps=4), has_begun=False)
    assert not kept.exists()


def test_plain_and_steady_start_from_the_same_weights(world, tmp_path):
    plain, steady = (
        build_model(make_config(world, tmp_path, loss={"relative_weight": weight})) for weight in (0.0, 1.0)
    )
    for one, other in zip(plain.state_dict().values(), steady.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_starting_from_a_model_takes_its_weights_and_size(world, tmp_path):
    first = train(make_config(world, tmp_path / "first", steps=1))
    second = make_config(
        world, tmp_path / "second", steps=1, model={"init": str(first)}, data={"labels": "teacher", "motion": "dis"}
    )
    built = build_model(second)
    for one, other in zip(built.state_dict().values(), load_model(first).state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert (train(second) / "model.safetensors").is_file()


@pytest.mark.parametrize(("after", "trains"), [(0.5, [True, True, False, False]), (0.0, [False] * 4)])
def test_norms_learn_their_share_of_the_steps_and_then_keep_their_statistics(
    world, tmp_path, monkeypatch, after, trains
):
    found = []

    def look(model, *arguments, **options):
        norms = {module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
        found.append((norms, model.decoder.training))
        return train_step(model, *arguments, **options)

    monkeypatch.setattr(step, "train_step", look)
    train(make_config(world, tmp_path / "run", optim={"freeze_batch_norm_after": after}))
    assert found == [({one}, True) for one in trains]


def test_checkpointing_updates_norm_statistics_once_a_step(world, tmp_path, clip):
    weights = []
    for asked in (False, True):
        config = make_config(world, tmp_path, model={"checkpointing": asked}, optim={"accumulate": 2})
        setup, state = set_up(config)
        state, _ = take_step(setup, state, clip)
        weights.append(state.model.state_dict())
    plain, checkpointed = weights
    assert [name for name in plain if name.startswith("encoder") and "num_batches" in name]
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, msg=name)


def test_freezing_reaches_norms_alone_and_is_taken_back():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    set_training_mode(model, freeze_batch_norm=True)
    assert [module.training for module in model] == [True, False, True]
    set_training_mode(model, freeze_batch_norm=False)
    assert all(module.training for module in model)


def test_the_relative_weight_ramps_up():
    weights = [relative_weight_at(step, steps=10, weight=2.0, ramp=0.5) for step in range(10)]
    assert weights == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2, 2, 2, 2, 2])
    assert relative_weight_at(0, steps=10, weight=2.0, ramp=0.0) == 2.0


def test_processes_share_the_samples_of_a_step(world, tmp_path):
    shares = [sample_numbers(3, 5, 4, rank, 2) for rank in (0, 1)]
    assert shares == [[12, 13, 16, 17], [14, 15, 18, 19]]
    with pytest.raises(InputError, match=r"optim\.batch: 3: must be a multiple of the 2"):
        open_samples(make_config(world, tmp_path, optim={"batch": 3}), 0, 0, 2)


def test_an_average_follows_the_weights_and_forgets_its_start():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = average_weights(model, 0.9)
    average.update_parameters(model)
    nn.init.constant_(model.weight, 1.0)
    average.update_parameters(model)
    # The second update is number 1: decay (1 + 1) / (10 + 1).
    assert average.module.weight.item() == pytest.approx(1 - 2 / 11, rel=1e-5)


def stabilising(world, folder, first, *, steps=6, **loss):
    return make_config(
        world,
        folder,
        steps=steps,
        model={"init": str(first)},
        data={"labels": "teacher", "motion": "dis", "exposure": 0.0},
        optim={"learning_rate": 1e-3, "encoder_learning_rate": 1.0, "freeze_batch_norm_after": 0.0, "average": 0.0},
        # No change is right, whatever the teacher's: the image is soon lost.
        loss={"relative": "warping", "relative_weight": 50.0, "relative_ramp": 0.0, "min_edges_kept": 0.0} | loss,
    )


@pytest.fixture(scope="module")
def first(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return train(make_config(world, folder, steps=6, optim={"learning_rate": 3e-3}))


def test_a_run_that_loses_the_image_goes_back_and_on_with_half_of_the_learning_rate(world, tmp_path, first):
    reckless = train(stabilising(world, tmp_path / "reckless", first, min_log_depth_correlation=0.0))
    correlations = [line["log_depth_correlation"] for line in read_log(reckless)]
    lost = next(n for n in range(1, 6) if correlations[n] < min(correlations[:n]))
    least = (min(correlations[:lost]) + correlations[lost]) / 2
    guarded = train(stabilising(world, tmp_path / "guarded", first, min_log_depth_correlation=least))
    lines = read_log(guarded)
    assert [line["log_depth_correlation"] for line in lines[: lost + 1]] == correlations[: lost + 1]
    assert [line["backed_off"] for line in lines[: lost + 1]] == [0] * lost + [1]
    assert len(lines) == 6
    checkpoint = torch.load(guarded / "checkpoint.pt", weights_only=True)
    assert checkpoint["rate_share"] == 0.5 ** lines[-1]["backed_off"]
    # What is saved was good enough.
    for name, weight in load_model(guarded).state_dict().items():
        assert torch.equal(weight, checkpoint["guard"]["kept"][name])


def test_a_run_that_is_taken_back_again_and_again_stops_and_is_found_stopped(world, tmp_path, first):
    config = stabilising(world, tmp_path / "run", first, steps=8, min_log_depth_correlation=1.0)
    lines = read_log(train(config))
    assert [line["backed_off"] for line in lines] == [1, 2, 3, 4, 5]
    assert outcome(tmp_path / "run") == (5, False)
    assert outcome(first) == (6, True)
    start = load_model(first).state_dict()
    for name, weight in load_model(tmp_path / "run").state_dict().items():
        assert torch.equal(weight, start[name])
    saved = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert (train(config) / "model.safetensors").read_bytes() == saved
    assert read_log(tmp_path / "run") == lines


def test_a_run_without_labels_cut_and_resumed_equals_one_never_cut(world, tmp_path, monkeypatch, first):
    options = {"steps": 4, "min_log_depth_correlation": 0.0}
    uncut = train(stabilising(world, tmp_path / "uncut", first, **options))
    config = stabilising(world, tmp_path / "cut", first, **options)
    train_until_cut(config, 2, monkeypatch)
    assert (tmp_path / "cut" / "teacher").is_dir()
    resumed = train(config)
    assert not (resumed / "teacher").exists()
    assert read_log(uncut) == read_log(resumed)
    assert (uncut / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()


def test_a_python_process_trains_with_one_precision_after_another(world, tmp_path, caplog):
    with caplog.at_level("INFO"):
        for precision in ("no", "bf16", "no"):
            train(make_config(world, tmp_path / str(len(caplog.messages)), steps=1, run={"precision": precision}))
    found = [line.rsplit("precision ", 1)[1] for line in caplog.messages if "precision " in line and "process" in line]
    assert found == ["no", "bf16", "no"]


def test_processes_wait_for_the_first_one_while_it_labels_and_validates(world, tmp_path):
    """NCCL alone would end them after ten minutes."""
    accelerator = set_up(make_config(world, tmp_path))[0].accelerator
    assert accelerator.init_handler.timeout >= timedelta(hours=12)
