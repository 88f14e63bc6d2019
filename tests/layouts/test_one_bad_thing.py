"""One bad frame, pose or scene costs the others nothing: each is named at the end, and the same command resumes."""

import csv
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from steadydepth.data.conversion import convert_layout, convert_videos
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError, SomeFailedError
from steadydepth.files.video_write import write_video
from steadydepth.layouts.hypersim import planar
from steadydepth.layouts.recording import pinhole

POSE = "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def write_scannet(place, n_frames=6):
    for kind in ("color", "depth", "pose", "intrinsic"):
        (place / kind).mkdir(parents=True)
    for number in range(n_frames):
        cv2.imwrite(str(place / "color" / f"{number}.jpg"), np.full((48, 64, 3), 40 * number + 20, np.uint8))
        cv2.imwrite(str(place / "depth" / f"{number}.png"), np.full((24, 32), 2000, np.uint16))
        (place / "pose" / f"{number}.txt").write_text(POSE, encoding="utf-8")
    (place / "intrinsic/intrinsic_depth.txt").write_text(
        "577 0 319 0\n0 578 239 0\n0 0 1 0\n0 0 0 1\n", encoding="utf-8"
    )
    return place


@pytest.fixture
def scenes(tmp_path):
    write_scannet(tmp_path / "in/scene0002_00")
    return write_scannet(tmp_path / "in/scene0001_00")


def convert(tmp_path, layout="scannet"):
    """Frames of each sequence that is there afterwards, and what was said of the others."""
    said = ""
    try:
        list(convert_layout(layout, tmp_path / "in", tmp_path / "out"))
    except SomeFailedError as error:
        said = str(error)
    return {path.name: open_sequence(path).n_frames for path in sorted((tmp_path / "out").iterdir())}, said


SPLIT = {"scene0001_00_00000": 2, "scene0001_00_00002": 3, "scene0002_00": 6}


@pytest.mark.parametrize("word", ["-inf", "nan", "-1.#INF", "1.#QNAN00", "-1.#IND", "0"])
def test_lost_tracking_in_the_words_of_every_exporter_begins_a_sequence(tmp_path, scenes, word):
    (scenes / "pose/2.txt").write_text("\n".join([" ".join([word] * 4)] * 4) + "\n", encoding="utf-8")
    assert convert(tmp_path) == (SPLIT, "")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is not there, and belongs to the recording"),
        (lambda path: path.write_text("", encoding="utf-8"), "cannot be read as numbers"),
    ],
)
def test_a_pose_that_cannot_be_read_is_a_gap_and_named(tmp_path, scenes, damage, words):
    damage(scenes / "pose/2.txt")
    made, said = convert(tmp_path)
    assert made == SPLIT
    assert "scene0001_00, frame 2: " in said
    assert f"{Path('pose/2.txt')}: {words}" in said


def test_scannet_of_other_exporters_pads_its_numbers_and_has_png(tmp_path, scenes):
    for file in [path for kind in ("color", "depth", "pose") for path in (scenes / kind).iterdir()]:
        file.rename(file.with_stem(file.stem.zfill(6)))
    for file in list((scenes / "color").iterdir()):
        cv2.imwrite(str(file.with_suffix(".png")), cv2.imread(str(file)))
        file.unlink()
    shutil.rmtree(tmp_path / "in/scene0002_00/color")
    (tmp_path / "in/scene0002_00/color").mkdir()
    made, said = convert(tmp_path)
    assert made == {"scene0001_00": 6}
    assert f"{tmp_path / 'in/scene0002_00/color'}: no 0.jpg and on" in said


@pytest.mark.parametrize("kept", [range(6), (0, 1, 2, 4, 5), (0,)])
def test_frames_without_depth_have_no_label(tmp_path, scenes, kept):
    for number in set(range(6)) - set(kept):
        (scenes / "depth" / f"{number}.png").unlink()
    assert convert(tmp_path) == ({"scene0001_00": 6, "scene0002_00": 6}, "")
    sequence = open_sequence(tmp_path / "out/scene0001_00")
    assert (sorted(sequence.labels["depth"]), sequence.height) == (list(kept), 24)


