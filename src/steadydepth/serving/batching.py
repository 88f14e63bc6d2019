"""Frames of many terminals through one network together: whoever comes within two milliseconds shares a batch."""

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from steadydepth.inference.session import Fitted, Image, NetworkState, PredictsMany, state_kind
from steadydepth.video_types import Claims

WAIT_S = 0.002  # for the frames of others, at the most


@dataclass(frozen=True)
class _Asked:
    """One frame of one terminal, and where its depth is waited for."""

    image: Fitted
    state: NetworkState | None
    kind: Any  # frames of one kind can be stacked
    since: float
    answer: Future[tuple[Float32[np.ndarray, "i j"], NetworkState]] = field(default_factory=Future)


class Batcher:
    """One network, in a thread of its own, for many sessions at once.

    A session sees it as `Port`, which waits for its own frame alone. The state of each session goes in and comes out
    with its frame, so nothing is remembered here.
    """

    def __init__(self, network: PredictsMany, *, wait_s: float = WAIT_S) -> None:
        self.network, self.wait_s = network, wait_s
        self.n_frames = self.n_batches = 0
        self._changed = threading.Condition()
        self._asked = deque[_Asked]()
        self._n_open, self._is_retired = 0, False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """Frames that wait for the network."""
        return len(self._asked)

    def open(self) -> "Port | None":
        """A network for one session, to be closed; None when it is retired."""
        with self._changed:
            if self._is_retired:
                return None
            self._n_open += 1
        return Port(self)

    def retire(self) -> None:
        """End when the last port is closed; what is asked until then is answered."""
        with self._changed:
            self._is_retired = True
            self._changed.notify_all()

    def close_port(self) -> None:
        """A session is over."""
        with self._changed:
            self._n_open -= 1
            self._changed.notify_all()

    def ask(self, image: Fitted, state: NetworkState | None) -> tuple[Float32[np.ndarray, "i j"], NetworkState]:
        """Depth of the next frame of a video, as `fit` returns it, and the state that it leaves; waits for it."""
        asked = _Asked(image, state, (image.shape, state_kind(state)), time.monotonic())
        with self._changed:
            self._asked.append(asked)
            self._changed.notify_all()
        return asked.answer.result()

    def _run(self) -> None:
        while batch := self._take():
            try:
                answers = self.network.step_together([each.image for each in batch], [each.state for each in batch])
            except Exception as error:  # whatever it is, it is raised where the frames were asked for
                for each in batch:
                    each.answer.set_exception(error)
            else:
                for each, answer in zip(batch, answers, strict=True):
                    each.answer.set_result(answer)
                self.n_frames, self.n_batches = self.n_frames + len(batch), self.n_batches + 1

    def _take(self) -> list[_Asked]:
        """The oldest frame that waits, and those that go with it; none when all is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._asked or (self._is_retired and not self._n_open))
            if not self._asked:
                return []
            first = self._asked[0]
            most = self.network.frames_at_once(*first.image.shape[:2])
            until = first.since + self.wait_s
            # Nobody else can come when every session waits already.
            while len(self._asked) < min(self._n_open, most) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            batch = [each for each in self._asked if each.kind == first.kind][:most]
            taken = set(map(id, batch))
            self._asked = deque(each for each in self._asked if id(each) not in taken)
            return batch


class Port:
    """The network as one session sees it (`session.Predicts`)."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.claims: Claims = batcher.network.claims

    def fit(self, image: Image) -> Fitted:
        """A frame at the size at which the network sees it."""
        return self._batcher.network.fit(image)

    def __call__(
        self, images: list[Fitted], state: NetworkState | None
    ) -> tuple[Float32[np.ndarray, "t i j"], NetworkState]:
        depths = []
        for image in images:
            depth, state = self._batcher.ask(image, state)
            depths.append(depth)
        return np.stack(depths), state or {}

    def frames_at_once(self, height: int, width: int) -> int:
        """One: those of other sessions fill the batch."""
        return 1

    def close(self) -> None:
        """Say that no more frames come."""
        self._batcher.close_port()
