"""The page of `export --to web`, in a real browser, from a plain file server: it computes what predict writes."""

import base64
import json

import cv2
import numpy as np
import pytest
import torch
from browser import COLLECT, ORT_WEB, depths, needs_ort_web, opened_page, pixels, served_folder
from torch import nn
from waiting import wait_until

from steadydepth.commands import export
from steadydepth.errors import InputError
from steadydepth.exporters.web import GraphFilter, export_web, write_filter
from steadydepth.inference.exported import ExportedNetwork
from steadydepth.inference.filter_runtime import STRENGTH
from steadydepth.inference.predictor import Predictor
from steadydepth.inference.runtime import ExportedModel
from steadydepth.models.depth_net import DepthNet
from steadydepth.ops.filter_step import find_unit
from steadydepth.ops.resize import fit_image, resize_depth
from steadydepth.synthetic.world import make_clip

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch):
    """torch.export cannot trace functions whose shapes are checked."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


@pytest.fixture(scope="module")
def clip():
    return make_clip(11, fixed_camera=False, n_frames=5, height=64, width=96)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DepthNet("test_efficientnet", decoder_width=8).eval()


class Mean(nn.Module):
    """Remembers: depth is 1 more than the mean brightness so far."""

    claims = "disparity"

    def forward(self, frames, state=None):
        total = state["total"] if state else torch.zeros_like(frames[:, 0, 0])
        count = state["count"] if state else torch.zeros(len(frames))
        depth = []
        for frame in frames.unbind(1):
            total, count = total + frame.mean(1), count + 1
            depth.append(1 + total / count[:, None, None])
        return torch.stack(depth, 1), {"total": total, "count": count}


@pytest.fixture(scope="module")
def page_of(browser, tmp_path_factory):
    """A page on an exported model; each is exported once."""
    folders = {}

    def open_on(network):
        name = type(network).__name__
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("web") / name
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("jaxtyping.config.jaxtyping_disable", True)
                export(network, to="web", size=SIZE, out=folders[name], ort=ORT_WEB)
        return folders[name]

    return open_on


def write_images(folder, frames):
    paths = []
    for number, frame in enumerate(frames):
        paths.append(folder / f"frame {number}.png")
        cv2.imwrite(str(paths[-1]), frame[..., ::-1])
    return paths


def shown_by(browser, folder, paths):
    """Raw and filtered depth of image files, as the page computes them."""
    with served_folder(folder) as url, opened_page(browser, url) as page:
        assert page.is_hidden("#tab-jobs")
        page.evaluate(COLLECT)
        page.set_input_files("#files", paths)
        wait_until(lambda: page.evaluate("window.results.length") == len(paths))
        wait_until(lambda: pixels(page, "raw").any())
        return depths(page), depths(page, "filtered")


@needs_ort_web
@pytest.mark.parametrize("size", [(64, 96), (128, 192), (150, 200), (50, 70)])
def test_depth_of_images_is_what_predict_says(browser, page_of, model, clip, tmp_path, size):
    frames = [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_CUBIC) for frame in clip.frames]
    folder = page_of(model)
    found, filtered = shown_by(browser, folder, write_images(tmp_path, frames))
    expected = [result.depth for result in Predictor(ExportedNetwork(folder / "model.onnx")).stream(iter(frames))]
    assert len(found) == len(filtered) == len(expected) == 5
    for depth, steady, reference in zip(found, filtered, expected, strict=True):
        assert depth.shape == steady.shape == size
        assert np.abs(depth / reference - 1).max() < 1e-3
    # The first frame has nothing before it; the later ones lean on their memory.
    np.testing.assert_allclose(filtered[0], found[0], rtol=1e-5)
    assert np.abs(filtered[-1] / found[-1] - 1).mean() > 1e-4


@needs_ort_web
def test_what_a_model_remembers_is_carried_and_forgotten_at_another_size(browser, page_of, clip, tmp_path):
    small = [frame[:32, :48] for frame in clip.frames[:2]]
    frames = [*clip.frames[:3], *small]
    found, _ = shown_by(browser, page_of(Mean()), write_images(tmp_path, frames))
    expected = [result.depth for result in Predictor(Mean()).stream(iter(clip.frames[:3]))]
    for depth, reference in zip(found[:3], expected, strict=True):
        np.testing.assert_allclose(depth, reference, rtol=1e-5)
    assert found[3].shape == (32, 48)
    np.testing.assert_allclose(
        found[3], resize_depth(1 + fit_image(small[0], *SIZE).mean(2, dtype=np.float32) / 255, 32, 48), atol=5e-3
    )


@needs_ort_web
def test_the_filter_of_the_page_is_that_of_the_graph_in_python(browser, page_of, model, clip, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    folder = page_of(model)
    found, filtered = shown_by(browser, folder, write_images(tmp_path, clip.frames))
    session = runtime.InferenceSession(str(folder / "filter.onnx"), providers=["CPUExecutionProvider"])
    about = json.loads((folder / "web.json").read_text(encoding="utf-8"))
    assert about["strength"] == STRENGTH
    strength = np.array([STRENGTH], np.float32)
    state = {name: np.zeros(each["shape"], each["dtype"]) for name, each in about["filter_state"].items()}
    log_mean = np.log(found[0].astype(np.float64)).mean()
    state["unit"] = np.array([[0, np.exp(log_mean)]], np.float32)
    names = [each.name for each in session.get_outputs()]
    for image, raw, steady in zip(clip.frames, found, filtered, strict=True):
        inputs = {"image": image[None], "raw": raw[None], "strength": strength}
        inputs |= {f"state_{name}": value for name, value in state.items()}
        outputs = dict(zip(names, session.run(None, inputs), strict=True))
        np.testing.assert_allclose(steady, outputs["depth"][0], rtol=2e-4)
        state |= {name.removeprefix("next_"): value for name, value in outputs.items() if name != "depth"}


@needs_ort_web
def test_images_are_resized_as_the_package_does(browser, page_of, model):
    generator = np.random.default_rng(0)
    with served_folder(page_of(model)) as url, opened_page(browser, url) as page:
        for height, width in ((128, 192), (150, 200), (300, 500), (64, 96), (40, 60), (200, 97)):
            image = generator.integers(0, 256, (height, width, 3), np.uint8)
            rgba = np.dstack((image, np.full((height, width), 255, np.uint8)))
            found = page.evaluate(
                """async ([data, h, w, height, width]) => {
                  const { fitImage } = await import("./resize.js");
                  const rgba = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                  return Array.from(fitImage(rgba, h, w, height, width));
                }""",
                [base64.b64encode(rgba.tobytes()).decode(), height, width, *SIZE],
            )
            expected = fit_image(image, *SIZE).astype(int)
            difference = np.abs(np.array(found).reshape(expected.shape) - expected)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 1e-3
        depth = generator.random((7, 11), np.float32)
        for holes in (False, True):
            depth[2, 3] = np.nan if holes else 0.5
            found = page.evaluate(
                """async ([values, h, w, height, width]) => {
                  const { resizeDepth } = await import("./resize.js");
                  const depth = Float32Array.from(values, (value) => value ?? NaN);
                  return Array.from(resizeDepth(depth, h, w, height, width), String);
                }""",
                [[None if np.isnan(one) else float(one) for one in depth.ravel()], 7, 11, 20, 31],
            )
            np.testing.assert_allclose(
                np.array(found, float).reshape(20, 31), resize_depth(depth, 20, 31), rtol=1e-4, atol=1e-6
            )


@needs_ort_web
def test_the_camera_runs_without_a_server(browser, page_of, model, tmp_path):
    with served_folder(page_of(model)) as url, opened_page(browser, url) as page:
        page.select_option("#side", "320")
        page.click("#camera")
        wait_until(lambda: int(page.inner_text("#shown")) >= 3)
        wait_until(lambda: pixels(page, "raw").any())
        assert pixels(page, "filtered").shape == (240, 320, 3)
        page.uncheck("#with-filter")
        wait_until(lambda: page.is_hidden("#filtered-figure"))
        wait_until(lambda: int(page.inner_text("#shown")) >= 1)
        page.screenshot(path=tmp_path / "alone.png")


def test_the_graph_of_the_filter_is_the_filter_with_its_own_flow(tmp_path, clip):
    """Against the network frame by frame, with the flow handed in; in ONNX Runtime as in torch."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "model.onnx"
    export(Mean(), to="onnx", size=SIZE, out=file)
    graph = write_filter(ExportedModel(file), tmp_path / "filter.onnx")
    assert isinstance(graph, GraphFilter)
    session = runtime.InferenceSession(str(tmp_path / "filter.onnx"), providers=["CPUExecutionProvider"])
    depth = [1 + frame.mean(2, dtype=np.float32) / 255 for frame in clip.frames]
    unit = torch.from_numpy(find_unit(depth[0], "disparity"))[None]
    state = {name: torch.zeros(each["shape"]) for name, each in graph.state.items()} | {"unit": unit}
    stored = {name: value.numpy() for name, value in state.items()}
    kept = [name for name in graph.names if name != "unit"]
    for image, raw in zip(clip.frames, depth, strict=True):
        strength = torch.tensor([0.9])
        with torch.inference_mode():
            out, *after = graph(
                torch.from_numpy(image)[None], torch.from_numpy(raw)[None], strength, *(state[n] for n in graph.names)
            )
        inputs = {"image": image[None], "raw": raw[None], "strength": strength.numpy()}
        found, *left = session.run(None, inputs | {f"state_{name}": value for name, value in stored.items()})
        np.testing.assert_allclose(found, out.numpy(), rtol=1e-4)
        state |= dict(zip(kept, after, strict=True))
        stored |= dict(zip(kept, left, strict=True))
    # It does something, and what it does is bounded by raw and memory.
    assert np.abs(out.numpy()[0] / depth[-1] - 1).max() > 1e-3


def test_without_onnx_runtime_web_it_says_where_to_get_it(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"ONNX Runtime Web is not there: npm install onnxruntime-web"):
        export_web(model, tmp_path / "out", height=64, width=96)
    assert not (tmp_path / "out").exists()
    (tmp_path / "ort.tgz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"ort\.tgz: damaged"):
        export_web(model, tmp_path / "out", height=64, width=96, ort=tmp_path / "ort.tgz")


@needs_ort_web
def test_the_folder_is_complete_and_names_its_licences(page_of, model):
    folder = page_of(model)
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "main.js", "live.js", "worker.js", "model.onnx", "filter.onnx", "web.json"} <= names
    assert not names & {"server.js", "jobs.js", "tus.js"}
    assert "Microsoft" in (folder / "LICENCES.txt").read_text(encoding="utf-8")
    assert 'data-runs="browser"' in (folder / "index.html").read_text(encoding="utf-8")
