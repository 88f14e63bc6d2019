"""Each depth architecture that the installed transformers has: in, one step of training, and out again."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")
from tiny_transformers import CONFIGS, dinov2, save_tiny  # noqa: E402
from transformers import CONFIG_MAPPING, AutoModelForDepthEstimation, pipeline  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES  # noqa: E402

from steadydepth.inference.network import Network  # noqa: E402
from steadydepth.method.update import build_optimizer  # noqa: E402
from steadydepth.models.claimed import floor_depth  # noqa: E402
from steadydepth.models.load import load_model  # noqa: E402
from steadydepth.training.checkpoint import save_model  # noqa: E402
from steadydepth.training.step import train_step  # noqa: E402
from steadydepth.types import InputError  # noqa: E402

UNDECLARED = {"chmv2": ",claims=metric"}  # heights of trees: nothing says what they are as depth
CLAIMS = {"depth_anything": "disparity", "dpt": "disparity", "prompt_depth_anything": "affine"}


@pytest.fixture(scope="module", params=CONFIGS)
def saved(request, tmp_path_factory):
    """(kind, folder as transformers wrote it, the name to load it by)."""
    folder = save_tiny(request.param, tmp_path_factory.mktemp(request.param.replace(" ", "_")))
    return request.param, folder, f"{folder}{UNDECLARED.get(request.param, '')}"


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory):
    return save_tiny("depth_anything", tmp_path_factory.mktemp("anything"))


def image(height, width):
    coarse = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return coarse.repeat(4, 0).repeat(4, 1)[:height, :width].copy()


def as_frames(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None, None].float() / 255


def test_every_architecture_is_here():
    assert {kind.split()[0] for kind in CONFIGS} == set(MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES)


def test_it_says_what_the_pipeline_of_transformers_says(saved):
    kind, folder, name = saved
    model, pipe = load_model(name), pipeline("depth-estimation", model=str(folder))
    assert model.claims == CLAIMS.get(kind, "metric")
    for size in ((37, 91), (90, 41), (64, 64)):
        one = image(*size)
        expected = pipe(Image.fromarray(one))["predicted_depth"]
        with torch.no_grad():
            predicted = model(as_frames(one))[0]
        assert predicted.shape == (1, 1, *size)
        assert float(expected.std()) > 0
        torch.testing.assert_close(predicted[0, 0], floor_depth(expected, model.claims), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(predicted[0, 0], expected, rtol=0, atol=1e-4)


def test_one_step_lowers_the_target_and_transformers_alone_loads_what_is_saved(saved, clip, tmp_path):
    _, folder, name = saved
    model = load_model(name)
    optimizer = build_optimizer(model, learning_rate=2e-5, encoder_learning_rate=1.0, weight_decay=0.0)
    options = {"relative_weight": 1.0, "max_grad_norm": 1.0, "claims": model.claims}
    before = train_step(model, optimizer, clip, **options)
    after = train_step(model, optimizer, clip, **options)
    assert torch.isfinite(before.target)
    assert after.target < before.target
    save_model(model, tmp_path)
    alone, original = (AutoModelForDepthEstimation.from_pretrained(path) for path in (tmp_path, folder))
    weights, kept = dict(alone.named_parameters()), dict(original.named_parameters())
    assert list(weights) == list(kept)
    assert sum(not torch.equal(weights[key], kept[key]) for key in kept) > len(kept) / 3
    for key, weight in model.network.named_parameters():
        assert torch.equal(weights[key], weight)
    pixels = model._to_pixels(clip.frames[0])
    with torch.no_grad():
        torch.testing.assert_close(alone(pixels).predicted_depth, model.network(pixels).predicted_depth)
        torch.testing.assert_close(load_model(tmp_path)(clip.frames)[0], model(clip.frames)[0], rtol=0, atol=0)
    files = {path.name for path in folder.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == files | {"steadydepth.json"}
    assert (tmp_path / "preprocessor_config.json").read_bytes() == (folder / "preprocessor_config.json").read_bytes()
    assert json.loads((tmp_path / "steadydepth.json").read_text(encoding="utf-8")) == {"claims": model.claims}


def test_gradients_reach_the_frames_through_the_processor(depth_anything):
    model, frames = load_model(depth_anything), as_frames(image(37, 91))
    with_gradient = frames.clone().requires_grad_()
    predicted = model(with_gradient)[0]
    with torch.no_grad():
        assert torch.equal(predicted, model(frames)[0])
    predicted.sum().backward()
    moved = frames.clone()
    moved[..., 10:30, 20:60] += 8 / 255
    direction = (with_gradient.grad * (moved - frames)).sum()
    with torch.no_grad():
        change = (model(moved.clamp(0, 1))[0] - predicted).sum()
    assert float(direction) * float(change) > 0


def test_zeros_of_inverse_depth_stay_zeros(depth_anything):
    model = load_model(depth_anything)
    with torch.no_grad():
        model.network.head.conv3.bias.fill_(-10.0)
        predicted = model(as_frames(image(40, 56)))[0]
    assert torch.equal(predicted, torch.zeros_like(predicted))


def test_what_nobody_has_said_is_asked_for(depth_anything, tmp_path):
    asked = r"what its numbers mean is not known .*NAME,claims=WORD.*model\.claims"
    for config in (CONFIG_MAPPING["dpt"](backbone_config=dinov2()), CONFIG_MAPPING["chmv2"]()):
        config.save_pretrained(tmp_path)
        with pytest.raises(InputError, match=asked):
            load_model(tmp_path)
    config = json.loads((depth_anything / "config.json").read_text(encoding="utf-8")) | {
        "depth_estimation_type": "unheard of"
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"transformers cannot load it: .*depth_estimation_type must be one of"):
        load_model(tmp_path)


def test_what_the_user_declares_wins(depth_anything):
    assert load_model(f"{depth_anything},claims=affine").claims == "affine"
    assert load_model(depth_anything, "scale").claims == "scale"
    with pytest.raises(InputError, match="multiple: such a model takes only claims"):
        load_model(f"{depth_anything},multiple=14")


def test_files_that_lack_weights_are_refused_and_a_few_named(depth_anything, tmp_path, caplog):
    from safetensors.torch import load_file, save_file

    for path in depth_anything.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    unused = "neck.fusion_stage.layers.0.residual_layer1.convolution1.bias"
    save_file({key: value for key, value in weights.items() if key != unused}, tmp_path / "model.safetensors")
    caplog.set_level(logging.WARNING, "steadydepth")
    load_model(tmp_path)
    assert unused in caplog.text
    backbone = {key: value for key, value in weights.items() if key.startswith("backbone")}
    save_file(backbone, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="its weights are of another model"):
        load_model(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_model(tmp_path)


def test_a_frame_too_small_for_the_processor_is_named(tmp_path):
    model = load_model(save_tiny("glpn", tmp_path))
    with pytest.raises(InputError, match=r"frames are 20 x 64, which GLPNImageProcessor cannot take"):
        model(torch.zeros(1, 1, 3, 20, 64))


def test_a_device_without_memory_is_not_taken_for_a_wrong_size(tmp_path):
    """Fewer frames are asked for then (`inference.network`)."""
    model = load_model(save_tiny("depth_anything", tmp_path)).eval()
    asked = []

    def process(images, **options):
        asked.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("for 2 images")
        return processor(images=images, **options)

    processor, model.processor = model.processor, process
    process.post_process_depth_estimation = processor.post_process_depth_estimation
    frame = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    depth, _ = Network(model)([frame] * 3, None)
    assert asked == [3, 1, 1, 1]
    assert (depth[0] == depth).all()
