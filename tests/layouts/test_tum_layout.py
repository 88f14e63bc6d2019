import shutil

import numpy as np
import pytest
from links import needs_links

from steadydepth.data.conversion import convert_layout
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.layouts.recording import read_csv, read_table
from steadydepth.layouts.tum import nearest
from steadydepth.types import InputError

TUM_K = np.array([[525.0, 0, 319.5], [0, 525, 239.5], [0, 0, 1]])


@pytest.fixture
def write_tum(write_png_at, quaternion):
    """The folder as it is extracted; colour, depth and poses at times of their own, 30, 30 and 100 a second."""

    def write(folder, scene, times, poses=None):
        depth_times, pose_times = np.array(times) + 0.004, np.array(times) - 0.003
        rgb, depth, lines = ["# color images"], ["# depth maps"], ["# timestamp tx ty tz qx qy qz qw"]
        poses = scene.poses if poses is None else poses
        for i, time in enumerate(times):
            write_png_at(folder / "rgb" / f"{time:.6f}.png", scene.frames[i % 3])
            codes = np.rint(scene.depth[i % 3] * 5000).astype(np.uint16)
            write_png_at(folder / "depth" / f"{depth_times[i]:.6f}.png", codes)
            rgb.append(f"{time:.6f} rgb/{time:.6f}.png")
            depth.append(f"{depth_times[i]:.6f} depth/{depth_times[i]:.6f}.png")
            pose = poses[i % 3]
            numbers = [*pose[:3, 3], *quaternion(pose[:3, :3])]
            lines.append(f"{pose_times[i]:.4f} " + " ".join(f"{number:.9f}" for number in numbers))
        for name, text in (("rgb", rgb), ("depth", depth), ("groundtruth", lines)):
            (folder / f"{name}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")

    return write


def test_tum_is_read_in_metres_with_camera_and_poses(tmp_path, make_scene, write_tum, assert_same):
    scene = make_scene(TUM_K)
    write_tum(tmp_path / "rgbd_dataset_freiburg1_desk", scene, [100.0, 100.033, 100.067])
    (folder,) = convert_layout("tum", tmp_path, tmp_path / "out")
    assert folder.name == "rgbd_dataset_freiburg1_desk"
    assert_same(folder, scene, step_m=1 / 5000)
    sequence = open_sequence(folder)
    assert sequence.fps == pytest.approx(30, rel=0.02)
    assert sequence.licence == "CC-BY-4.0"


