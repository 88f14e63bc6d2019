"""What a model remembers goes through the file: equal to eager, streams apart, begun anew by zeros."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.exporters import export
from steadydepth.exporters.export import describe, export_model
from steadydepth.exporters.quantise import export_int8
from steadydepth.files.stored_depth import read_predictions
from steadydepth.inference.exported import ExportedNetwork
from steadydepth.inference.exported_net import ExportedNet
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor, load
from steadydepth.inference.runtime import ExportedModel, state_input, state_output
from steadydepth.method.sequence import process_sequence
from steadydepth.types import InputError, State

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

H, W = 18, 22
KINDS = {"onnx": "net.onnx", "openvino": "net.xml"}
# Two runtimes sum the same products in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class RunningMean(nn.Module):
    """The running mean of log depth; the first frame is its own mean, which no state of zeros would give."""

    claims = "metric"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, (3, 5), padding=(1, 2))
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-0.2, 0.4, 45).view(1, 3, 3, 5))
            self.conv.bias.fill_(0.3)

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        logs = self.conv(frames.flatten(0, 1))[:, 0].unflatten(0, frames.shape[:2])
        means = []
        for now in logs.unbind(1):
            state = self.follow(now, state)
            means.append(state["mean"])
        return torch.stack(means, dim=1).exp(), state

    def follow(self, now: Tensor, state: State | None) -> State:
        return {"mean": now if state is None else 0.9 * state["mean"] + 0.1 * now}


class Counting(RunningMean):
    """The mean of all frames so far, by their number, so that zeros are the beginning; and the last frame, unused."""

    def follow(self, now: Tensor, state: State | None) -> State:
        if state is None:
            state = {"mean": torch.zeros_like(now), "count": torch.zeros(len(now), dtype=torch.int64)}
        count = state["count"] + 1
        return {"mean": state["mean"] + (now - state["mean"]) / count[:, None, None], "count": count, "last": now}


MODELS = {"running": RunningMean, "counting": Counting}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = {(name, to): folder / name / file for name in MODELS for to, file in KINDS.items()}
    for (name, to), path in paths.items():
        assert export_model(MODELS[name](), path, to=to, height=H, width=W) < 1e-5
    return paths


@pytest.fixture(params=[(name, to) for name in MODELS for to in KINDS], ids="-".join)
def case(files, request) -> tuple[nn.Module, Path]:
    return MODELS[request.param[0]](), files[request.param]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, H, W, 3), dtype=np.uint8)


def tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).movedim(-1, -3).float() / 255


def eager(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Depth of one clip, all frames at once."""
    with torch.no_grad():
        return process_sequence(model, tensor(images)[None])[0][0].numpy()


def test_200_frames_are_those_of_eager(case):
    model, path = case
    images, file, state, depth = draw(200), ExportedModel(path, threads=1), None, []
    for image in images:
        one, state = file.step(image, state)
        depth.append(one)
    np.testing.assert_allclose(depth, eager(model, images), **CLOSE)
    # The same of a stream of any size through the door that all models have.
    large = images[:5].repeat(2, axis=1).repeat(2, axis=2)
    streamed = [result.depth for result in load(path).stream(iter(large))]
    expected = [result.depth for result in Predictor(model, max_side=W).stream(iter(large))]
    np.testing.assert_allclose(streamed, expected, **CLOSE)


@pytest.mark.parametrize("to", KINDS)
def test_evaluate_predict_stream_and_step_are_one_and_equal_eager(world, tmp_path, to):
    """Of clips of which no frame is a cut."""
    model, path = RunningMean(), tmp_path / KINDS[to]
    export_model(model, path, to=to, height=48, width=64)
    loaded, file = load(path), ExportedModel(path)
    predict_files(loaded, [world], tmp_path / "out")
    for sequence in map(open_sequence, find_sequences(world)):
        frames, state, stepped = sequence.read_frames(0, sequence.n_frames), None, []
        for frame in frames:
            depth, state = file.step(frame, state)
            stepped.append(depth)
        np.testing.assert_array_equal([result.depth for result in loaded.stream(iter(frames))], stepped)
        np.testing.assert_array_equal(read_predictions(tmp_path / "out", sequence.name)[0], stepped)
        np.testing.assert_allclose([result.depth for result in Predictor(model).stream(iter(frames))], stepped, **CLOSE)
        np.testing.assert_allclose(eager(model, frames), stepped, **CLOSE)
    means = evaluate(loaded, world, controls=False)["mean"], evaluate(Predictor(model), world, controls=False)["mean"]
    assert means[0]["flicker"] > 0
    assert means[0] == {
        name: None if value is None else pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in means[1].items()
    }


