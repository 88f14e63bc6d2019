"""Names of the filters, and every key of the training of the learned one."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from steadydepth.config.data import Section

# Causal filters that need no training (`ops.smoothing`); the names of evaluate's controls and of --filter.
FilterName = Literal["ema", "ema_0.8", "median", "flow_ema"]


class FilterConfig(Section):
    """How the learned filter is trained, on rendered clips: of imagined networks, and of `base` where it is given."""

    out: Path = Field(description="File of weights, .safetensors.")
    data: Path = Field(Path("runs/filter/world"), description="Folder of the synthetic world; rendered where missing.")
    more_data: list[Path] = Field([], description="More folders of sequences with depth and flow, of the same size.")
    weights: Path | None = Field(None, description="File of weights to go on from, .safetensors.")
    clips: int = Field(100, ge=2, description="Clips of the world.")
    clip_length: int = Field(32, ge=4, description="Frames of each.")
    world_seed: int = Field(5000, ge=0, description="Seed of the first clip.")
    workers: int = Field(2, ge=1, description="Processes that render, and then draw what is learned from.")
    device: str = Field("cpu", description="Where the filter learns: cpu, cuda, ...")
    base: Path | None = Field(None, description="Folder of a metric model that train wrote; it stays as it is.")
    real_share: float = Field(0.3, ge=0, le=1, description="Batches of what `base` predicts; the rest is imagined.")
    sequences: int = Field(230, ge=1, description="Batches of sequences to learn from.")
    minutes: float | None = Field(None, gt=0, description="Learn for so long at the most; the rate falls by the clock.")
    batch: int = Field(3, ge=1, description="Sequences in a batch.")
    frames: int = Field(24, ge=2, description="Frames of a sequence.")
    chunk: int = Field(8, ge=2, description="Frames that the gradient runs back through.")
    learning_rate: float = Field(3e-3, gt=0, description="The highest of the schedule.")
    relative_weight: float = Field(3.0, ge=0, description="Of the change of the error of a point, beside the error.")
    edge_weight: float = Field(0.3, ge=0, description="Of the differences of the error between neighbours.")
    contrast_weight: float = Field(2.0, ge=0, description="Of the contrast of the network's own edges that is lost.")
    trail_weight: float = Field(1.0, ge=0, description="Of what is worse than without, where a point is new.")
    width: int = Field(16, ge=4, description="Channels of the network.")
    log_every: int = Field(20, ge=1, description="Batches between two lines of the log.")
    seed: int = Field(0, ge=0, description="Of all that is drawn.")
