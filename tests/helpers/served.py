"""A server on a free port of this machine, in a thread; models whose answers are known by hand."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from websockets.sync.client import connect

from steadydepth.inference.predictor import Predictor
from steadydepth.serving.messages import decode_depth, pack, unpack
from steadydepth.serving.server import make_server
from steadydepth.serving.settings import Limits, Settings
from steadydepth.types import State

H, W = 40, 56


class Average(nn.Module):
    """Depth is `base` more than the mean red so far at each pixel; keeps the sizes of its batches.

    Its first call waits until `gate` is set.
    """

    claims = "metric"

    def __init__(self, base: float = 1.0) -> None:
        super().__init__()
        self.base = base
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.batches.append(len(frames))
        assert self.gate.wait(30)
        total = state["total"] if state else torch.zeros_like(frames[:, 0, 0])
        count = state["count"] if state else torch.zeros(len(frames))
        depths = []
        for frame in frames.unbind(1):
            total, count = total + 255 * frame[:, 0], count + 1
            depths.append(self.base + total / count[:, None, None])
        return torch.stack(depths, 1), {"total": total, "count": count}


def film(seed: int = 0, n_frames: int = 9, height: int = H, width: int = W) -> np.ndarray:
    """One image that moves a pixel a frame."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    image = np.kron(coarse, np.ones((4, 4, 1), np.uint8))
    return np.stack([np.roll(image, t, axis=1) for t in range(n_frames)])


def averages(frames: np.ndarray, base: float = 1.0) -> np.ndarray:
    """What `Average` says of a film."""
    counts = np.arange(1, len(frames) + 1)[:, None, None]
    return (base + np.cumsum(frames[..., 0].astype(np.float64), axis=0) / counts).astype(np.float32)


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


def wait_until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.005)


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
