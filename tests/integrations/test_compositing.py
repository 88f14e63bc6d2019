"""An EXR sequence in Blender, run headless, and the script for Nuke as far as its text goes."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from known_depth import Red

from steadydepth.files.exr import read_exr
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor

FOLDER = Path(__file__).parents[2] / "integrations" / "compositing"
# Runs in Blender: where the vertices of the relief lie in each frame.
LOOK = """
import bpy, json, sys
scene, frames = bpy.context.scene, []
for number in range(scene.frame_start, scene.frame_end + 1):
    scene.frame_set(number)
    relief = bpy.data.objects["relief"].evaluated_get(bpy.context.evaluated_depsgraph_get())
    frames.append([tuple(vertex.co) for vertex in relief.data.vertices])
json.dump(frames, open(sys.argv[-1], "w"))
"""


@pytest.fixture
def shot(tmp_path):
    """Depth of three frames, 1001 to 1003, all different in every corner."""
    pytest.importorskip("OpenEXR")
    (tmp_path / "shot").mkdir()
    ramp = np.add.outer(np.linspace(0, 90, 12), np.linspace(0, 120, 16))
    for number in range(3):
        image = np.zeros((12, 16, 3), np.uint8)
        image[..., 2] = ramp + 10 * number
        cv2.imwrite(str(tmp_path / "shot" / f"shot.{1001 + number}.png"), image)
    predict_files(Predictor(Red(factor=10.0)), [tmp_path / "shot"], tmp_path / "depth", format="exr", keep_names=True)
    return tmp_path / "depth" / "shot" / "depth"


@pytest.mark.skipif(shutil.which("blender") is None, reason="Blender is not installed")
def test_blender_moves_a_relief_by_the_depth_of_each_frame(shot, tmp_path):
    blender = ["blender", "--background", "--factory-startup", "--python-exit-code", "1"]
    made = [*blender, "--python", FOLDER / "blender_depth.py", "--", shot, tmp_path / "shot.blend"]
    subprocess.run(made, check=True, capture_output=True, timeout=200)
    (tmp_path / "look.py").write_text(LOOK, encoding="utf-8")
    look = [*blender[:2], tmp_path / "shot.blend", *blender[3:], "--python", tmp_path / "look.py", "--"]
    subprocess.run([*look, tmp_path / "found.json"], check=True, capture_output=True, timeout=200)
    found = np.array(json.loads((tmp_path / "found.json").read_text(encoding="utf-8")))
    depths = [read_exr(path) for path in sorted(shot.glob("*.exr"))]
    assert len(depths) == 3
    for vertices, depth in zip(found, depths, strict=True):
        # Rows of the grid go up, columns to the right; a vertex for each pixel.
        np.testing.assert_allclose(-vertices[:, 2].reshape(depth.shape)[::-1], depth, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "shot" / "grey").iterdir()) == [
        f"depth.{number}.exr" for number in (1001, 1002, 1003)
    ]


def test_the_script_for_nuke_reads_what_predict_writes(shot):
    text = (FOLDER / "depth.nk").read_text(encoding="utf-8")
    nodes = dict(re.findall(r"^(\w+) \{\n((?: .*\n)+)\}$", text, re.MULTILINE))
    assert list(nodes) == ["Root", "Read", "Shuffle", "Grade", "Viewer"]
    assert text.count("{") == text.count("}") == len(nodes)
    read = dict(line.strip().split(" ", 1) for line in nodes["Read"].splitlines())
    # The file that predict would have written below the folder where the script is opened.
    assert (shot.parents[2] / (read["file"] % int(read["first"]))).is_file()
    assert (read["file_type"], read["raw"]) == ("exr", "true")
    grade = dict(line.strip().split(" ", 1) for line in nodes["Grade"].splitlines())
    assert float(grade["whitepoint"]) < float(grade["blackpoint"])
