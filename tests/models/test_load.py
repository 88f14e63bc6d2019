"""Models by name: networks of one's own, what is declared of them, hub names, and files that are refused."""

import json
import pickle
import re
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import steadydepth as sd
from steadydepth.models.claimed import LEAST, check_claims
from steadydepth.models.declare import split_name
from steadydepth.models.load import load_model
from steadydepth.models.weights import read_weights
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError

FRAMES = torch.rand(2, 3, 3, 30, 44, generator=torch.Generator().manual_seed(1))


class Patches(nn.Module):
    """Takes multiples of 8, gives a quarter of the size; two of its weights are one."""

    def __init__(self, multiple=8):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 4, stride=4)
        self.first = nn.Linear(1, 1)
        self.twin = nn.Linear(1, 1)
        self.twin.weight = self.first.weight
        self.multiple = multiple

    def forward(self, images):
        assert images.shape[-2] % self.multiple == 0
        assert images.shape[-1] % self.multiple == 0
        return self.backbone(images).square().mean(dim=1) * self.first.weight**2 + self.twin.bias**2 + 0.5


def build():
    torch.manual_seed(3)
    return Patches()


def light():
    return lambda images: images.mean(dim=1, keepdim=True)


@pytest.fixture
def own(monkeypatch):
    """A module of the user's that can be imported."""
    module = types.ModuleType("mine")
    module.net = types.ModuleType("mine.net")
    module.net.build, module.net.light, module.net.word = build, light, lambda: "no network"
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.setitem(sys.modules, "mine.net", module.net)
    return "mine.net:build"


def test_a_multiple_pads_with_the_last_pixels_and_cuts(own):
    model = load_model(f"{own},claims=affine,multiple=8")
    assert model.claims == "affine"
    with torch.no_grad():
        predicted, state = model(FRAMES)
        padded = nn.functional.pad(FRAMES.flatten(0, 1), (0, 4, 0, 2), mode="replicate")
        small = build()(padded)[:, None]
    large = nn.functional.interpolate(small, (32, 48), mode="bilinear", align_corners=False)
    assert state == {}
    torch.testing.assert_close(predicted, large[:, 0, :30, :44].unflatten(0, (2, 3)))


def test_one_size_is_reached_by_resizing(own):
    model = load_model(f"{own},claims=metric,size=40x64")
    with torch.no_grad():
        predicted, _ = model(torch.full((1, 2, 3, 30, 44), 0.25))
        middle = build()(torch.full((1, 3, 40, 64), 0.25))
    torch.testing.assert_close(predicted, middle[0, 0, 0].expand(1, 2, 30, 44))


@pytest.mark.parametrize("claims", ["metric", "scale", "affine", "disparity"])
def test_only_depths_are_floored_and_what_lies_about_zero_stays(own, claims):
    frames = 2 * FRAMES - 1  # the function of the module gives their mean, from -1 to 1
    depth = load_model(f"mine.net:light,claims={claims}")(frames)[0]
    expected = frames.mean(dim=2)
    assert (expected < 0).any()
    torch.testing.assert_close(depth, expected.clamp(min=LEAST) if claims in ("metric", "scale") else expected)


def test_a_function_of_images_predicts(own):
    model = load_model("mine.net:light,claims=disparity")
    torch.testing.assert_close(model(FRAMES)[0], FRAMES.mean(dim=2))
    normalised = load_model("mine.net:light,claims=disparity,normalise=imagenet")
    white = (1 - 0.485) / 0.229 + (1 - 0.456) / 0.224 + (1 - 0.406) / 0.225
    torch.testing.assert_close(normalised(torch.ones(1, 1, 3, 5, 7))[0], torch.full((1, 1, 5, 7), white / 3))
    result = sd.load("mine.net:light,claims=disparity").predict(np.full((6, 9, 3), 51, np.uint8))
    assert result.claims == "disparity"
    np.testing.assert_allclose(result.depth, 0.2, rtol=1e-6)


def test_a_network_comes_back_with_its_keys_and_says_the_same(own, tmp_path):
    model = load_model(f"{own},claims=scale,multiple=8")
    with torch.no_grad():
        model.network.backbone.weight.mul_(1.5)
    save_model(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "steadydepth.json"]
    declared = {"factory": own, "claims": "scale", "multiple": 8}
    assert json.loads((tmp_path / "steadydepth.json").read_text(encoding="utf-8")) == declared
    network = build()
    network.load_state_dict(read_weights(tmp_path / "model.safetensors"), strict=True)
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(FRAMES)[0], model(FRAMES)[0])
        assert not torch.equal(again(FRAMES)[0], load_model(f"{own},claims=scale,multiple=8")(FRAMES)[0])
    # What is predicted on the command line wins over what the folder says; one size rule replaces the other.
    assert load_model(f"{own},claims=metric,weights={tmp_path / 'model.safetensors'}").claims == "metric"
    assert split_name("a/b,claims=affine,size=3x4")[1].over(again.declared).multiple is None


