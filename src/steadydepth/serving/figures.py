"""What a server counts, and how /metrics shows it."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from steadydepth.serving.models import Models

_RECENT = 1024  # frames whose latencies and times are kept
_QUANTILES = (0.5, 0.95, 0.99)


@dataclass
class StreamFigures:
    """Counts of one stream."""

    client: str
    n_frames: int = 0
    n_skipped: int = 0
    is_waiting: bool = False  # whether a frame is in its queue
    flicker: float | None = None


@dataclass
class Figures:
    """Counts of a server since it began."""

    n_frames: int = 0
    n_images: int = 0
    n_skipped: int = 0
    n_refused: int = 0
    n_running: int = 0  # requests for one image, at the moment
    streams: dict[str, StreamFigures] = field(default_factory=dict)
    _recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def answered(self, latency_s: float) -> None:
        """One depth image was computed and encoded, so long after its frame was there."""
        self._recent.append((time.monotonic(), latency_s))

    def quantiles(self) -> dict[float, float]:
        """Seconds from frame to answer: 50, 95 and 99 % of the last frames took less; nothing before the first."""
        latencies = [latency for _, latency in list(self._recent)]
        return dict(zip(_QUANTILES, np.quantile(latencies, _QUANTILES).tolist(), strict=True)) if latencies else {}

    def frames_per_second(self) -> float:
        """Answers a second, of streams and single images, over the last ten."""
        now = time.monotonic()
        times = [at for at, _ in list(self._recent) if now - at <= 10]
        # Where more came than are kept, the oldest one kept says how long it took.
        return len(times) / (max(now - times[0], 1e-3) if len(times) == _RECENT else 10)


class _Shown(Collector):
    def __init__(self, figures: Figures, models: Models) -> None:
        self._figures, self._models = figures, models

    def collect(self) -> Iterable[Metric]:
        figures, batcher = self._figures, self._models.current.batcher
        for name, text, count in (
            ("frames", "Frames of streams that were answered with depth", figures.n_frames),
            ("images", "Single images that were answered with depth", figures.n_images),
            ("skipped", "Frames of streams that a newer one displaced", figures.n_skipped),
            ("refused", "Frames that could not be read or predicted", figures.n_refused),
            ("batched_frames", "Frames that went through the model in service", batcher.n_frames),
            ("batches", "Batches that they were in", batcher.n_batches),
        ):
            yield CounterMetricFamily(f"steadydepth_{name}", text, value=count)
        waiting = sum(each.is_waiting for each in figures.streams.values())
        for name, text, value in (
            ("frames_per_second", "Answers a second over the last ten", figures.frames_per_second()),
            ("sessions", "Open streams", len(figures.streams)),
            ("queue", "Frames in the queues of streams, one each at the most", waiting),
            ("network_queue", "Frames that wait for the network", batcher.n_waiting),
            ("model_version", "Number of the model in service", self._models.current.version),
        ):
            yield GaugeMetricFamily(f"steadydepth_{name}", text, value=value)
        latency = SummaryMetricFamily("steadydepth_latency_seconds", "From a frame's arrival to its answer; last 1024")
        for quantile, value in figures.quantiles().items():
            latency.add_sample("steadydepth_latency_seconds", {"quantile": str(quantile)}, value)
        yield latency
        yield from self._sessions()

    def _sessions(self) -> Iterable[Metric]:
        for name, text, value_of in (
            ("flicker", "Flicker along optical flow, per cent of depth a frame", attrgetter("flicker")),
            ("frames", "Answered frames", attrgetter("n_frames")),
            ("skipped", "Displaced frames", attrgetter("n_skipped")),
        ):
            metric = GaugeMetricFamily(f"steadydepth_session_{name}", text, labels=["session"])
            for session, each in list(self._figures.streams.items()):
                if (value := value_of(each)) is not None:
                    metric.add_metric([session], value)
            yield metric


def registry_of(figures: Figures, models: Models) -> CollectorRegistry:
    """A registry of one server's own, so that several can live in one process."""
    registry = CollectorRegistry()
    registry.register(_Shown(figures, models))
    return registry
