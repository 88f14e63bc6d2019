"""Runs whose network is compiled: the steps and files of one that is not, going on where it was cut, no compiler.

They run in a process of their own: here every call is checked for the shapes of what it is given, and torch.compile
does not see through that.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import make_config, read_log, train_until_cut
from torch import nn

from steadydepth.models.weights import read_weights
from steadydepth.training.loop import train

COMPILER = "cl" if sys.platform == "win32" else "g++"  # what torch takes of itself


class Toy(nn.Module):
    """So small that compiling it takes seconds."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, images):
        return nn.functional.softplus(self.head(self.encoder(images))) + 0.1


def build():
    torch.manual_seed(5)
    return Toy()


def make_run(world, folder, **run):
    features = {"data": {"strides": [0, 1], "motion": "flow"}, "loss": {"relative_features": 0.2}}
    return make_config(world, folder, model={"init": "test_compiled:build,claims=scale"}, run=run, **features)


def run_this(*arguments, **environment):
    places = [str(Path(__file__).parents[1] / "helpers"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    places = {"PYTHONPATH": os.pathsep.join(filter(None, places)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | places | environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason="nothing to compile with")
def test_a_compiled_run_is_the_run_and_goes_on_where_it_was_cut(world, tmp_path):
    ended = run_this(world, tmp_path, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert ended.returncode == 0, ended.stderr
    plain = train(make_run(world, tmp_path / "plain"))
    uncut, cut = tmp_path / "uncut", tmp_path / "cut"
    assert f"{uncut}: 1 process(es) on cpu, precision no, compiled" in ended.stderr
    for eager, compiled in zip(read_log(plain), read_log(uncut), strict=True):
        assert compiled == pytest.approx(eager, rel=5e-3)  # three steps of Adam
    assert read_weights(uncut / "model.safetensors").keys() == read_weights(plain / "model.safetensors").keys()
    assert read_log(cut) == read_log(uncut)
    assert (cut / "model.safetensors").read_bytes() == (uncut / "model.safetensors").read_bytes()


def test_a_machine_without_a_compiler_is_told_so(world, tmp_path):
    ended = run_this(world, tmp_path, CXX="/no/compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    assert ended.returncode == 1
    assert "InputError: run.compile: torch.compile failed (InvalidCxxCompiler: " in ended.stderr


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data, out = map(Path, sys.argv[1:])
    train(make_run(data, out / "uncut", compile=True))
    halved = make_run(data, out / "cut", compile=True)
    train_until_cut(halved, 2, pytest.MonkeyPatch())
    train(halved)