def test_two_streams_do_not_mix_and_none_begins_anew(case):
    model, path = case
    clips, file = draw(2, 6), ExportedModel(path, threads=1)
    states, depth = [None, None], np.empty((2, 6, H, W), np.float32)
    for j, i in np.ndindex(6, 2):
        depth[i, j], states[i] = file.step(clips[i, j], states[i])
    np.testing.assert_allclose(depth, [eager(model, clip) for clip in clips], **CLOSE)
    np.testing.assert_array_equal(file.step(clips[0, 0])[0], depth[0, 0])
    np.testing.assert_array_equal(file.step(clips[0, 0], file.initial_state())[0], depth[0, 0])
    np.testing.assert_array_equal(file.predict(clips[1, 0]), depth[1, 0])


def test_a_step_leaves_the_state_that_it_was_given(case):
    _, path = case
    images, file = draw(3), ExportedModel(path, threads=1)
    _, state = file.step(images[0])
    kept = {name: value.copy() for name, value in state.items()}
    once, after = file.step(images[1], state)
    first = {name: value.copy() for name, value in after.items()}
    file.step(images[2], after)
    again, _ = file.step(images[1], state)
    np.testing.assert_array_equal(once, again)
    for name in kept:
        np.testing.assert_array_equal(state[name], kept[name])
        np.testing.assert_array_equal(after[name], first[name])  # nothing wrote into it


def test_clips_in_one_batch_and_chunks_honour_the_contract(case):
    model, path = case
    images, net = draw(3, 5), ExportedNet(ExportedNetwork(path, threads=1))
    with torch.no_grad():
        expected, left = process_sequence(model, tensor(images))
    frames, parts, state = tensor(images), [], None
    for part in frames.split(2, dim=1):
        depth, state = net(part, state)
        parts.append(depth)
    depth = torch.cat(parts, dim=1)
    np.testing.assert_allclose(depth.numpy(), expected.numpy(), **CLOSE)
    assert state.keys() - {"started"} == left.keys()
    for name, value in left.items():
        torch.testing.assert_close(state[name], value, **CLOSE)
    # Streams of a batch are taken apart and put together in another order.
    turned = {name: value[[2, 0]] for name, value in state.items()}
    with torch.no_grad():
        expected, _ = model(tensor(images[[2, 0], :1]), {name: value[[2, 0]] for name, value in left.items()})
    np.testing.assert_allclose(net(tensor(images[[2, 0], :1]), turned)[0].numpy(), expected.numpy(), **CLOSE)


def test_the_file_names_its_state_and_begins_with_zeros(files):
    mean = {"shape": [1, H, W], "dtype": "float32"}
    for to in KINDS:
        running, counting = (ExportedModel(files[name, to]) for name in MODELS)
        # The first frame of a running mean is a case of its own, which the file separates from the others by `started`.
        assert running.metadata["state"] == {"mean": mean, "started": {"shape": [1], "dtype": "float32"}}
        assert counting.metadata["state"] == {"mean": mean, "count": {"shape": [1], "dtype": "int64"}, "last": mean}
        assert all(not value.any() for value in counting.initial_state().values())
    graph = onnx.load(files["running", "onnx"]).graph
    assert [one.name for one in graph.input] == ["image", state_input("mean"), state_input("started")]
    assert [one.name for one in graph.output] == ["depth", state_output("mean"), state_output("started")]
    assert sum(node.op_type == "Conv" for node in graph.node) == 1  # both cases share the network


def test_another_process_is_sent_a_predictor_of_a_file(case):
    predictor, images = load(case[1], filter="learned"), draw(3)
    sent = pickle.loads(pickle.dumps(predictor))
    found, expected = ([result.depth for result in one.stream(images)] for one in (sent, predictor))
    np.testing.assert_array_equal(found, expected)


def test_operations_are_those_of_one_frame():
    for model in (RunningMean(), Counting()):
        assert describe(model, H, W, "")["flops"] == 2 * 45 * H * W


@pytest.mark.parametrize("to", KINDS)
def test_runtime_needs_no_torch(files, tmp_path, to):
    np.save(tmp_path / "images.npy", draw(4))
    code = f"""
import sys
for name in ("torch", "jaxtyping", "av", "pydantic", "safetensors"):
    sys.modules[name] = None
import numpy as np
from steadydepth.inference.runtime import ExportedModel
model, state = ExportedModel({str(files["running", to])!r}, threads=1), None
for image in np.load({str(tmp_path / "images.npy")!r}):
    depth, state = model.step(image, state)
np.save({str(tmp_path / "depth.npy")!r}, depth)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    np.testing.assert_allclose(np.load(tmp_path / "depth.npy"), eager(RunningMean(), draw(4))[-1], **CLOSE)


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are set up differently elsewhere")
def test_signals_arrive_after_models_have_gone_in_the_order_in_which_they_came(files):
    code = f"""
