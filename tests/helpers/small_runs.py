"""Runs of a second or two: their configs, what they log, and how they are cut."""

import json

import pytest

from steadydepth.config_files import resolve_config
from steadydepth.training.loop import train
from steadydepth.training.state import Run


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
    lines = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


class Cut(Exception):
    """The power goes."""


def train_until_cut(config, after, monkeypatch):
    """Train that many steps, then lose everything that is not on the disk."""
    learn = Run.learn

    def learn_until_cut(self, batch):
        if self.step == after:
            raise Cut
        return learn(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "learn", learn_until_cut)
        with pytest.raises(Cut):
            train(config)
