"""Videos as phones, drones, recorders and converters write them: what players show is what is read."""

import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import films
import numpy as np
import pytest
from films import set_display_matrix, write_turned

from steadydepth.data.checks import check_data
from steadydepth.data.conversion import convert_parts, convert_video
from steadydepth.data.cuts import shots_of
from steadydepth.data.loader import ClipSamples
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.files.dolby_vision import base_layer
from steadydepth.files.video_read import frame_times_s, probe_video, read_video
from steadydepth.files.video_write import write_video

H, W = 48, 64
encode = partial(films.encode, rate=10, pix_fmt="yuv444p")


def remux(source: Path, target: Path, keep) -> Path:
    """The packets of `source` from the first that `keep` takes on, nothing decoded."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream, is_kept = new.add_stream_from_template(old.streams.video[0]), False
        for number, packet in enumerate(old.demux(video=0)):
            is_kept = is_kept or keep(number, packet)
            if packet.size and is_kept:
                packet.stream = stream
                new.mux(packet)
    return target


def moving(n_frames: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (H, W + n_frames, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.stack([texture[:, number : number + W] for number in range(n_frames)])


def corners(n_frames: int = 4) -> np.ndarray:
    """Red at the top left, green at the top right, blue at the bottom left."""
    frames = np.full((n_frames, H, W, 3), 90, np.uint8)
    frames[:, : H // 2, : W // 2], frames[:, : H // 2, W // 2 :] = (220, 30, 30), (30, 220, 30)
    frames[:, H // 2 :, : W // 2] = (30, 30, 220)
    return frames


SHOWN = {
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (1, 0, 0, -1): lambda image: image[::-1],
    (-1, 0, 0, -1): lambda image: image[::-1, ::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: image[::-1, ::-1].swapaxes(0, 1),
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): lambda image: np.rot90(image),
}


@pytest.mark.parametrize("matrix", SHOWN)
def test_all_eight_display_matrices_are_shown(tmp_path, matrix):
    video = encode(tmp_path / "a.mp4", corners())
    stored = next(read_video(video))
    set_display_matrix(video, *matrix)
    shown = next(read_video(video))
    np.testing.assert_array_equal(shown, SHOWN[matrix](stored))
    assert (probe_video(video).height, probe_video(video).width) == shown.shape[:2]


@pytest.mark.parametrize(("ratio", "width"), [(Fraction(4, 3), 85), (Fraction(1, 2), 32), (Fraction(1), 64)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_that_are_not_square_are_shown_in_their_shape(tmp_path, suffix, ratio, width):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = ratio

    video = encode(tmp_path / f"a.{suffix}", corners(), prepare=prepare)
    assert next(read_video(video)).shape == (H, width, 3)
    assert (probe_video(video).height, probe_video(video).width) == (H, width)
    assert open_sequence(video).read(0, 2).frames.shape == (2, H, width, 3)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
def test_a_thumbnail_beside_the_video_is_not_the_video(tmp_path, suffix):
    video = tmp_path / f"a.{suffix}"
    with av.open(str(video), "w") as file:
        small, stream = file.add_stream("mjpeg", rate=10), file.add_stream("libx264", rate=10)
        small.width, small.height, small.pix_fmt = 160, 120, "yuvj420p"
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        black = av.VideoFrame.from_ndarray(np.zeros((120, 160, 3), np.uint8), format="rgb24")
        black.pts = 0
        file.mux(small.encode(black.reformat(format="yuvj420p")))
        for number, image in enumerate(corners(8)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(small.encode())
        file.mux(stream.encode())
    assert [frame.shape for frame in read_video(video)] == [(H, W, 3)] * 8
    assert probe_video(video).n_frames == 8


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_a_recording_that_begins_between_key_frames_has_one_numbering(tmp_path, suffix, b_frames):
    """Frames are those that can be decoded: the same for counting, for reading a part, and for training."""
    source = encode(tmp_path / "source.mp4", moving(40), g="12", bf=b_frames)
    (tmp_path / "data").mkdir()
    video = remux(source, tmp_path / "data" / f"a.{suffix}", lambda number, packet: number >= 5)
    frames = list(read_video(video))
    np.testing.assert_array_equal(frames[0], list(read_video(source))[12])
    assert len(frames) == probe_video(video).n_frames == open_sequence(video).n_frames == 28
    for start in range(0, 26, 3):
        np.testing.assert_array_equal(np.stack(list(read_video(video, start, start + 2))), frames[start : start + 2])
    assert check_data(tmp_path / "data") == []
    samples = ClipSamples(
        tmp_path / "data", length=3, height=32, width=48, motion="none", labels="none",
        seed=0, cached_clips=0,
    )  # fmt: skip
    assert len(samples.clips) == 26
    assert samples.sample(25)["frames"].shape == (3, 32, 48, 3)


def test_messages_of_ffmpeg_that_somebody_asked_pyav_for_do_not_stop_a_reader(tmp_path):
    """Threads that decode would wait for Python to take them, and Python for the threads to end."""
    source = encode(tmp_path / "source.mp4", moving(40), g="12", bf="0")
    video = remux(source, tmp_path / "a.mkv", lambda number, packet: number >= 5)
    script = f"""
