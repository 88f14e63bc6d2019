"""A file gives what the model gives, wherever it is run; skipped where the runtimes are not installed."""

import json
import re
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import steadydepth as sd
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.exporters import export
from steadydepth.exporters.export import export_model
from steadydepth.files.stored_depth import read_predictions
from steadydepth.files.video_read import read_video
from steadydepth.files.video_write import write_video
from steadydepth.inference import runtime
from steadydepth.inference.exported import ExportedNetwork
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor, load
from steadydepth.inference.runtime import ExportedModel
from steadydepth.models.declare import Declared
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.load import load_model
from steadydepth.models.per_frame import PerFrame
from steadydepth.ops.resize import fit_image, resize_depth
from steadydepth.types import InputError, State

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

H, W = 36, 44
KINDS = {"onnx": "net.onnx", "openvino": "net.xml"}
# Two runtimes sum the same products in another order; measured 1e-6.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Tilted(nn.Module):
    """A convolution whose every direction and colour has a weight of its own: a swapped axis shows."""

    def __init__(self, claims: str = "metric") -> None:
        super().__init__()
        self.claims = claims
        self.conv = nn.Conv2d(3, 1, (3, 5), padding=(1, 2))
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-0.2, 0.4, 45).view(1, 3, 3, 5))
            self.conv.bias.fill_(0.3)

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        b, t = frames.shape[:2]
        return self.conv(frames.flatten(0, 1))[:, 0].exp().unflatten(0, (b, t)), {}


@pytest.fixture(scope="module")
def net() -> DepthNet:
    """With an encoder that is exported in a moment; the default one takes ten times as long."""
    torch.manual_seed(0)
    return DepthNet("test_efficientnet", decoder_width=16).eval()


@pytest.fixture(scope="module")
def files(net, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    for to, name in KINDS.items():
        assert export_model(net, folder / name, to=to, height=H, width=W, licence="CC0-1.0") < 1e-4
    return {to: folder / name for to, name in KINDS.items()}


@pytest.fixture
def frames() -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), dtype=np.uint8)
    return np.stack([cv2.resize(frame, (W, H), interpolation=cv2.INTER_CUBIC) for frame in small])


def test_a_size_above_the_models_own_is_refused_with_one_that_fits(tmp_path):
    model = load_model("steadydepth-small")
    with pytest.raises(InputError, match="at most 256 pixels a side: take 192x256"):
        export_model(model, tmp_path / "a.onnx", to="onnx", height=480, width=640)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", KINDS)
def test_file_gives_what_the_model_gives(net, files, frames, to):
    file = ExportedModel(files[to], threads=1)
    with torch.no_grad():
        expected = net(torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255)[0][0].numpy()
    np.testing.assert_allclose(np.stack([file.predict(frame) for frame in frames]), expected, **CLOSE)
    first, _ = file.predict(frames[0]), file.predict(frames[1])
    np.testing.assert_allclose(first, expected[0], **CLOSE)  # the second call did not write into the first one's depth


@pytest.mark.parametrize("to", KINDS)
def test_a_file_that_runs_may_be_removed(files, frames, to, tmp_path):
    shutil.copytree(files[to].parent, tmp_path / "files")
    file = ExportedModel(tmp_path / "files" / files[to].name)
    shutil.rmtree(tmp_path / "files")
    np.testing.assert_array_equal(file.predict(frames[0]), ExportedModel(files[to]).predict(frames[0]))


def test_nobody_has_the_file_open_when_it_is_moved_or_refused(tmp_path, monkeypatch):
    """Windows moves and removes no file that is."""
    opened, moved = [], []

    def open_one(path):
        network = ExportedNetwork(path)
        opened.append(weakref.ref(network.file))
        return network

    monkeypatch.setattr(export, "ExportedNetwork", open_one)
    monkeypatch.setattr(export, "move", lambda *_: moved.extend(one() for one in opened))
    export_model(Tilted(), tmp_path / "a.onnx", to="onnx", height=H, width=W)
    assert moved == [None]
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="differs from the model"):
        export_model(Tilted(), tmp_path / "a.onnx", to="onnx", height=H, width=W)
    assert [one() for one in opened] == [None, None]


