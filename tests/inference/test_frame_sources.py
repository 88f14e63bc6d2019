"""What people really have: patterns, cameras, addresses, and files that are odd, cut or empty."""

import http.server
import socket
import sys
import threading
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from films import encode, set_display_matrix
from known_depth import Red
from PIL import Image
from torch import Tensor

from steadydepth.data.checks import check_data
from steadydepth.data.conversion import convert_videos
from steadydepth.errors import SomeFailedError
from steadydepth.files import video_read
from steadydepth.files.listing import in_order
from steadydepth.files.predictions import find_predictions
from steadydepth.files.stored_depth import read_predictions
from steadydepth.files.video_read import probe_video, read_video
from steadydepth.files.video_write import write_video
from steadydepth.inference import frame_sources
from steadydepth.inference.frame_sources import expand_input, open_source
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor
from steadydepth.types import InputError, State

T, H, W = 4, 24, 40


def images(n_frames: int = T, height: int = H, width: int = W) -> np.ndarray:
    """Red rises to the right and from frame to frame: which is which shows, and H.264 keeps it."""
    red = np.linspace(30, 150, width)[None, :] + 9 * np.arange(n_frames)[:, None]
    video = np.full((n_frames, height, width, 3), 90, np.uint8)
    video[..., 0] = red[:, None, :].astype(np.uint8)
    return video


