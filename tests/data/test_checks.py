import json
from functools import partial

import films
import numpy as np
import pytest

from steadydepth.data import checks
from steadydepth.data.checks import check_data
from steadydepth.data.conversion import convert_parts, convert_videos
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.errors import SomeFailedError
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.video_write import write_video
from steadydepth.types import Clip, InputError

pan = partial(films.pan, height=36, width=64)


def write(root, frames, depth_m=2.0, scale_m=0.001):
    depth = np.full(frames.shape[:3], depth_m, np.float32)
    depth[:, 0] = 0
    return write_sequence(
        root, Clip("walk", frames, 25.0, depth=depth), depth_scale_m=scale_m, source=None, licence=None
    )


def test_a_sound_sequence_has_no_fault(tmp_path):
    write(tmp_path, pan(1, 6))
    assert check_data(tmp_path) == []


@pytest.mark.parametrize(("scale_m", "side"), [(1.0, "beyond 2e"), (1e-5, "within 0.02 m")])
def test_depth_in_a_unit_that_cannot_be_is_named(tmp_path, scale_m, side):
    folder = write(tmp_path, pan(1, 3))
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    (folder / "meta.json").write_text(json.dumps(meta | {"depth_scale_m": scale_m}), encoding="utf-8")
    (fault,) = check_data(tmp_path)
    assert side in fault
    assert fault.endswith("correct depth_scale_m of meta.json, the metres of one step")


def test_a_cut_and_frames_that_stand_still_are_named(tmp_path):
    frames = np.concatenate([pan(1, 5), pan(2, 4), np.repeat(pan(3, 9)[8:], 3, axis=0)])
    folder = write(tmp_path, frames)
    assert check_data(tmp_path) == [
        f"{folder}: a cut between frames 4 and 5; a sequence is one shot: begin a new one there (data convert video "
        "--split-shots)",
        f"{folder}: a cut between frames 8 and 9; a sequence is one shot: begin a new one there (data convert video "
        "--split-shots)",
        f"{folder}: frames 9 to 11 are one image; the frames of a video follow one another in time: leave the copies "
        "out",
    ]


def test_each_shot_of_a_video_becomes_a_sequence(tmp_path):
    write_video(tmp_path / "film.mp4", np.concatenate([pan(1, 5), pan(2, 4), pan(3, 6)]), 25.0)
    made = convert_parts(tmp_path / "film.mp4", tmp_path / "out", name="film", start=2, split_shots=True)
    assert [(path.name, open_sequence(path).n_frames) for path in made] == [
        ("film_00002", 3),
        ("film_00005", 4),
        ("film_00009", 6),
    ]
    assert check_data(tmp_path / "out") == []
    assert list(convert_videos(tmp_path, tmp_path / "whole", stop=5, split_shots=True)) == [tmp_path / "whole" / "film"]
    with pytest.raises(InputError, match="no frame from 99 to its end"):
        next(convert_parts(tmp_path / "film.mp4", tmp_path / "none", name="film", start=99, split_shots=True))


def test_videos_of_one_name_are_not_written_over_nor_passed_over(tmp_path):
    for suffix in (".mkv", ".mp4"):
        write_video(tmp_path / f"walk{suffix}", pan(1, 5), 25.0)
    with pytest.raises(SomeFailedError, match=r"walk\.mp4: would be .*walk, as walk\.mkv is: rename one"):
        list(convert_videos(tmp_path, tmp_path / "out"))
    assert json.loads((tmp_path / "out/walk/meta.json").read_text(encoding="utf-8"))["source"] == "walk.mkv"


def test_a_sequence_that_may_not_be_read_costs_the_others_nothing(world, monkeypatch):
    locked, checked = find_sequences(world)[0], checks._check_folder

    def refuse(path):
        if path == locked:
            raise PermissionError(13, "no", str(path))
        return checked(path)

    monkeypatch.setattr(checks, "_check_folder", refuse)
    (fault,) = check_data(world)
    assert fault.startswith(f"{locked}: permission denied: ask its owner for the right to it")
