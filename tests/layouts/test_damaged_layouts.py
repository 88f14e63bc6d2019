import numpy as np
import pytest

from steadydepth.data.conversion import convert_layout
from steadydepth.types import InputError

EYE = "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
NOISE = bytes(range(128, 200))


@pytest.fixture
def vkitti(tmp_path, write_png_at, write_jpg_at):
    """One frame of Virtual KITTI 2."""
    place = tmp_path / "in" / "Scene01" / "clone"
    write_jpg_at(place / "frames/rgb/Camera_0/rgb_00000.jpg", np.full((6, 10, 3), 90, np.uint8))
    write_png_at(place / "frames/depth/Camera_0/depth_00000.png", np.full((6, 10), 700, np.uint16))
    (place / "intrinsic.txt").write_text("frame cameraID fx fy cx cy\n0 0 725.0 725.0 4.5 2.5\n", encoding="utf-8")
    (place / "extrinsic.txt").write_text(f"frame cameraID r11 ...\n0 0 {EYE}\n", encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("extrinsic.txt", f"h\n0 0 {EYE.replace('1', '0')}\n".encode(), "extrinsic.txt: a camera there cannot be inv"),
        ("extrinsic.txt", f"h\n0 0 nan {EYE[2:]}\n".encode(), "frame 0: cam_to_world: poses are a list of 4x4"),
        ("intrinsic.txt", b"h\n0 0 inf 725 4.5 2.5\n", "frame 0: K: a camera matrix is 3x3 of finite numbers"),
        ("intrinsic.txt", b"h\n0 0 0 725 4.5 2.5\n", "frame 0: K: singular; a camera matrix can be inverted"),
        ("intrinsic.txt", b"h\nnan 0 725 725 4.5 2.5\n", "intrinsic.txt: no line of camera 0 for frame"),
        ("intrinsic.txt", NOISE, "intrinsic.txt: cannot be read as numbers"),
        ("intrinsic.txt", None, "intrinsic.txt: is not there, and belongs to the recording"),
        ("frames/rgb/Camera_0/rgb_00000.jpg", NOISE, "no image of a kind that is read"),
        ("frames/depth/Camera_0/depth_00000.png", b"", "depth_00000.png: empty file"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_half_written(tmp_path, vkitti, file, data, message):
    (vkitti / file).unlink() if data is None else (vkitti / file).write_bytes(data)
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message):
        list(convert_layout("vkitti2", tmp_path / "in", out))
    assert list(out.glob("*")) == list(out.glob(".*")) == []


def test_a_pose_without_a_direction_is_refused(tmp_path, write_png_at):
    write_png_at(tmp_path / "in/rgb/1.png", np.full((6, 10, 3), 90, np.uint8))
    write_png_at(tmp_path / "in/depth/1.png", np.full((6, 10), 700, np.uint16))
    for name, line in (("rgb", "1.0 rgb/1.png"), ("depth", "1.0 depth/1.png"), ("groundtruth", "1.0 0 0 0 0 0 0 0")):
        (tmp_path / f"in/{name}.txt").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"frame 0: cam_to_world: poses are .*: NaN or infinity"):
        list(convert_layout("tum", tmp_path / "in", tmp_path / "out"))


def test_calibration_that_is_no_text_is_named(tmp_path):
    (tmp_path / "2011_09_26/2011_09_26_drive_0001_sync/image_02/data").mkdir(parents=True)
    (tmp_path / "2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000000.png").touch()
    (tmp_path / "2011_09_26/calib_cam_to_cam.txt").write_bytes(NOISE)
    with pytest.raises(InputError, match=r"calib_cam_to_cam\.txt: cannot be read as text"):
        list(convert_layout("kitti", tmp_path, tmp_path / "out"))


def test_a_frame_that_is_missing_between_others_parts_the_video(tmp_path, vkitti):
    """Two images that do not follow one another are no neighbours in time."""
    for kind, suffix in (("rgb", "jpg"), ("depth", "png")):
        place = vkitti / f"frames/{kind}/Camera_0"
        (place / f"{kind}_00002.{suffix}").write_bytes((place / f"{kind}_00000.{suffix}").read_bytes())
    for name, words in (("intrinsic", "725.0 725.0 4.5 2.5"), ("extrinsic", EYE)):
        (vkitti / f"{name}.txt").write_text(f"h\n0 0 {words}\n2 0 {words}\n", encoding="utf-8")
    made = list(convert_layout("vkitti2", tmp_path / "in", tmp_path / "out"))
    assert [len(list((path / "rgb").iterdir())) for path in made] == [1, 1]


def test_a_name_whose_number_is_none_is_another_file(tmp_path, vkitti):
    (vkitti / "frames/rgb/Camera_0/rgb_\u00b2.jpg").write_bytes(b"")
    assert len(list(convert_layout("vkitti2", tmp_path / "in", tmp_path / "out"))) == 1


def test_a_scale_of_replica_without_end_is_refused(tmp_path):
    (tmp_path / "in/room/results").mkdir(parents=True)
    (tmp_path / "in/room/results/frame000000.jpg").touch()
    (tmp_path / "in/room/traj.txt").write_text(f"{EYE}\n", encoding="utf-8")
    for stored, message in (("1e400", "scale inf: "), (f"1{'0' * 400}", "cannot be read as a camera with fx, fy")):
        camera = f'{{"camera": {{"fx": 1, "fy": 1, "cx": 0, "cy": 0, "scale": {stored}}}}}'
        (tmp_path / "in/cam_params.json").write_text(camera, encoding="utf-8")
        with pytest.raises(InputError, match=rf"cam_params\.json: {message}"):
            list(convert_layout("replica", tmp_path / "in", tmp_path / "out"))
