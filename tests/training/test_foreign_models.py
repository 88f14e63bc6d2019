"""Models of others in a run: what is trained, how fast, what comes out, and going on where it was cut."""

import json
import logging
import sys
import tempfile
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_runs import train_until_cut
from torch import nn

from steadydepth.config_files import resolve_config
from steadydepth.method.alignment import as_depth
from steadydepth.method.parameter_groups import coarse_parameters, freeze_unused, rate_shares, train_only
from steadydepth.method.update import build_optimizer
from steadydepth.models.adapt import add_lora, checkpoint_gradients, without_lora
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.load import load_model
from steadydepth.models.weights import read_weights
from steadydepth.training.loop import train
from steadydepth.training.step import train_step
from steadydepth.types import InputError


class Toy(nn.Module):
    """A network with an encoder of two layers, and a weight that nothing uses."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1))
        self.mix = nn.Linear(4, 4)
        self.head = nn.Conv2d(4, 1, 1)
        self.spare = nn.Conv2d(4, 1, 1)

    def forward(self, images):
        mixed = self.mix(self.encoder(images).movedim(1, -1)).movedim(-1, 1)
        return nn.functional.softplus(self.head(mixed)) + 0.1


def build():
    torch.manual_seed(5)
    return Toy()


@pytest.fixture
def toy(monkeypatch):
    module = types.ModuleType("toy_network")
    module.build, module.function = build, lambda: lambda images: images.mean(dim=1)
    monkeypatch.setitem(sys.modules, "toy_network", module)
    return "toy_network:build,claims=scale"


def make_config(world, folder, init, steps=3, **sections):
    content = {
        "data": {"root": str(world), "clip_length": 3, "height": 48, "width": 64},
        "model": {"init": init},
        "optim": {"steps": steps, "batch": 2, "average": 0.0, "learning_rate": 1e-2},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 1},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values
    return resolve_config(content, "test")


def test_a_network_of_ones_own_is_trained_and_comes_back(world, tmp_path, toy, caplog):
    caplog.set_level(logging.INFO, "steadydepth")
    folder = train(make_config(world, tmp_path / "run", toy))
    assert (
        "2 parameters have no effect on the depth and are frozen: network.spare.weight, network.spare.bias"
        in caplog.text
    )
    after, before = read_weights(folder / "model.safetensors"), build().state_dict()
    assert sorted(after) == sorted(before)
    assert [key for key in before if torch.equal(after[key], before[key])] == ["spare.weight", "spare.bias"]
    assert load_model(folder).claims == "scale"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: steadydepth" in card
    assert "It claims `scale`" in card
    assert "Network: that of the model it was trained from; started from" in card
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["absolute"] < lines[0]["absolute"]


def test_inverse_depth_without_a_label_is_compared_as_a_depth_by_hand():
    like = torch.tensor([[[[0.0, 4.0]]], [[[10.0, 30.0]]]])
    predicted = torch.tensor([[[[2.0, 1e-4]]], [[[20.0, 38.0]]]])
    # Means 2 and 20: 1 / (1 + 0.1), 1 / (0 + 0.1), 1 / (1 + 0.1), 1 / (1.9 + 0.1).
    expected = torch.tensor([[[[1 / 1.1, 1 / 0.10005]]], [[[1 / 1.1, 0.5]]]])
    torch.testing.assert_close(as_depth(predicted, like, "disparity"), expected)


def test_inverse_depth_is_stabilised_without_labels(clip):
    pytest.importorskip("transformers")
    from tiny_transformers import save_tiny

    with tempfile.TemporaryDirectory() as folder:
        model = load_model(save_tiny("dpt", Path(folder)))
    with torch.no_grad():  # zeros in a part of the image, as a sky has them
        model.network.head.head[-2].bias.sub_(0.05)
    assert (model(clip.frames)[0] <= 0).any()
    assert (model(clip.frames)[0] > 0).any()
    with torch.no_grad():
        labels = model(clip.frames)[0].mean(dim=1, keepdim=True).expand_as(clip.depth)
    everywhere = torch.ones_like(clip.valid)
    batch = replace(clip, depth=labels, valid=everywhere, labels=("teacher",) * 2, source=(0,) * 2)
    optimizer = build_optimizer(model, learning_rate=2e-5, encoder_learning_rate=1.0, weight_decay=0.0)
    options = {"relative_weight": 2.0, "max_grad_norm": 1.0, "claims": "disparity"}
    losses = [train_step(model, optimizer, batch, **options) for _ in range(4)]
    assert 0 < losses[-1].relative < losses[0].relative < 1


def test_a_run_of_a_transformers_model_cut_and_resumed_equals_one_never_cut(world, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    from tiny_transformers import save_tiny

    name = str(save_tiny("glpn", tmp_path / "glpn"))
    optim = {"learning_rate": 1e-4}
    uncut = train(make_config(world, tmp_path / "uncut", name, optim=optim))
    config = make_config(world, tmp_path / "cut", name, optim=optim)
    train_until_cut(config, 2, monkeypatch)
    resumed = train(config)
    assert (uncut / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert (resumed / "preprocessor_config.json").is_file()
    assert "library_name: transformers" in (resumed / "README.md").read_text(encoding="utf-8")


def test_what_is_seen_to_be_wrong_stops_before_the_first_step(world, tmp_path, toy):
    with pytest.raises(InputError, match="has no weights, and cannot be trained"):
        train(make_config(world, tmp_path / "a", "toy_network:function,claims=metric"))

    def dead():
        network = build()
        nn.init.constant_(network.head.weight, 0.0)
        return network

    sys.modules["toy_network"].dead = dead
    with pytest.raises(InputError, match=r"toy_network:dead,claims=metric: gives .* for every pixel"):
        train(make_config(world, tmp_path / "b", "toy_network:dead,claims=metric"))
    assert not (tmp_path / "b" / "model.safetensors").exists()


def learning(model):
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


def test_parts_by_name(toy):
    model = load_model(toy)
    names = [name for name, _ in model.named_parameters()]
    for parts, kept in {
        ("encoder",): lambda name: ".encoder." in name,
        ("decoder",): lambda name: ".encoder." not in name,
        ("norms",): lambda name: ".encoder.1." in name,
        ("network.head", "norms"): lambda name: ".head." in name or ".encoder.1." in name,
        ("network.head.bias",): lambda name: name == "network.head.bias",
    }.items():
        train_only(model, parts)
        assert learning(model) == [name for name in names if kept(name)]
    with pytest.raises(
        InputError, match=r"model\.train: hed: no parameters .* begin with network\.encoder, network\.head"
    ):
        train_only(model, ["encoder", "hed"])
    train_only(model, ["network.spare"])
    with pytest.raises(InputError, match="nothing would be trained"):
        freeze_unused(model, 32, 40)


class Pyramid(nn.Module):
    """Layers at full size, at a quarter and a sixteenth: convolutions, a norm, tokens; one of them at two sizes."""

    claims = "metric"

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse, self.both, self.back = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.norm, self.tokens, self.token_norm = nn.BatchNorm2d(3), nn.Linear(3, 3), nn.LayerNorm(3)
        self.scale, self.unused = nn.Parameter(torch.ones(3, 1, 1)), nn.Parameter(torch.ones(3))

    def forward(self, frames, state=None):
        full = self.fine(frames.flatten(0, 1))
        small = self.norm(self.coarse(F.avg_pool2d(self.middle(F.avg_pool2d(full, 4)), 4)))
        small = small + self.token_norm(self.tokens(small.flatten(2).mT)).mT.view_as(small)
        small = self.both(small * self.scale)
        full = self.back(self.both(full) + F.interpolate(small, full.shape[-2:]))
        return full.mean(dim=1).exp().unflatten(0, frames.shape[:2]), {}


def test_coarse_layers_are_those_at_a_twelfth_of_the_image_or_less():
    model = Pyramid()
    model.train()
    assert {name.split(".")[0] for name in coarse_parameters(model, 32, 48)} == {
        "coarse", "norm", "tokens", "token_norm", "scale",
    }  # fmt: skip
    assert model.training
    assert not model.norm.running_mean.any()
    train_only(model, ["coarse", "back"], height=32, width=48)
    assert {name.split(".")[0] for name in learning(model)} == {
        "coarse", "norm", "tokens", "token_norm", "scale", "back",
    }  # fmt: skip


@pytest.mark.parametrize("encoder", ["mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_the_ends_of_networks_are_not_coarse_and_the_middle_is(encoder):
    names = coarse_parameters(DepthNet(encoder, decoder_width=8), 64, 96)
    assert any(name.startswith("encoder.") for name in names)
    assert not any(name.startswith("decoder.head") for name in names)
    blocks = {name.split("blocks.")[1].split(".")[0] for name in names if "blocks." in name}
    assert max(map(int, blocks)) == (5 if "mobile" in encoder else 11)


def test_looking_for_unused_weights_leaves_the_model_as_it_is(toy):
    model = load_model(toy).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert freeze_unused(model, 32, 40) == ["network.spare.weight", "network.spare.bias"]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_layers_take_their_share_of_the_rate_by_hand(toy):
    shares = rate_shares(load_model(toy), encoder_learning_rate=0.5, layer_decay=0.1)
    weights = {name.removeprefix("network."): share for name, share in shares.items() if name.endswith("weight")}
    assert weights == pytest.approx(
        {
            "encoder.0.weight": 0.005,
            "encoder.1.weight": 0.05,
            "encoder.2.weight": 0.5,
            "mix.weight": 1.0,
            "head.weight": 1.0,
            "spare.weight": 1.0,
        }
    )
    optimizer = build_optimizer(
        load_model(toy), learning_rate=2.0, encoder_learning_rate=0.5, weight_decay=0.1, layer_decay=0.1
    )
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.01, 0.1, 1.0, 2.0])


def test_encoders_side_by_side_each_count_their_own_layers(tmp_path):
    pytest.importorskip("transformers")
    from tiny_transformers import save_tiny

    model = load_model(save_tiny("depth_pro", tmp_path))
    shares = rate_shares(model, encoder_learning_rate=0.5, layer_decay=0.1)
    for tower in ("patch_encoder", "image_encoder"):
        begin = f"network.depth_pro.encoder.{tower}.model."
        found = {name.removeprefix(begin): share for name, share in shares.items() if name.startswith(begin)}
        assert found["embeddings.cls_token"] == pytest.approx(0.05)
        assert found["encoder.layer.0.norm1.weight"] == pytest.approx(0.05)
        assert found["encoder.layer.1.norm1.weight"] == pytest.approx(0.5)
        assert found["layernorm.weight"] == pytest.approx(0.5)
    neck = {share for name, share in shares.items() if name.startswith("network.depth_pro.neck.")}
    assert neck == {0.5}
    assert shares["network.head.layers.0.weight"] == 1


def test_the_parts_of_a_stage_of_glpn_have_one_rate(tmp_path):
    pytest.importorskip("transformers")
    from tiny_transformers import save_tiny

    shares = rate_shares(load_model(save_tiny("glpn", tmp_path)), encoder_learning_rate=0.5, layer_decay=0.1)
    for stage, share in enumerate((0.0005, 0.005, 0.05, 0.5)):
        for part in ("patch_embeddings", "block", "layer_norm"):
            begin = f"network.glpn.encoder.{part}.{stage}."
            found = [value for name, value in shares.items() if name.startswith(begin)]
            assert found == pytest.approx([share] * len(found))
            assert found


def test_lora_learns_beside_the_weights_and_is_merged_into_them(toy):
    pytest.importorskip("peft")
    frames = torch.rand(1, 2, 3, 32, 40, generator=torch.Generator().manual_seed(2))
    model, plain = load_model(toy), load_model(toy)

    def adapted(name):
        return ".mix." in name

    add_lora(model, 2, adapted)
    assert torch.equal(model(frames)[0], plain(frames)[0])
    names = [name for name in learning(model) if adapted(name)]
    assert names == ["network.mix.lora_A.default.weight", "network.mix.lora_B.default.weight"]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    merged = without_lora(model)
    assert list(merged.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(merged(frames)[0], model(frames)[0])
    assert not torch.allclose(merged(frames)[0], plain(frames)[0], rtol=1e-2)
    low, high = model.network.mix.lora_A.default.weight, model.network.mix.lora_B.default.weight
    torch.testing.assert_close(merged.network.mix.weight, plain.network.mix.weight + high @ low)
    with pytest.raises(InputError, match="no linear layers"):
        add_lora(load_model(toy), 2, lambda name: ".encoder." in name)


def test_checkpointed_gradients_are_the_same(tmp_path):
    pytest.importorskip("transformers")
    from tiny_transformers import save_tiny

    folder = save_tiny("depth_anything", tmp_path)
    frames = torch.rand(1, 2, 3, 40, 56, generator=torch.Generator().manual_seed(2))
    gradients = []
    for asked in (False, True):
        model = load_model(folder).train()
        if asked:
            checkpoint_gradients(model)
            # Earlier versions of transformers have another name for it, of which today's warn.
            assert (
                getattr(model.network, "is_activation_checkpointing", None) or model.network.is_gradient_checkpointing
            )
        model(frames)[0].sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert list(gradients[0]) == list(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_a_model_that_cannot_checkpoint_says_so(toy):
    with pytest.raises(InputError, match=r"model\.checkpointing: this model cannot"):
        checkpoint_gradients(load_model(toy))
