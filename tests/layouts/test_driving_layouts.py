import numpy as np
import pytest

from steadydepth.data.conversion import convert_layout
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError, SomeFailedError

K = np.array([[40.0, 0, 21.5], [0, 40, 16.0], [0, 0, 1]])


def line(name, numbers):
    return f"{name}: " + " ".join(f"{number:.12e}" for number in np.ravel(numbers)) + "\n"


def rotation(x, y, z):
    (sx, sy, sz), (cx, cy, cz) = np.sin([x, y, z]), np.cos([x, y, z])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_y @ about_x


def oxts(pose, latitude, longitude):
    """The 30 numbers of a pose in metres about a place, the inverse of the Mercator formulas of the devkit."""
    earth, scale = 6378137.0, np.cos(np.radians(latitude))
    north = np.log(np.tan(np.radians(90 + latitude) / 2)) + pose[1, 3] / (scale * earth)
    place = [np.degrees(2 * np.arctan(np.exp(north))) - 90, longitude + np.degrees(pose[0, 3] / (scale * earth))]
    turn = pose[:3, :3]
    angles = [np.arctan2(turn[2, 1], turn[2, 2]), -np.arcsin(turn[2, 0]), np.arctan2(turn[1, 0], turn[0, 0])]
    return " ".join(f"{number:.15f}" for number in [*place, 100 + pose[2, 3], *angles, *[0.0] * 24])


@pytest.fixture
def write_kitti(write_png_at):
    def write(root, scene, numbers=(0, 1, 2), labelled=(0, 1, 2)):
        day, drive = root / "2011_09_26", "2011_09_26_drive_0001_sync"
        velo_turn, imu_turn, rectify = rotation(1.4, -0.1, 0.2), rotation(0.02, 0.01, -0.03), rotation(0.01, 0.0, 0.02)
        shifts = np.array([[-0.1, -0.2, 0.3], [-0.8, 0.3, -0.8], [0.06, 0.001, 0.003]])
        chain = np.eye(4)
        for turn, shift in ((imu_turn, shifts[1]), (velo_turn, shifts[0]), (rectify, 0), (np.eye(3), shifts[2])):
            step = np.eye(4)
            step[:3, :3], step[:3, 3] = turn, shift
            chain = step @ chain  # IMU to camera 2
        projection = np.column_stack((scene.K, scene.K @ shifts[2]))
        day.mkdir(parents=True)
        (day / "calib_cam_to_cam.txt").write_text(
            "calib_time: 09-Jan-2012 13:57:47\n" + line("R_rect_00", rectify) + line("P_rect_02", projection),
            encoding="utf-8",
        )
        (day / "calib_velo_to_cam.txt").write_text(line("R", velo_turn) + line("T", shifts[0]), encoding="utf-8")
        (day / "calib_imu_to_velo.txt").write_text(line("R", imu_turn) + line("T", shifts[1]), encoding="utf-8")
        (day / drive / "oxts" / "data").mkdir(parents=True)
        # The first pose fixes the world; seen from it the camera's poses are inv(first) @ pose.
        for i, number in enumerate(numbers):
            write_png_at(day / drive / "image_02" / "data" / f"{number:010d}.png", scene.frames[i])
            imu = scene.poses[i] @ chain
            (day / drive / "oxts" / "data" / f"{number:010d}.txt").write_text(
                oxts(imu, 49.01, 8.4) + "\n", encoding="utf-8"
            )
        for i in labelled:
            place = root / "train" / drive / "proj_depth" / "groundtruth" / "image_02"
            write_png_at(place / f"{numbers[i]:010d}.png", np.rint(scene.depth[i] * 256).astype(np.uint16))

    return write


def test_kitti_is_read_in_metres_with_camera_and_poses(tmp_path, make_scene, write_kitti, assert_same):
    scene = make_scene(K)
    write_kitti(tmp_path / "in", scene)
    (folder,) = convert_layout("kitti", tmp_path / "in", tmp_path / "out", split="train")
    assert folder.name == "2011_09_26_drive_0001_sync"
    assert_same(folder, scene, step_m=1 / 256)


def test_a_first_pose_of_kitti_that_is_no_number_costs_no_other_frame(tmp_path, make_scene, write_kitti):
    write_kitti(tmp_path / "in", make_scene(K))
    (path,) = (tmp_path / "in").glob("*/*/oxts/data/0000000000.txt")
    path.write_text(" ".join(["nan"] * 30), encoding="utf-8")
    with pytest.raises(SomeFailedError, match=r"frame 0: .*0000000000\.txt: NaN or infinity in its pose") as raised:
        list(convert_layout("kitti", tmp_path / "in", tmp_path / "out"))
    (made,) = raised.value.written
    assert open_sequence(made).n_frames == 2


def test_kitti_frames_without_annotation_and_gaps(tmp_path, make_scene, write_kitti, caplog):
    write_kitti(tmp_path / "in", make_scene(K), numbers=(0, 1, 5), labelled=(1,))
    made = list(convert_layout("kitti", tmp_path / "in", tmp_path / "out"))
    assert [path.name[-5:] for path in made] == ["00000", "00002"]
    assert list(open_sequence(made[0]).labels["depth"]) == [1]
    assert not open_sequence(made[1]).has_depth
    assert f"no depth in 1 of the 2 sequences written: {made[1].name}: docs/data.md" in caplog.text
    with pytest.raises(InputError, match="nothing of kitti in it"):
        list(convert_layout("kitti", tmp_path / "in", tmp_path / "other", split="val"))


@pytest.fixture
def write_vkitti(write_png_at, write_jpg_at):
    def write(root, scene, camera=1):
        frames = root / "Scene01" / "15-deg-left" / "frames"
        intrinsic, extrinsic = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"], ["frame cameraID r1,1 ..."]
        for i in range(3):
            write_jpg_at(frames / "rgb" / f"Camera_{camera}" / f"rgb_{i:05d}.jpg", scene.frames[i])
            codes = np.rint(scene.depth[i] * 100).astype(np.uint16)
            codes[0, 0] = 65535
            write_png_at(frames / "depth" / f"Camera_{camera}" / f"depth_{i:05d}.png", codes)
            for other in (0, 1):
                K, world_to_camera = scene.K * (1 if other == camera else 2), np.linalg.inv(scene.poses[i])
                intrinsic.append(f"{i} {other} {K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}")
                pose = world_to_camera if other == camera else np.eye(4)
                extrinsic.append(f"{i} {other} " + " ".join(f"{number:.9f}" for number in pose.ravel()))
        (frames.parent / "intrinsic.txt").write_text("\n".join(intrinsic) + "\n", encoding="utf-8")
        (frames.parent / "extrinsic.txt").write_text("\n".join(extrinsic) + "\n", encoding="utf-8")

    return write


def test_vkitti2_is_read_in_metres_and_its_sky_is_no_depth(tmp_path, make_scene, write_vkitti):
    scene = make_scene(K)
    write_vkitti(tmp_path / "in", scene)
    scene.depth[:, 0, 0] = 0
    (folder,) = convert_layout("vkitti2", tmp_path / "in", tmp_path / "out")
    assert folder.name == "Scene01_15-deg-left_1"
    clip = open_sequence(folder).read()
    assert clip.depth[0, 0, 0] == 0
    scene.depth[:, 0, 0] = 1000  # keeps the reprojection of the test finite: the corner itself is not looked at
    np.testing.assert_allclose(clip.depth[:, 1:], scene.depth[:, 1:], atol=0.0051)
    np.testing.assert_allclose(clip.K, scene.K)
    np.testing.assert_allclose(clip.cam_to_world, scene.poses, atol=1e-7)
