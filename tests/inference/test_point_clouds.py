import math
import sys
from pathlib import Path

import numpy as np
import pytest

from steadydepth.inference.point_clouds import Lens, coloured_points, write_ply, write_rerun
from steadydepth.types import InputError

H, W = 3, 5


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points and colours, by the header alone."""
    data = path.read_bytes()
    end = data.index(b"end_header\n") + len(b"end_header\n")
    lines = data[:end].decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    n = int(lines[2].removeprefix("element vertex "))
    kinds = {"float": "<f4", "uchar": "u1"}
    fields = [(name, kinds[kind]) for _, kind, name in (line.split() for line in lines[3:-1])]
    vertices = np.frombuffer(data[end:], fields)
    assert len(vertices) == n
    points = np.stack([vertices[name] for name in "xyz"], axis=-1)
    return points, np.stack([vertices[name] for name in ("red", "green", "blue")], axis=-1)


def test_a_lens_is_a_camera_through_the_middle():
    np.testing.assert_array_equal(Lens(focal_px=50.0).K(H, W), [[50, 0, 2], [0, 50, 1], [0, 0, 1]])
    # Half of the width is as far to the side as the focal length is ahead, at 45 degrees.
    np.testing.assert_allclose(Lens(fov_deg=90.0).K(H, W)[0, 0], 2.5)
    np.testing.assert_allclose(Lens(fov_deg=60.0).K(480, 640)[1, 1], 320 / math.tan(math.pi / 6))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give one of the two"),
        ({"focal_px": 50.0, "fov_deg": 60.0}, "give one of the two"),
        ({"focal_px": 0.0}, "focal length 0.0: it is in pixels"),
        ({"focal_px": math.nan}, "focal length nan"),
        ({"fov_deg": 180.0}, "field of view 180.0: it is in degrees"),
    ],
)
def test_an_impossible_lens_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Lens(**given)


def test_points_lie_where_the_camera_sees_them():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 4, (H, W)).astype(np.float32)
    image = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    depth[1, 2], depth[2, 0] = np.nan, 0
    points, colours = coloured_points(depth, image, np.array([[20, 0, 1.5], [0, 10, 2], [0, 0, 1.0]]))
    expected = [
        ((x - 1.5) / 20 * depth[y, x], (y - 2) / 10 * depth[y, x], depth[y, x], *image[y, x])
        for y in range(H)
        for x in range(W)
        if (y, x) not in ((1, 2), (2, 0))
    ]
    np.testing.assert_allclose(np.hstack((points, colours)), expected, rtol=1e-5)


@pytest.mark.parametrize("n", [0, 7])
def test_ply_holds_the_points_and_their_colours(tmp_path, n):
    rng = np.random.default_rng(1)
    points = rng.normal(size=(n, 3)).astype(np.float32)
    colours = rng.integers(0, 256, (n, 3), dtype=np.uint8)
    write_ply(tmp_path / "a.ply", points, colours)
    for read, written in zip(read_ply(tmp_path / "a.ply"), (points, colours), strict=True):
        np.testing.assert_array_equal(read, written)


def test_rerun_is_asked_for_when_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(InputError, match=r"pip install 'steadydepth\[rerun\]', or choose ply"):
        write_rerun(tmp_path / "a.rrd", [], np.eye(3), name="a", fps=10.0)


def test_a_recording_holds_camera_image_depth_and_points_on_a_timeline(tmp_path):
    pytest.importorskip("rerun")
    reader = pytest.importorskip("rerun.chunk")
    rng = np.random.default_rng(0)
    frames = [
        (rng.integers(0, 256, (H, W, 3), dtype=np.uint8), rng.uniform(1, 4, (H, W)).astype(np.float32)) for _ in "abc"
    ]
    frames[1][1][0, 3] = np.nan
    K = Lens(focal_px=20.0).K(H, W)
    write_rerun(tmp_path / "room.rrd", frames, K, name="room", fps=12.5)
    read = {}
    for chunk in reader.RrdReader(tmp_path / "room.rrd").stream():
        batch = chunk.to_record_batch()
        # The clock of the machine is in nanoseconds, which Python's does not have.
        columns = {name: batch[name].to_pylist() for name in batch.schema.names if name != "log_time"}
        read.setdefault(chunk.entity_path, []).append(columns)
    (camera,) = read["/world/camera"]
    np.testing.assert_allclose(np.reshape(camera["Pinhole:image_from_camera"][0][0], (3, 3)).T, K)
    assert list(camera["Pinhole:resolution"][0][0]) == [W, H]
    for path in ("image", "depth"):
        assert sum(len(each["frame"]) for each in read[f"/world/camera/{path}"]) == 3
    numbered = {
        number: (seconds, points)
        for each in read["/world/points"]
        for number, seconds, points in zip(each["frame"], each["time"], each["Points3D:positions"], strict=True)
    }
    assert sorted(numbered) == [0, 1, 2]
    for number, (image, depth) in enumerate(frames):
        assert numbered[number][0].total_seconds() == pytest.approx(number / 12.5)
        np.testing.assert_allclose(numbered[number][1], coloured_points(depth, image, K)[0], rtol=1e-5)
