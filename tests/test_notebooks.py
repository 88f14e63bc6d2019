"""The notebooks run from top to bottom, in a folder of their own and without a network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# Trainings of minutes are cut to a few steps on a few clips.
STEPS = re.compile(r"^(\w*STEPS, \w+) = \d+, \d+", re.MULTILINE)
OFFLINE = {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def code(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_three_without_outputs():
    assert [path.stem for path in NOTEBOOKS] == ["evaluate_predictions", "predict_and_look", "stabilise_your_model"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code" and cell["outputs"]] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    # The value of a cell's last line is shown by Jupyter; here it is computed as well.
    script = "import matplotlib.pyplot as plt\n" + STEPS.sub(r"\1 = 2, 2", "\n".join(code(path)))
    (tmp_path / "cells.py").write_text(
        script + "\nassert not plt.get_fignums() or plt.gcf().axes\nprint('to the bottom')\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "cells.py"],
        cwd=tmp_path,
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("to the bottom\n")
    if path.stem == "evaluate_predictions":
        scores = {
            name: json.loads((tmp_path / "scores" / name / "metrics.json").read_text(encoding="utf-8"))["mean"]
            for name in ("flickering", "filtered", "constant")
        }
        # What its text says of them.
        assert scores["filtered"]["tsd"] < 0.5 * scores["flickering"]["tsd"]
        assert scores["constant"]["flicker"] < 1e-6
        assert scores["constant"]["abs_rel"] > 3 * scores["filtered"]["abs_rel"]
