"""A server on a free port of this machine, in a thread."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from known_depth import Average
from torch import Tensor, nn
from waiting import wait_until
from websockets.sync.client import connect

from steadydepth.inference.predictor import Predictor
from steadydepth.serving.messages import decode_depth, pack, unpack
from steadydepth.serving.server import make_server
from steadydepth.serving.settings import Limits, Settings
from steadydepth.types import State


class Gated(Average):
    """The first call waits until `gate` is set; keeps the sizes of its batches."""

    def __init__(self, base: float = 1.0) -> None:
        super().__init__(base)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.batches.append(len(frames))
        assert self.gate.wait(30)
        return super().forward(frames, state)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def rgb(number: int, image: np.ndarray, **more: Any) -> bytes:
    """A frame's message, without loss."""
    height, width = image.shape[:2]
    return pack({"id": number, "kind": "rgb", "height": height, "width": width, **more}, image.tobytes())


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    app: Any
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self, query: str = "format=float32", **options: Any) -> Any:
        """A stream, its hello received."""
        address = f"ws://127.0.0.1:{self.port}/v1/stream?{query}"
        socket = connect(address, compression=None, proxy=None, **options).__enter__()
        assert '"hello"' in socket.recv(10)
        return socket


def depth_of(message: Any) -> tuple[dict[str, Any], np.ndarray]:
    """An answer with depth: its header, and the depth."""
    header, payload = unpack(message)
    assert header["type"] == "depth"
    return header, decode_depth(header, payload)


@contextmanager
def serving(model: Any, **settings: Any):
    """A server, for as long as the block goes on."""
    predictor = Predictor(model) if isinstance(model, nn.Module) else model
    limits = settings.pop("limits", Limits(requests_s=1e4, messages_s=1e5, sessions_a_client=64))
    server = make_server(Settings(model=predictor, port=0, limits=limits, **settings))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        yield Served(server.config.app, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
