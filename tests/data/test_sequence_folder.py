import dataclasses
import json
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadydepth.data.checks import check_data
from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.files.video_write import write_video
from steadydepth.types import Clip, InputError

T, H, W = 5, 24, 40
SCALE_M = 0.002


@pytest.fixture
def clip() -> Clip:
    random = np.random.default_rng(3)
    depth = (random.integers(0, 65536, (T, H, W)) * SCALE_M).astype(np.float32)
    flow_valid = random.random((T - 1, H, W)) > 0.1
    flow = (random.integers(-32768, 32768, (T - 1, H, W, 2)) / 64).astype(np.float32)
    poses = np.tile(np.eye(4), (T, 1, 1))
    poses[:, :3, 3] = random.normal(size=(T, 3))
    return Clip(
        name="kitchen_01",
        frames=random.integers(0, 256, (T, H, W, 3), dtype=np.uint8),
        fps=29.97,
        depth=depth,
        valid=(depth > 0) & (random.random((T, H, W)) > 0.3),
        objects=random.integers(0, 4, (T, H, W), dtype=np.uint8),
        flow=np.where(flow_valid[..., None], flow, np.float32(0)),
        flow_valid=flow_valid,
        K=np.array([[31.5, 0, 19.5], [0, 31.5, 11.5], [0, 0, 1]]),
        cam_to_world=poses,
        fixed_camera=False,
    )


@pytest.fixture
def folder(tmp_path, clip) -> Path:
    return write_sequence(tmp_path / "data", clip, depth_scale_m=SCALE_M, source="made", licence="CC0-1.0")


def change_meta(folder: Path, **changes: object) -> None:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta.update(changes)
    kept = {key: value for key, value in meta.items() if value is not ...}
    (folder / "meta.json").write_text(json.dumps(kept), encoding="utf-8")


