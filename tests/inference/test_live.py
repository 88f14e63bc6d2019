import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadydepth.inference import live
from steadydepth.inference.live import read_until, stream_newest
from steadydepth.inference.predictor import Predictor
from steadydepth.types import InputError, State


class Red(nn.Module):
    """Depth is the red of the frame plus one; `busy` is set while it is asked, and it answers when `done` is."""

    claims = "metric"

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.done = threading.Event(), threading.Event()

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.busy.set()
        assert self.done.wait(20)
        return frames[:, :, 0] * 255 + 1, {"count": (state["count"] if state else torch.zeros(1)) + 1}


def image(red: int) -> np.ndarray:
    return np.full((7, 9, 3), red, np.uint8)


def stream_for_no_time(frames):
    model = Red()
    model.done.set()
    return stream_newest(Predictor(model), frames, seconds=0.0)


def test_newest_frame_wins_while_the_model_works():
    model, given = Red(), threading.Event()

    def camera():
        yield image(0)
        assert model.busy.wait(20)
        for red in (1, 2, 3):  # all come while the model works on the first
            yield image(red)
        given.set()

    results = stream_newest(Predictor(model), camera())
    releaser = threading.Thread(target=lambda: given.wait(20) and model.done.set())
    releaser.start()
    first, second = list(results)
    releaser.join()
    assert (first.number, first.n_skipped, first.result.depth[0, 0]) == (0, 0, 1)
    assert (second.number, second.n_skipped, second.result.depth[0, 0]) == (3, 2, 4)
    assert min(first.latency_s, second.latency_s) > 0


def test_the_state_begins_anew_at_a_cut():
    class Counting(Red):
        def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            depth, state = super().forward(frames, state)
            self.done.clear()
            given.release()
            return depth * 0 + state["count"], state

    shots = np.random.default_rng(0).integers(0, 256, (2, 48, 72, 3), dtype=np.uint8)
    model, given = Counting(), threading.Semaphore(1)

    def camera():
        for shot in (0, 0, 0, 0, 1, 1, 1):
            assert given.acquire(timeout=20)  # each is taken before the next comes
            model.done.set()
            yield shots[shot]

    live = list(stream_newest(Predictor(model), camera()))
    assert [each.result.depth[0, 0] for each in live] == [1, 2, 3, 4, 1, 2, 3]
    assert [each.result.is_start for each in live] == [True, False, False, False, True, False, False]


def test_an_error_of_the_source_is_raised_where_frames_are_asked_for(tmp_path):
    model = Red()
    model.done.set()

    def camera():
        yield image(5)
        raise InputError("the cable is out")

    with pytest.raises(InputError, match="the cable is out"):
        list(stream_newest(Predictor(model), camera()))
    with pytest.raises(InputError, match=r"gone\.mp4 does not exist"):
        list(stream_newest(Predictor(model), tmp_path / "gone.mp4"))


def test_a_source_that_falls_silent_does_not_make_the_time_longer():
    model, silent = Red(), threading.Event()
    model.done.set()

    def camera():
        yield image(5)
        silent.wait()

    assert len(list(stream_newest(Predictor(model), camera(), seconds=0.2))) == 1
    silent.set()


def test_a_source_that_never_begins_is_named(monkeypatch):
    monkeypatch.setattr(live, "BEGIN_S", 0.1)
    silent = threading.Event()

    def camera():
        silent.wait()
        yield image(5)

    with pytest.raises(InputError, match="no frame came in 0 s: check the camera"):
        list(stream_newest(Predictor(Red()), camera(), seconds=0.1))
    silent.set()
    with pytest.raises(InputError, match="seconds is -1"):
        list(stream_newest(Predictor(Red()), camera(), seconds=-1.0))


def test_what_a_camera_takes_to_begin_is_no_part_of_the_time_that_is_recorded(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def camera():
        clock.now = 8.0
        yield 0
        time.sleep(0.1)  # until the next one is waited for
        yield 1

    assert list(read_until(camera(), 5.0)) == [0, 1]


@pytest.mark.parametrize("take", [stream_for_no_time, lambda frames: read_until(frames, 0.0)], ids=["newest", "all"])
def test_it_stops_after_its_time_and_leaves_the_source(take):
    left, end = threading.Event(), time.monotonic() + 60

    def camera():
        try:
            while time.monotonic() < end:
                yield image(5)
        finally:
            left.set()

    assert len(list(take(camera()))) == 1
    assert left.wait(20)
