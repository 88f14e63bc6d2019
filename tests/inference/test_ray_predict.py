"""On a cluster of this machine alone, in a process of its own: Ray's threads outlive whoever starts them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from steadydepth.files.stored_depth import read_predictions
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor, load
from steadydepth.inference.ray import predict_on_ray
from steadydepth.types import InputError

# Predicts the folder in/ into out/ twice, with a damaged file there at first; then two files of one name.
ON_RAY = """
import json
from pathlib import Path

import ray
from steadydepth.errors import InputError
from steadydepth.inference.ray import predict_on_ray

def predict(*paths):
    rows = ray.data.from_items([{"path": str(path)} for path in paths])
    done = predict_on_ray(rows, "red_plus:build,claims=metric", Path("out"), max_side=20, num_cpus=0.5)
    return sorted(done.take_all(), key=lambda row: row["path"])

# The name of 127.0.0.1 would be taken for that of the machine.
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.2", object_store_memory=80_000_000)
found = [predict(*Path("in").iterdir()), predict("in/a.png")]
try:
    predict("in/a.png", "other/a.png")
except InputError as error:
    found.append(str(error))
Path("found.json").write_text(json.dumps(found))
"""
# Depth is the red of the pixel plus one.
FACTORY = """
def build():
    return lambda images: images[:, 0] * 255 + 1
"""


def test_each_row_is_written_as_predict_writes_it_or_says_why_not(tmp_path, monkeypatch):
    pytest.importorskip("ray.data")
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for name, image in zip("abc", images, strict=True):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), image)
    (tmp_path / "in" / "d.mp4").write_bytes(b"no video")
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "other")
    (tmp_path / "on_ray.py").write_text(ON_RAY, encoding="utf-8")
    (tmp_path / "red_plus.py").write_text(FACTORY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    predictor = load("red_plus:build,claims=metric", device="cpu")
    predict_files(predictor, [tmp_path / "in" / "b.png"], tmp_path / "out")  # at its own size: so it must stay
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "on_ray.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr

    first, again, refused = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    names = [[Path(path).name for path in row["written"]] for row in first]
    assert names == [["a.npz", "a_preview.png"], [], ["c.npz", "c_preview.png"], []]
    assert [row["path"] for row in first] == ["in/a.png", "in/b.png", "in/c.png", "in/d.mp4"]
    assert [bool(row["error"]) for row in first] == [False, False, False, True]
    assert "in/d.mp4" in first[3]["error"]
    assert again == [{"path": "in/a.png", "written": [], "error": ""}]
    assert refused.startswith("other/a.png: another row would be written as a")
    shrinking = Predictor(predictor.model, device="cpu", max_side=20)
    for name, image in zip("ac", images[[0, 2]], strict=True):
        written, claims = read_predictions(tmp_path / "out", name)
        assert claims == "metric"
        np.testing.assert_array_equal(written[0], shrinking.predict(image[..., ::-1]).depth)
    np.testing.assert_array_equal(read_predictions(tmp_path / "out", "b")[0][0], images[1, ..., 2] + 1.0)


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(InputError, match=r"pip install 'steadydepth\[ray\]'"):
        predict_on_ray(None, "net", tmp_path / "out")
