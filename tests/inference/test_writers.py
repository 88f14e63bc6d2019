"""Formats of predict that need to know the camera."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from known_depth import Red
from torch import nn

from steadydepth.files.images import write_png
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.video_read import read_depth_video
from steadydepth.inference import writers
from steadydepth.inference.depth_cache import cache_depth
from steadydepth.inference.frame_sources import Source
from steadydepth.inference.point_clouds import Lens, coloured_points, write_ply
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor
from steadydepth.ops.depth_view import DepthView
from steadydepth.types import Clip, InputError

T, H, W = 3, 24, 40
red = partial(Red, offset=0.0)  # no depth where nothing is red


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (T, H, W, 3), dtype=np.uint8)


def write_room(tmp_path, frames, K):
    clip = Clip("room", frames, 12.5, K=K)
    return write_sequence(tmp_path / "data", clip, depth_scale_m=None, source=None, licence=None)


@pytest.mark.parametrize("lens", [None, Lens(focal_px=33.0)])
def test_ply_is_a_cloud_a_frame_by_the_camera_of_the_folder_or_the_lens(frames, tmp_path, lens):
    K = np.array([[50, 0, 21], [0, 48, 13], [0, 0, 1.0]])
    folder = write_room(tmp_path, frames, K)
    for _ in range(2):
        written = predict_files(Predictor(red()), [folder], tmp_path / "out", format="ply", lens=lens, overwrite=True)
    assert [path.name for path in written] == ["room", "room_preview.mp4"]
    assert sorted(path.name for path in (tmp_path / "out" / "room" / "points").iterdir()) == [
        "0000.ply",
        "0001.ply",
        "0002.ply",
    ]
    for number, frame in enumerate(frames):
        camera = K if lens is None else lens.K(H, W)
        points = coloured_points(frame[..., 0].astype(np.float32), frame, camera)
        write_ply(tmp_path / "expected.ply", *points)
        assert len(points[0]) < H * W  # some red is 0
        written_bytes = (tmp_path / "out" / "room" / "points" / f"{number:04d}.ply").read_bytes()
        header = written_bytes.index(b"end_header\n") + 11
        kind = [("xyz", "<f4", 3), ("rgb", "u1", 3)]
        vertices = np.frombuffer(written_bytes[header:], kind)
        np.testing.assert_allclose(vertices["xyz"], points[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(vertices["rgb"], points[1])


def test_points_without_a_camera_or_a_depth_are_refused(frames, tmp_path):
    folder = write_room(tmp_path, frames, None)
    for format in ("ply", "rerun"):
        with pytest.raises(InputError, match=rf"{format} needs depth, .*claims disparity"):
            predict_files(Predictor(red("disparity")), [folder], tmp_path / "out", format=format)
    with pytest.raises(InputError, match=r"room: the camera is not known; ply needs .*--fov"):
        predict_files(Predictor(red()), [folder], tmp_path / "out", format="ply")
    assert not (tmp_path / "out").exists()


def test_rerun_is_one_recording_for_a_video(frames, tmp_path):
    pytest.importorskip("rerun")
    reader = pytest.importorskip("rerun.chunk")
    folder = write_room(tmp_path, frames, None)
    written = predict_files(Predictor(red()), [folder], tmp_path / "out", format="rerun", lens=Lens(fov_deg=60.0))
    assert written == [tmp_path / "out" / "room.rrd"]
    chunks = [each for each in reader.RrdReader(written[0]).stream() if each.entity_path == "/world/points"]
    assert sum(each.num_rows for each in chunks) == T


def test_a_video_is_read_once_and_its_preview_is_made_of_the_frames_as_they_came(tmp_path):
    """Wider than a preview, so that what is kept has been shrunk."""
    generator = np.random.default_rng(1)
    wide = [cv2.GaussianBlur(generator.integers(0, 256, (40, 400, 3), np.uint8), (0, 0), 3) for _ in range(T)]
    times_read = []

    def frames():
        times_read.append(1)
        return iter(wide)

    source, predictor = Source("room", frames, n_frames=T), Predictor(red())
    cached = cache_depth(predictor, source, tmp_path, keep_side=320, report=lambda *_: None)
    assert [image.shape for image in cached.shrunk()] == [(32, 320, 3)] * T
    kept = list(cached.images(320, DepthView()))
    assert len(times_read) == 1
    again = list(replace(cached, shrunk=None).images(320, DepthView()))
    np.testing.assert_array_equal(kept, again)
    np.testing.assert_array_equal(next(cached.images(None, DepthView()))[:, :400], wide[0])


def test_ranges_that_follow_do_not_cross_a_cut_of_a_network_without_memory(tmp_path):
    shots = np.random.default_rng(0).integers(0, 256, (2, H, W, 3), dtype=np.uint8)
    images = np.stack([shots[0] // 8 + 1] * 8 + [shots[1] // 8 + 200] * 8)
    source = Source("film", lambda: iter(images), len(images), 10.0)
    cached = cache_depth(Predictor(red()), source, tmp_path, find_cuts=True, report=lambda *_: None)
    assert cached.starts == (0, 8)
    ranges = list(cached.ranges(DepthView(look_ahead=5)))
    assert ranges[7][1] < 50
    assert ranges[8][0] > 150


def test_a_picture_of_one_row_is_written_as_mkv(tmp_path):
    cv2.imwrite(str(tmp_path / "row.png"), np.full((1, 40, 3), 9, np.uint8))
    predict_files(Predictor(red()), [tmp_path / "row.png"], tmp_path / "out", format="mkv")
    assert next(read_depth_video(tmp_path / "out" / "row.mkv")).shape == (1, 40)


class WithHole(nn.Module):
    """Depth 3, 4 in a corner, and none at one pixel, whatever is shown."""

    claims = "metric"

    def forward(self, frames, state=None):
        depth = torch.full(frames[:, :, 0].shape, 3.0)
        depth[..., 5, 6], depth[..., 2, 3] = 4.0, torch.nan
        return depth, {}


def test_a_hole_in_the_depth_makes_no_other_in_an_mkv(tmp_path):
    write_png(tmp_path / "room.png", np.zeros((61, 74, 3), np.uint8))
    predictor = Predictor(WithHole(), max_side=7)
    predict_files(predictor, [tmp_path / "room.png"], tmp_path / "out", format="mkv")
    (codes,) = read_depth_video(tmp_path / "out/room.mkv")
    np.testing.assert_array_equal(codes > 0, predictor.predict(tmp_path / "room.png").valid)


def test_what_fails_while_it_is_written_gives_its_preview_up(tmp_path, monkeypatch):
    given_up = []

    def preview(folder, cached, output, is_given_up):
        given_up.append(is_given_up.wait(60))

    def fail(*_):
        raise InputError("the disk is full")

    images = np.zeros((2, H, W, 3), np.uint8)
    source = Source("film", lambda: iter(images), len(images), 10.0)
    cached = cache_depth(Predictor(red()), source, tmp_path, report=lambda *_: None)
    monkeypatch.setattr(writers, "_write_preview", preview)
    monkeypatch.setitem(writers.FORMATS, "npz", fail)
    with pytest.raises(InputError, match="the disk is full"):
        writers.write_outputs(tmp_path, cached, writers.Output("npz"))
    assert given_up == [True]