def unfiltered_png(path: Path) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Width, height, bits, colour type, and the raw samples of a PNG: a second, slow reader of the format."""
    data, at, packed = path.read_bytes(), 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, bits, colour = struct.unpack(">IIBB", body[:10])
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    channels = {0: 1, 2: 3}[colour]
    step, raw = channels * bits // 8, zlib.decompress(packed)
    rows = np.zeros((height + 1, width * step + step), np.uint8)
    for row in range(height):
        line = raw[row * (width * step + 1) : (row + 1) * (width * step + 1)]
        for column in range(width * step):
            left, up, corner = rows[row + 1, column], rows[row, column + step], rows[row, column]
            guess = [0, left, up, (int(left) + int(up)) // 2, _paeth(int(left), int(up), int(corner))][line[0]]
            rows[row + 1, column + step] = (line[column + 1] + int(guess)) % 256
    samples = rows[1:, step:].copy().view(">u2" if bits == 16 else "u1").reshape(height, width, channels)
    return (width, height, bits, colour), samples.astype(np.int64)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]


def test_written_clip_is_read_back_exactly(clip, folder):
    sequence = open_sequence(folder)
    again = sequence.read()
    for each in dataclasses.fields(Clip):
        wrote, read = getattr(clip, each.name), getattr(again, each.name)
        if isinstance(wrote, np.ndarray):
            assert read.dtype == wrote.dtype, each.name
            np.testing.assert_array_equal(read, wrote, err_msg=each.name)
        else:
            assert read == wrote
    assert (sequence.n_frames, sequence.height, sequence.width) == (T, H, W)
    assert (sequence.source, sequence.licence, sequence.depth_scale_m) == ("made", "CC0-1.0", SCALE_M)
    assert sequence.has_depth
    assert sequence.has_objects
    assert sequence.has_flow
    assert check_data(folder.parent) == []


def test_part_of_a_sequence_reads_only_its_own_files(clip, folder):
    for kind, kept in (("rgb", "23"), ("depth", "23"), ("objects", "23"), ("valid", "23"), ("flow", "2")):
        for file in (folder / kind).iterdir():
            if file.stem[-1] not in kept and file.name != "0000.png":
                file.write_bytes(b"")
    sequence = open_sequence(folder)
    (folder / "rgb" / "0000.png").write_bytes(b"")
    part = sequence.read(2, 4)
    np.testing.assert_array_equal(part.frames, clip.frames[2:4])
    np.testing.assert_array_equal(part.depth, clip.depth[2:4])
    np.testing.assert_array_equal(part.valid, clip.valid[2:4])
    np.testing.assert_array_equal(part.flow, clip.flow[2:3])
    np.testing.assert_array_equal(part.flow_valid, clip.flow_valid[2:3])
    np.testing.assert_array_equal(part.cam_to_world, clip.cam_to_world[2:4])
    assert sequence.read(3, 4).flow.shape == (0, H, W, 2)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 3), (4, 2), (0, T + 1)])
def test_frames_outside_the_sequence_are_refused(folder, start, stop):
    with pytest.raises(InputError, match=f"frames {start} to {stop} asked for; it has 0 to {T}"):
        open_sequence(folder).read(start, stop)


def test_depth_codes_are_rounded_to_nearest(tmp_path, clip):
    depth = np.full((1, H, W), 1.0, np.float32)
    depth[0, 0, :4] = [0.0149, 0.0151, 655.35, 0]
    one = Clip("one", clip.frames[:1], 10.0, depth=depth)
    folder = write_sequence(tmp_path, one, depth_scale_m=0.01, source=None, licence=None)
    header, samples = unfiltered_png(folder / "depth" / "0000.png")
    assert header == (W, H, 16, 0)
    assert samples[0, :5, 0].tolist() == [1, 2, 65535, 0, 100]
    assert not (folder / "valid").exists()


def test_flow_is_kitti_encoded_by_hand(tmp_path, clip):
    flow = np.zeros((1, H, W, 2), np.float32)
    flow_valid = np.ones((1, H, W), bool)
    flow[0, 0, 0] = (1.5, -2.25)  # right and up
    flow[0, 0, 1] = (-512, 511.984375)  # the ends of the range
    flow[0, 0, 2] = (0.01, -0.01)  # rounded to 1/64: 0.64 -> 1
    flow_valid[0, 0, 3] = False
    two = Clip("two", clip.frames[:2], 10.0, flow=flow, flow_valid=flow_valid)
    folder = write_sequence(tmp_path, two, depth_scale_m=None, source=None, licence=None)
    header, samples = unfiltered_png(folder / "flow" / "0000.png")
    assert header == (W, H, 16, 2)
    assert samples[0, :5].tolist() == [
        [32768 + 96, 32768 - 144, 1],
        [0, 65535, 1],
        [32769, 32767, 1],
        [0, 0, 0],
        [32768, 32768, 1],
    ]
    assert [file.name for file in (folder / "flow").iterdir()] == ["0000.png"]


def test_frames_are_rgb_and_not_bgr(tmp_path):
    red = np.zeros((1, H, W, 3), np.uint8)
    red[..., 0], red[..., 1] = 250, 7
    folder = write_sequence(tmp_path, Clip("red", red, 10.0), depth_scale_m=None, source=None, licence=None)
    _, samples = unfiltered_png(folder / "rgb" / "0000.png")
    assert samples[3, 5].tolist() == [250, 7, 0]
    np.testing.assert_array_equal(open_sequence(folder).read().frames, red)


def test_meta_with_only_fps_is_enough(tmp_path, clip):
    (tmp_path / "bare" / "rgb").mkdir(parents=True)
    (tmp_path / "bare" / "meta.json").write_text('{"fps": 24, "claims": "metric"}', encoding="utf-8")
    cv2.imwrite(str(tmp_path / "bare" / "rgb" / "0000.jpg"), clip.frames[0])
    sequence = open_sequence(tmp_path / "bare")
    read = sequence.read()
    assert (sequence.fps, sequence.n_frames, sequence.fixed_camera, sequence.K) == (24.0, 1, None, None)
    assert not sequence.has_depth
    assert not sequence.has_objects
    assert not sequence.has_flow
    assert read.depth is read.valid is read.objects is read.flow is read.flow_valid is read.cam_to_world is None


def test_frame_without_a_depth_file_is_a_frame_without_a_label(clip, folder):
    (folder / "depth" / "0001.png").unlink()
    (folder / "objects" / "0001.png").unlink()
    (folder / "flow" / "0002.png").unlink()
    assert check_data(folder.parent) == []
    read = open_sequence(folder).read()
    assert not read.depth[1].any()
    assert not read.valid[1].any()
    np.testing.assert_array_equal(read.depth[2], clip.depth[2])
    assert not read.flow_valid[2].any()


def test_frame_without_a_valid_file_is_valid_wherever_it_has_depth(clip, folder):
    (folder / "valid" / "0003.png").unlink()
    read = open_sequence(folder).read()
    np.testing.assert_array_equal(read.valid[3], clip.depth[3] > 0)
    np.testing.assert_array_equal(read.valid[2], clip.valid[2])


def test_video_file_is_a_sequence_without_labels(tmp_path):
    smooth = np.repeat(np.arange(T, dtype=np.uint8) * 40, H * W * 3).reshape(T, H, W, 3)
    write_video(tmp_path / "street.mp4", smooth, 25.0)
    (path,) = find_sequences(tmp_path)
    sequence = open_sequence(path)
    assert (sequence.name, sequence.fps, sequence.n_frames, sequence.height, sequence.width) == ("street", 25, T, H, W)
    assert not sequence.has_depth
    part = sequence.read(2, 4)
    np.testing.assert_allclose(part.frames, smooth[2:4], atol=3)
    assert part.depth is part.flow is None
    assert check_data(tmp_path) == []


def test_sequences_are_found_by_name_and_root_may_be_one(clip, folder):
    root = folder.parent
    for name in ("b", "a"):
        shutil.copytree(folder, root / name)
    write_video(root / "c.mkv", clip.frames, 25.0)
    (root / ".hidden" / "rgb").mkdir(parents=True)
    (root / "notes.txt").write_text("not a sequence", encoding="utf-8")
    assert [path.name for path in find_sequences(root)] == ["a", "b", "c.mkv", "kitchen_01"]
    assert find_sequences(folder) == [folder]
    assert find_sequences(root / "c.mkv") == [root / "c.mkv"]


def test_missing_and_empty_roots_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist; .*check the path"):
        find_sequences(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no sequence; a sequence is a folder with rgb/ inside"):
        find_sequences(tmp_path)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "0001.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"frames holds images and no sequence; .* folder rgb/, numbered from 0000"):
        find_sequences(tmp_path / "frames")
    with pytest.raises(InputError, match="holds no sequence"):
        open_sequence(tmp_path)


def test_two_sequences_of_one_name_are_refused(clip, folder):
    write_video(folder.parent / "kitchen_01.mp4", clip.frames, 25.0)
    with pytest.raises(InputError, match=r"kitchen_01\.mp4: two sequences of one name"):
        find_sequences(folder.parent)
    assert any("two sequences of one name" in fault for fault in check_data(folder.parent))


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../b", "a/b", "/etc", "a\\b", "..\\b", ".hidden", "a\0b"])
def test_names_that_climb_out_are_refused(tmp_path, clip, name):
    with pytest.raises(InputError, match="is no name for something inside"):
        write_sequence(
            tmp_path / "in", dataclasses.replace(clip, name=name), depth_scale_m=1.0, source=None, licence=None
        )
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_never_overwritten(clip, folder):
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}
    with pytest.raises(InputError, match="kitchen_01 exists and is never overwritten"):
        write_sequence(folder.parent, clip, depth_scale_m=SCALE_M, source=None, licence=None)
    assert {file: file.read_bytes() for file in folder.rglob("*.*")} == before


@pytest.mark.parametrize("bad", [65535.6 * SCALE_M, 0.4 * SCALE_M, -1.0, np.nan, np.inf, 0.0])
def test_valid_depth_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path, clip, bad):
    depth, valid = clip.depth.copy(), clip.valid.copy()
    depth[3, 2, 1], valid[3, 2, 1] = bad, True
    broken = dataclasses.replace(clip, depth=depth, valid=valid)
    with pytest.raises(InputError, match=r"kitchen_01, frame 3: depth of .* does not fit 16 bits at 0\.002 m"):
        write_sequence(tmp_path, broken, depth_scale_m=SCALE_M, source=None, licence=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [1e9, -1.0, np.nan, np.inf])
def test_invalid_depth_may_be_anything(tmp_path, clip, bad):
    depth, valid = clip.depth.copy(), clip.valid.copy()
    depth[3, 2, 1], valid[3, 2, 1] = bad, False
    odd = dataclasses.replace(clip, depth=depth, valid=valid)
    read = open_sequence(write_sequence(tmp_path, odd, depth_scale_m=SCALE_M, source=None, licence=None)).read()
    assert read.depth[3, 2, 1] == 0
    np.testing.assert_array_equal(read.valid, valid)


@pytest.mark.parametrize("bad", [512.0, -512.01, np.nan])
def test_valid_flow_that_does_not_fit_is_refused(tmp_path, clip, bad):
    flow, flow_valid = clip.flow.copy(), clip.flow_valid.copy()
    flow[1, 2, 3, 0], flow_valid[1, 2, 3] = bad, True
    broken = dataclasses.replace(clip, flow=flow, flow_valid=flow_valid)
    with pytest.raises(InputError, match="kitchen_01, frame 1: flow beyond"):
        write_sequence(tmp_path, broken, depth_scale_m=SCALE_M, source=None, licence=None)


def cut(share: float | None):
    def damage(file: Path) -> None:
        data = file.read_bytes()
        file.write_bytes(data[:-20] if share is None else data[: int(share * len(data))])

    return damage


def jpeg_cut(share: float | None):
    def damage(file: Path) -> None:
        image = cv2.imread(str(file))
        file.unlink()
        jpeg = file.with_suffix(".jpg")
        cv2.imwrite(str(jpeg), image)
        assert not check_data(file.parents[2])
        cut(share)(jpeg)

    return damage


def overwrite(image: np.ndarray):
    return lambda file: cv2.imwrite(str(file), image)


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(bytes(data))


GREY8, GREY16 = np.ones((H, W), np.uint8), np.ones((H, W), np.uint16)
COLOUR8, COLOUR16 = np.ones((H, W, 3), np.uint8), np.ones((H, W, 3), np.uint16)
BAD_FILES = {
    "no bytes": ("rgb/0002", cut(0), "empty file"),
    "text": ("rgb/0002", lambda file: file.write_text("x" * 99, encoding="utf-8"), "no image of a kind that is read"),
    "a flipped bit": ("rgb/0002", flip_a_bit, "damaged PNG"),
    **{f"png cut at {share}": ("rgb/0002", cut(share), "truncated PNG") for share in (0.3, 0.7, 0.95, None)},
    **{f"jpeg cut at {share}": ("rgb/0002", jpeg_cut(share), "truncated JPEG") for share in (0.3, 0.7, 0.95, None)},
    **{f"depth cut at {share}": ("depth/0002", cut(share), "truncated PNG") for share in (0.3, 0.7, 0.95, None)},
    **{f"flow cut at {share}": ("flow/0002", cut(share), "truncated PNG") for share in (0.3, 0.7, 0.95, None)},
    "16-bit frame": ("rgb/0002", overwrite(COLOUR16), "frames are 8-bit RGB"),
    "another size": ("rgb/0002", overwrite(np.ones((H, W + 1, 3), np.uint8)), "size never changes"),
    "turned": ("rgb/0002", overwrite(np.ones((W, H, 3), np.uint8)), "size never changes"),
    "depth of another size": ("depth/0002", overwrite(GREY16[1:]), "size never changes"),
    "8-bit depth": ("depth/0002", overwrite(GREY8), "depth is a 16-bit PNG of one channel"),
    "colour depth": ("depth/0002", overwrite(COLOUR16), "depth is a 16-bit PNG of one channel"),
    "16-bit objects": ("objects/0002", overwrite(GREY16), "objects and valid are 8-bit PNG of one channel"),
    "colour objects": ("objects/0002", overwrite(COLOUR8), "objects and valid are 8-bit PNG of one channel"),
    "16-bit valid": ("valid/0002", overwrite(GREY16), "objects and valid are 8-bit PNG of one channel"),
    "8-bit flow": ("flow/0002", overwrite(COLOUR8), "flow is a 16-bit PNG of three channels"),
    "grey flow": ("flow/0002", overwrite(GREY16), "flow is a 16-bit PNG of three channels"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_named_with_its_rule(folder, case):
    where, damage, rule = BAD_FILES[case]
    damage(folder / f"{where}.png")
    (fault,) = check_data(folder.parent)
    assert str(folder / where) in fault
    assert rule in fault
    sequence = open_sequence(folder)
    with pytest.raises(InputError) as error:
        sequence.read()
    assert str(error.value) == fault
    sequence.read(0, 2)  # what does not touch the file is not harmed


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def copy(name: str, to: str):
    return lambda folder: shutil.copy(folder / name, folder / to)


def meta(**changes: object):
    return lambda folder: change_meta(folder, **changes)


EYE = np.eye(4).tolist()
BAD_FOLDERS = {
    "gap": (remove("rgb/0002.png"), "rgb", "no file for frame 0002; numbers begin at 0000 and have no gaps"),
    "not from 0": (remove("rgb/0000.png"), "rgb", "no file for frame 0000"),
    "huge number": (copy("rgb/0002.png", "rgb/99999999999.png"), "rgb", "no file for frame 0005, 0006"),
    "frame twice": (copy("rgb/0002.png", "rgb/0002.jpg"), "rgb/0002.png", "frame 2 is there twice"),
    "no number": (copy("rgb/0002.png", "rgb/frame_2.png"), "rgb/frame_2.png", "only numbered images"),
    "no image": (copy("meta.json", "depth/0001.npy"), "depth/0001.npy", "only numbered images"),
    "depth beyond": (copy("depth/0002.png", "depth/0005.png"), "depth/0005.png", "a label without its frame"),
    "objects missing": (remove("objects/0002.png"), "objects/0002.png", "objects/ has one for every frame"),
    "no frames": (lambda folder: [file.unlink() for file in (folder / "rgb").iterdir()], "rgb", "no frames"),
    "no meta": (remove("meta.json"), "meta.json", 'missing; a sequence has one with at least fps: write {"fps": 30}'),
    "no JSON": (
        lambda folder: (folder / "meta.json").write_text("{fps", encoding="utf-8"),
        "meta.json",
        "cannot be read as JSON",
    ),
    "a list": (lambda folder: (folder / "meta.json").write_text("[1]", encoding="utf-8"), "meta.json", "holds list"),
    "no fps": (meta(fps=...), "meta.json", "fps: missing; every sequence has it: write it"),
    "fps 0": (meta(fps=0), "meta.json", "fps 0: Input should be greater than 0"),
    "fps infinite": (meta(fps=float("inf")), "meta.json", "fps inf: Input should be a finite number"),
    "fps text": (meta(fps="30"), "meta.json", "fps '30': Input should be a valid number"),
    "K 2x3": (meta(K=[[1, 0, 0], [0, 1, 0]]), "meta.json", "K: a camera matrix is 3x3"),
    "K flat": (
        meta(K=[50, 0, 20, 0, 50, 12, 0, 0, 1]),
        "meta.json",
        "K.0 50: Input should be a valid list: 3x3, pixels",
    ),
    "K ragged": (meta(K=[[1, 0, 0], [0, 1, 0], [0, 1]]), "meta.json", "K: a camera matrix is 3x3"),
    "K singular": (meta(K=[[50, 0, 20], [0, 0, 12], [0, 0, 1]]), "meta.json", "K: singular"),
    "K transposed": (meta(K=[[50, 0, 0], [0, 50, 0], [20, 12, 1]]), "meta.json", "K: its last row is not 0 0 1"),
    "K zero": (meta(K=[[0, 0, 0]] * 3), "meta.json", "K: singular"),
    "K NaN": (
        meta(K=[[float("nan"), 0, 20], [0, 50, 12], [0, 0, 1]]),
        "meta.json",
        "K: a camera matrix is 3x3 of finite",
    ),
    "poses short": (meta(cam_to_world=[EYE] * 4), "meta.json", "cam_to_world: 4 poses for 5 frames"),
    "poses 3x4": (meta(cam_to_world=[EYE[:3]] * 5), "meta.json", "cam_to_world: poses are a list of 4x4"),
    "poses NaN": (meta(cam_to_world=[[[float("nan")] * 4] * 4] * 5), "meta.json", "cam_to_world: poses are"),
    "no scale": (meta(depth_scale_m=...), "meta.json", "depth_scale_m: missing, and depth/ is there"),
    "scale 0": (meta(depth_scale_m=0), "meta.json", "depth_scale_m 0: Input should be greater than 0"),
    "fixed_camera text": (meta(fixed_camera="no"), "meta.json", "fixed_camera 'no': Input should be a valid boolean"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_is_named_with_its_rule(folder, case):
    damage, where, rule = BAD_FOLDERS[case]
    damage(folder)
    faults = check_data(folder.parent)
    assert any(str(folder / where) in fault and rule in fault for fault in faults), faults
    with pytest.raises(InputError) as error:
        open_sequence(folder)
    assert str(folder / where) in str(error.value)
    assert rule in str(error.value)


def test_one_fault_of_many_files_or_numbers_is_one_line(folder):
    change_meta(folder, K=[50, 0, 20, 0, 50, 12, 0, 0, 1])
    for file in (folder / "depth").iterdir():
        file.rename(file.with_suffix(".npy"))
    files, K = sorted(check_data(folder.parent))
    assert files.startswith(f"{folder / 'depth' / '0000.npy'} to 0004.npy: only numbered images stand here, 0000.png")
    assert "meta.json: K.0 50: " in K


def test_all_mistakes_of_a_folder_come_in_one_message(folder):
    change_meta(folder, fps=-1, K=[[1.0]], depth_scale_m="1 mm")
    remove("rgb/0003.png")(folder)
    with pytest.raises(InputError) as error:
        open_sequence(folder)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    for line, part in zip(lines, ("fps -1", "depth_scale_m '1 mm'", "K: ", "frame 0003"), strict=True):
        assert part in line
        assert str(folder) in line


def test_check_lists_every_fault_of_a_tree_and_writes_nothing(folder):
    root = folder.parent
    shutil.copytree(folder, root / "other")
    shutil.copytree(folder, root / "sound")
    cut(0.5)(folder / "rgb" / "0001.png")
    overwrite(GREY8)(folder / "depth" / "0004.png")
    change_meta(folder, fps=0)
    copy("flow/0001.png", "flow/0004.png")(root / "other")
    change_meta(root / "other", licence=..., license="CC0", cam_to_world=[(2 * np.eye(4)).tolist()] + [EYE] * 4)
    (root / "film.mp4").write_bytes(b"no film")
    (root / "headless").mkdir()
    (root / "headless" / "meta.json").write_text("{}", encoding="utf-8")
    before = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in root.rglob("*")}
    faults = check_data(root)
    expected = [
        (root / "headless", "meta.json without rgb/"),
        (root / "film.mp4", "cannot be read as video"),
        (folder / "meta.json", "fps 0"),
        (folder / "rgb" / "0001.png", "truncated PNG"),
        (folder / "depth" / "0004.png", "depth is a 16-bit PNG"),
        (root / "other" / "meta.json", "license: unknown; did you mean licence?"),
        (root / "other" / "meta.json", "cam_to_world[0]: no rigid motion"),
        (root / "other" / "flow" / "0004.png", "the last frame has no flow"),
    ]
    assert len(faults) == len(expected), faults
    for fault, (path, rule) in zip(faults, expected, strict=True):
        assert fault.startswith(str(path))
        assert rule in fault
    assert {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in root.rglob("*")} == before
    open_sequence(root / "other").read()  # cautions do not keep it from being read


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_png_cut_anywhere_is_noticed(tmp_path, data):
    folder = tmp_path / "any"
    if not folder.exists():
        frames = np.random.default_rng(0).integers(0, 256, (1, H, W, 3), dtype=np.uint8)
        write_sequence(tmp_path, Clip("any", frames, 10.0), depth_scale_m=None, source=None, licence=None)
    file = folder / "rgb" / "0000.png"
    whole = file.read_bytes()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    try:
        assert len(check_data(tmp_path)) == 1
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"frames": np.zeros((3, 8, 8, 3), np.float32)}, "frames are float32"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, r"frames are uint8 \(0, 8, 8, 3\)"),
        ({"fps": 0.0}, "0.0 frames a second"),
        ({"fps": float("nan")}, "nan frames a second"),
        ({"depth": np.ones((3, 4, 4), np.float32)}, r"depth is \(3, 4, 4\)"),
        ({"depth": np.ones((2, 8, 8), np.float32)}, r"depth is \(2, 8, 8\)"),
        ({"cam_to_world": np.tile(np.eye(4), (2, 1, 1))}, r"cam_to_world is \(2, 4, 4\)"),
        ({"objects": np.full((3, 8, 8), 300)}, "numbers of objects are 300 to 300"),
        ({"flow": np.zeros((3, 8, 8, 2), np.float32)}, r"flow is \(3, 8, 8, 2\), .* it is \(2, 8, 8, 2\)"),
        ({"K": np.diag([1.0, 1.0, np.nan])}, "K holds NaN or infinity"),
        ({"cam_to_world": np.full((3, 4, 4), np.inf)}, "cam_to_world holds NaN or infinity"),
    ],
)
def test_a_clip_that_no_reader_would_take_is_not_written(tmp_path, change, why):
    clip = Clip("a", np.zeros((3, 8, 8, 3), np.uint8), 10.0)
    for name, value in change.items():
        object.__setattr__(clip, name, value)  # where types are checked, no Clip takes it
    with pytest.raises(InputError, match=why):
        write_sequence(tmp_path, clip, depth_scale_m=0.001, source=None, licence=None)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_and_holes_below_0_are_written(tmp_path):
    depth = np.full((3, 8, 8), 2.0, np.float32)
    depth[:, 0], depth[:, 1] = np.nan, -1
    clip = Clip("a", np.zeros((3, 8, 8, 3), np.uint8), 10.0, depth=depth)
    object.__setattr__(clip, "fps", np.float32(12.5))
    object.__setattr__(clip, "fixed_camera", np.bool_(True))
    again = open_sequence(write_sequence(tmp_path, clip, depth_scale_m=0.001, source=None, licence=None)).read()
    assert (again.fps, again.fixed_camera) == (12.5, True)
    assert again.valid.sum() == 3 * 6 * 8