def test_a_bad_frame_is_a_gap_and_the_same_command_goes_on(tmp_path, scenes):
    image = (scenes / "color/3.jpg").read_bytes()
    (scenes / "color/3.jpg").write_bytes(image[:200])
    parts = {"scene0001_00_00000": 3, "scene0001_00_00004": 2, "scene0002_00": 6}
    for _ in range(2):  # again: nothing is written twice
        made, said = convert(tmp_path)
        assert made == parts
        assert "scene0001_00, frame 3: " in said
        assert "3.jpg: truncated JPEG" in said
    (scenes / "color/3.jpg").write_bytes(image)
    assert convert(tmp_path) == (parts | {"scene0001_00_00003": 1}, "")


def test_a_bad_scene_is_named_and_the_next_ones_are_written(tmp_path, scenes):
    (scenes / "intrinsic/intrinsic_depth.txt").write_text("577 0", encoding="utf-8")
    made, said = convert(tmp_path)
    assert made == {"scene0002_00": 6}
    assert "intrinsic_depth.txt: has 2 numbers a line; there are 4" in said


@pytest.mark.parametrize("method", ["exists", "read_text"])  # before Python 3.14 `exists` raises as well
def test_a_folder_that_may_not_be_entered_is_named_and_the_next_scenes_are_written(
    tmp_path, scenes, monkeypatch, method
):
    as_it_is = getattr(Path, method)

    def refuse(path, *arguments, **options):
        if path.parent == scenes / "intrinsic":
            raise PermissionError(13, "Permission denied", str(path))
        return as_it_is(path, *arguments, **options)

    monkeypatch.setattr(Path, method, refuse)
    made, said = convert(tmp_path)
    assert made == {"scene0002_00": 6}
    assert "intrinsic_depth.txt: cannot be read as numbers ([Errno 13] Permission denied" in said


def test_all_bad_is_the_mistake_of_the_user(tmp_path, scenes):
    for scene in (tmp_path / "in").iterdir():
        (scene / "intrinsic/intrinsic_depth.txt").unlink()
    with pytest.raises(InputError, match=r"2 input.s. failed, 0 written") as raised:
        list(convert_layout("scannet", tmp_path / "in", tmp_path / "out"))
    assert not isinstance(raised.value, SomeFailedError)


def test_what_desktops_leave_and_a_broken_video_cost_the_others_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    for name in ("b", "c"):
        write_video(tmp_path / "in" / f"{name}.mp4", iter(frames), 10.0)
    (tmp_path / "in/._b.mp4").write_bytes(b"\0\5\x16\7Mac OS X" + bytes(100))
    (tmp_path / "in/a.mp4").write_bytes((tmp_path / "in/b.mp4").read_bytes()[:900])
    for split_shots in (False, True):
        with pytest.raises(
            SomeFailedError, match=r"a\.mp4: (cannot be read as video|truncated|no frame can be decoded)"
        ):
            list(convert_videos(tmp_path / "in", tmp_path / f"out{split_shots}", split_shots=split_shots))
        assert sorted(path.name for path in (tmp_path / f"out{split_shots}").iterdir()) == ["b", "c"]


def write_hypersim(root, focal_px):
    scene = root / "ai_001_001"
    previews, geometry = (scene / f"images/scene_cam_00_{kind}" for kind in ("final_preview", "geometry_hdf5"))
    detail = scene / "_detail/cam_00"
    for folder in (previews, geometry, detail):
        folder.mkdir(parents=True)
    (scene / "_detail/metadata_scene.csv").write_text(
        "parameter_name,parameter_value\nmeters_per_asset_unit,0.02\n", encoding="utf-8"
    )
    y, x = np.mgrid[:96, :128]
    distance = 3 * np.sqrt((x - 63.5) ** 2 + (y - 47.5) ** 2 + focal_px**2) / focal_px
    cv2.imwrite(str(previews / "frame.0000.tonemap.jpg"), np.full((96, 128, 3), 100, np.uint8))
    with h5py.File(geometry / "frame.0000.depth_meters.hdf5", "w") as file:
        file["dataset"] = distance.astype(np.float16)
    for name, values in (("positions", np.zeros((1, 3))), ("orientations", np.eye(3)[None])):
        with h5py.File(detail / f"camera_keyframe_{name}.hdf5", "w") as file:
            file["dataset"] = values