@pytest.mark.parametrize("to", KINDS)
def test_guided_upsampling_is_exported_too(to, frames, tmp_path):
    torch.manual_seed(0)
    net = DepthNet("test_efficientnet", decoder_width=16, upsampling="guided").eval()
    assert export_model(net, tmp_path / KINDS[to], to=to, height=H, width=W) < 1e-4
    expected = Predictor(net).predict(frames[0]).depth
    np.testing.assert_allclose(ExportedModel(tmp_path / KINDS[to]).predict(frames[0]), expected, **CLOSE)


@pytest.mark.parametrize("to", KINDS)
def test_every_axis_and_colour_is_where_it_was(frames, tmp_path, to):
    model = Tilted()
    export_model(model, tmp_path / KINDS[to], to=to, height=H, width=W, frames=frames)
    expected = Predictor(model).predict(frames[0]).depth
    np.testing.assert_allclose(load(tmp_path / KINDS[to]).predict(frames[0]).depth, expected, **CLOSE)


@pytest.mark.parametrize("claims", ["affine", "metric"])
def test_signed_values_pass_and_what_is_no_depth_is_not_blended(tmp_path, claims):
    class Signed(Tilted):
        def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            depth, state = super().forward(frames)
            return depth.log() - 1, state

    small = np.random.default_rng(2).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    large = cv2.resize(small, (2 * W, 2 * H), interpolation=cv2.INTER_CUBIC)
    export_model(Signed(claims), tmp_path / "net.onnx", to="onnx", height=H, width=W)
    found = ExportedModel(tmp_path / "net.onnx").predict(large)
    assert (found.min() < 0) if claims == "affine" else (0.1 < np.isnan(found).mean() < 0.99)
    expected = Predictor(Signed(claims), max_side=W).predict(large).depth
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("to", KINDS)
def test_file_has_its_metadata(files, to):
    metadata = ExportedModel(files[to]).metadata
    assert (metadata["claims"], metadata["height"], metadata["width"], metadata["licence"]) == (
        "metric",
        H,
        W,
        "CC0-1.0",
    )
    assert (metadata["format_version"], metadata["precision"], metadata["state"]) == (2, "float32", {})
    assert len(metadata["weights_sha256"]) == 64
    assert metadata["flops"] > 1e6
    assert sorted(path.name for path in files[to].parent.iterdir()) == ["net.bin", "net.onnx", "net.xml"]
    assert str(Path(__file__).parent.parent).encode() not in files[to].read_bytes()


def test_flops_are_two_for_each_multiplication_of_the_convolution():
    # 3 colours x 3 x 5 taps at each of H x W pixels.
    assert export.describe(Tilted(), H, W, "")["flops"] == 2 * 45 * H * W


def test_weights_of_another_value_have_another_sum():
    one, other = Tilted(), Tilted()
    assert export.describe(one, H, W, "") == export.describe(other, H, W, "")
    with torch.no_grad():
        other.conv.bias += 1e-3
    assert export.describe(one, H, W, "")["weights_sha256"] != export.describe(other, H, W, "")["weights_sha256"]


@pytest.mark.parametrize("to", KINDS)
def test_predict_stream_and_file_agree_on_a_video(net, files, frames, tmp_path, to):
    write_video(tmp_path / "film.mp4", frames, 10.0)
    predict_files(load(files[to]), [tmp_path / "film.mp4"], tmp_path / "out")
    written, claims = read_predictions(tmp_path / "out", "film")
    assert claims == "metric"
    file = ExportedModel(files[to])
    decoded = list(read_video(tmp_path / "film.mp4"))
    np.testing.assert_array_equal(written, [result.depth for result in load(files[to]).stream(tmp_path / "film.mp4")])
    np.testing.assert_array_equal(written, [file.predict(frame) for frame in decoded])
    eager = [result.depth for result in Predictor(net).stream(iter(decoded))]
    np.testing.assert_allclose(written, eager, **CLOSE)


def test_evaluate_takes_a_file_for_its_model(net, files, world):
    eager = evaluate(Resized(net), world, controls=False)["mean"]
    exported = evaluate(load(files["onnx"]), world, controls=False)["mean"]
    assert exported["flicker"] > 0
    for name, value in eager.items():
        expected = None if value is None else pytest.approx(value, rel=1e-3, abs=1e-4)
        assert exported[name] == expected, name


