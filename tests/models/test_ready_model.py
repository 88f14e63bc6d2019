"""The model that comes with the package."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import steadydepth as sd
from steadydepth.cli import app
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.zoo import DEFAULT, source_of
from steadydepth.synthetic.batched import World
from steadydepth.synthetic.places import draw_scenes


@pytest.fixture(scope="module")
def rendered():
    world = World(torch.device("cpu"))
    return world.render(draw_scenes(987654, world.pool, n_scenes=12, n_frames=2), height=96, width=128)


def images(rendered) -> np.ndarray:
    """The first frame of each clip, as a camera that exposes for the mean has it."""
    light = rendered.light[:, 0]
    encoded = (light * 0.3 / light.mean(dim=(1, 2, 3), keepdim=True)).clamp(0, 1) ** (1 / 2.2)
    return (encoded.movedim(1, -1) * 255).round().byte().numpy()


def test_it_is_in_the_package_and_small():
    folder = Path(source_of(DEFAULT))
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").stat().st_size < 10_000_000


def test_it_tells_near_from_far_in_scenes_that_it_never_saw(rendered):
    model = sd.load(DEFAULT, device="cpu")
    assert model.claims == "scale"
    errors, constant = [], []
    for image, depth in zip(images(rendered), rendered.depth[:, 0].numpy(), strict=True):
        predicted = model.predict(image).depth
        for found, name in ((predicted, errors), (np.ones_like(depth), constant)):
            difference = np.log(found) - np.log(depth)
            name.append(np.abs(difference - np.median(difference)).mean())
    assert np.mean(errors) < 0.9 * np.mean(constant)


def test_large_images_are_shrunk_to_the_size_that_it_is_for(rendered):
    model = sd.load(DEFAULT, device="cpu")
    assert model.network.max_side == 256
    large = np.kron(images(rendered)[0], np.ones((5, 5, 1), np.uint8))
    depth = model.predict(large).depth
    assert depth.shape == large.shape[:2]
    assert model.network.frames_at_once(480, 640) == model.network.frames_at_once(192, 256)
    as_asked = sd.load(DEFAULT, device="cpu", max_side=128).predict(large).depth
    assert not np.allclose(depth, as_asked)


def test_the_size_is_kept_with_the_model(tmp_path):
    DepthNet("test_efficientnet", decoder_width=8, max_side=64).save_pretrained(tmp_path)
    assert sd.load(tmp_path).network.max_side == 64
    assert sd.load(tmp_path, max_side=96).network.max_side == 96
    DepthNet("test_efficientnet", decoder_width=8).save_pretrained(tmp_path / "any")
    assert sd.load(tmp_path / "any").network.max_side is None


def test_it_predicts_where_no_model_is_named(rendered, tmp_path):
    Image.fromarray(images(rendered)[0]).save(tmp_path / "room.png")
    written = CliRunner().invoke(app, ["predict", str(tmp_path / "room.png"), "--out", str(tmp_path / "depth")])
    assert written.exit_code == 0, written.output
    (found,) = (tmp_path / "depth").glob("*.npz")
    expected = sd.load(DEFAULT).predict(images(rendered)[0]).depth
    np.testing.assert_allclose(np.load(found)["depth"].squeeze(), expected, rtol=1e-3)