def test_pickles_are_refused_unless_they_hold_tensors_alone(own, tmp_path):
    torch.save({"state_dict": build().state_dict(), "epoch": 3}, tmp_path / "good.pt")
    load_model(f"{own},claims=metric,weights={tmp_path / 'good.pt'}")
    torch.save(build(), tmp_path / "whole.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"weights": print}, protocol=2))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in {
        "whole.pt": "pickle that would run code",
        "plain.pt": "pickle that would run code",
        "cut.safetensors": "damaged",
        "list.pt": "holds no state_dict",
        "none.pt": "no such file of weights",
    }.items():
        with pytest.raises(InputError, match=message):
            load_model(f"{own},claims=metric,weights={tmp_path / name}")
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"is not of what mine\.net:build makes"):
        load_model(f"{own},claims=metric,weights={tmp_path / 'other.pt'}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.net:build", r"what its numbers mean is not known.*NAME,claims=WORD"),
        ("mine.net:build,claims=depth", r"'depth' is no claim.*disparity \(inverse"),
        ("mine.net:build,claim=metric", r"claim: unknown; a name may be followed by ,claims="),
        ("mine.net:build,claims=metric,multiple=8,size=8x8", r"give one of them"),
        ("mine.net:build,claims=metric,multiple=x", r"multiple=x: it is a number"),
        ("mine.net:build,claims=metric,size=8", r"size=8: it is HEIGHTxWIDTH"),
        ("mine.net:build,claims=metric,normalise=mean", r"normalise=mean: there is imagenet"),
        ("mine.net:buidl,claims=metric", r"no attribute 'buidl'"),
        ("mine.nets:build,claims=metric", r"PYTHONPATH=FOLDER"),
        ("mine.net:word,claims=metric", r"gives str; it makes an nn\.Module"),
        (__file__, r"no model but a file; a model is a folder.*give the model that it was exported from"),
        ("nowhere", r"no model: config\.json and model\.safetensors not there.*hub name"),
    ],
)
def test_wrong_names_and_declarations_are_told(own, name, message):
    with pytest.raises(InputError, match=message):
        load_model(name)


def test_a_size_that_a_network_cannot_take_is_told_with_the_rule_to_declare(own, tmp_path):
    with pytest.raises(InputError, match=r"fails on frames of 30 x 44.*mine\.net:build,multiple=N"):
        load_model(f"{own},claims=metric")(FRAMES)
    with pytest.raises(InputError, match=r"nothing to save"):
        save_model(load_model("mine.net:light,claims=metric"), tmp_path)


def test_what_is_declared_beside_our_own_models_must_be_true(model, tmp_path):
    save_model(model, tmp_path)
    assert load_model(f"{tmp_path},claims=metric").claims == "metric"
    with pytest.raises(InputError, match="was trained as metric"):
        load_model(tmp_path, "disparity")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        load_model(tmp_path)


def test_a_hub_that_is_not_reached_is_told_with_the_way_out(monkeypatch, model, tmp_path):
    import huggingface_hub

    asked = []

    def offline(name, allow_patterns):
        asked.append(name)
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"the hub does not give it: no route.*hf download owner/name"):
        load_model("owner/name")
    save_model(model, tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(tmp_path))
    assert load_model("owner/name").claims == "metric"
    assert asked == ["owner/name"]


def test_claims_that_can_be_seen_to_be_wrong_are_refused():
    depth = torch.rand(1, 2, 5, 7) + 0.5
    check_claims(depth, "metric", "m")
    with pytest.raises(InputError, match="m: gives 2 for every pixel"):
        check_claims(torch.full((1, 2, 5, 7), 2.0), "disparity", "m")
    far = torch.where(depth > 1, depth, LEAST)
    check_claims(far, "disparity", "m")
    with pytest.raises(InputError, match=r"m: claims metric, yet \d+% .* NAME,claims=disparity"):
        check_claims(far, "metric", "m")
    with pytest.raises(InputError, match="not finite"):
        check_claims(torch.where(depth > 1, depth, torch.nan), "affine", "m")


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_that_were_cut_anywhere_are_told_in_words(tmp_path, is_zip):
    """An interrupted copy may end at any byte, even before the first."""
    path = tmp_path / "model.pth"
    torch.save({"state_dict": build().state_dict()}, path, _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes()
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(
            InputError,
            match=r"model\.pth: cannot be read as weights \(.+\): damaged, or a pickle that would run code; save its",
        ):
            read_weights(path)


@pytest.mark.parametrize("config", ['{"encoder": null}', '{"decoder_width": 3}', '{"max_depth": -1}', "[" * 9999])
def test_a_config_that_makes_no_network_is_told_with_the_name_of_its_folder(model, tmp_path, config):
    save_model(model, tmp_path)
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path))}: .*damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize("size", ["[null, 8]", '["a", 8]', "[8]", "1e400"])
def test_a_size_beside_a_model_that_is_none_is_refused(tmp_path, size):
    (tmp_path / "steadydepth.json").write_text(f'{{"claims": "metric", "size": {size}}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"size=.*: it is HEIGHTxWIDTH"):
        load_model(tmp_path)
