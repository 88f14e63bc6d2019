"""Files for phones; most is skipped where their packages are not, which want environments of their own."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
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
    said = opened.metadata
    assert (said["claims"], said["height"], said["width"], said["licence"]) == ("disparity", H, W, "CC0-1.0")
    assert said["checked"]
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
    said = json.loads(spec.description.metadata.userDefined[METADATA])
    assert (said["claims"], said["licence"], said["checked"]) == ("disparity", "CC0-1.0", False)
    block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
    operations = [operation.type for operation in block.operations]
    assert operations.count("conv") == 1
    assert "exp" in operations


def test_what_is_missing_or_not_for_it_is_told(tmp_path, monkeypatch):
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
    with pytest.raises(InputError, match="ai_edge_litert is not installed"):
        ExportedModel(tmp_path / "a.tflite")
