"""Shared code of train_step.py: the config, a prepared batch, and arms that are timed in turns."""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadydepth.config import Config
from steadydepth.config_files import load_config
from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import load_items
from steadydepth.data.samples import make_batch
from steadydepth.method.absolute_loss import ABSOLUTE, lost_edges
from steadydepth.method.pairing import pair_with_previous
from steadydepth.method.relative_loss import relative_loss
from steadydepth.training.samples import open_samples
from steadydepth.training.setup import build_model

STEPS = 20_000  # of the run that is timed, more than are ever taken
Spent = dict[str, list[float]]
Found = dict[str, Any]


class Bench:
    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder, self.draw = asked, folder, random.Random(0)
        self.config = self.make_config("run")
        samples = open_samples(self.config, 0, 0, 1)
        assert isinstance(samples, ClipSamples)
        self.samples = samples
        self.items = next(load_items(samples, batch=asked.clips, workers=0))
        self.batch = make_batch(self.items)

    def make_config(self, name: str, *overrides: str) -> Config:
        asked = self.asked
        sizes = [f"data.height={asked.height}", f"data.width={asked.width}", f"data.clip_length={asked.frames}"]
        steps = [f"optim.batch={asked.clips}", f"optim.steps={STEPS}", "data.strides=[1]", "run.device=cpu"]
        steps.append("loss.relative_features=0")  # of stills, which these strides have none of
        places = [f"data.root={asked.data}", f"run.folder={self.folder / name}"]
        return load_config("demo", [*sizes, *steps, *places, "run.log_every=10", *overrides])

    def time(self, arms: dict[str, Callable[[], object]]) -> Spent:
        """Seconds of every arm, one of each a round; the first round warms up and does not count."""
        spent: Spent = {name: [] for name in arms}
        for _ in range(self.asked.rounds + 1):
            for name in self.draw.sample(list(arms), len(arms)):
                begun = time.perf_counter()
                arms[name]()
                spent[name].append(time.perf_counter() - begun)
        return {name: seconds[1:] for name, seconds in spent.items()}

    def bare_step(self) -> Callable[[], None]:
        """A step as one would write it for this net and this loss alone."""
        model = build_model(self.config).train().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        loss, most = self.config.loss, self.config.optim.max_grad_norm
        batch = self.batch

        def step() -> None:
            depth, _ = model(batch.frames)
            predicted = pair_with_previous(depth, batch.valid, batch.motion, batch.visible)
            truth = pair_with_previous(batch.depth, batch.valid, batch.motion, batch.visible)
            relative = relative_loss(
                predicted,
                truth,
                gradient_weight=loss.relative_gradient,
                motion_gain_weight=loss.motion_gain_weight,
            )
            optimizer.zero_grad()
            absolute = ABSOLUTE[loss.absolute](depth, batch.depth, batch.valid)
            absolute = absolute + loss.edges * lost_edges(depth, batch.depth, batch.valid)
            (absolute + loss.relative_weight * relative).backward()
            nn.utils.clip_grad_norm_(model.parameters(), most)
            optimizer.step()

        return step


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def ratio(spent: Spent, one: str, other: str) -> dict[str, float]:
    return spread([mine / theirs for mine, theirs in zip(spent[one], spent[other], strict=True)])
