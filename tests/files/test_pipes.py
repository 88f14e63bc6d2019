"""A pipe, a socket or a device in place of a file is refused before it is opened: reading one may never end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.data.sequence_meta import read_meta
from steadydepth.data.shards.read import MEMBERS
from steadydepth.data.shards.write import pack
from steadydepth.errors import InputError
from steadydepth.files.damage import reading
from steadydepth.files.depth_formats import read_numbers
from steadydepth.files.images import read_colour, write_png
from steadydepth.files.stored_depth import open_predictions
from steadydepth.files.video_read import probe_video
from steadydepth.inference.frame_sources import open_source
from steadydepth.training.log import read_log

has_devices = pytest.mark.skipif(sys.platform == "win32", reason="no pipe, socket or device lies among files there")


def replace_by_device(path: Path) -> Path:
    """Not by a pipe: a test that fails by waiting without end says nothing."""
    path.unlink(missing_ok=True)
    path.symlink_to(os.devnull)
    return path


@pytest.fixture
def sequence(tmp_path):
    (tmp_path / "a" / "rgb").mkdir(parents=True)
    (tmp_path / "a" / "meta.json").write_text('{"fps": 30}', encoding="utf-8")
    for number in range(2):
        write_png(tmp_path / "a" / "rgb" / f"{number:04d}.png", np.full((6, 8, 3), 9, np.uint8))
    return tmp_path / "a"


@has_devices
@pytest.mark.parametrize(
    ("read", "suffix"),
    [
        *((read_numbers, suffix) for suffix in (".png", ".npy", ".npz", ".exr", ".h5", ".tif", ".mat", ".pfm")),
        *((read_colour, ".png"), (probe_video, ".mp4"), (read_log, ".jsonl")),
    ],
)
def test_a_device_is_named_with_what_to_do(tmp_path, read, suffix):
    with pytest.raises(InputError, match=rf"a\{suffix}: is a pipe, a socket or a device: remove it, or put a file"):
        read(replace_by_device(tmp_path / f"a{suffix}"))


@has_devices
@pytest.mark.parametrize("name", ["meta.json", "rgb/0000.png"])
def test_a_device_in_a_sequence_is_named(sequence, name):
    path = replace_by_device(sequence / name)
    with pytest.raises(InputError, match=r"is a pipe, a socket or a device") as raised:
        open_sequence(sequence)
    assert str(raised.value).startswith(f"{path}: ")


@has_devices
def test_a_pipe_as_meta_json_is_a_mistake_among_the_others(tmp_path):
    os.mkfifo(tmp_path / "meta.json")
    assert read_meta(tmp_path / "meta.json")[1] == [
        f"{tmp_path / 'meta.json'}: is a pipe, a socket or a device: remove it, or put a file in its place"
    ]


@has_devices
@pytest.mark.parametrize("name", [MEMBERS, "00000.tar"])
def test_a_device_among_shards_is_named(tmp_path, sequence, name):
    pack(sequence.parent, tmp_path / "packed")
    replace_by_device(tmp_path / "packed" / name)
    with pytest.raises(InputError, match=rf"{name}: is a pipe, a socket or a device"):
        open_sequence(tmp_path / "packed" / "a").read_frames(0, 1)


@has_devices
def test_a_device_beside_predicted_images_is_named(tmp_path):
    (tmp_path / "a" / "depth").mkdir(parents=True)
    replace_by_device(tmp_path / "a" / "meta.json")
    with pytest.raises(InputError, match=r"meta\.json: is a pipe, a socket or a device"):
        open_predictions(tmp_path, "a")


@has_devices
def test_a_device_among_images_and_videos_is_no_gap(tmp_path):
    """Passed over it would be a frame that is missing in what is written, or a video that is missing in a mean."""
    write_png(tmp_path / "0.png", np.full((6, 8, 3), 9, np.uint8))
    replace_by_device(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"1\.png: is a pipe, a socket or a device"):
        list(open_source(tmp_path).frames())
    (tmp_path / "videos").mkdir()
    video = replace_by_device(tmp_path / "videos" / "a.mp4")
    assert find_sequences(tmp_path / "videos") == [video]


@has_devices
def test_no_pipe_is_waited_for_by_data_check(sequence):
    """In a process of its own, which is ended where it waits."""
    pipes = [sequence / "meta.json", sequence / "rgb" / "0001.png", sequence / "depth" / "0000.png"]
    pipes += [sequence / "valid" / "0000.png", sequence.parent / "b.mp4", sequence.parent / "c.mkv"]
    for pipe in pipes:
        pipe.parent.mkdir(exist_ok=True)
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
    words = [sys.executable, "-m", "steadydepth", "data", "check", sequence.parent]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1, done.stderr
    for pipe in pipes:
        assert f"{pipe}: is a pipe, a socket or a device: remove it" in done.stdout + done.stderr


def test_files_and_folders_are_read_as_before(tmp_path):
    with reading(tmp_path, "as a folder"):
        pass
    with pytest.raises(InputError, match=r"as text .*null (byte|character)"), reading(tmp_path / "a\0b", "as text"):
        (tmp_path / "a\0b").read_text(encoding="utf-8")