def make_odd(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """Each video with the images that a player would show."""
    plain, grey = images(), np.repeat(images()[..., :1], 3, axis=-1)
    large, one = images(1, 2160, 3840), images(1, 23, 39)
    return {
        "ten_bits": (encode(folder / "ten_bits.mkv", plain, pix_fmt="yuv444p10le"), plain),
        "grey": (encode(folder / "grey.mkv", grey, codec="ffv1", pix_fmt="gray"), grey),
        "turned": (
            set_display_matrix(encode(folder / "turned.mp4", plain, pix_fmt="yuv444p"), 0, 1, -1, 0),
            np.rot90(plain, -1, (1, 2)),
        ),
        "uneven": (
            encode(folder / "uneven.mkv", plain, pix_fmt="yuv444p", times=(0, 3, 40, 44), unit=Fraction(1, 100)),
            plain,
        ),
        "one_odd": (encode(folder / "one_odd.mov", one, pix_fmt="yuv444p"), one),
        "uhd": (encode(folder / "uhd.mp4", large, codec="mpeg4"), large),
    }


def test_odd_videos_give_the_depth_of_what_a_player_shows(tmp_path):
    odd = make_odd(tmp_path)
    predict_files(Predictor(Red()), [path for path, _ in odd.values()], tmp_path / "out")
    assert find_predictions(tmp_path / "out") == sorted(odd)
    for name, (_, shown) in odd.items():
        depth, _ = read_predictions(tmp_path / "out", name)
        assert depth.shape == shown.shape[:3], name
        assert np.abs(depth - shown[..., 0] - 1.0).mean() < 4, name


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".png", ".jpg"])
def test_cut_and_empty_files_are_named_and_the_others_written(tmp_path, suffix):
    good = tmp_path / f"good{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (T, H, W, 3), dtype=np.uint8)
    if suffix in (".png", ".jpg"):
        assert cv2.imwrite(str(good), noise[0])
    else:
        encode(good, noise, codec="mpeg4" if suffix == ".avi" else "libx264")
    data = good.read_bytes()
    broken = {"empty": b"", "words": b"hello " * 50, "cut_early": data[: len(data) // 9], "cut": data[: len(data) // 2]}
    for name, content in broken.items():
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    with pytest.raises(SomeFailedError) as error:
        predict_files(Predictor(Red()), [str(tmp_path / f"*{suffix}")], tmp_path / "out")
    head, *lines = str(error.value).splitlines()
    assert head == "4 input(s) failed, 1 written:"
    for name, line in zip(sorted(broken), sorted(lines), strict=True):
        assert str(tmp_path / f"{name}{suffix}:") in line
    assert error.value.written[0] == tmp_path / "out" / "good.npz"
    assert find_predictions(tmp_path / "out") == ["good"]
    assert not list((tmp_path / "out").glob(".*"))


def test_when_nothing_could_be_read_nothing_is_said_to_be_written(tmp_path):
    with pytest.raises(InputError, match="2 input") as error:
        predict_files(Predictor(Red()), [tmp_path / "a.mp4", tmp_path / "b.png"], tmp_path / "out")
    assert not isinstance(error.value, SomeFailedError)


def test_what_an_input_stands_for(tmp_path, monkeypatch):
    names = ["shot_10.png", "shot_2.png", ".shot_3.png", "deep/down/shot_1.png", "7"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "image.png"), images(1)[0])
        (tmp_path / "image.png").rename(tmp_path / name)
    assert expand_input(str(tmp_path / "shot_*.png")) == [tmp_path / "shot_2.png", tmp_path / "shot_10.png"]
    assert expand_input(tmp_path / "**" / "shot_1*.png") == [
        tmp_path / "deep" / "down" / "shot_1.png",
        tmp_path / "shot_10.png",
    ]
    monkeypatch.chdir(tmp_path)
    assert expand_input("shot_[2]?png") == [Path("shot_2.png")]
    assert expand_input("7") == [Path("7")]  # what is there comes first
    assert expand_input("8") == [8]
    assert expand_input("rtsp://10.0.0.7/live?a=*") == ["rtsp://10.0.0.7/live?a=*"]
    assert expand_input("gone.mp4") == [Path("gone.mp4")]
    with pytest.raises(InputError, match=r"\*\.mp4 matches nothing"):
        expand_input("*.mp4")
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(InputError, match="an input is ndarray; give paths"):
        expand_input(images(1)[0])


def test_an_address_gives_its_name_without_the_password():
    assert open_source("rtsp://me:secret@10.0.0.7:554/live/1").name == "10_0_0_7_live_1"
    assert open_source("http://example.org/a%20b/film.mp4?token=secret").name == "example_org_a_20b_film_mp4"


class Camera:
    """Stands in for OpenCV's: `n_frames` images, then it says no more."""

    def __init__(self, n_frames: int) -> None:
        self._left = iter(images(n_frames))

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        image = next(self._left, None)
        return image is not None, None if image is None else image[..., ::-1]

    def release(self) -> None:
        pass


@pytest.mark.parametrize("format", ["npz", "mp4"])
def test_a_camera_is_recorded_with_its_frames(tmp_path, monkeypatch, format):
    monkeypatch.setattr(frame_sources.cv2, "VideoCapture", lambda index: Camera(T))
    written = predict_files(Predictor(Red()), ["0"], tmp_path / "out", format=format)
    assert written[0].name == f"camera_0.{format}"
    shown = np.stack(list(read_video(written[-1])))  # the recording itself, or its preview: the frame is on the left
    assert shown.shape == (T, H, 2 * W, 3)
    assert np.abs(shown[:, :, :W].astype(int) - images()).mean() < 4
    if format == "npz":
        np.testing.assert_allclose(read_predictions(tmp_path / "out", "camera_0")[0], images()[..., 0] + 1.0, rtol=1e-5)


def test_a_camera_ends_after_its_time_or_when_interrupted(tmp_path, monkeypatch):
    class Interrupted(Red):
        def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            if frames[0, -1, 0, 0, 0] * 255 > 30 + 9 * 2.5:  # the fourth image
                raise KeyboardInterrupt
            return super().forward(frames)

    monkeypatch.setattr(frame_sources.cv2, "VideoCapture", lambda index: Camera(9))
    predict_files(Predictor(Red()), ["0"], tmp_path / "timed", seconds=0.0)
    predict_files(Predictor(Interrupted()), ["0"], tmp_path / "interrupted")
    for out, n_frames in (("timed", 1), ("interrupted", 3)):
        depth, _ = read_predictions(tmp_path / out, "camera_0")
        np.testing.assert_allclose(depth, images(n_frames)[..., 0] + 1.0, rtol=1e-5)
    write_video(tmp_path / "film.mp4", images(9), 10.0)
    with pytest.raises(KeyboardInterrupt):  # of a file it means: stop, and leave nothing half done
        predict_files(Predictor(Interrupted()), [tmp_path / "film.mp4"], tmp_path / "film")
    assert list((tmp_path / "film").iterdir()) == []


def test_a_camera_that_falls_silent_is_recorded_to_the_end_of_its_time(tmp_path, monkeypatch):
    silent = threading.Event()

    class Silent(Camera):
        def read(self) -> tuple[bool, np.ndarray | None]:
            is_there, image = super().read()
            return (is_there, image) if is_there else (silent.wait(), None)

    monkeypatch.setattr(frame_sources.cv2, "VideoCapture", lambda index: Silent(2))
    predict_files(Predictor(Red()), ["0"], tmp_path / "out", seconds=0.3)
    silent.set()
    np.testing.assert_allclose(read_predictions(tmp_path / "out", "camera_0")[0], images(2)[..., 0] + 1.0, rtol=1e-5)


@pytest.fixture
def address(tmp_path):
    """Where the files of tmp_path / "www" are served."""
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_address_gives_what_its_file_gives(tmp_path, address):
    write_video(tmp_path / "www" / "film.mp4", images(), 12.5)
    with pytest.raises(
        SomeFailedError, match=r"gone\.mp4: cannot be read as video \(.*\): check the address, and that it sends"
    ):
        predict_files(Predictor(Red()), [f"{address}/gone.mp4", f"{address}/film.mp4"], tmp_path / "out", format="mp4")
    written = tmp_path / "out" / "127_0_0_1_film_mp4.mp4"
    info = probe_video(written)
    assert (info.fps, info.n_frames, info.height, info.width) == (12.5, T, H, 2 * W)
    predict_files(Predictor(Red()), [f"{address}/film.mp4"], tmp_path / "by_url")
    predict_files(Predictor(Red()), [tmp_path / "www" / "film.mp4"], tmp_path / "by_path")
    np.testing.assert_array_equal(
        read_predictions(tmp_path / "by_url", "127_0_0_1_film_mp4")[0],
        read_predictions(tmp_path / "by_path", "film")[0],
    )


def test_what_breaks_off_keeps_what_came_before(tmp_path, address, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (20, H, W, 3), dtype=np.uint8)
    whole = encode(tmp_path / "film.mkv", noise).read_bytes()
    (tmp_path / "www" / "film.mkv").write_bytes(whole[: len(whole) // 2])
    predict_files(Predictor(Red()), [f"{address}/film.mkv"], tmp_path / "out")
    depth, _ = read_predictions(tmp_path / "out", "127_0_0_1_film_mkv")
    assert 0 < len(depth) < 20
    assert "which are kept" in caplog.text


def test_a_server_that_says_nothing_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(video_read, "_PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/film.mp4"
        with pytest.raises(InputError, match=r"film\.mp4: no answer for 0\.3 s"):
            predict_files(Predictor(Red()), [address], tmp_path / "out")


def test_images_named_by_times_come_in_the_order_of_time(tmp_path):
    """As Python prints floats, without zeros at the end: .1 is .10, after .09 and before .11."""
    times = ["1548339800.04543", "1548339800.07792", "1548339800.1", "1548339800.1438", "1548339800.21", "1548339801"]
    for prefix, suffix in (("", ""), ("cam-2_", "_left"), ("t=", "s")):
        folder = tmp_path / f"times{prefix}"
        folder.mkdir()
        names = [f"{prefix}{time}{suffix}.png" for time in times]
        for name in reversed(names):
            (folder / name).touch()
        assert [path.name for path in in_order(folder.iterdir())] == names


@pytest.mark.parametrize(
    "names",
    [
        ["frame_2", "frame_10", "frame_100"],
        ["1.1", "1.2", "1.10x"],  # no decimal number alone: versions
        ["a1_b2", "a1_b10", "a2_b1"],
        ["9.5", "10.25", "100.125"],
        ["1699999999999999999", "1700000000000000000"],  # nanoseconds
        ["alphabet", "bird", "mountain_2", "mountain_10", "zoo"],  # by letters, not by lengths
        ["only"],
    ],
)
def test_names_are_sorted_as_a_person_counts(names):
    assert [path.stem for path in in_order(Path(f"{name}.jpg") for name in reversed(names))] == names


@pytest.mark.parametrize(
    ("names", "gaps"),
    [
        (("0001", "0002", "0005", "0006", "0007", "0009"), "0002 and 0005, 0007 and 0009"),
        (("a_10", "a_20", "a_30", "a_50"), "a_30 and a_50"),
        (("0001", "0002", "0003"), None),
        (("10", "20", "30"), None),  # every tenth frame
        (("1305031102175304", "1305031102211214", "1305031102275326"), None),  # times
        (("1_left", "2_left", "9_left"), None),
        (("1", "7"), None),  # two have one distance
    ],
)
def test_numbers_that_are_missing_in_a_folder_are_named(tmp_path, caplog, names, gaps):
    for name in names:
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), images(1)[0])
    assert len(list(open_source(tmp_path).frames())) == len(names)
    said = [record.message for record in caplog.records if "no image between" in record.message]
    assert said == ([f"{tmp_path}: no image between {gaps}; they are taken for neighbours"] if gaps else [])


def test_images_of_other_kinds_than_png_are_frames_and_what_is_not_read_is_named(tmp_path, caplog):
    for number in range(6):
        image = Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8))
        image.save(tmp_path / f"{number}.{('png', 'webp', 'bmp', 'tif')[number % 4]}")
    (tmp_path / "6.gif").touch()
    (tmp_path / "notes.txt").touch()
    frames = list(open_source(tmp_path).frames())
    assert [int(frame.mean()) for frame in frames] == [0, 40, 80, 120, 160, 200]
    assert "1 files, 6.gif" in caplog.text
    assert "notes" not in caplog.text


