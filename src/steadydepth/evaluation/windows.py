"""Sums turned into numbers by name: over a complete clip, or over windows of some of its frames."""

from dataclasses import dataclass, field

import numpy as np

from steadydepth.metrics.accumulators import Part, Parts, PixelSeries, steady_results
from steadydepth.metrics.protocols import TEMPORAL

Values = dict[str, float | int | None]


@dataclass
class Window:
    """The sums over consecutive frames for the model alone, and the results of the windows before."""

    length: int | None  # None: all frames
    parts: dict[str, Part] = field(default_factory=dict)
    series: PixelSeries | None = None
    n_frames: int = 0
    done: list[Values] = field(default_factory=list)

    def close(self) -> None:
        """End this window and begin the next."""
        self.done.append(values_of(self.parts, self.series, self.n_frames, 0))
        self.parts, self.series, self.n_frames = {}, None, 0

    def values(self) -> Values:
        """Means over the windows that have a value; counts are added; None without a complete window."""
        if self.length is None and self.n_frames:
            self.close()
        names = {name for values in self.done for name in values} | set(TEMPORAL)
        found: Values = {}
        for name in sorted(names):
            known = [value for values in self.done if (value := values.get(name)) is not None]
            if name.startswith("n_"):
                found[name] = int(sum(known))
            else:
                found[name] = float(sum(known) / len(known)) if known else None
        return found


def number_of(parts: Parts, name: str, method: int) -> float | None:
    """What one part comes to for one method; None without a sample.

    Args:
        parts: by name.
        name: of the metric.
        method: its number, in the order of the layers.
    """
    if name not in parts:
        return None
    value = float(np.atleast_1d(parts[name].only(method).result())[0])
    return None if np.isnan(value) else value


def values_of(parts: Parts, series: PixelSeries | None, n_frames: int, method: int) -> Values:
    """Numbers of one method: counts as int, NaN (no sample) as None.

    Args:
        parts: by name.
        series: of the static set; None leaves its metrics out.
        n_frames: that they are of.
        method: its number, in the order of the layers.
    """
    values: Values = {}
    for name in parts:
        value = number_of(parts, name, method)
        values[name] = int(value) if name.startswith("n_") and value is not None else value
    # The script of NVDS divides a sum over pairs by the number of frames.
    if (nvds := values.get("opw_nvds")) is not None:
        values["opw_nvds"] = nvds * (n_frames - 1) / n_frames
    return values if series is None else values | series_values(series, n_frames, method)


def series_values(series: PixelSeries, n_frames: int, method: int) -> Values:
    """tsd, tsd_p95 and drift of one method.

    Args:
        series: of the static set.
        n_frames: that it is of.
        method: its number, in the order of the layers.
    """
    results = {name: float(value[method]) for name, value in steady_results(series, n_frames).items()}
    return {name: None if np.isnan(value) else value for name, value in results.items()}
