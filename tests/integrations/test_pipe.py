"""Raw frames of `stream --pipe`, by a second process, and by FFmpeg's reader of raw video."""

import io
import os
import re
import subprocess
import sys

import av
import numpy as np
import pytest

from steadydepth.files.video_read import read_video
from steadydepth.files.video_write import write_video
from steadydepth.inference.live import LiveResult
from steadydepth.inference.predictor import Predictor
from steadydepth.inference.viewer import pipe_live
from steadydepth.ops.colours import colour_depth, follow_range
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError


@pytest.fixture
def lives(model, moving_clip):
    results = Predictor(model).stream(moving_clip.frames)
    return [LiveResult(result, number, 0, 0.01) for number, result in enumerate(results)]


def test_depth_and_colours_are_written_frame_by_frame(lives):
    pipe = io.BytesIO()
    assert list(pipe_live(lives, pipe, "grayf32le")) == lives
    depth = np.frombuffer(pipe.getvalue(), "<f4").reshape(5, 48, 64)
    np.testing.assert_array_equal(depth, [live.result.depth for live in lives])
    pipe = io.BytesIO()
    assert len(list(pipe_live(lives, pipe, "rgb24"))) == 5
    images = np.frombuffer(pipe.getvalue(), np.uint8).reshape(5, 48, 64, 3)
    shown = follow_range(None, lives[0].result.depth)
    np.testing.assert_array_equal(images[0], colour_depth(lives[0].result.depth, *shown))
    shown = follow_range(shown, lives[1].result.depth)
    np.testing.assert_array_equal(images[1], colour_depth(lives[1].result.depth, *shown))


def test_it_ends_with_its_reader_and_refuses_another_size(lives, model, moving_clip):
    class Closed(io.BytesIO):
        def write(self, data):
            raise BrokenPipeError

    assert list(pipe_live(lives, Closed(), "rgb24")) == []
    small = next(Predictor(model).stream([moving_clip.frames[0][:32, :32].copy()]))
    with pytest.raises(InputError, match="a pipe has one size"):
        list(pipe_live([*lives, LiveResult(small, 5, 0, 0.01)], io.BytesIO(), "rgb24"))
    with pytest.raises(InputError, match="pipe 'yuv': unknown; there are rgb24, grayf32le"):
        list(pipe_live(lives, io.BytesIO(), "yuv"))


def test_another_program_reads_what_the_command_writes(model, moving_clip, tmp_path):
    save_model(model, tmp_path / "model")
    write_video(tmp_path / "film.mp4", list(moving_clip.frames), 15.0)
    done = subprocess.run(
        [sys.executable, "-m", "steadydepth", "stream", "film.mp4", "--model", "model", "--pipe", "rgb24"],
        cwd=tmp_path, capture_output=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    text = done.stderr.decode()
    assert done.returncode == 0, text
    assert re.match(r"64x48 rgb24\r?\nframe \d: ", text)
    options = {"pixel_format": "rgb24", "video_size": "64x48"}
    with av.open(io.BytesIO(done.stdout), format="rawvideo", options=options) as file:
        images = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    # Of a file the newest wins as well, so not every frame need be there; the first one is, or a later one.
    assert 1 <= len(images) <= 5
    first = int(text.splitlines()[1].split()[1].rstrip(":"))
    depth = [result.depth for result in Predictor(model).stream(read_video(tmp_path / "film.mp4"))][first]
    np.testing.assert_array_equal(images[0], colour_depth(depth, *follow_range(None, depth)))
