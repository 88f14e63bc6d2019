"""Many sessions on one network: batches are shared, states are not; another model takes over between two frames."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from known_depth import averages, film
from served import Gated
from torch import nn
from waiting import wait_until

from steadydepth.inference.network import Network
from steadydepth.inference.predictor import Predictor, load
from steadydepth.inference.session import Session, state_kind
from steadydepth.serving.batching import Batcher
from steadydepth.serving.models import Models
from steadydepth.serving.terminals import Terminal
from steadydepth.types import InputError


def run_all(batcher, films, start=lambda: None):
    """Each film through a session of its own, all at the same time; their depths."""
    ports = [batcher.open() for _ in films]

    def run(port, frames):
        session = Session(port)
        found = np.stack([session.step(frame).depth for frame in frames])
        port.close()
        return found

    with ThreadPoolExecutor(len(films)) as pool:
        futures = [pool.submit(run, port, frames) for port, frames in zip(ports, films, strict=True)]
        start()
        return [future.result(30) for future in futures]


def test_states_of_32_sessions_in_one_batch_never_mix():
    model = Gated()
    model.gate.clear()
    batcher = Batcher(Network(model))
    films = [film(seed, n_frames=6) for seed in range(32)]

    def start():
        wait_until(lambda: batcher.n_waiting >= 16)
        model.gate.set()

    found = run_all(batcher, films, start)
    for depth, frames in zip(found, films, strict=True):
        np.testing.assert_allclose(depth, averages(frames), rtol=1e-6)
    assert sum(model.batches) == batcher.n_frames == 32 * 6
    assert max(model.batches) == 16  # the most that go through a network at once


def test_frames_of_two_sizes_and_beginnings_are_not_stacked():
    model = Gated()
    model.gate.clear()
    batcher = Batcher(Network(model))
    films = [film(1, 3), film(2, 3, height=24), film(3, 4), film(4, 3, height=24)]

    def start():
        wait_until(lambda: batcher.n_waiting >= 2)
        model.gate.set()

    for depth, frames in zip(run_all(batcher, films, start), films, strict=True):
        np.testing.assert_allclose(depth, averages(frames), rtol=1e-6)


def test_one_session_alone_waits_for_nobody():
    batcher = Batcher(Network(Gated()), wait_s=60.0)
    [found] = run_all(batcher, [film(0, 3)])
    np.testing.assert_allclose(found, averages(film(0, 3)), rtol=1e-6)


def test_a_state_is_a_copy_and_not_a_view_of_the_batch():
    network = Network(Gated())
    frames = film(0, 2)
    (_, state), (_, other) = network.step_together(list(frames), [None, None])
    assert state["total"].untyped_storage().nbytes() == state["total"].nbytes
    assert state_kind(state) == state_kind(other) != state_kind(None)


def test_a_failure_reaches_those_who_asked_and_the_next_frame_goes_on():
    class Moody(Gated):
        def forward(self, frames, state=None):
            if float(frames.max()) == 0:
                raise RuntimeError("no light")
            return super().forward(frames, state)

    batcher = Batcher(Network(Moody()))
    port = batcher.open()
    with pytest.raises(RuntimeError, match="no light"):
        port([np.zeros((8, 8, 3), np.uint8)], None)
    depth, _ = port([np.full((8, 8, 3), 5, np.uint8)], None)
    np.testing.assert_allclose(depth, 6)
    port.close()


def test_frames_of_many_that_do_not_fit_into_memory_together_are_predicted_in_parts():
    class Small(Gated):
        most = 0

        def forward(self, frames, state=None):
            if len(frames) > 2:
                raise torch.OutOfMemoryError("for 2 frames only")
            self.most = max(self.most, len(frames))
            return super().forward(frames, state)

    model = Small()
    network, films = Network(model), np.stack([film(number, 3) for number in range(5)])
    states = [None] * 5
    for number in range(3):
        answers = network.step_together(list(films[:, number]), states)
        states = [state for _, state in answers]
        for (depth, _), one in zip(answers, films, strict=True):
            np.testing.assert_allclose(depth, averages(one)[number], rtol=1e-6)
    assert model.most == 2
    assert network.frames_at_once(*films.shape[2:4]) == 2


def test_a_frame_among_many_that_does_not_fit_into_memory_is_told_to_each():
    class Full(Gated):
        def forward(self, frames, state=None):
            raise torch.OutOfMemoryError("none")

    with pytest.raises(InputError, match=r"cpu has no memory for a frame of 8 x 12: give a smaller max_side"):
        Network(Full()).step_together([np.zeros((8, 12, 3), np.uint8)] * 3, [None] * 3)


def test_a_retired_network_answers_who_is_there_and_then_ends():
    batcher = Batcher(Network(Gated()))
    port = batcher.open()
    batcher.retire()
    assert batcher.open() is None
    assert port([np.full((8, 8, 3), 5, np.uint8)], None)[0].shape == (1, 8, 8)
    assert batcher.is_alive
    port.close()
    wait_until(lambda: not batcher.is_alive)


def test_models_change_under_load_without_a_lost_or_mixed_frame():
    """Each answer is that of the model that it names, from a beginning of its own."""
    bases = {"one": 1.0, "two": 1000.0}
    models = Models(Predictor(Gated(bases["one"])))
    models.add("one", Predictor(Gated(bases["one"])))
    models.add("two", Predictor(Gated(bases["two"])))
    is_over = threading.Event()

    def run(seed):
        terminal, frames, answers = Terminal(models), film(seed, 50), []
        while not is_over.is_set():
            answers.append(terminal.step(frames[len(answers) % 50]))
        terminal.close()
        expected, seen = [], []
        for number, answer in enumerate(answers):
            if answer.result.is_start:
                seen = []
            seen.append(frames[number % 50][..., 0].astype(np.float64))
            base = bases.get(answer.by.name, 1.0)
            expected.append(base + np.mean(seen, axis=0))
            np.testing.assert_allclose(answer.result.depth, expected[-1], rtol=1e-5)
        return [answer.by.version for answer in answers]

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(run, seed) for seed in range(6)]
        for name in ["two", "one"] * 6:
            before = models.current
            models.put_into_service(name)
            wait_until(lambda: models.current.batcher.n_frames > 8)
            wait_until(lambda before=before: not before.batcher.is_alive)
        is_over.set()
        for future in futures:
            versions = future.result(30)
            assert versions == sorted(versions)
            assert versions[-1] == 13


def test_what_cannot_be_put_into_service_changes_nothing(tmp_path):
    class Broken(nn.Module):
        claims = "metric"

        def forward(self, frames, state=None):
            raise RuntimeError("no")

    models = Models(Predictor(Gated()))
    models.add("missing", tmp_path / "missing")
    models.add("broken", Predictor(Broken()))
    for name, error in (("missing", InputError), ("broken", RuntimeError), ("nobody", InputError)):
        with pytest.raises(error):
            models.put_into_service(name)
    assert (models.current.name, models.current.version) == ("model", 1)
    assert models.names() == ["model", "missing", "broken"]
    for name in ("../x", "", "a/b", ".x", "x" * 65, "a\n"):
        with pytest.raises(InputError, match="no name of a model"):
            models.add(name, tmp_path)


def test_a_model_of_a_path_is_known_by_its_last_part(tmp_path, model):
    from steadydepth.training.checkpoint import save_model

    save_model(model, tmp_path / "runs" / "my steady")
    assert Models(tmp_path / "runs" / "my steady").names() == ["my-steady"]


def test_a_terminal_begins_anew_after_a_failure():
    class Fragile(Gated):
        def forward(self, frames, state=None):
            depth, state = super().forward(frames, state)
            if float(frames.max()) == 0:
                raise RuntimeError("dark")
            return depth, state

    terminal = Terminal(Models(Predictor(Fragile())))
    bright = np.full((16, 16, 3), 50, np.uint8)
    assert terminal.step(bright).result.is_start
    with pytest.raises(RuntimeError, match="dark"):
        terminal.step(np.zeros((16, 16, 3), np.uint8))
    again = terminal.step(bright).result
    assert again.is_start
    assert torch.equal(torch.from_numpy(again.depth), torch.full((16, 16), 51.0))
    terminal.close()


def test_a_closed_terminal_takes_no_place():
    models = Models(Predictor(Gated()))
    terminal = Terminal(models)
    terminal.step(film(1)[0])
    terminal.close()
    with pytest.raises(RuntimeError, match="closed"):
        terminal.step(film(1)[0])
    assert models.current.batcher._n_open == 0


def test_no_video_begins_on_a_server_that_ends():
    models, found = Models(Predictor(Gated())), []

    def begin():
        with pytest.raises(RuntimeError, match="ends"):
            models.open()
        found.append("refused")

    models.close()
    asking = threading.Thread(target=begin, daemon=True)
    asking.start()
    asking.join(10)
    assert found == ["refused"]


@pytest.mark.parametrize("state", [True, False], ids=["state", "per-frame"])
def test_an_exported_file_is_served_as_it_is_run(tmp_path, state):
    """Two terminals of other sizes than the file's, in turn, each as its own offline run."""
    from steadydepth.exporters.export import export_model

    class Red(nn.Module):
        claims = "metric"

        def forward(self, frames, state=None):
            return 1 + frames[:, :, 0], {}

    class Mean(Red):
        def forward(self, frames, state=None):
            total = state["total"] if state else torch.zeros_like(frames[:, 0, 0])
            depths = []
            for frame in frames.unbind(1):
                total = 0.5 * total + frame[:, 0]
                depths.append(1 + total)
            return torch.stack(depths, 1), {"total": total}

    export_model(Mean() if state else Red(), tmp_path / "net.onnx", to="onnx", height=24, width=32)
    models = Models(tmp_path / "net.onnx")
    assert models.names() == ["net.onnx"]
    films = [film(1, 4), film(2, 4, height=48)]
    offline = [[r.depth for r in load(tmp_path / "net.onnx").stream(list(frames))] for frames in films]
    terminals = [Terminal(models) for _ in films]
    for number in range(4):
        for terminal, frames, expected in zip(terminals, films, offline, strict=True):
            np.testing.assert_array_equal(terminal.step(frames[number]).result.depth, expected[number])
    for terminal in terminals:
        terminal.close()


def test_models_that_are_put_into_service_later_go_to_the_device_of_the_first():
    models = Models(Predictor(Gated()), device="cuda:99")
    models.add("other", "steadydepth-small")
    with pytest.raises(InputError, match="device cuda:99: cannot be used"):
        models.put_into_service("other")
    models.close()
