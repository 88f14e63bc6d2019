import json
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import films
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from steadydepth.data.checks import check_data
from steadydepth.data.conversion import convert_video
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.files import video_read, video_write
from steadydepth.files.video_read import probe_video, read_depth_video, read_video
from steadydepth.files.video_write import write_depth_video, write_video
from steadydepth.types import InputError

T, H, W = 42, 48, 64
# Container and codec, with B-frames and a keyframe now and then where the codec has them.
CODECS = {
    "h264.mp4": ("libx264", {"g": "10", "bf": "2"}),
    "open_gop.mp4": ("libx264", {"g": "10", "bf": "2", "x264-params": "open-gop=1"}),
    "h264.mov": ("libx264", {"g": "10", "movflags": "+faststart"}),
    "h264.mkv": ("libx264", {"g": "10", "bf": "2"}),
    "h264.avi": ("libx264", {"g": "10", "bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"g": "10"}),
    "vp9.webm": ("libvpx-vp9", {"g": "10", "deadline": "realtime"}),
    "mjpeg.mov": ("mjpeg", {}),
}


def bars(n_frames: int = T) -> np.ndarray:
    """Frames that tell their number in six bits: column block k is white where bit k is set."""
    frames = np.full((n_frames, H, W, 3), (60, 90, 40), np.uint8)
    for number in range(n_frames):
        for bit in range(6):
            if number >> bit & 1:
                frames[number, :, 10 * bit : 10 * bit + 10] = 230
    return frames


def numbers_of(frames: list[np.ndarray]) -> list[int]:
    return [sum(int(frame[:, 10 * bit + 5, 2].mean() > 128) << bit for bit in range(6)) for frame in frames]


def encode(path: Path, frames: np.ndarray) -> Path:
    codec, options = CODECS[path.name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return films.encode(path, frames, codec=codec, pix_fmt=pix_fmt, rate=30, **options)


@pytest.fixture(scope="module", params=CODECS)
def video(request, tmp_path_factory) -> Path:
    return encode(tmp_path_factory.mktemp("codecs") / request.param, bars())


@pytest.fixture(scope="module")
def whole(video) -> list[np.ndarray]:
    return list(read_video(video))


def test_every_codec_gives_all_its_frames_in_order(video, whole):
    info = probe_video(video)
    assert (info.fps, info.n_frames, info.height, info.width) == (30.0, T, H, W)
    assert numbers_of(whole) == list(range(T))
    assert whole[0].dtype == np.uint8
    np.testing.assert_allclose(whole[20].mean(axis=(0, 1)), bars()[20].mean(axis=(0, 1)), atol=4)


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (1, 2), (9, 12), (10, 11), (23, 31), (T - 1, None), (T, None)])
def test_part_of_a_video_equals_that_part_of_the_whole(video, whole, start, stop):
    for one, other in zip(read_video(video, start, stop), whole[start:stop], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_late_part_is_found_by_seeking(tmp_path, monkeypatch):
    video = encode(tmp_path / "h264.mp4", bars())
    asked = []
    decoded = video_read._decoded
    monkeypatch.setattr(video_read, "_decoded", lambda path, **sought: asked.append(sought) or decoded(path, **sought))
    assert numbers_of(list(read_video(video, 35, 37))) == [35, 36]
    assert asked[-1]["from_time"] > 0


@pytest.mark.parametrize("n", [1, 12])
def test_frames_cut_off_by_an_edit_list_are_neither_counted_nor_shown(tmp_path, n):
    source, trimmed = encode(tmp_path / "h264.mov", bars()), tmp_path / "trimmed.mp4"
    with av.open(str(source)) as whole, av.open(str(trimmed), "w", options={"avoid_negative_ts": "disabled"}) as file:
        stream = whole.streams.video[0]
        copied = file.add_stream_from_template(stream)
        for packet in whole.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - n * 512, packet.dts - n * 512
                packet.stream = copied
                file.mux(packet)
    assert probe_video(trimmed).n_frames == T - n
    assert numbers_of(list(read_video(trimmed))) == list(range(n, T))
    assert numbers_of(list(read_video(trimmed, 5, 7))) == [n + 5, n + 6]


@pytest.fixture(scope="module", params=["h264.mp4", "h264.mkv", "mpeg4.avi", "vp9.webm", "h264.mov"])
def noisy(request, tmp_path_factory) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (T, H, W, 3), dtype=np.uint8)
    return encode(tmp_path_factory.mktemp("noisy") / request.param, noise)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.8])