def test_a_burst_of_photos_of_several_sizes_is_no_video_and_each_is_an_image(tmp_path, caplog):
    burst = tmp_path / "DCIM"
    burst.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, (size, turned) in enumerate(
        [((20, 30), False), ((30, 20), False), ((20, 30), True), ((24, 36), False)]
    ):
        image = Image.fromarray(np.full((*size, 3), 40 * number, np.uint8))
        image.save(burst / f"DSC_{number:04d}.JPG", **({"exif": exif} if turned else {}))
    (burst / "DSC_0000.NEF").write_bytes(b"II*\0")
    with pytest.raises(InputError, match=r"frame 1: 30 x 20, and those before it 20 x 30; .*one by one \(FOLDER/"):
        predict_files(Predictor(Red()), [burst], tmp_path / "out")
    assert "1 files, DSC_0000.NEF" in caplog.text
    assert list((tmp_path / "out").iterdir()) == []
    predict_files(Predictor(Red()), [str(burst / "*.JPG")], tmp_path / "out")
    shapes = [read_predictions(tmp_path / "out", f"DSC_{number:04d}")[0].shape[1:] for number in range(4)]
    assert shapes == [(20, 30), (30, 20), (30, 20), (24, 36)]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there that few users have")
def test_links_that_lead_nowhere_are_named_and_cost_the_others_nothing(tmp_path):
    (tmp_path / "data").mkdir()
    write_video(tmp_path / "data/a.mp4", np.zeros((2, H, W, 3), np.uint8), 10.0)
    (tmp_path / "data/dead.mp4").symlink_to("../cache/7f3a")
    with pytest.raises(SomeFailedError, match=r"dead\.mp4: a link to \.\./cache/7f3a, which is not there: fetch"):
        predict_files(Predictor(Red()), [tmp_path / "data"], tmp_path / "out")
    assert (tmp_path / "out/a.npz").exists()
    with pytest.raises(SomeFailedError, match="which is not there"):
        list(convert_videos(tmp_path / "data", tmp_path / "converted"))
    assert [fault for fault in check_data(tmp_path / "data") if "which is not there" in fault and "dead.mp4" in fault]
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames/0.png"), np.zeros((H, W, 3), np.uint8))
    (tmp_path / "frames/1.png").symlink_to("nowhere.png")
    with pytest.raises(InputError, match=r"1\.png: cannot be read"):
        predict_files(Predictor(Red()), [tmp_path / "frames"], tmp_path / "out")