@pytest.mark.parametrize("columns", ["projection", "none"])
def test_a_scene_of_hypersim_has_the_camera_that_its_authors_publish(tmp_path, caplog, columns):
    """A wall 3 m away is a plane: with another camera than its own it would bend."""
    focal_px = 75.0
    write_hypersim(tmp_path / "in", focal_px)
    line = {"scene_name": "ai_001_001", "settings_output_img_height": 96, "settings_output_img_width": 128}
    line |= {f"M_proj_{row}{column}": 0.0 for row in "013" for column in range(3)}
    line |= {"M_proj_00": focal_px / 64, "M_proj_11": focal_px / 48, "M_proj_32": -1.0}
    if columns != "none":
        with (tmp_path / "in/metadata_camera_parameters.csv").open("w", encoding="utf-8") as file:
            writer = csv.DictWriter(file, line)
            writer.writeheader()
            writer.writerow(line)
    (folder,) = convert_layout("hypersim", tmp_path / "in", tmp_path / "out")
    clip = open_sequence(folder).read()
    if columns == "none":
        assert "ai_001_001: its own camera is not known" in caplog.text
        return
    np.testing.assert_allclose(clip.K, pinhole(focal_px, focal_px, 63.5, 47.5), atol=1e-9)
    np.testing.assert_allclose(clip.depth, 3, atol=0.003)
    assert "not known" not in caplog.text


def test_a_camera_whose_axis_leaves_beside_the_middle_by_hand():
    """K = [[4, 0, 1], [0, 4, 0], [0, 0, 1]]: 3 right of x = 1 a ray is 5 / 4 of its depth."""
    np.testing.assert_allclose(planar(np.full((1, 5), 10, np.float32), pinhole(4.0, 4.0, 1.0, 0.0))[0, 4], 8, rtol=1e-6)


def test_key_frames_of_hypersim_that_are_none_are_named(tmp_path):
    write_hypersim(tmp_path / "in", 75.0)
    path = tmp_path / "in/ai_001_001/_detail/cam_00/camera_keyframe_positions.hdf5"
    for name, values, message in (
        ("other", np.zeros((1, 3)), "cannot be read as HDF5"),
        ("dataset", np.zeros((1, 4)), "cannot be read as HDF5"),
        ("dataset", np.zeros((2, 3)), "1 orientations, 2 positions"),
    ):
        path.unlink()
        with h5py.File(path, "w") as file:
            file[name] = values
        with pytest.raises(InputError, match=message):
            list(convert_layout("hypersim", tmp_path / "in", tmp_path / "out"))


def test_a_list_of_hypersim_with_a_frame_that_is_no_number_is_named(tmp_path):
    write_hypersim(tmp_path / "in", 75.0)
    (tmp_path / "in/metadata_images_split_scene_v1.csv").write_text(
        "scene_name,camera_name,frame_id,split_partition_name\nai_001_001,cam_00,x,train\n", encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"split_scene_v1\.csv: cannot be read as a list of numbered frames"):
        list(convert_layout("hypersim", tmp_path / "in", tmp_path / "out", split="train"))


def test_a_camera_of_hypersim_without_images_is_named(tmp_path):
    write_hypersim(tmp_path / "in", 75.0)
    (tmp_path / "in/ai_001_001/images/scene_cam_01_final_preview").mkdir()
    with pytest.raises(SomeFailedError, match=r"scene_cam_01_final_preview: no frame\.0000\.tonemap\.jpg") as raised:
        list(convert_layout("hypersim", tmp_path / "in", tmp_path / "out"))
    assert [path.name for path in raised.value.written] == ["ai_001_001_cam_00"]
