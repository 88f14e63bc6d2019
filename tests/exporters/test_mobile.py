"""Files for phones; most is skipped where their packages are not, which want environments of their own."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadydepth.exporters.export import export_model
from steadydepth.exporters.quantise import export_int8
from steadydepth.inference.predictor import Predictor, load
from steadydepth.inference.runtime import METADATA, SUFFIXES, ExportedModel
from steadydepth.types import InputError, State

H, W = 18, 22


class Uneven(nn.Module):
    """Inverse depth by a convolution whose every direction and colour has a weight of its own."""

    claims = "disparity"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, (3, 5), padding=(1, 2))
        weights = np.linspace(-0.2, 0.4, 45, dtype=np.float32).reshape(1, 3, 3, 5)
        self.conv.load_state_dict({"weight": Tensor(weights), "bias": Tensor([0.3])})

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        b, t = frames.shape[:2]
        return self.conv(frames.flatten(0, 1))[:, 0].exp().unflatten(0, (b, t)), {}


class Remembering(Uneven):
    """The running mean of inverse depth, after the number of frames."""

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        means = []
        for now in super().forward(frames)[0].unbind(1):
            count = 1 + (torch.zeros(len(now)) if state is None else state["count"])
            mean = now if state is None else state["mean"] + (now - state["mean"]) / count[:, None, None]
            state = {"count": count, "mean": mean}
            means.append(mean)
        return torch.stack(means, dim=1), state


@pytest.fixture(scope="module", params=["litert", "executorch"])
def file(tmp_path_factory, request) -> Path:
    pytest.importorskip({"litert": "litert_torch", "executorch": "executorch"}[request.param])
    path = tmp_path_factory.mktemp(request.param) / f"net{SUFFIXES[request.param]}"
    assert export_model(Uneven(), path, to=request.param, height=H, width=W, licence="CC0-1.0") < 1e-4
    return path


def test_the_file_gives_what_the_model_gives_and_says_what_it_is(file):
    frame = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    expected = Predictor(Uneven()).predict(frame).depth
    np.testing.assert_allclose(load(file).predict(frame).depth, expected, rtol=1e-5)
    opened = ExportedModel(file, threads=1)
    first, _ = opened.predict(frame), opened.predict(255 - frame)
    np.testing.assert_allclose(first, expected, rtol=1e-5)  # the second call did not write into the first one's depth
    expected = {"claims": "disparity", "height": H, "width": W, "licence": "CC0-1.0", "checked": True, "state": {}}
    assert opened.metadata.items() >= expected.items()
    assert list(file.parent.iterdir()) == [file]


def test_the_runtime_needs_no_torch(file, tmp_path):
    if file.suffix == ".pte":
        pytest.skip("ExecuTorch's own runtime for Python imports torch")
    depth, image = tmp_path / "depth.npy", np.full((9, 31, 3), 70, np.uint8)
    code = f"""
import sys
for name in ("torch", "timm", "jaxtyping", "av", "pydantic", "litert_torch"):
    sys.modules[name] = None
import numpy as np
from steadydepth.inference.runtime import ExportedModel
model = ExportedModel({str(file)!r}, threads=1)
np.save({str(depth)!r}, model.predict(np.full((9, 31, 3), 70, np.uint8)))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    np.testing.assert_array_equal(np.load(depth), ExportedModel(file, threads=1).predict(image))


def test_a_file_that_is_cut_or_of_others_is_refused(file, tmp_path):
    data = file.read_bytes()
    (tmp_path / f"cut{file.suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / f"empty{file.suffix}").touch()
    with zipfile.ZipFile(tmp_path / f"only_zip{file.suffix}", "w") as archive:
        archive.writestr(METADATA, json.dumps({}))
    for name in ("cut", "empty", "only_zip"):
        with pytest.raises(InputError, match=rf"{name}{file.suffix}: \w+ cannot read it"):
            ExportedModel(tmp_path / f"{name}{file.suffix}")


def test_a_state_goes_through_executorch(tmp_path):
    pytest.importorskip("executorch")
    model, images = Remembering(), np.random.default_rng(1).integers(0, 256, (40, H, W, 3), dtype=np.uint8)
    assert export_model(model, tmp_path / "net.pte", to="executorch", height=H, width=W) < 1e-4
    file, state, depth = ExportedModel(tmp_path / "net.pte", threads=1), None, []
    for image in images:
        # Its runtime takes the arrays by their place, whatever order they are handed in.
        one, state = file.step(image, state and dict(reversed(state.items())))
        depth.append(one)
    frames = torch.from_numpy(images).movedim(-1, 1)[None].float() / 255
    with torch.no_grad():
        np.testing.assert_allclose(depth, model(frames)[0][0], rtol=1e-5)


@pytest.mark.parametrize(("to", "package"), [("litert", "litert_torch"), ("coreml", "coremltools")])
def test_a_state_is_refused_where_the_format_has_none(tmp_path, to, package):
    pytest.importorskip(package)
    with pytest.raises(InputError, match=rf"{to}: the model has a state, which only files for onnx, openvino"):
        export_model(Remembering(), tmp_path / f"net{SUFFIXES[to]}", to=to, height=H, width=W)
    assert list(tmp_path.iterdir()) == []


def test_a_package_for_core_ml_takes_an_image_and_says_it_was_not_run(tmp_path):
    coremltools = pytest.importorskip("coremltools")
    path = tmp_path / "net.mlpackage"
    for _ in range(2):  # the second in the place of the first
        assert export_model(Uneven(), path, to="coreml", height=H, width=W, licence="CC0-1.0") is None
    assert list(tmp_path.iterdir()) == [path]
    spec = coremltools.utils.load_spec(str(path))
    image, depth = spec.description.input[0], spec.description.output[0]
    assert (image.name, image.type.imageType.height, image.type.imageType.width) == ("image", H, W)
    assert (depth.name, list(depth.type.multiArrayType.shape)) == ("depth", [1, H, W])
    metadata = json.loads(spec.description.metadata.userDefined[METADATA])
    assert (metadata["claims"], metadata["licence"], metadata["checked"]) == ("disparity", "CC0-1.0", False)
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    operations = [operation.type for operation in block.operations]
    assert operations.count("conv") == 1
    assert "exp" in operations


def test_what_is_missing_or_not_for_it_is_named(tmp_path, monkeypatch):
    size = {"height": H, "width": W}
    with pytest.raises(InputError, match="litert: int8 is for onnx and openvino"):
        export_int8(Uneven(), tmp_path / "a.tflite", to="litert", data=tmp_path, **size)
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(InputError, match=r"litert_torch is not installed: pip install 'steadydepth\[litert\]'"):
        export_model(Uneven(), tmp_path / "a.tflite", to="litert", **size)
    with pytest.raises(InputError, match=r"a file for litert ends in \.tflite"):
        export_model(Uneven(), tmp_path / "a.onnx", to="litert", **size)
    for to, package in (("executorch", "executorch"), ("coreml", "coremltools")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match=rf"{package} is not installed: pip install 'steadydepth\[{to}\]'"):
            export_model(Uneven(), tmp_path / f"a{SUFFIXES[to]}", to=to, **size)
    with pytest.raises(
        InputError, match=r"a\.mlpackage: Core ML runs in apps on Apple's devices; here take one of \.onnx"
    ):
        ExportedModel(tmp_path / "a.mlpackage")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    (tmp_path / "a.tflite").touch()
    with pytest.raises(InputError, match=r"ai_edge_litert is not installed: pip install ai-edge-litert$"):
        ExportedModel(tmp_path / "a.tflite")
