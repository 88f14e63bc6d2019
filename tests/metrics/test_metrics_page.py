"""The Python of docs/metrics.md runs and says what its comments say."""

import re
from pathlib import Path

import pytest
import torch

from steadydepth.metrics.protocols import METRICS, PROTOCOLS

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_example_runs_and_is_right(capsys):
    block = "".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    names: dict = {}
    exec(compile(block, "docs/metrics.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 4
    torch.testing.assert_close(names["consistency"]["flicker"], torch.tensor([0, 3.495]).double(), atol=1e-3, rtol=0)
    metrics, flickering, truth = names["metrics"], names["flickering"], names["truth"]
    assert float(metrics.accuracy_scores(flickering, truth, names["valid"])["abs_rel"]) == pytest.approx(0.016)
    mean = names["found"].compute()
    assert mean["abs_rel"] == pytest.approx(0.016, abs=5e-4)
    assert names["values"]["edge_gain"] == pytest.approx(1, abs=0.005)


def test_every_metric_and_protocol_is_named():
    short = {"delta2", "delta3", "n_frames", "n_static", "n_moving", "n_skipped", "scale", "shift", "negative_scale"}
    plain = {name for name in METRICS if not name.endswith(("_static", "_moving"))} - short
    assert [name for name in plain if f"`{name}`" not in PAGE] == []
    assert [name for name in PROTOCOLS if f"`{name}`" not in PAGE and name != "plain"] == []