import av
from pathlib import Path
from steadydepth.files.video_read import read_video
av.logging.set_level(av.logging.ERROR)  # as torchvision 0.23 does when it is imported
for start in [*range(0, 26, 3)] * 8:
    assert len(list(read_video(Path({str(video)!r}), start, start + 2))) == 2
print("read")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "read\n", done.stderr


def test_an_open_group_whose_beginning_is_cut_away_has_one_numbering(tmp_path):
    """Its first frames, shown before its key frame, cannot be decoded."""
    options = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0:b-adapt=0"}
    source = encode(tmp_path / "source.mkv", moving(40), **options)
    video = remux(source, tmp_path / "a.mkv", lambda number, packet: packet.is_keyframe and packet.pts > 500)
    frames = list(read_video(video))
    assert probe_video(video).n_frames == len(frames)
    for start in range(1, len(frames) - 1, 4):
        np.testing.assert_array_equal(next(read_video(video, start)), frames[start])


@pytest.mark.parametrize("tick", [100, 1000, 90000])
def test_the_rate_is_that_of_the_times_and_not_the_tick_of_the_clock(tmp_path, tick):
    steps_ms = np.random.default_rng(0).integers(30, 37, 60)
    times = (np.cumsum(steps_ms) * tick // 1000).tolist()
    times = [time - times[0] for time in times]
    source = encode(tmp_path / "source.mp4", moving(60), times=times, unit=Fraction(1, tick))
    video = remux(source, tmp_path / "a.mkv", lambda number, packet: True)
    assert probe_video(video).fps == pytest.approx(59 / (times[-1] / tick), rel=2e-3)
    folder = convert_video(video, tmp_path / "out", name="a")
    assert open_sequence(folder).fps == pytest.approx(30, rel=0.05)


def test_a_header_that_agrees_with_the_times_is_taken_to_the_last_digit(tmp_path):
    assert probe_video(encode(tmp_path / "a.mkv", moving(12))).fps == 10


@pytest.fixture
def turned(tmp_path):
    (tmp_path / "data").mkdir()
    return write_turned(tmp_path / "data/a.mkv")


def test_a_size_that_changes_on_the_way_is_named_and_begins_a_shot(tmp_path, turned):
    (fault,) = check_data(turned.parent)
    assert "a.mkv: the size changes between frames 5 and 6" in fault
    assert shots_of(open_sequence(turned)) == [range(6), range(6, 12)]
    with pytest.raises(InputError, match=r"frame 6 is 64 x 48, those before it 48 x 64; .*--split-shots"):
        convert_video(turned, tmp_path / "out", name="a")
    assert list((tmp_path / "out").iterdir()) == []
    made = list(convert_parts(turned, tmp_path / "out", name="a", split_shots=True))
    assert [open_sequence(path).read().frames.shape for path in made] == [(6, 48, 64, 3), (6, 64, 48, 3)]
    assert check_data(tmp_path / "out") == []


def test_both_sizes_are_trained_on(turned):
    samples = ClipSamples(
        turned.parent, length=3, height=32, width=32, motion="none", labels="none",
        seed=0, cached_clips=0, find_cuts=True,
    )  # fmt: skip
    assert [start for _, start in samples.clips] == [0, 1, 2, 3, 6, 7, 8, 9]
    assert all(samples.sample(number)["frames"].shape == (3, 32, 32, 3) for number in range(8))


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_said_once(tmp_path, caplog, transfer, name):
    def prepare(stream):
        stream.codec_context.color_trc = transfer

    video = encode(tmp_path / "a.mkv", corners(), prepare=prepare)
    list(read_video(video))
    list(read_video(video, 1))
    assert caplog.text.count(f"a.mkv: high dynamic range ({name}") == 1
    (fault, *_) = check_data(tmp_path)
    assert "a.mkv: high dynamic range" in fault


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"x264-params": "interlaced=1"}), ("mpeg2video", {"flags": "+ildct+ilme", "top": "1"})],
)
def test_interlaced_fields_are_said_once(tmp_path, caplog, codec, options):
    films.encode(tmp_path / "tape.mkv", corners(), codec=codec, **options)
    frames = list(read_video(tmp_path / "tape.mkv"))
    assert len(list(read_video(tmp_path / "tape.mkv", 1))) == len(frames) - 1
    assert caplog.text.count("tape.mkv: interlaced: moving edges are combs: deinterlace it first") == 1
    assert any("tape.mkv: interlaced" in fault for fault in check_data(tmp_path))


