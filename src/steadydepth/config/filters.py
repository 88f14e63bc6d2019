"""Names of the filters, and every key of the training of the learned one."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from steadydepth.config.data import Section

# Causal filters that need no training (`ops.smoothing`); the names of evaluate's controls and of --filter.
FilterName = Literal["ema", "ema_0.8", "median", "flow_ema"]


class FilterConfig(Section):
    """Training of the learned filter on rendered clips, behind simulated networks and, if given, `base`."""

    out: Path = Field(description="File of weights, .safetensors.")
    data: Path = Field(Path("runs/filter/world"), description="Folder of the synthetic world; rendered if missing.")
    more_data: list[Path] = Field([], description="More folders of sequences with depth and flow, of the same size.")
    weights: Path | None = Field(None, description="File of weights to start from, .safetensors.")
    clips: int = Field(100, ge=2, description="Number of clips of the world.")
    clip_length: int = Field(32, ge=4, description="Frames of each clip.")
    world_seed: int = Field(5000, ge=0, description="Seed of the first clip.")
    workers: int = Field(2, ge=1, description="Processes that render, and then draw training sequences.")
    device: str = Field("cpu", description="Device of the training: cpu, cuda, ...")
    base: Path | None = Field(None, description="Folder of a metric model that train wrote; it is not changed.")
    real_share: float = Field(0.3, ge=0, le=1, description="Share of batches from `base`; others are simulated.")
    sequences: int = Field(230, ge=1, description="Number of training batches.")
    minutes: float | None = Field(None, gt=0, description="Longest training time; the rate decays with it.")
    batch: int = Field(3, ge=1, description="Sequences in a batch.")
    frames: int = Field(24, ge=2, description="Frames in a sequence.")
    chunk: int = Field(8, ge=2, description="Frames of backpropagation through time.")
    learning_rate: float = Field(3e-3, gt=0, description="Highest learning rate of the schedule.")
    relative_weight: float = Field(3.0, ge=0, description="Weight of the change of a point's error.")
    edge_weight: float = Field(0.3, ge=0, description="Weight of error differences between neighbours.")
    contrast_weight: float = Field(2.0, ge=0, description="Weight of lost contrast of the network's edges.")
    trail_weight: float = Field(1.0, ge=0, description="Weight of error above raw at newly visible points.")
    width: int = Field(16, ge=4, description="Channels of the network.")
    log_every: int = Field(20, ge=1, description="Batches between two lines of the log.")
    seed: int = Field(0, ge=0, description="Random seed.")
