"""Runs of a second or two: their configs, what they log, and how they are cut."""

import json

import pytest

from steadydepth.config_files import resolve_config
from steadydepth.training import loop
from steadydepth.training.loop import train

# Holds the folder that it is given until it reads a line.
HOLDER = """
import pathlib, sys
from steadydepth.training.lock import alone_in
with alone_in(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def resolve(content, sections):
    """A config of `content` with the keys of `sections` in place of its own."""
    changed = {name: content.get(name, {}) | values for name, values in sections.items()}
    return resolve_config(content | changed, "test")


def make_config(world, folder, steps=3, **sections):
    content = {
        "data": {"root": str(world), "motion": "none", "height": 32, "width": 40},
        "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 8},
        "optim": {"steps": steps, "batch": 2},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 1},
    }
    return resolve(content, sections)


def read_log(folder, file="metrics.jsonl"):
    """The lines of a log, but for the times, which are never the same."""
    lines = [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


class Cut(Exception):
    """The power goes."""


def after_calling(what):
    """A `take_step` that first calls `what` with the number of steps taken."""
    take_step = loop.take_step

    def call_and_take_step(setup, state, batch):
        what(state.step)
        return take_step(setup, state, batch)

    return call_and_take_step


def train_until_cut(config, after, monkeypatch):
    """Train that many steps, then lose everything that is not on the disk."""

    def cut(step):
        if step == after:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", after_calling(cut))
        with pytest.raises(Cut):
            train(config)