def test_a_video_between_images_is_named(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((H, W, 3), np.uint8))
    write_video(tmp_path / "b.mp4", np.zeros((2, H, W, 3), np.uint8), 10.0)
    assert open_source(tmp_path).n_frames == 1
    assert "1 files, b.mp4" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ["IMG_1.JPG", "img_2.jpg", "IMG_3.JPG", "img_10.jpg"],
        ["1_Color_1554.2.png", "1_Color_1554.9.png", "1_Color_1554.10.png"],
        ["1305031102.175304.png", "1305031102.211210.png", "1305031103.100000.png"],
        ["9.5.png", "10.25.png", "10.3.png"],
        ["9.50.png", "10.25.png", "10.30.png"],
        ["f-1.png", "f-2.png", "f-10.png"],
        ["0a.png", "0b.png", "10.png"],
    ],
)
def test_frames_come_in_the_order_that_their_names_mean(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    assert [Path(name).stem for name in names] == list(open_source(tmp_path).names)


def yuyv(grey: np.ndarray) -> np.ndarray:
    """Grey as the two bytes a pixel of YUYV: luma in studio range, chroma in the middle."""
    return np.dstack([np.rint(16 + grey * (219 / 255)), np.full(grey.shape, 128.0)]).astype(np.uint8)


@pytest.mark.parametrize(
    "convert",
    [
        lambda grey: grey,
        lambda grey: grey[..., None],
        yuyv,
        lambda grey: np.dstack([grey] * 3),
        lambda grey: np.dstack([grey] * 3 + [np.full_like(grey, 255)]),
    ],
    ids=["grey", "one channel", "yuyv", "bgr", "bgra"],
)
def test_what_a_camera_sends_becomes_rgb(monkeypatch, convert):
    grey = np.add.outer(np.arange(24), 5 * np.arange(40)).astype(np.uint8)
    camera = Camera(0)
    camera.read = lambda: (True, convert(grey))
    monkeypatch.setattr(frame_sources.cv2, "VideoCapture", lambda index: camera)
    frame = next(open_source(0).frames())
    assert np.abs(frame.astype(int) - grey[..., None]).max() <= 2


@pytest.mark.parametrize("image", [np.zeros((24, 40), np.uint16), np.zeros((1, 3000), np.uint8)], ids=["y16", "bytes"])
def test_what_a_camera_sends_and_is_no_image_is_refused(monkeypatch, image):
    camera = Camera(0)
    camera.read = lambda: (True, image)
    monkeypatch.setattr(frame_sources.cv2, "VideoCapture", lambda index: camera)
    with pytest.raises(InputError, match=r"camera 0 gives uint\d+ .*: set it to another format"):
        next(open_source(0).frames())
