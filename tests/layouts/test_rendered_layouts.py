import json
import struct

import h5py
import numpy as np
import pytest
from PIL import Image

from steadydepth.data.conversion import convert_layout
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import SomeFailedError
from steadydepth.types import InputError

K = np.array([[40.0, 0, 21.5], [0, 40, 16.0], [0, 0, 1]])


def write_h5(path, name, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[name] = values


@pytest.fixture
def write_sintel(write_png_at):
    def write(root, scene):
        for i in range(3):
            name = f"frame_{i + 1:04d}"
            write_png_at(root / "training" / "final" / "alley_1" / f"{name}.png", scene.frames[i])
            for kind in ("depth", "camdata_left"):
                (root / "training" / kind / "alley_1").mkdir(parents=True, exist_ok=True)
            h, w = scene.depth[i].shape
            depth = struct.pack("<fii", 202021.25, w, h) + scene.depth[i].astype("<f4").tobytes()
            (root / "training" / "depth" / "alley_1" / f"{name}.dpt").write_bytes(depth)
            numbers = np.concatenate([scene.K.ravel(), np.linalg.inv(scene.poses[i])[:3].ravel()])
            camera = struct.pack("<f", 202021.25) + numbers.astype("<f8").tobytes()
            (root / "training" / "camdata_left" / "alley_1" / f"{name}.cam").write_bytes(camera)

    return write


def test_sintel_is_read_in_metres_with_camera_and_poses(tmp_path, make_scene, write_sintel, assert_same):
    scene = make_scene(K)
    write_sintel(tmp_path / "in", scene)
    (folder,) = convert_layout("sintel", tmp_path / "in", tmp_path / "out")
    assert folder.name == "final_alley_1"
    assert_same(folder, scene, step_m=0.002)


def test_sintel_of_another_byte_order_is_refused(tmp_path, make_scene, write_sintel):
    write_sintel(tmp_path / "in", make_scene(K))
    path = tmp_path / "in" / "training" / "camdata_left" / "alley_1" / "frame_0002.cam"
    path.write_bytes(struct.pack(">f", 202021.25) + path.read_bytes()[4:])
    with pytest.raises(InputError, match=r"frame_0002\.cam: does not begin with 202021\.25"):
        list(convert_layout("sintel", tmp_path / "in", tmp_path / "out"))


def pack_bytes(depth):
    """Depth of TartanAir V2 in RGBA: the bytes of its floats are B, G, R, A."""
    return depth.astype("<f4")[..., None].view(np.uint8)[..., [2, 1, 0, 3]]


@pytest.mark.parametrize(
    ("folder", "camera", "height", "fps"), [("office/Hard", "left", 480, 30), ("Data_hard", "lcam_front", 640, 10)]
)
def test_tartanair_is_turned_from_ned_to_opencv(
    tmp_path, make_scene, write_png_at, quaternion, folder, camera, height, fps
):
    # 640 pixels show 90 degrees, half of them on either side of the axis, which is between two pixels.
    scene = make_scene(np.array([[320.0, 0, 319.5], [0, 320, (height - 1) / 2], [0, 0, 1]]))
    place = tmp_path / "in" / "office" / folder / "P003"
    # A point in OpenCV axes (right, down, forward) is (forward, right, down) in NED.
    ned = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    lines = []
    for i in range(3):
        write_png_at(place / f"image_{camera}" / f"{i:06d}_{camera}.png", scene.frames[i])
        depth = scene.depth[i].astype(np.float32)
        depth[0, 0] = 10000  # the sky
        path = place / f"depth_{camera}" / f"{i:06d}_{camera}_depth.npy"
        path.parent.mkdir(exist_ok=True)
        if camera == "left":
            np.save(path, depth)
        else:
            Image.fromarray(pack_bytes(depth), "RGBA").save(path.with_suffix(".png"))
        pose = ned @ scene.poses[i] @ np.linalg.inv(ned)
        lines.append(" ".join(f"{number:.9f}" for number in [*pose[:3, 3], *quaternion(pose[:3, :3])]))
    (place / f"pose_{camera}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (made,) = convert_layout("tartanair", tmp_path / "in", tmp_path / "out", split="Hard")
    assert made.name == f"office_{place.parent.name}_P003"
    assert open_sequence(made).fps == fps
    clip = open_sequence(made).read()
    assert (clip.depth[:, 0, 0] == 0).all()
    np.testing.assert_allclose(clip.depth[:, 1:], scene.depth[:, 1:], atol=0.00101)
    np.testing.assert_allclose(clip.cam_to_world, scene.poses, atol=1e-7)
    np.testing.assert_allclose(clip.K, scene.K)


def test_packed_depth_of_tartanair_that_is_none_is_named(tmp_path, write_png_at):
    place = tmp_path / "in/office/Data_easy/P000"
    for i in range(2):
        write_png_at(place / f"image_lcam_front/{i:06d}_lcam_front.png", np.full((8, 8, 3), 9, np.uint8))
    write_png_at(place / "depth_lcam_front/000000_lcam_front_depth.png", np.full((8, 8), 9, np.uint16))
    Image.fromarray(pack_bytes(np.full((8, 8), 3.0)), "RGBA").save(
        place / "depth_lcam_front/000001_lcam_front_depth.png"
    )
    (place / "pose_lcam_front.txt").write_text("0 0 0 0 0 0 1\n" * 2, encoding="utf-8")
    with pytest.raises(SomeFailedError, match=r"000000_lcam_front_depth\.png: cannot be read as PNG of four") as raised:
        list(convert_layout("tartanair", tmp_path / "in", tmp_path / "out"))
    assert [path.name for path in raised.value.written] == ["office_Data_easy_P000_00001"]


def test_hypersim_distance_becomes_planar_depth(tmp_path, make_scene, write_jpg_at, assert_same):
    h, w, focal = 768, 1024, 886.81  # of the set: its K is of no other size
    scene = make_scene(np.array([[focal, 0, (w - 1) / 2], [0, focal, (h - 1) / 2], [0, 0, 1]]), h=h, w=w)
    scene.frames = np.full((3, h, w, 3), np.arange(3, dtype=np.uint8)[:, None, None, None])
    place, metres = tmp_path / "in" / "ai_001_001", 0.0254
    y, x = np.mgrid[:h, :w]
    lengths = np.linalg.norm(np.stack((x, y, np.ones_like(x)), -1) @ np.linalg.inv(scene.K).T, axis=-1)
    for i in range(3):
        write_jpg_at(place / "images" / "scene_cam_00_final_preview" / f"frame.{i:04d}.tonemap.jpg", scene.frames[i])
        geometry = place / "images" / "scene_cam_00_geometry_hdf5" / f"frame.{i:04d}.depth_meters.hdf5"
        write_h5(geometry, "dataset", (scene.depth[i] * lengths).astype(np.float32))
    turns = scene.poses[:, :3, :3] @ np.diag([1, -1, -1])  # x right, y up, z backward
    write_h5(place / "_detail" / "cam_00" / "camera_keyframe_positions.hdf5", "dataset", scene.poses[:, :3, 3] / metres)
    write_h5(place / "_detail" / "cam_00" / "camera_keyframe_orientations.hdf5", "dataset", turns)
    (place / "_detail" / "metadata_scene.csv").write_text(
        f"parameter_name,parameter_value\nmeters_per_asset_unit,{metres}\n", encoding="utf-8"
    )
    (folder,) = convert_layout("hypersim", tmp_path / "in", tmp_path / "out")
    assert folder.name == "ai_001_001_cam_00"
    assert_same(folder, scene, step_m=0.001, exact_frames=False)


def test_spring_disparity_becomes_depth(tmp_path, make_scene, write_png_at, assert_same):
    scene = make_scene(K)
    place = tmp_path / "in" / "train" / "0007"
    intrinsics, extrinsics = [], []
    for i in range(3):
        write_png_at(place / "frame_left" / f"frame_left_{i + 1:04d}.png", scene.frames[i])
        disparity = np.full((2 * 31, 2 * 45), np.nan)  # twice the size, and only the taken pixels are known
        disparity[::2, ::2] = 40 * 0.065 / scene.depth[i]
        write_h5(place / "disp1_left" / f"disp1_left_{i + 1:04d}.dsp5", "disparity", disparity.astype(np.float32))
        intrinsics.append("40 40 21.5 16")
        extrinsics.append(" ".join(f"{number:.9f}" for number in np.linalg.inv(scene.poses[i]).ravel()))
    (place / "cam_data").mkdir()
    (place / "cam_data" / "intrinsics.txt").write_text("\n".join(intrinsics), encoding="utf-8")
    (place / "cam_data" / "extrinsics.txt").write_text("\n".join(extrinsics), encoding="utf-8")
    (folder,) = convert_layout("spring", tmp_path / "in", tmp_path / "out")
    assert folder.name == "spring_0007"
    assert_same(folder, scene, step_m=0.002)


def test_spring_takes_the_focal_length_of_each_frame(tmp_path, write_png_at):
    """The same disparity of a lens that zooms in is farther away: z = fx 0.065 m / disparity."""
    place = tmp_path / "in" / "train" / "0007"
    for i in range(3):
        write_png_at(place / "frame_left" / f"frame_left_{i + 1:04d}.png", np.full((8, 10, 3), 9, np.uint8))
        write_h5(place / "disp1_left" / f"disp1_left_{i + 1:04d}.dsp5", "disparity", np.full((16, 20), 2, np.float32))
    (place / "cam_data").mkdir()
    (place / "cam_data" / "intrinsics.txt").write_text("400 400 5 4\n600 600 5 4\n800 800 5 4\n", encoding="utf-8")
    one = " ".join(map(str, np.eye(4).ravel()))
    (place / "cam_data" / "extrinsics.txt").write_text(f"{one}\n" * 3, encoding="utf-8")
    (folder,) = convert_layout("spring", tmp_path / "in", tmp_path / "out")
    np.testing.assert_allclose(open_sequence(folder).read().depth[:, 0, 0], [13.0, 19.5, 26.0], atol=0.0011)


def test_pointodyssey_is_read_in_metres_with_camera_and_poses(
    tmp_path, make_scene, write_png_at, write_jpg_at, assert_same
):
    scene = make_scene(K)
    place = tmp_path / "in" / "val" / "ani1"
    for i in range(3):
        write_jpg_at(place / "rgbs" / f"rgb_{i:05d}.jpg", scene.frames[i])
        write_png_at(place / "depths" / f"depth_{i:05d}.png", np.rint(scene.depth[i] / 1000 * 65535).astype(np.uint16))
    from_edge = K + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # Blender's: the middle of 960 pixels is at 480
    np.savez(place / "anno.npz", intrinsics=np.tile(from_edge, (3, 1, 1)), extrinsics=np.linalg.inv(scene.poses))
    (folder,) = convert_layout("pointodyssey", tmp_path / "in", tmp_path / "out", split="val")
    assert folder.name == "val_ani1"
    assert_same(folder, scene, step_m=1000 / 65535, exact_frames=False)
    with pytest.raises(InputError, match=r"pointodyssey has no part dev; it has train, val, test"):
        list(convert_layout("pointodyssey", tmp_path / "in", tmp_path / "out", split="dev"))


def test_replica_as_nice_slam_renders_it(tmp_path, make_scene, assert_same, write_png_at, write_jpg_at):
    scene, scale = make_scene(K), 4000.0
    place = tmp_path / "in" / "room0"
    for i, frame in enumerate(scene.frames):
        write_jpg_at(place / f"results/frame{i:06d}.jpg", frame)
        write_png_at(place / f"results/depth{i:06d}.png", np.rint(scale * scene.depth[i]).astype(np.uint16))
    (place / "traj.txt").write_text(
        "\n".join(" ".join(map(repr, map(float, p.ravel()))) for p in scene.poses), encoding="utf-8"
    )
    camera = {"w": 45, "h": 31, "fx": 40.0, "fy": 40.0, "cx": 21.5, "cy": 16.0, "scale": scale}
    (place.parent / "cam_params.json").write_text(json.dumps({"camera": camera}), encoding="utf-8")
    (made,) = convert_layout("replica", place.parent, tmp_path / "out")
    assert made.name == "room0"
    assert_same(made, scene, step_m=1 / scale, exact_frames=False)
    # Without that file it is the camera that all its scenes are rendered with, and 6553.5 steps a metre.
    (place.parent / "cam_params.json").unlink()
    (made,) = convert_layout("replica", place, tmp_path / "default")
    clip = open_sequence(made).read()
    np.testing.assert_allclose(clip.K, [[600, 0, 599.5], [0, 600, 339.5], [0, 0, 1]])
    np.testing.assert_allclose(clip.depth, scene.depth * scale / 6553.5, atol=2e-4)


def test_replica_names_a_camera_that_is_none_and_poses_that_are_missing(tmp_path, write_jpg_at):
    for name in ("a", "b"):
        for i in range(2):
            write_jpg_at(tmp_path / f"in/{name}/results/frame{i:06d}.jpg", np.full((8, 8, 3), 9, np.uint8))
        (tmp_path / "in" / name / "traj.txt").write_text(" ".join(map(str, np.eye(4).ravel())) + "\n", encoding="utf-8")
    (tmp_path / "in/a/cam_params.json").write_text('{"camera": {"fx": 1}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)b.traj\.txt: 1 poses for frames to 1"):
        list(convert_layout("replica", tmp_path / "in", tmp_path / "out"))
    (tmp_path / "in/a/traj.txt").write_text((" ".join(map(str, np.eye(4).ravel())) + "\n") * 2, encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)a.cam_params\.json: cannot be read as a camera with fx"):
        list(convert_layout("replica", tmp_path / "in", tmp_path / "out"))
