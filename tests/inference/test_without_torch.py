"""What runs on a device: predict and stream of exported files, where torch is not installed, with the same results."""

import subprocess
import sys

import numpy as np
import pytest

import steadydepth as sd
from steadydepth.files.images import write_png
from steadydepth.files.video_write import write_video
from steadydepth.models.depth_net import DepthNet
from steadydepth.synthetic.world import make_clip
from steadydepth.training.checkpoint import save_model

# As docs/export.md installs it, and what these bring along.
INSTALLED = {
    "annotated_doc", "annotated_types", "av", "click", "cv2", "flatbuffers", "google", "jaxtyping", "markdown_it",
    "mdurl", "numpy", "onnxruntime", "packaging", "PIL", "pydantic", "pydantic_core", "pygments", "rich", "safetensors",
    "shellingham", "steadydepth", "typer", "typing_extensions", "typing_inspection", "wadler_lindig", "yaml",
}  # fmt: skip
COMMAND = f"""
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        is_there = top in {INSTALLED!r} or top in sys.stdlib_module_names or top.startswith("_")
        return super().find_spec(name, path, target) if is_there else None

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
from steadydepth.cli import main
sys.argv = ["steadydepth", *sys.argv[1:]]
main()
"""


def run(*words, status=0):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("device")
    save_model(DepthNet("test_efficientnet", decoder_width=16).eval(), folder / "model")
    frames = make_clip(3, fixed_camera=False, n_frames=5, height=48, width=64).frames
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)
        sd.export(folder / "model", to="onnx", size=(48, 64), out=folder / "model.onnx")
    write_video(folder / "film.mp4", list(frames), 10.0)
    write_png(folder / "photo.png", frames[0])
    return folder


@pytest.mark.parametrize("filter", ["none", "learned", "learned_offline", "flow_ema"])
def test_predict_gives_what_it_gives_with_torch(folder, tmp_path, filter):
    run(
        "predict",
        folder / "film.mp4",
        folder / "photo.png",
        "--model",
        folder / "model.onnx",
        "--out",
        tmp_path / "here",
        "--filter",
        filter,
    )
    inputs = [folder / "film.mp4", folder / "photo.png"]
    sd.predict(inputs, model=folder / "model.onnx", out=tmp_path / "there", filter=filter)
    for name in ("film", "photo"):
        here, there = (np.load(tmp_path / place / f"{name}.npz") for place in ("here", "there"))
        assert here.files == there.files
        for key in here.files:
            np.testing.assert_array_equal(here[key], there[key])


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("mp4", {"film.mp4"}),
        ("mkv", {"film.mkv", "film.json", "film_preview.mp4"}),
        ("png16", {"film", "film_preview.mp4"}),
        ("sbs", {"film_sbs.mp4"}),
        ("ply", {"film", "film_preview.mp4"}),
    ],
)
def test_formats_are_written(folder, tmp_path, format, names):
    options = ("--fov", 60) if format == "ply" else ()
    asked = "--model", folder / "model.onnx", "--out", tmp_path, "--format", format
    run("predict", folder / "film.mp4", *asked, *options)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_video_is_streamed(folder):
    said = run("stream", folder / "film.mp4", "--model", folder / "model.onnx", "--filter", "learned")
    assert said.startswith("frame ")


def test_what_needs_torch_says_so(folder, tmp_path):
    for words in (
        ("predict", folder / "photo.png", "--model", folder / "model", "--out", tmp_path),
        ("evaluate", "--model", folder / "model.onnx", "--data", folder, "--out", tmp_path),
        ("train", "-c", "demo"),
    ):
        assert "torch" in run(*words, status=2).splitlines()[-1]
    assert "no torch: predict and stream run exported files" in run("doctor")