def test_truncated_video_is_named(tmp_path, noisy, share):
    data, cut = noisy.read_bytes(), tmp_path / noisy.name
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=f"{cut.name}: .*(copy|encode)"):
        list(read_video(cut))
    (fault,) = check_data(tmp_path)
    assert cut.name in fault


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("hello " * 100, encoding="utf-8")
    with pytest.raises(InputError, match=r"text\.mp4: cannot be read as video"):
        probe_video(tmp_path / "text.mp4")
    with pytest.raises(InputError, match=r"none\.mp4: cannot be read as video \(No such file"):
        next(read_video(tmp_path / "none.mp4"))
    with pytest.raises(InputError, match=r"none\.mp4 does not exist"):
        next(read_video(tmp_path / "none.mp4", 3))
    with av.open(str(tmp_path / "sound.mkv"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    with pytest.raises(InputError, match=r"sound\.mkv: no video stream"):
        probe_video(tmp_path / "sound.mkv")


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 45), (48, 45)])
def test_written_video_plays_in_browsers_and_keeps_its_colours(tmp_path, height, width):
    frames = np.zeros((6, height, width, 3), np.uint8)
    frames[:, :, : width // 2], frames[:, :, width // 2 :] = (200, 40, 90), (30, 180, 60)
    write_video(tmp_path / "out.mp4", iter(frames), 29.97)
    info = probe_video(tmp_path / "out.mp4")
    even = (height + height % 2, width + width % 2)
    assert (info.n_frames, info.height, info.width) == (6, *even)
    assert info.fps == pytest.approx(29.97, abs=1e-3)
    with av.open(str(tmp_path / "out.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        # No player has to guess: in the stream, in each frame, and in the container.
        for told in (stream.codec_context, next(file.decode(stream))):
            assert (told.color_primaries, told.color_trc, told.colorspace) == (
                ColorPrimaries.BT709, ColorTrc.BT709, Colorspace.ITU709,
            )  # fmt: skip
            assert told.color_range == ColorRange.MPEG
    data = (tmp_path / "out.mp4").read_bytes()
    assert b"colrnclx" + bytes((0, 1, 0, 1, 0, 1, 0)) in data
    assert data.index(b"moov") < data.index(b"mdat")
    (last,) = read_video(tmp_path / "out.mp4", 5)
    np.testing.assert_allclose(last[4, 4], (200, 40, 90), atol=3)
    np.testing.assert_allclose(last[-1, -1], (30, 180, 60), atol=3)  # the repeated border
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(("height", "width"), [(24, 40), (23, 41)])
def test_depth_video_is_exact(tmp_path, height, width):
    codes = np.random.default_rng(0).integers(0, 65536, (5, height, width), dtype=np.uint16)
    write_depth_video(tmp_path / "depth.mkv", iter(codes), 12.5)
    np.testing.assert_array_equal(np.stack(list(read_depth_video(tmp_path / "depth.mkv"))), codes)
    assert probe_video(tmp_path / "depth.mkv").fps == 12.5
    encode(tmp_path / "h264.mkv", bars(3))
    with pytest.raises(InputError, match="pixels are yuv420p; depth video is gray16le"):
        next(read_depth_video(tmp_path / "h264.mkv"))


def test_depth_video_of_8k_is_exact(tmp_path):
    codes = np.broadcast_to(np.arange(7680, dtype=np.uint16), (4320, 7680))
    write_depth_video(tmp_path / "depth.mkv", iter([codes]), 25.0)
    (read,) = read_depth_video(tmp_path / "depth.mkv")
    np.testing.assert_array_equal(read, codes)


def test_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    def failing():
        yield from bars(3)
        raise RuntimeError("the network failed")

    write_video(tmp_path / "old.mp4", bars(2), 10.0)
    old = (tmp_path / "old.mp4").read_bytes()
    for name in ("old.mp4", "new.mp4"):
        with pytest.raises(RuntimeError, match="the network failed"):
            write_video(tmp_path / name, failing(), 10.0)
    with pytest.raises(InputError, match="no frame to write"):
        write_video(tmp_path / "new.mp4", iter(()), 10.0)
    with pytest.raises(InputError, match=r"frame 1 is \(48, 62, 3\), the first is \(48, 64, 3\)"):
        write_video(tmp_path / "new.mp4", [bars(1)[0], bars(1)[0, :, :62]], 10.0)
    assert [file.name for file in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == old


def test_converted_video_is_a_sequence_of_its_frames(tmp_path):
    video = encode(tmp_path / "h264.mp4", bars())
    folder = convert_video(video, tmp_path / "data", name="walk", start=4, stop=8)
    sequence = open_sequence(folder)
    assert (sequence.n_frames, sequence.fps, sequence.source) == (4, 30.0, "h264.mp4")
    np.testing.assert_array_equal(sequence.read().frames, np.stack(list(read_video(video))[4:8]))
    assert check_data(tmp_path / "data") == []
    assert set(json.loads((folder / "meta.json").read_text(encoding="utf-8"))) == {"fps", "source"}


@pytest.mark.parametrize(
    ("max_side", "size"), [(32, (24, 32)), (50, (38, 50)), (33, (25, 33)), (64, (48, 64)), (999, (48, 64))]
)
def test_converted_frames_are_shrunk_by_area_in_their_shape(tmp_path, max_side, size):
    video = encode(tmp_path / "h264.mp4", bars(2))
    folder = convert_video(video, tmp_path / "data", name="small", max_side=max_side)
    read = open_sequence(folder).read().frames
    assert read.shape == (2, *size, 3)
    if size == (24, 32):
        blocks = np.stack(list(read_video(video))).reshape(2, 24, 2, 32, 2, 3).mean(axis=(2, 4))
        np.testing.assert_allclose(read, blocks, atol=0.51)


def test_converted_frames_of_odd_size_are_kept_as_they_are(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 37, 51, 3), dtype=np.uint8)
    video = films.encode(tmp_path / "odd.mkv", frames, codec="ffv1", pix_fmt="bgr0")
    read = open_sequence(convert_video(video, tmp_path / "data", name="odd")).read().frames
    np.testing.assert_array_equal(read, frames)
    small = open_sequence(convert_video(video, tmp_path / "data", name="small", max_side=35)).read().frames
    assert small.shape == (2, 25, 35, 3)


def test_conversion_refuses_and_leaves_nothing(tmp_path):
    video = encode(tmp_path / "h264.mp4", bars(4))
    root = tmp_path / "data"
    with pytest.raises(InputError, match=r"no frame from 9 to its end; it has 4"):
        convert_video(video, root, name="late", start=9)
    with pytest.raises(InputError, match="is no name for something inside"):
        convert_video(video, root, name="../out")
    with pytest.raises(InputError, match="give start >= 0, side >= 2"):
        convert_video(video, root, name="a", max_side=1)
    convert_video(video, root, name="a")
    with pytest.raises(InputError, match="exists and is never overwritten"):
        convert_video(video, root, name="a")
    (tmp_path / "text.mp4").write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as video"):
        convert_video(tmp_path / "text.mp4", root, name="b")
    assert [folder.name for folder in root.iterdir()] == ["a"]


def test_conversion_holds_one_frame_and_not_the_video(tmp_path):
    large = np.zeros((480, 640, 3), np.uint8)
    write_video(
        tmp_path / "long.mp4",
        (np.roll(cv2.putText(large, "x", (99, 99), 0, 3, (9, 99, 200)), 3 * i, 1) for i in range(60)),
        30.0,
    )
    tracemalloc.start()
    try:
        convert_video(tmp_path / "long.mp4", tmp_path / "data", name="long")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * large.nbytes  # 60 frames would be 60


def with_sound(path: Path, times_ms: list[int], *, codec: str = "aac", begin_s: float = 0) -> Path:
    """Frames shown at `times_ms`, and a second of a tone."""
    with av.open(str(path), "w", container_options={"output_ts_offset": str(begin_s)}) as file:
        video = file.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = W, H, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = file.add_stream(codec, rate=16000)
        audio.codec_context.layout = "mono"
        for image, time in zip(bars(len(times_ms)), times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode())
        tone = (8000 * np.sin(np.arange(16000) / 5)).astype(np.float32)[None] / 32768
        kind = audio.codec_context.format.name
        samples = tone if kind == "fltp" else (tone * 32767).astype({"s32p": np.int32}.get(kind, np.int16))
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        file.mux(audio.encode(frame))
        file.mux(audio.encode())
    return path


def heard(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def shown_at_ms(path: Path) -> list[int]:
    with av.open(str(path)) as file:
        return [round(1000 * frame.time) for frame in file.decode(video=0)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_frames_keep_their_times_and_the_video_its_sound(tmp_path, name):
    times = [0, 40, 55, 190, 200, 610, 650]
    source, written = with_sound(tmp_path / name, times), tmp_path / "written.mp4"
    frames = list(read_video(source))
    write_video(written, frames, probe_video(source).fps, like=source)
    assert shown_at_ms(written) == shown_at_ms(source) == times
    assert heard(written) == heard(source) != []
    assert numbers_of(list(read_video(written))) == list(range(7))
    assert probe_video(written).n_frames == 7


def test_frames_of_depth_keep_their_times(tmp_path):
    times = [0, 40, 55, 190, 200, 610, 650]
    source = with_sound(tmp_path / "clip.mp4", times)
    codes = np.arange(7 * H * W, dtype=np.uint16).reshape(7, H, W)
    write_depth_video(tmp_path / "depth.mkv", codes, probe_video(source).fps, like=source)
    assert shown_at_ms(tmp_path / "depth.mkv") == times
    np.testing.assert_array_equal(list(read_depth_video(tmp_path / "depth.mkv")), codes)
    with av.open(str(tmp_path / "depth.mkv")) as file:
        assert not file.streams.audio


def test_frames_of_a_gif_keep_their_delays(tmp_path):
    images = [Image.fromarray(np.full((H, W), 12 * number, np.uint8)) for number in range(6)]
    delays = [40, 40, 500, 40, 1000, 100]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=delays)
    source = tmp_path / "a.gif"
    write_video(tmp_path / "written.mp4", read_video(source), probe_video(source).fps, like=source)
    assert shown_at_ms(tmp_path / "written.mp4") == shown_at_ms(source) == [0, 40, 80, 580, 620, 1620]
    np.testing.assert_array_equal(list(read_video(source, 4, 6)), list(read_video(source))[4:6])


def test_frames_beyond_the_known_times_follow_one_by_one():
    assert [video_write._time_of(number, np.array([3, 9]), 5) for number in range(4)] == [3, 9, 14, 19]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_sound_of_mp3_is_copied(tmp_path, suffix):
    """Its decoder has another name than the format."""
    source = with_sound(tmp_path / f"clip.{suffix}", [0, 40, 80], codec="libmp3lame")
    write_video(tmp_path / "written.mp4", read_video(source), 25.0, like=source)
    assert heard(tmp_path / "written.mp4") == heard(source) != []


@pytest.mark.parametrize("suffix", ["ts", "flv"])
def test_sound_stays_with_frames_that_begin_at_any_time_and_come_at_changing_rate(tmp_path, suffix):
    """As transport streams do, of which the frames are written from 0 on."""

    def begins(path: Path, kind: str) -> float:
        with av.open(str(path)) as file:
            return min(float(packet.pts * packet.time_base) for packet in file.demux(**{kind: 0}) if packet.size)

    times = [0, 40, 80, 380, 420]
    source = with_sound(tmp_path / f"clip.{suffix}", times, begin_s=3600 if suffix == "ts" else 0)
    written = tmp_path / "written.mp4"
    write_video(written, read_video(source), 25.0, like=source)
    assert len(heard(written)) == len(heard(source)) > 10
    assert begins(source, "video") > (3599 if suffix == "ts" else 0.05)
    assert shown_at_ms(written) == times
    assert begins(written, "video") == 0
    assert begins(written, "audio") == pytest.approx(begins(source, "audio") - begins(source, "video"), abs=1e-3)


def test_sound_of_no_known_kind_is_left_out_and_said(tmp_path, caplog):
    source = with_sound(tmp_path / "clip.mkv", [0, 40, 80])
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_XXX"))
    write_video(tmp_path / "written.mp4", read_video(source), 25.0, like=source)
    with av.open(str(tmp_path / "written.mp4")) as file:
        assert not file.streams.audio
    assert "of an unknown kind, does not fit in MP4" in caplog.text


def test_what_is_too_wide_for_h264_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match="16388 x 2 is more than H"):
        write_video(tmp_path / "wide.mp4", [np.zeros((2, 16388, 3), np.uint8)], 25.0)
    assert not list(tmp_path.iterdir())


def test_sound_that_mp4_cannot_hold_is_left_out_and_said(tmp_path, caplog):
    source = with_sound(tmp_path / "clip.mkv", [0, 40, 80], codec="pcm_s16le")
    write_video(tmp_path / "written.mp4", read_video(source), 25.0, like=source)
    with av.open(str(tmp_path / "written.mp4")) as file:
        assert not file.streams.audio
    assert "its sound, pcm_s16le, does not fit in MP4" in caplog.text


def test_frames_beyond_what_a_player_usually_meets_are_read(tmp_path):
    """10 bits, grey, one frame, an odd size: each as 8-bit RGB of its size."""
    for kind, size in (("yuv420p10le", (W, H)), ("gray", (W, H)), ("yuv444p", (W + 1, H - 1))):
        path = tmp_path / f"{kind}.mkv"
        films.encode(path, np.full((1, size[1], size[0], 3), 130, np.uint8), codec="ffv1", pix_fmt=kind)
        (frame,) = read_video(path)
        assert (frame.shape, frame.dtype) == ((size[1], size[0], 3), np.uint8)
        np.testing.assert_allclose(frame, 130, atol=3)
