"""A folder with one of each fault that data check knows: each is named once, with what to do."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
from films import encode, pan, write_turned
from links import MAY_LINK
from PIL import Image

from steadydepth.data.checks import check_data
from steadydepth.files.video_write import write_video

H, W = 20, 30
moving = partial(pan, n_frames=6, height=48, width=64)
FINE = np.full((H, W), 2000, np.uint16)
META = {"fps": 30, "depth_scale_m": 0.001}
RAMP = np.add.outer(np.arange(H), np.arange(W))


def frame(number: int) -> np.ndarray:
    return (np.dstack([RAMP] * 3) + 4 * number).astype(np.uint8)


def sequence(folder: Path) -> Path:
    """Three frames with every kind of label, and nothing wrong with them."""
    for kind in ("rgb", "depth", "objects", "flow", "valid"):
        (folder / kind).mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps(META), encoding="utf-8")
    flow = np.dstack([np.ones((H, W)), np.full((H, W), 32768), np.full((H, W), 32768)]).astype(np.uint16)
    for number in range(3):
        cv2.imwrite(str(folder / f"rgb/{number:04d}.png"), frame(number))
        cv2.imwrite(str(folder / f"depth/{number:04d}.png"), FINE)
        cv2.imwrite(str(folder / f"objects/{number:04d}.png"), np.zeros((H, W), np.uint8))
        cv2.imwrite(str(folder / f"valid/{number:04d}.png"), np.ones((H, W), np.uint8))
        if number < 2:
            cv2.imwrite(str(folder / f"flow/{number:04d}.png"), flow)
    return folder


def write(file: str, image: np.ndarray):
    return lambda folder: cv2.imwrite(str(folder / file), image)


def meta(**changes):
    return lambda folder: (folder / "meta.json").write_text(json.dumps({**META, **changes}), encoding="utf-8")


def text(content: bytes):
    return lambda folder: (folder / "meta.json").write_bytes(content)


def change(file: str, how):
    return lambda folder: (folder / file).write_bytes(how((folder / file).read_bytes()))


def promise(data: bytes) -> bytes:
    """The PNG with 60000 for its width and its height; its checksum is not looked at first."""
    return data[:16] + (60000).to_bytes(4, "big") * 2 + data[24:]


def cut_jpeg(folder: Path) -> None:
    (folder / "rgb/0001.png").unlink()
    (folder / "rgb/0001.jpg").write_bytes(cv2.imencode(".jpg", frame(1))[1].tobytes()[:-20])


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(folder / "rgb/0001.png") as opened:
        opened.save(folder / "rgb/0001.png", exif=exif)


def linked_to_nothing(folder: Path) -> None:
    (folder / "rgb/0001.png").unlink()
    (folder / "rgb/0001.png").symlink_to("nowhere.png")


def no_frames(folder: Path) -> None:
    for file in (folder / "rgb").iterdir():
        file.unlink()


def frames_alone(folder: Path, images) -> None:
    for kind in ("rgb", "depth", "objects", "flow", "valid"):
        shutil.rmtree(folder / kind)
    (folder / "rgb").mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"rgb/{number:04d}.png"), image)


def cut_within(folder: Path) -> None:
    """Frame 2 cannot be read, and the cut after it keeps its numbers."""
    frames_alone(folder, [*moving(1, n_frames=7), *moving(2)])
    (folder / "rgb/0002.png").write_bytes(b"")


def still_within(folder: Path) -> None:
    frames_alone(folder, [*moving(1), *[moving(1)[5]] * 3])


POSE, BENT = np.eye(4).tolist(), (2 * np.eye(4)).tolist()
CAMERA = [[30, 0, 15], [0, 30, 10], [0, 0, 1]]
# What is done to a sequence of that name; the file that is named; a part of the rule.
FOLDERS = {
    "cut_png": (change("rgb/0001.png", lambda data: data[:-30]), "rgb/0001.png", "truncated PNG"),
    "cut_jpeg": (cut_jpeg, "rgb/0001.jpg", "truncated JPEG"),
    "flipped": (change("depth/0001.png", lambda data: data[:45] + b"x" + data[46:]), "depth/0001.png", "damaged PNG"),
    "nothing": (change("rgb/0001.png", lambda data: b""), "rgb/0001.png", "empty file"),
    "page": (change("rgb/0001.png", lambda data: b"<html>404</html>"), "rgb/0001.png", "no image of a kind"),
    "huge": (change("rgb/0001.png", promise), "rgb/0001.png", "60000 x 60000 pixels"),
    "link": (linked_to_nothing, "rgb/0001.png", "cannot be read (No such file"),
    "rgb16": (write("rgb/0001.png", frame(1).astype(np.uint16) * 257), "rgb/0001.png", "a 16-bit image"),
    "turned": (turned, "rgb/0001.png", "EXIF orientation is 3"),
    "small": (write("rgb/0000.png", frame(0)[:18]), "rgb/0000.png", "18 x 30 in a sequence of 20 x 30"),
    "small_depth": (write("depth/0002.png", FINE[:10, :15]), "depth/0002.png", "10 x 15 in a sequence of 20 x 30"),
    "depth8": (write("depth/0001.png", np.ones((H, W), np.uint8)), "depth/0001.png", "8-bit with 1 channel"),
    "objects16": (write("objects/0001.png", FINE), "objects/0001.png", "16-bit with 1 channel"),
    "valid3": (write("valid/0001.png", frame(1)), "valid/0001.png", "8-bit with 3 channel"),
    "flow1": (write("flow/0001.png", FINE), "flow/0001.png", "three channels"),
    "last_flow": (
        lambda folder: shutil.copy(folder / "flow/0001.png", folder / "flow/0002.png"),
        "flow/0002.png", "no flow to a next one",
    ),
    "no_objects": (lambda folder: (folder / "objects/0001.png").unlink(), "objects/0001.png", "missing"),
    "beyond": (write("depth/0007.png", FINE), "depth/0007.png", "a label without its frame"),
    "gap": (lambda folder: (folder / "rgb/0001.png").unlink(), "rgb", "no file for frame 0001"),
    "no_frames": (no_frames, "rgb", "no frames"),
    "notes": (lambda folder: (folder / "rgb/notes.txt").touch(), "rgb/notes.txt", "only numbered images"),
    "twice": (write("rgb/1.png", frame(1)), "rgb/1.png", "is there twice"),
    "empty_depth": (write("depth/0001.png", 0 * FINE), "depth", "no pixel is measured"),
    "full_depth": (write("depth/0001.png", 0 * FINE + 65535), "depth", "are 65535"),
    "unit": (meta(depth_scale_m=1.0), "depth", "correct depth_scale_m"),
    "cut": (cut_within, "", "a cut between frames 6 and 7"),
    "still": (still_within, "", "frames 5 to 8 are one image"),
    "no_meta": (lambda folder: (folder / "meta.json").unlink(), "meta.json", "missing"),
    "utf16": (text(json.dumps(META).encode("utf-16")), "meta.json", "save it as UTF-8"),
    "no_json": (text(b"{'fps': 30}"), "meta.json", "cannot be read as JSON"),
    "list": (text(b"[]"), "meta.json", "holds list"),
    "no_rate": (text(b'{"FPS": 30, "depth_scale_m": 0.001}'), "meta.json", "every sequence has it: rename FPS"),
    "rate0": (meta(fps=0), "meta.json", "fps 0: Input should be greater than 0"),
    "rate_text": (meta(fps="30"), "meta.json", "fps '30': Input should be a valid number"),
    "no_scale": (text(b'{"fps": 30}'), "meta.json", "depth_scale_m: missing"),
    "scale_name": (text(b'{"fps": 30, "depth_scale": 0.001}'), "meta.json", "did you mean depth_scale_m?"),
    "K2": (meta(K=[[1, 0], [0, 1]]), "meta.json", "a camera matrix is 3x3"),
    "K0": (meta(K=[[0, 0, 15], [0, 30, 10], [0, 0, 1]]), "meta.json", "K: singular"),
    "K_nan": (meta(K=[[float("nan"), 0, 1], [0, 1, 1], [0, 0, 1]]), "meta.json", "NaN"),
    "poses3": (meta(cam_to_world=[[[1, 0, 0]] * 3] * 3), "meta.json", "poses are a list of 4x4"),
    "two_poses": (meta(cam_to_world=[POSE] * 2), "meta.json", "2 poses for 3 frames"),
    "bent": (meta(cam_to_world=[POSE, BENT, BENT]), "meta.json", "[1 to 2]: no rigid"),
    "misspelt": (meta(fixed_camra=True), "meta.json", "did you mean fixed_camera?"),
    "complete": (meta(K=CAMERA, cam_to_world=[POSE] * 3, fixed_camera=True), None, None),
}  # fmt: skip
if not MAY_LINK:
    del FOLDERS["link"]
VIDEOS = {
    "words.mp4": "cannot be read as video",
    "sound.mp4": "no video stream",
    "cut_mp4.mp4": "truncated or damaged at 0.",
    "cut_mkv.mkv": "truncated",
    "pq.mp4": "high dynamic range",
    "fields.mp4": "interlaced",
    "shots.mp4": "a cut between frames 5 and 6",
    "stands.mp4": "frames 5 to 9 are one image",
    "pause.mp4": "0.4 s between frames 2 and 3",
    "sizes.mkv": "the size changes between frames 5 and 6",
}


def write_videos(root: Path) -> None:
    (root / "words.mp4").write_bytes(b"no video")
    for name in ("cut_mp4.mp4", "cut_mkv.mkv"):
        write_video(root / name, moving(1), 25.0)
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) * 2 // 3])
    with av.open(str(root / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence) + stream.encode())
    encode(root / "pq.mp4", moving(1), prepare=lambda stream: setattr(stream.codec_context, "color_trc", 16))
    encode(root / "fields.mp4", moving(1), **{"x264-params": "interlaced=1"})
    encode(root / "shots.mp4", [*moving(1), *moving(2)], bf="0")
    encode(root / "stands.mp4", [*moving(1)[:5], *[moving(1)[5]] * 5], bf="0", qp="0")
    encode(root / "pause.mp4", moving(1), times=[0, 1, 2, 12, 13, 14], bf="0")
    write_turned(root / "sizes.mkv")


def test_one_of_each_fault_is_named_once_each(tmp_path):
    for name, (spoil, _, _) in FOLDERS.items():
        spoil(sequence(tmp_path / name))
    write_videos(tmp_path)
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless/meta.json").write_text(json.dumps(META), encoding="utf-8")
    for name in ("both", "both.mp4"):
        (sequence if name == "both" else lambda path: write_video(path, moving(1), 25.0))(tmp_path / name)
    (tmp_path / "._video.mp4").write_bytes(b"what a desktop leaves")
    expected = {tmp_path / name / where: what for name, (_, where, what) in FOLDERS.items() if where is not None}
    expected |= {tmp_path / name: what for name, what in VIDEOS.items()}
    expected |= {tmp_path / "headless": "meta.json without rgb/", tmp_path / "both.mp4": "two sequences of one name"}
    expected |= {tmp_path / "cut/rgb/0002.png": "empty file"}
    faults = check_data(tmp_path)
    for file, what in expected.items():
        (fault,) = (one for one in faults if one.startswith((f"{file}: ", f"{file} to ")))
        assert what in fault
        assert len(fault.split(":")) > 2 or ";" in fault or "did you mean" in fault  # the rule and the way out
    assert len(faults) == len(expected)


def test_neighbours_with_one_fault_share_a_line(tmp_path):
    folder = sequence(tmp_path / "walk")
    for number in range(3):
        cv2.imwrite(str(folder / f"depth/{number:04d}.png"), FINE[:10, :15])
        (folder / f"objects/{number:04d}.png").write_bytes(b"")
    (folder / "objects/0001.png").unlink()
    faults = [fault.replace(os.sep, "/").partition(";")[0] for fault in check_data(tmp_path)]
    faults = [fault.removeprefix(f"{folder.as_posix()}/") for fault in faults]
    assert faults == [
        "objects/0001.png: missing",
        "depth/0000.png to 0002.png: 10 x 15 in a sequence of 20 x 30",
        "objects/0000.png to 0002.png: empty file",
    ]