def test_a_progressive_video_is_not_said_to_be_interlaced(tmp_path, caplog):
    list(read_video(encode(tmp_path / "a.mkv", corners())))
    assert caplog.text == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no name has a colon there")
@pytest.mark.parametrize("name", ["10:33.mp4", "a: b/clip.mp4", "file:x.mp4"])
def test_a_colon_in_a_relative_path_is_no_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    write_video(path, iter(corners()), 10.0)
    assert (tmp_path / name).is_file()
    assert probe_video(path).n_frames == 4
    write_video(Path("11:00.mp4"), iter(corners()), 10.0, like=path)
    assert np.abs(next(read_video(Path("11:00.mp4"))).astype(int) - corners()[0]).mean() < 20


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("a.mts", "libx264"), ("a.mpg", "mpeg2video"), ("a.3gp", "mpeg4"), ("a.flv", "flv"), ("a.wmv", "wmv2")),
        ("a.gif", "gif"),
    ],
)
def test_the_containers_of_camcorders_and_old_phones_are_videos(tmp_path, name, codec):
    frames = moving(12)
    pixels = "rgb8" if codec == "gif" else "yuv420p"
    films.encode(tmp_path / name, frames, codec=codec, pix_fmt=pixels, format="mpegts" if name == "a.mts" else None)
    sequence = open_sequence(tmp_path / name)
    assert (sequence.n_frames, round(sequence.fps, 2)) == (12, 25)
    shown = [int(np.abs(frames.astype(int) - image).mean((1, 2, 3)).argmin()) for image in sequence.images()]
    assert shown == list(range(12))
    part = sequence.read_frames(7, 9)
    assert [int(np.abs(frames.astype(int) - image).mean((1, 2, 3)).argmin()) for image in part] == [7, 8]


def test_times_of_fields_are_not_taken_for_those_of_frames(tmp_path):
    """Of an interlaced transport stream two packets may be one frame."""
    films.encode(tmp_path / "a.ts", moving(12))
    films.encode(tmp_path / "fields.ts", moving(12), **{"x264-params": "interlaced=1"})
    assert [len(frame_times_s(tmp_path / name)) for name in ("a.ts", "fields.ts")] == [12, 0]


def test_a_gif_that_is_cut_is_truncated(tmp_path):
    path = films.encode(tmp_path / "a.gif", moving(12), codec="gif", pix_fmt="rgb8")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.gif: truncated"):
        probe_video(path)


def add_dolby_vision(video: Path, target: Path, profile: int, compatibility: int) -> None:
    """The record of Dolby Vision put behind that of the codec, every box around it grown; the pixels stay."""
    record = bytes([1, 0, profile << 1, 13, compatibility << 4]) + bytes(19)
    box = (8 + len(record)).to_bytes(4, "big") + b"dvcC" + record
    data = bytearray(video.read_bytes())
    at = data.index(b"avcC") - 4
    data[(end := at + int.from_bytes(data[at : at + 4], "big")) : end] = box
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        start = data.index(name) - 4
        data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + len(box)).to_bytes(4, "big")
    target.write_bytes(data)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("profile", "compatibility", "said"),
    [
        (5, 0, "Dolby Vision of profile 5, whose colours are none but its own"),
        (8, 1, "high dynamic range (PQ, as Dolby Vision has it)"),
        (8, 4, "high dynamic range (HLG, as Dolby Vision has it)"),
        (8, 2, None),
    ],
)
def test_dolby_vision_is_said_once_where_its_base_layer_is_not_what_is_meant(
    tmp_path, caplog, suffix, profile, compatibility, said
):
    video = tmp_path / f"a{suffix}"
    add_dolby_vision(encode(tmp_path / "plain.mp4", moving(6)), tmp_path / "dolby.mp4", profile, compatibility)
    if suffix == ".mkv":
        remux(tmp_path / "dolby.mp4", video, lambda number, packet: True)
    else:
        (tmp_path / "dolby.mp4").rename(video)
    assert len(list(read_video(video))) == len(list(read_video(video, 1))) + 1 == 6
    assert caplog.text.count("a.m") == (said is not None)
    assert said is None or f"{video}: {said}" in caplog.text
    assert said is None or any(f"{video}: {said}" in fault for fault in check_data(video))


def test_other_bytes_are_no_dolby_vision(tmp_path):
    for name, data in {
        "a": b"",
        "b": b"\0\0\0\x18ftyp" + bytes(99),
        "c": b"\x1aE\xdf\xa3dvcC",
        "d": b"\0" * 40,
    }.items():
        (tmp_path / name).write_bytes(data)
        assert base_layer(tmp_path / name) is None
    assert base_layer(tmp_path / "missing") is None