class Resized(nn.Module):
    """The network at the file's size, for frames of another, as the file is used."""

    def __init__(self, net: DepthNet) -> None:
        super().__init__()
        self.net, self.claims = net, net.claims

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        h, w = frames.shape[-2:]
        images = (frames[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
        fitted = torch.from_numpy(np.stack([fit_image(image, H, W) for image in images]))
        depth = self.net(fitted.permute(0, 3, 1, 2)[None].float() / 255)[0][0].numpy()
        return torch.from_numpy(np.stack([resize_depth(one, h, w) for one in depth]))[None], {}


def test_a_file_that_differs_is_refused_and_not_left(tmp_path):
    class Restless(Tilted):
        def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            depth, state = super().forward(frames, state)
            return (depth if torch.compiler.is_exporting() else depth * 1.0012), state

    with pytest.raises(InputError, match=r"net\.onnx: differs from the model by 0\.0012"):
        export_model(Restless(), tmp_path / "net.onnx", to="onnx", height=H, width=W)
    assert list(tmp_path.iterdir()) == []


def test_relative_difference_by_hand():
    eager = np.full((1, 4), 2.0, np.float32)
    eager[0, 3] = 0.0
    depth = eager + np.array([[0.002, -0.004, 0, 0]], np.float32)
    assert export.relative_difference(depth, eager).max() == pytest.approx(0.002, rel=1e-3)
    # Where eager is 0 the difference is taken to a hundredth of its mean, 1.5.
    depth = eager + np.array([[0, 0, 0, 0.003]], np.float32)
    assert export.relative_difference(depth, eager).max() == pytest.approx(0.2, rel=1e-3)
    depth[0, 0] = np.nan
    assert not export.relative_difference(depth, eager).max() <= 1e9


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    size = {"height": H, "width": W}
    with pytest.raises(InputError, match="tflite: unknown format; there are onnx, openvino, litert"):
        export_model(Tilted(), tmp_path / "a.onnx", to="tflite", **size)
    with pytest.raises(InputError, match=r"a file for openvino ends in \.xml: name it .*a\.xml"):
        export_model(Tilted(), tmp_path / "a.onnx", to="openvino", **size)
    with pytest.raises(InputError, match="32 x 32"):
        export_model(DepthNet(decoder_width=16), tmp_path / "a.onnx", to="onnx", height=31, width=44)
    filtered = Predictor(Tilted(), filter="learned")
    with pytest.raises(InputError, match="filter learned does not go into the model's file: load the model without"):
        sd.export(filtered, to="onnx", size=(H, W), out=tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is not installed: pip install 'steadydepth\[onnx\]'"):
        export_model(Tilted(), tmp_path / "a.onnx", to="onnx", **size)
    assert list(tmp_path.iterdir()) == []


def test_what_the_tracer_cannot_follow_is_not_taken_for_a_wrong_size(tmp_path):
    def brightest(images: Tensor) -> Tensor:
        return images.mean(1) + (2.0 if images.mean() > 0.5 else 1.0)

    model = PerFrame(brightest, Declared(claims="scale"), "mine.net:build")
    with pytest.raises(InputError, match=r"^torch\.export cannot trace the model: "):
        export_model(model, tmp_path / "a.onnx", to="onnx", height=H, width=W)


def test_a_disk_without_room_for_the_file_is_told(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("basic_ios::clear: iostream error")

    openvino = pytest.importorskip("openvino")
    (tmp_path / "a.xml").write_text("the one before", encoding="utf-8")
    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(InputError, match=r"a\.xml: OpenVINO cannot write it \(basic_ios.*make room"):
        export_model(Tilted(), tmp_path / "a.xml", to="openvino", height=H, width=W)
    assert (tmp_path / "a.xml").read_text(encoding="utf-8") == "the one before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.xml"]


@pytest.mark.parametrize(("to", "name", "folder"), [("onnx", "a.onnx", "a.onnx"), ("openvino", "a.xml", "a.bin")])
def test_a_folder_in_the_place_of_a_file_is_left_as_it_is(tmp_path, to, name, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "notes.txt").write_text("of somebody", encoding="utf-8")
    with pytest.raises(InputError, match=f"{re.escape(str(folder))} is a folder, and a file is to be written"):
        export_model(Tilted(), tmp_path / name, to=to, height=H, width=W)
    assert (tmp_path / folder / "notes.txt").read_text(encoding="utf-8") == "of somebody"


def test_a_folder_that_is_no_package_of_core_ml_is_left_as_it_is(tmp_path):
    folder = tmp_path / "a.mlpackage"
    folder.mkdir()
    (folder / "notes.txt").write_text("of somebody", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.mlpackage exists and is no Core ML package"):
        export_model(Tilted(), folder, to="coreml", height=H, width=W)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "of somebody"


def test_a_file_that_exists_is_replaced(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_text("the one before", encoding="utf-8")
    export_model(Tilted(), tmp_path / "a.onnx", to="onnx", height=H, width=W)
    assert ExportedModel(tmp_path / "a.onnx").claims == "metric"


def test_a_ready_model_is_exported_with_its_licence(tmp_path):
    exported = sd.export("steadydepth-small", to="onnx", size=(32, 32), out=tmp_path / "small.onnx")
    assert ExportedModel(exported.path).metadata["licence"] == "Apache-2.0"


@pytest.mark.parametrize(("model", "name"), [("steadydepth-small", "steadydepth-small"), (Tilted(), "site")])
def test_a_page_has_the_name_of_its_model(model, name, tmp_path, monkeypatch):
    monkeypatch.setattr("steadydepth.exporters.web.export_web", lambda *_, name, **__: names.append(name) or 0.0)
    names = []
    sd.export(model, to="web", size=(H, W), out=tmp_path / "site")
    assert names == [name]


def test_a_model_that_is_given_stays_where_it_is(model, tmp_path, monkeypatch):
    """One that trains on a GPU goes on there."""
    given = []
    monkeypatch.setattr(export, "export_model", lambda one, *_, **__: given.append(one))
    sd.export(model.to("meta"), to="onnx", size=(64, 96), out=tmp_path / "model.onnx")
    assert given == [model]
    assert {one.device.type for one in (*model.parameters(), *model.buffers())} == {"meta"}


def test_what_is_no_exported_file_is_refused(files, tmp_path, monkeypatch):
    (tmp_path / "broken.onnx").write_bytes(files["onnx"].read_bytes()[:5000])
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "alone.xml").write_bytes(files["openvino"].read_bytes())
    stranger = onnx.load(files["onnx"])
    del stranger.metadata_props[:]
    onnx.save(stranger, tmp_path / "stranger.onnx")
    for name, why in {
        "none.onnx": "does not exist",
        "net.pt": r"ends in \.onnx or \.xml",
        "broken.onnx": "ONNX Runtime cannot read it",
        "empty.onnx": "ONNX Runtime cannot read it",
        "alone.xml": r"OpenVINO cannot read it .*\.bin belongs to it",
        "stranger.onnx": "not written by steadydepth export",
    }.items():
        with pytest.raises(InputError, match=rf"(?s){name}.*{why}"):
            ExportedModel(tmp_path / name)
    opened = load(files["onnx"])
    for shrink in (partial(load, files["onnx"]), partial(Predictor, opened.network), opened.shrinking):
        with pytest.raises(InputError, match=f"max_side is 20; an exported file has a size of its own, {H} x {W}"):
            shrink(max_side=20)
    with pytest.raises(InputError, match=r"an image is float32 \(9, 8, 3\)"):
        ExportedModel(files["onnx"]).predict(np.zeros((9, 8, 3), np.float32))
    with pytest.raises(InputError, match="is an exported file already"):
        export_model(load(files["onnx"]).model, tmp_path / "again.onnx", to="onnx", height=H, width=W)
    # To run a file its runtime is enough; the extra would bring torch to a device that does without.
    for to, package in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=rf"{package} is not installed: pip install {package}$"):
            ExportedModel(files[to])


@pytest.mark.parametrize("to", KINDS)
def test_runtime_needs_no_torch(files, frames, tmp_path, to):
    """In a process where importing torch, or anything else but NumPy, OpenCV and the runtime, is an error."""
    np.save(tmp_path / "image.npy", frames[0, :30, :21])
    code = f"""
import sys
from functools import partial
for name in ("torch", "torchvision", "timm", "jaxtyping", "av", "pydantic", "accelerate", "typer", "safetensors"):
    sys.modules[name] = None
import numpy as np
import steadydepth
model = steadydepth.runtime.ExportedModel({str(files[to])!r}, threads=1)
np.save({str(tmp_path / "depth.npy")!r}, model.predict(np.load({str(tmp_path / "image.npy")!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    depth = np.load(tmp_path / "depth.npy")
    assert (depth.dtype, depth.shape) == (np.float32, (30, 21))
    np.testing.assert_array_equal(depth, ExportedModel(files[to], threads=1).predict(frames[0, :30, :21]))


def test_image_is_shrunk_by_means_and_never_aliased():
    image = np.zeros((8, 12, 3), np.uint8)
    image[::2, ::2, 1] = 200  # a fourth of the pixels
    np.testing.assert_array_equal(fit_image(image, 2, 3)[..., 1], np.full((2, 3), 50))
    # 9 is no multiple of 2, and 9 x 12 to 3 x 4 is a mean of 3 x 3.
    odd = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    expected = odd.reshape(3, 3, 4, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(fit_image(odd, 3, 4), expected, atol=1)
    assert fit_image(odd, 9, 12) is odd
    ramp = np.repeat(np.arange(0, 240, 10, np.uint8)[None, :, None], 3, axis=2).repeat(16, axis=0)
    between = fit_image(ramp, 8, 9)  # halved to 8 x 12, then bilinear to 8 x 9: the places keep their colours
    np.testing.assert_allclose(between[0, :, 0], (np.arange(9) + 0.5) * 24 / 9 * 10 - 5, atol=2)


def test_metadata_that_is_not_ours_or_of_another_version_is_refused(tmp_path):
    size = {"format_version": 2, "claims": "metric", "height": 8, "width": 9}
    for text in ("", "[]", "{", "{}", json.dumps(size)):
        with pytest.raises(InputError, match=r"a\.onnx: not written by steadydepth export"):
            runtime._check_metadata(text, tmp_path / "a.onnx")
    assert runtime._check_metadata(json.dumps({**size, "state": {}}), tmp_path)["width"] == 9
    with pytest.raises(InputError, match=r"a\.onnx: written in format 1 of .* reads format 2 alone: export the model"):
        runtime._check_metadata(json.dumps({**size, "format_version": 1}), tmp_path / "a.onnx")


@pytest.mark.parametrize("size", [(56, 56), (50, 70), (112, 140)], ids=["kept", "rounded", "halved"])
def test_a_transformers_model_is_exported_at_sizes_that_its_processor_rounds(tmp_path, caplog, size):
    pytest.importorskip("transformers")
    from tiny_transformers import save_tiny

    height, width = size
    model, path = load_model(save_tiny("depth_anything", tmp_path / "model")), tmp_path / "net.onnx"
    # The same sums: where the processor resizes, the file does, and neither rounds to 8 bits.
    assert export_model(model, path, to="onnx", height=height, width=width) < 1e-5
    # The model itself rounds as before; what that comes to is said where there is something to round.
    frames = torch.rand((1, 1, 3, height, width), generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    with torch.no_grad():
        predicted, exported = model(frames)[0], load(path).model(frames)[0]
    apart = float(((predicted - exported).abs() / predicted.abs().clamp(min=predicted.abs().mean() / 100)).max())
    assert (apart < 1e-5) == (size == (56, 56))
    assert ("does not round resized images to 8 bits" in caplog.text) == (size != (56, 56))
    assert apart < 0.02


@pytest.mark.parametrize("to", KINDS)
def test_threads_share_an_open_file_and_each_gets_its_own_depth(files, frames, to):
    model = ExportedModel(files[to], threads=1)
    expected = [model.predict(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: model.predict(frames[n % len(frames)]), range(60)))
    for number, depth in enumerate(found):
        np.testing.assert_array_equal(depth, expected[number % len(frames)])