import os, signal
from steadydepth.inference.runtime import ExportedModel
signal.signal(signal.SIGUSR1, lambda *_: print("arrived"))
first = ExportedModel({str(files["running", "openvino"])!r}, threads=1)
second = ExportedModel({str(files["counting", "openvino"])!r}, threads=1)
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "arrived\n"), done.stderr


def test_python_of_the_page_runs(files, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "export.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "steady.onnx").write_bytes(files["running", "onnx"].read_bytes())
    names = {"image": draw(1)[0], "video": draw(4)}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)
    np.testing.assert_allclose(names["depth"], eager(RunningMean(), draw(4))[-1], **CLOSE)


def test_a_state_of_another_file_is_refused(files):
    file = ExportedModel(files["running", "onnx"])
    image, (_, state) = draw(1)[0], file.step(draw(1)[0])
    for wrong, found in {
        "no arrays": {},
        r"mean float32 \[1, 18, 22\], the file needs": {"mean": state["mean"]},
        r"mean float64 \[1, 18, 22\], started": state | {"mean": state["mean"].astype(np.float64)},
        r"mean float32 \[2, 18, 22\], started": state | {"mean": state["mean"].repeat(2, axis=0)},
    }.items():
        with pytest.raises(InputError, match=rf"net\.onnx: the state has {wrong}.*started float32 \[1\]: hand in what"):
            file.step(image, found)


def test_a_difference_that_comes_with_the_state_is_found(tmp_path):
    class Forgetting(RunningMean):
        def follow(self, now: Tensor, state: State | None) -> State:
            return super().follow(now, None if torch.compiler.is_exporting() else state)

    class Leaking(RunningMean):
        """It keeps one memory for all streams."""

        def follow(self, now: Tensor, state: State | None) -> State:
            kept = state if torch.compiler.is_exporting() else getattr(self, "kept", None)
            self.kept = {name: value.detach() for name, value in super().follow(now, kept).items()}
            return self.kept

    for model in (Forgetting(), Leaking()):
        with pytest.raises(InputError, match=r"net\.onnx: differs from the model by"):
            export_model(model, tmp_path / "net.onnx", to="onnx", height=H, width=W)
    assert list(tmp_path.iterdir()) == []


class Holding(RunningMean):
    """A running mean with something more in its state."""

    def __init__(self, **more: Tensor) -> None:
        super().__init__()
        self.more = more

    def follow(self, now: Tensor, state: State | None) -> State:
        return super().follow(now, state) | self.more


class Growing(RunningMean):
    """It keeps every frame."""

    def follow(self, now: Tensor, state: State | None) -> State:
        kept = [] if state is None else [state["mean"]]
        return {"mean": torch.cat([*kept, now[:, None]], dim=1)}

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        depth = self.conv(frames.flatten(0, 1))[:, 0].unflatten(0, frames.shape[:2])
        return depth, self.follow(depth[:, 0], state)


class Deciding(RunningMean):
    def follow(self, now: Tensor, state: State | None) -> State:
        return super().follow(now, None if now.mean() > 0.5 else state)


def test_states_that_no_file_can_have_are_refused(tmp_path, world, monkeypatch):
    size = {"height": H, "width": W}
    for model, why in {
        Growing(): r"\[1, 1, 18, 22\].* after one frame and .*\[1, 2, 18, 22\].* after two",
        Holding(half=torch.zeros(1, 2, dtype=torch.bfloat16)): "state half is bfloat16, which NumPy does not have",
        Holding(started=torch.zeros(1)): "'started', which is a name of files alone: rename it",
        Deciding(): r"torch\.export cannot trace the model",
    }.items():
        with pytest.raises(InputError, match=why):
            export_model(model, tmp_path / "a.onnx", to="onnx", **size)
    with pytest.raises(InputError, match="int8 is for per-frame models: leave --int8 out"):
        export_int8(RunningMean(), tmp_path / "a.onnx", to="onnx", data=world, **size)
    monkeypatch.setattr(export, "WITH_STATE", ("onnx",))
    with pytest.raises(InputError, match="openvino: the model has a state, which only files for onnx can pass on"):
        export_model(RunningMean(), tmp_path / "a.xml", to="openvino", **size)
    assert list(tmp_path.iterdir()) == []
