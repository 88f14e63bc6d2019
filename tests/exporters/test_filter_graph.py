"""The complete learned filter as one graph, its state as inputs and outputs: what torch gives, over many frames."""

import numpy as np
import pytest
import torch

from steadydepth.exporters.targets import write_onnx
from steadydepth.exporters.web import GraphFilter
from steadydepth.models.temporal_filter import TemporalFilter, load_gates
from steadydepth.ops.filter_step import find_unit
from steadydepth.synthetic.world import make_clip

N_FRAMES, CUT, SIZE = 50, 30, (64, 96)


@pytest.fixture(scope="module")
def video():
    """A moving camera there and back, then a cut that nobody announces, behind an unsteady network."""
    sizes = {"height": SIZE[0], "width": SIZE[1], "n_frames": 10}
    moving, fixed = make_clip(5, fixed_camera=False, **sizes), make_clip(8, fixed_camera=True, **sizes)
    there = [abs(number % 18 - 9) for number in range(CUT)]
    rest = [number % 10 for number in range(N_FRAMES - CUT)]
    frames = np.concatenate((moving.frames[there], fixed.frames[rest]))
    noise = 0.05 * np.random.default_rng(0).normal(size=(N_FRAMES, 1, 1))
    depth = np.concatenate((moving.depth[there], fixed.depth[rest])) * np.exp(noise)
    return frames, depth.astype(np.float32)


@pytest.fixture(scope="module")
def graph():
    return GraphFilter(TemporalFilter("metric", load_gates()), *SIZE).eval()


@pytest.fixture(scope="module")
def file(graph, tmp_path_factory):
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("filter") / "filter.onnx"
    beside = {"raw": {"shape": [1, *SIZE], "dtype": "float32"}, "strength": {"shape": [1], "dtype": "float32"}}
    metadata = {"claims": "metric", "height": SIZE[0], "width": SIZE[1], "state": graph.state}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxtyping.config.jaxtyping_disable", True)  # torch.export cannot trace checked functions
        write_onnx(graph, metadata, path, beside=beside, kept=[name for name in graph.names if name != "unit"])
    return path


def open_with(runtime, file):
    """A function of the inputs by name, that returns the outputs in their order."""
    package = pytest.importorskip(runtime)
    if runtime == "onnxruntime":
        session = package.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = package.Core().compile_model(str(file), "CPU", hints)
    return lambda inputs: [value.copy() for value in compiled(inputs).values()]


def start(graph, depth):
    state = {name: np.zeros(each["shape"], np.float32) for name, each in graph.state.items()}
    return state | {"unit": find_unit(depth, "metric")[None]}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_equals_torch_over_50_frames(graph, file, video, runtime):
    frames, depth = video
    run, strength = open_with(runtime, file), np.array([0.9], np.float32)
    ours = {name: torch.from_numpy(array) for name, array in start(graph, depth[0]).items()}
    theirs = start(graph, depth[0])
    kept = [name for name in graph.names if name != "unit"]
    for image, raw in zip(frames, depth, strict=True):
        given = [torch.from_numpy(one) for one in (image[None], raw[None], strength)]
        with torch.inference_mode():
            expected, *after = graph(*given, *(ours[name] for name in graph.names))
        inputs = {"image": image[None], "raw": raw[None], "strength": strength}
        found, *left = run(inputs | {f"state_{name}": value for name, value in theirs.items()})
        ours |= dict(zip(kept, after, strict=True))
        theirs |= dict(zip(kept, left, strict=True))
        # Coordinates are rounded otherwise, and the memory is sampled again and again.
        difference = np.abs(found / expected.numpy() - 1)
        assert difference.mean() < 2e-5
        assert np.quantile(difference, 0.99) < 1e-3
    assert np.abs(expected.numpy()[0] / depth[-1] - 1).mean() > 1e-3


def test_after_a_cut_that_nobody_announces_it_begins_anew(graph, video):
    frames, depth = video
    state = {name: torch.from_numpy(array) for name, array in start(graph, depth[0]).items()}
    for number, (image, raw) in enumerate(zip(frames[: CUT + 1], depth, strict=False)):
        with torch.inference_mode():
            out, *after = graph(
                torch.from_numpy(image)[None], torch.from_numpy(raw)[None], torch.ones(1), *state.values()
            )
        state |= dict(zip([name for name in graph.names if name != "unit"], after, strict=True))
        assert np.array_equal(out[0].numpy(), raw) == (number in (0, CUT))