def test_poses_out_of_order_are_those_of_their_times(tmp_path, make_scene, write_tum, assert_same):
    scene = make_scene(TUM_K)
    write_tum(tmp_path / "walk", scene, [100.0, 100.033, 100.067])
    listed = tmp_path / "walk" / "groundtruth.txt"
    listed.write_text("\n".join(reversed(listed.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    (folder,) = convert_layout("tum", tmp_path, tmp_path / "out")
    assert_same(folder, scene, step_m=1 / 5000)


def test_bonn_poses_are_those_of_the_camera(tmp_path, make_scene, write_tum, assert_same):
    """The markers' pose T of a camera pose C: C = inv(ros) T ros m, with m's rotation made a rotation."""
    scene = make_scene(np.array([[542.822841, 0, 315.59352], [0, 542.57687, 237.756098], [0, 0, 1]]))
    ros = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    m = np.array([[1.0157, 0.1828, -0.2389], [0.0009, -0.8431, -0.6413], [-0.3009, 0.6147, -0.8085]])
    for _ in range(60):  # Newton's iteration to the nearest rotation
        m = (m + np.linalg.inv(m).T) / 2
    markers = np.eye(4)
    markers[:3, :3], markers[:3, 3] = m, [0.0113, -0.0098, 0.0111]
    poses = ros @ scene.poses @ np.linalg.inv(markers) @ np.linalg.inv(ros)
    turn = np.eye(4)  # of the world, away from half turns, which the quaternion of the test cannot say
    turn[:3, :3] = poses[0, :3, :3].T
    write_tum(tmp_path / "rgbd_bonn_crowd", scene, [7.0, 7.033, 7.066], poses=turn @ poses)
    (folder,) = convert_layout("bonn", tmp_path / "rgbd_bonn_crowd", tmp_path / "out")
    assert_same(folder, scene, step_m=1 / 5000)


def test_a_gap_in_time_begins_a_new_sequence(tmp_path, make_scene, write_tum):
    times = [0.0, 0.033, 0.066, 0.3, 0.333]
    write_tum(tmp_path / "walk", make_scene(TUM_K), times)
    made = list(convert_layout("tum", tmp_path, tmp_path / "out"))
    assert [(path.name, open_sequence(path).n_frames) for path in made] == [("walk_00000", 3), ("walk_00003", 2)]


def test_images_without_depth_stay_and_images_without_a_pose_do_not(tmp_path, make_scene, write_tum):
    write_tum(tmp_path / "walk", make_scene(TUM_K), [0.0, 0.033, 0.066, 0.1])
    (tmp_path / "walk" / "depth.txt").write_text("0.034 depth/0.037000.png\n", encoding="utf-8")
    lines = (tmp_path / "walk" / "groundtruth.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "walk" / "groundtruth.txt").write_text("\n".join(lines[:4]), encoding="utf-8")
    (folder,) = convert_layout("tum", tmp_path, tmp_path / "out")
    sequence = open_sequence(folder)
    assert (sequence.n_frames, list(sequence.labels["depth"])) == (3, [1])


def test_nearest_by_hand():
    times, others = np.array([0.0, 1.0, 1.01, 2.0, 5.0]), np.array([0.015, 1.008, 1.5, 2.021])
    # 1.008 is nearer to 1.01; 2.021 is 21 ms away; nothing is near 5.
    assert nearest(times, others).tolist() == [0, -1, 1, -1, -1]
    assert nearest(times[:1], others[:1]).tolist() == [0]


def test_lists_that_climb_out_or_run_backwards_are_refused(tmp_path, make_scene, write_tum):
    write_tum(tmp_path / "walk", make_scene(TUM_K), [0.0, 0.033, 0.066])
    (tmp_path / "walk" / "rgb.txt").write_text("0.0 ../../secret.png\n", encoding="utf-8")
    with pytest.raises(InputError, match="outside its folder"):
        list(convert_layout("tum", tmp_path, tmp_path / "out"))
    (tmp_path / "walk" / "rgb.txt").write_text("1.0 rgb/a.png\n0.5 rgb/b.png\n", encoding="utf-8")
    with pytest.raises(InputError, match="out of order"):
        list(convert_layout("tum", tmp_path, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@needs_links
@pytest.mark.parametrize("linked", ["rgb", "depth", "each file"])
def test_folders_and_files_that_are_links_are_read(tmp_path, make_scene, write_tum, assert_same, linked):
    """As caches of a data set's versions and of hubs lay it out; the list names what is inside, and no more."""
    scene, folder = make_scene(TUM_K), tmp_path / "in/rgbd_dataset_freiburg1_desk"
    write_tum(folder, scene, [100.0, 100.033, 100.067])
    (tmp_path / "cache").mkdir()
    for number, path in enumerate(sorted((folder / "rgb").iterdir()) if linked == "each file" else [folder / linked]):
        shutil.move(path, tmp_path / f"cache/{number}")
        path.symlink_to(tmp_path / f"cache/{number}")
    (made,) = convert_layout("tum", tmp_path / "in", tmp_path / "out")
    assert_same(made, scene, step_m=1 / 5000)


def test_lists_written_on_windows_are_the_same_lists(tmp_path, make_scene, write_tum):
    """A byte order mark, line ends of two letters, backslashes in paths, an empty line at the end."""
    write_tum(tmp_path / "plain", make_scene(TUM_K), [100.0, 100.033, 100.067])
    shutil.copytree(tmp_path / "plain", tmp_path / "windows")
    for name in ("rgb", "depth", "groundtruth"):
        path = tmp_path / "windows" / f"{name}.txt"
        text = path.read_text(encoding="utf-8").replace(f" {name}/", f" {name}\\")
        path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
    plain, windows = (open_sequence(path).read() for path in convert_layout("tum", tmp_path, tmp_path / "out"))
    for name in ("frames", "depth", "K", "cam_to_world"):
        np.testing.assert_array_equal(getattr(windows, name), getattr(plain, name))


@pytest.mark.parametrize("windows", [False, True])
def test_every_list_of_numbers_may_have_the_line_ends_of_windows(tmp_path, windows):
    end, mark = ("\r\n", "\ufeff") if windows else ("\n", "")
    (tmp_path / "a.txt").write_bytes(f"{mark}# comment{end}1 2,3{end}{end}4 5 6{end}".encode())
    (tmp_path / "a.csv").write_bytes(f"{mark}x, y{end}1, 2{end}".encode())
    np.testing.assert_array_equal(read_table(tmp_path / "a.txt", 3), [[1, 2, 3], [4, 5, 6]])
    assert read_csv(tmp_path / "a.csv", ("y", "x")) == [("2", "1")]
