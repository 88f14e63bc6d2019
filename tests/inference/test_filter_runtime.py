"""The learned filter on NumPy and OpenCV: what tensors give, from a file, and without torch."""

import subprocess
import sys
from itertools import pairwise
from typing import get_args

import cv2
import numpy as np
import pytest
import torch

from steadydepth.exporters.export_filter import export_filter
from steadydepth.inference.filter_runtime import CLAIMS, VideoFilter
from steadydepth.inference.learned_filter import LearnedFilter
from steadydepth.inference.runtime import ExportedFilter
from steadydepth.models.temporal_filter import TemporalFilter, load_gates
from steadydepth.ops.fast_flow import fast_flow
from steadydepth.ops.filter_step import guide_factor
from steadydepth.synthetic.world import make_clip
from steadydepth.types import Claims, InputError


@pytest.fixture(scope="module")
def video():
    """A moving camera's clip, and its depth as an unsteady network would predict it; large enough to be shrunk."""
    clip = make_clip(5, fixed_camera=False, n_frames=6, height=152, width=204)
    noise = 0.05 * np.random.default_rng(0).normal(size=(6, 1, 1))
    return clip.frames, (clip.depth * np.exp(noise)).astype(np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("filter") / "filter.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)
        return export_filter(path)


def run(learned, depth, frames):
    filtered, state = [], None
    for one, image in zip(depth, frames, strict=True):
        out, state = learned.step(one, image, state)
        filtered.append(out)
    return np.stack(filtered)


@pytest.mark.parametrize("claims", CLAIMS)
def test_arrays_give_what_tensors_give(video, claims):
    """OpenCV rounds coordinates to 1/32 px where it samples; torch does not."""
    frames, depth = video
    if claims == "disparity":
        depth = 1 / depth
    factor = guide_factor(*depth.shape[1:])
    assert factor == 2
    size = depth.shape[2] // factor, depth.shape[1] // factor
    guides = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in frames]
    motion = [np.zeros((*size[::-1], 2), np.float32)]
    motion += [fast_flow(now, before) for before, now in pairwise(guides)]
    with torch.inference_mode():
        expected, _ = TemporalFilter(claims, load_gates())(
            torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255,
            torch.from_numpy(depth)[None],
            motion=torch.from_numpy(np.stack(motion))[None],
            strength=0.8,
        )
    found = run(LearnedFilter(claims, strength=0.8), depth, frames)
    difference = np.abs(found / expected[0].numpy() - 1)
    assert difference.mean() < 1e-4
    assert np.quantile(difference, 0.99) < 2e-3


def test_exported_it_equals_eager_over_200_frames(file, video):
    frames, depth = video
    generator = np.random.default_rng(1)
    eager, exported = LearnedFilter("disparity"), ExportedFilter(file, "disparity", threads=1)
    states = None, None
    for number in range(200):
        # There and back, so that the view moves on without an end.
        at = abs(number % 10 - 5)
        raw = (1 / depth[at] * np.exp(0.05 * generator.normal())).astype(np.float32)
        expected, one = eager.step(raw, frames[at], states[0])
        found, other = exported.step(raw, frames[at], states[1])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        states = one, other
    assert not np.array_equal(found, raw)


def test_one_file_is_for_every_size_and_every_claim(file):
    for size, claims in (((31, 45), "metric"), ((240, 320), "affine")):
        generator = np.random.default_rng(2)
        depth = generator.uniform(1, 2, (3, *size)).astype(np.float32)
        frames = generator.integers(0, 256, (3, *size, 3), dtype=np.uint8)
        found = run(ExportedFilter(file, claims, threads=1), depth, frames)
        np.testing.assert_allclose(found, run(LearnedFilter(claims), depth, frames), rtol=1e-4)


def test_it_needs_no_torch(file, video, tmp_path):
    """In a process where importing torch, or anything else but NumPy, OpenCV and the runtime, is an error."""
    frames, depth = video
    np.save(tmp_path / "frames.npy", frames)
    np.save(tmp_path / "depth.npy", depth)
    code = f"""
import sys
from itertools import pairwise
for name in ("torch", "torchvision", "timm", "jaxtyping", "av", "pydantic", "accelerate", "typer", "safetensors"):
    sys.modules[name] = None
import numpy as np
from steadydepth.inference.runtime import ExportedFilter
folder = {str(tmp_path)!r}
frames, depth = np.load(folder + "/frames.npy"), np.load(folder + "/depth.npy")
learned, state, filtered = ExportedFilter({str(file)!r}, "metric", threads=1), None, []
for one, image in zip(depth, frames):
    out, state = learned.step(one, image, state)
    filtered.append(out)
np.save(folder + "/filtered.npy", np.stack(filtered))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found = np.load(tmp_path / "filtered.npy")
    np.testing.assert_allclose(found, run(LearnedFilter("metric"), depth, frames), rtol=1e-4)


def test_what_is_no_filter_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.onnx does not exist"):
        ExportedFilter(tmp_path / "none.onnx", "metric")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match="ONNX Runtime cannot read it"):
        ExportedFilter(tmp_path / "broken.onnx", "metric")
    with pytest.raises(InputError, match=r"name it .*filter\.onnx"):
        export_filter(tmp_path / "filter.xml")
    (tmp_path / "taken.onnx").mkdir()
    with pytest.raises(InputError, match=r"taken\.onnx is a folder, and a file is to be written"):
        export_filter(tmp_path / "taken.onnx")
    with pytest.raises(InputError, match="filter ema: has no network"):
        export_filter(tmp_path / "filter.onnx", filter="ema")


def test_half_precision_from_a_flat_first_frame_has_depth():
    learned, image, state = LearnedFilter("disparity"), np.zeros((48, 64, 3), np.uint8), None
    for value in (0, 0, 1):
        depth, state = learned.step(np.full((48, 64), value, np.float16), image, state)
        assert depth.dtype == np.float16
        assert np.isfinite(depth).all()


def test_claims_are_the_words_of_the_package_and_others_are_refused():
    assert get_args(Claims) == CLAIMS
    with pytest.raises(InputError, match="claims 'depth': what depth claims is one of metric, scale"):
        VideoFilter(lambda features: features, "depth")
