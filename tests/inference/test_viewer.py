import subprocess
import sys

import cv2
import numpy as np
import pytest

from steadydepth.inference import viewer
from steadydepth.inference.live import LiveResult
from steadydepth.inference.predictor import Result
from steadydepth.inference.viewer import show_live
from steadydepth.ops.colours import colour_depth, depth_range
from steadydepth.types import InputError

H, W = 24, 40


def results(n: int, *, is_cut: bool = False) -> list[LiveResult]:
    """The third begins anew: by what the session says, or, of a network without memory, by a cut alone."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, H, W, 3), dtype=np.uint8)
    live = []
    for number in range(n):
        depth = rng.uniform(2, 9, (H, W)).astype(np.float32)
        depth[depth <= 2.5] = np.nan
        image = second if is_cut and number >= 2 else first
        result = Result(depth, "metric", image, is_start=number == 0 or (number == 2 and not is_cut))
        live.append(LiveResult(result, number, 0, 0.01))
    return live


@pytest.fixture
def shown(monkeypatch):
    """Images that were shown; the key q is pressed at the third."""
    images = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(viewer.cv2, "imshow", lambda title, image: images.append((title, image)))
    monkeypatch.setattr(viewer.cv2, "waitKey", lambda ms: ord("q") if len(images) == 3 else -1)
    monkeypatch.setattr(viewer.cv2, "destroyAllWindows", lambda: images.append("closed"))
    return images


@pytest.mark.parametrize("is_cut", [False, True])
def test_frame_and_depth_are_shown_until_q(shown, is_cut):
    live = results(9, is_cut=is_cut)
    assert list(show_live(live, "camera")) == live[:2]
    assert shown.pop() == "closed"
    (title, image), (_, second), (_, after_cut) = shown
    said = live[0].result
    assert (title, len(shown)) == ("camera", 3)
    np.testing.assert_array_equal(image[:, :W], said.image[..., ::-1])  # OpenCV's order of colours
    near_far = depth_range([said.depth[::4, ::4]])
    np.testing.assert_array_equal(image[:, W:, ::-1], colour_depth(said.depth, *near_far, said.valid))
    for colours, live_result, has_own_range in ((second, live[1], False), (after_cut, live[2], True)):
        said = live_result.result
        own = colour_depth(said.depth, *depth_range([said.depth[::4, ::4]]), said.valid)
        assert np.array_equal(colours[:, W:, ::-1], own) == has_own_range


def test_a_machine_without_windows_is_told_so(monkeypatch):
    def refuse(title, image):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(viewer.sys, "platform", "linux")
    monkeypatch.setattr(viewer.cv2, "imshow", refuse)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="there is no screen"):
        next(show_live(results(1), "camera"))
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(InputError, match="pip install opencv-python in its place"):
        next(show_live(results(1), "camera"))


def test_the_command_imports_opencv_before_anything_that_could_import_pyav():
    code = """
import sys
seen = []
class Notes:
    def find_spec(self, name, path=None, target=None):
        seen.append(name)
sys.meta_path.insert(0, Notes())
sys.modules["torch"] = None
from steadydepth.cli.inference import stream
from steadydepth.errors import InputError
try:
    stream("0", model="none")
except InputError:
    assert seen.index("cv2") < seen.index("steadydepth.commands"), seen
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
