"""Recordings of iPhones: as the sensor lies, with LiDAR depth, its confidence, and poses in a world that knows up."""

import json
import zipfile

import av
import cv2
import numpy as np
import pytest

from steadydepth.data.conversion import convert_layout
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError, SomeFailedError
from steadydepth.files.video_write import write_video

K = np.array([[40.0, 0, 21], [0, 42, 14.5], [0, 0, 1]])
UPRIGHT_Z = np.array([[1.0, 0, 0, 3], [0, 0, 1, -2], [0, -1, 0, 1], [0, 0, 0, 1]])  # camera to a world with z up
UPRIGHT_Y = np.array([[1.0, 0, 0, 3], [0, -1, 0, 2], [0, 0, -1, 1], [0, 0, 0, 1]])  # camera to a world with y up
# An image that lies turned a quarter to the left of upright: its x is the upright one's y, its y the other's -x.
TO_LEFT = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def as_stored(scene, upright, quarters):
    """Frames, depth, K and poses of an upright scene as a camera turned `quarters` to the left stores them."""
    poses = upright @ np.linalg.inv(scene.poses[0]) @ scene.poses
    frames, depth, camera = scene.frames, scene.depth, scene.K
    for _ in range(quarters):
        width = frames.shape[2]
        frames, depth = np.rot90(frames, 1, (1, 2)), np.rot90(depth, 1, (1, 2))
        camera = np.array([[camera[1, 1], 0, camera[1, 2]], [0, camera[0, 0], width - 1 - camera[0, 2]], [0, 0, 1]])
        poses = poses @ np.linalg.inv(TO_LEFT)
    return frames, depth, camera, poses


def millimetres(depth):
    return np.rint(1000 * depth).astype(np.uint16)


@pytest.mark.parametrize(("quarters", "middle"), [(0, ""), (1, "Training/41/41_frames"), (2, "41"), (3, "raw/41")])
def test_arkitscenes_is_written_upright_with_poses_between_those_given(
    tmp_path, make_scene, assert_same, write_png_at, quarters, middle
):
    scene = make_scene(K)
    frames, depth, camera, poses = as_stored(scene, UPRIGHT_Z, quarters)
    place = tmp_path / "41" if not middle else tmp_path / "in" / middle
    h, w = frames.shape[1:3]
    times = [3390.281, 3390.298, 3390.314]
    lines = []
    for i, time in enumerate(times):
        write_png_at(place / "lowres_wide" / f"41_{time:.3f}.png", frames[i])
        write_png_at(place / "lowres_depth" / f"41_{time + 0.001:.3f}.png", millimetres(depth[i]))
        lens = place / "lowres_wide_intrinsics" / f"41_{time - 0.001:.3f}.pincam"
        lens.parent.mkdir(exist_ok=True)
        lens.write_text(f"{w} {h} {camera[0, 0]} {camera[1, 1]} {camera[0, 2]} {camera[1, 2]}\n", encoding="utf-8")
        to_camera = np.linalg.inv(poses[i])
        line = [time, *cv2.Rodrigues(to_camera[:3, :3])[0].ravel(), *to_camera[:3, 3]]
        # The times of these three are not quite even; what lies between two poses is.
        lines.append(" ".join(f"{number:.12g}" for number in line))
    (place / "lowres_wide.traj").write_text("\n".join(lines) + "\n", encoding="utf-8")
    root = place if not middle else tmp_path / "in"
    (made,) = convert_layout("arkitscenes", root, tmp_path / "out")
    assert made.name == "41"
    assert open_sequence(made).fps == pytest.approx(60.6, abs=0.1)
    assert_same(made, scene, step_m=0.001)
    upright = open_sequence(made).read().cam_to_world
    np.testing.assert_allclose(upright @ np.linalg.inv(upright[0]), poses @ np.linalg.inv(poses[0]), atol=1e-8)


def test_arkitscenes_interpolates_poses_and_leaves_out_what_is_far_from_any(tmp_path, write_png_at):
    place = tmp_path / "in" / "Validation" / "7"
    turn, step = np.array([0.02, 0.3, -0.01]), np.array([0.1, -0.2, 0.05])

    def pose(time):
        """Camera to world of a camera that turns about one axis and moves evenly."""
        made = np.eye(4)
        made[:3, :3], made[:3, 3] = cv2.Rodrigues(turn * time)[0], step * time
        return UPRIGHT_Z @ made

    times = [0.0, 0.1, 0.15, 0.2, 0.3, 0.6, 0.8]  # the last two are beyond, and 0.303 near enough
    for time in times:
        write_png_at(place / "lowres_wide" / f"7_{time:.3f}.png", np.full((8, 12, 3), 100, np.uint8))
        (place / "lowres_wide_intrinsics").mkdir(exist_ok=True)
        (place / "lowres_wide_intrinsics" / f"7_{time:.3f}.pincam").write_text("12 8 10 10 6 4", encoding="utf-8")
    lines = []
    for time in (0.1, 0.2, 0.303):
        to_camera = np.linalg.inv(pose(time))
        lines.append(" ".join(map(str, [time, *cv2.Rodrigues(to_camera[:3, :3])[0].ravel(), *to_camera[:3, 3]])))
    (place / "lowres_wide.traj").write_text("\n".join(lines), encoding="utf-8")
    (made,) = convert_layout("arkitscenes", tmp_path / "in", tmp_path / "out", split="Validation")
    sequence = open_sequence(made)
    expected = np.stack([pose(time) for time in (0.1, 0.15, 0.2, 0.3)])
    np.testing.assert_allclose(sequence.cam_to_world, expected, atol=1e-9)
    assert not sequence.has_depth
    with pytest.raises(InputError, match="nothing of arkitscenes"):
        list(convert_layout("arkitscenes", tmp_path / "in", tmp_path / "other", split="Training"))


def test_arkitscenes_without_cameras_is_named_and_the_rest_is_done(tmp_path, write_png_at):
    for name in ("1", "2"):
        write_png_at(tmp_path / "in" / name / "lowres_wide" / f"{name}_0.500.png", np.full((8, 12, 3), 9, np.uint8))
        (tmp_path / "in" / name / "lowres_wide.traj").write_text("0.5 1.57 0 0 0 0 0\n", encoding="utf-8")
    lens = tmp_path / "in/2/lowres_wide_intrinsics"
    lens.mkdir()
    (lens / "2_0.500.pincam").write_text("12 8 10 10 6 4", encoding="utf-8")
    with pytest.raises(SomeFailedError, match=r"in[/\\]1: no images in lowres_wide, or no camera") as raised:
        list(convert_layout("arkitscenes", tmp_path / "in", tmp_path / "out"))
    assert [path.name for path in raised.value.written] == ["2"]


def quaternion(turn):
    """Of a rotation matrix, as x, y, z, w; of half a turn as well."""
    axis = cv2.Rodrigues(turn)[0].ravel()
    angle = np.linalg.norm(axis)
    return [*(axis / angle * np.sin(angle / 2)), np.cos(angle / 2)]


def write_stray(place, frames, depth, camera, poses, *, confidence=None):
    """A recording of `frames` whose depth is four times smaller on each side."""
    (place / "depth").mkdir(parents=True)
    (place / "confidence").mkdir()
    write_video(place / "rgb.mp4", iter(frames), 60.0)
    lines = ["timestamp, frame, x, y, z, qx, qy, qz, qw"]
    for i, pose in enumerate(poses):
        cv2.imwrite(str(place / f"depth/{i:06d}.png"), millimetres(depth[i]))
        levels = np.full(depth[i].shape, 2, np.uint8) if confidence is None else confidence
        cv2.imwrite(str(place / f"confidence/{i:06d}.png"), levels)
        numbers = [100 + i / 60, *pose[:3, 3], *quaternion(pose[:3, :3])]
        lines.append(f"{numbers[0]}, {i:06d}, " + ", ".join(map(str, numbers[1:])))
    (place / "odometry.csv").write_text("\n".join(lines), encoding="utf-8")
    (place / "camera_matrix.csv").write_text("\n".join(", ".join(map(str, row)) for row in camera), encoding="utf-8")


@pytest.mark.parametrize("quarters", [0, 1, 2])
def test_stray_scanner_gives_colour_of_the_size_of_depth_upright(tmp_path, make_scene, assert_same, quarters):
    scene = make_scene(K, h=32, w=44)
    frames, depth, camera, poses = as_stored(scene, UPRIGHT_Y, quarters)
    large = frames.repeat(4, axis=1).repeat(4, axis=2)
    # Pixel 0 of the small image is the middle of pixels 0 to 3 of the large one.
    large_camera = np.diag([4.0, 4, 1]) @ camera + [[0, 0, 1.5], [0, 0, 1.5], [0, 0, 0]]
    write_stray(tmp_path / "in/a1b2", large, depth, large_camera, poses)
    (made,) = convert_layout("stray_scanner", tmp_path / "in", tmp_path / "out")
    assert_same(made, scene, step_m=0.001, exact_frames=False)
    sequence = open_sequence(made)
    assert sequence.fps == pytest.approx(60, rel=1e-3)
    errors = np.abs(sequence.read().frames[:, None].astype(float) - scene.frames[None]).mean(axis=(2, 3, 4))
    assert (errors.argmin(axis=1) == np.arange(3)).all(), errors
    assert errors.diagonal().max() < 0.5 * errors[0, 1]


def test_stray_scanner_does_not_trust_low_confidence_and_splits_at_a_pause(tmp_path, make_scene):
    scene = make_scene(K, h=32, w=44)
    frames, depth, camera, poses = as_stored(scene, UPRIGHT_Y, 0)
    levels = np.full((32, 44), 1, np.uint8)
    levels[:, 20:] = 0
    place = tmp_path / "in"
    write_stray(place, frames, depth, camera, poses, confidence=levels)
    odometry = (place / "odometry.csv").read_text(encoding="utf-8")
    (place / "odometry.csv").write_text(odometry.replace(f"{100 + 2 / 60}, ", "107.5, "), encoding="utf-8")
    (place / "depth/000001.png").unlink()
    first, second = convert_layout("stray_scanner", place, tmp_path / "out")
    assert (first.name, second.name) == ("in_00000", "in_00002")
    clip = open_sequence(first).read()
    np.testing.assert_allclose(clip.depth[0, :, :20], depth[0, :, :20], atol=0.0006)
    assert not clip.depth[0, :, 20:].any()
    assert not clip.depth[1].any()
    np.testing.assert_allclose(open_sequence(second).read().depth[0, :, :20], depth[2, :, :20], atol=0.0006)


def test_the_first_frame_of_stray_scanner_that_its_video_hides_moves_no_other(tmp_path, make_scene):
    """The app's video begins with its second frame; depth, confidence and odometry.csv with the first."""
    scene = make_scene(K, h=32, w=44)
    frames, depth, camera, poses = as_stored(scene, UPRIGHT_Y, 0)
    place = tmp_path / "in"
    write_stray(place, frames, depth, camera, poses)
    whole, video = (place / "rgb.mp4").rename(tmp_path / "whole.mp4"), place / "rgb.mp4"
    with av.open(str(whole)) as all_of_it, av.open(str(video), "w", options={"avoid_negative_ts": "disabled"}) as file:
        stream = all_of_it.streams.video[0]
        copied, frame = file.add_stream_from_template(stream), round(1 / (60 * stream.time_base))
        for packet in all_of_it.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - frame, packet.dts - frame, copied
                file.mux(packet)
    (made,) = convert_layout("stray_scanner", place, tmp_path / "out")
    clip = open_sequence(made).read()
    np.testing.assert_allclose(clip.depth, depth[1:], atol=0.0006)
    np.testing.assert_allclose(clip.cam_to_world, poses[1:], atol=1e-6)
    errors = np.abs(clip.frames[:, None].astype(float) - frames[None, 1:]).mean(axis=(2, 3, 4))
    assert (errors.argmin(axis=1) == [0, 1]).all(), errors


def test_stray_scanner_refuses_a_video_that_is_not_of_its_odometry(tmp_path, make_scene):
    scene = make_scene(K, h=32, w=44)
    place = tmp_path / "in"
    stored = as_stored(scene, UPRIGHT_Y, 0)
    write_stray(place, *stored)
    write_video(place / "rgb.mp4", iter(np.concatenate([scene.frames] * 3)), 60.0)
    with pytest.raises(InputError, match=r"rgb\.mp4 has 9 frames, odometry\.csv 3 lines"):
        list(convert_layout("stray_scanner", place, tmp_path / "out"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("odometry.csv", "timestamp, frame, x\n1, 2, 3\n", "odometry.csv: cannot be read as CSV with timestamp, x"),
        (
            "odometry.csv",
            "{head}\n" + "a, 0, 0, 0, 0, 0, 0, 0, 1\n" * 3,
            "odometry.csv: cannot be read as lines of numbers",
        ),
        ("odometry.csv", "{head}\n" + "1, 0, 0, 0, 0, 0, 0, 0, 1\n" * 3, "odometry.csv: times out of order"),
        ("odometry.csv", "{head}\n" + "".join(f"{i}, 0, 0, 0, 0, 0, 0, 0, 0\n" for i in range(3)), "NaN or infinity"),
        ("camera_matrix.csv", "1, 0, 0\n", "camera_matrix.csv: 1 lines; a camera has 3"),
        ("camera_matrix.csv", "nan, 0, 0\n" * 3, "frame 0: K: a camera matrix is 3x3 of finite"),
        ("confidence/000000.png", "", "000000.png: empty file"),
    ],
)
def test_a_damaged_file_of_stray_scanner_is_named(tmp_path, make_scene, file, text, message):
    scene = make_scene(K, h=32, w=44)
    write_stray(tmp_path / "in", *as_stored(scene, UPRIGHT_Y, 0))
    (tmp_path / "in" / file).write_text(
        text.replace("{head}", "timestamp, frame, x, y, z, qx, qy, qz, qw"), encoding="utf-8"
    )
    with pytest.raises(InputError, match=message):
        list(convert_layout("stray_scanner", tmp_path / "in", tmp_path / "out"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("lowres_wide_intrinsics/7_0.500.pincam", "nan 8 1 1 1 1", "is no camera"),
        ("lowres_wide.traj", "0.5 1 2\n", r"lowres_wide\.traj: has 3 numbers a line; there are 7"),
        ("lowres_wide.traj", "0.5 0 0 0 0 0 nan\n", r"lowres_wide\.traj: times out of order, or no numbers"),
        ("lowres_wide.traj", "9.5 0 0 0 0 0 0\n", "no image has a pose"),
    ],
)
def test_a_damaged_file_of_arkitscenes_is_named(tmp_path, write_png_at, file, text, message):
    place = tmp_path / "in/7"
    write_png_at(place / "lowres_wide/7_0.500.png", np.full((8, 12, 3), 9, np.uint8))
    (place / "lowres_wide_intrinsics").mkdir()
    (place / "lowres_wide_intrinsics/7_0.500.pincam").write_text("12 8 10 10 6 4", encoding="utf-8")
    (place / "lowres_wide.traj").write_text("0.5 1.57 0 0 0 0 0\n", encoding="utf-8")
    (place / file).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(convert_layout("arkitscenes", tmp_path / "in", tmp_path / "out"))


def write_r3d(path, frames, depth, camera, poses, *, pack, confidence=None, **changes):
    """A Record3D file of `frames` whose depth is four times smaller on each side."""
    h, w = frames.shape[1:3]
    back = poses @ np.diag([1.0, -1, -1, 1])  # ARKit's camera axes: y up, z to the back
    metadata = {
        "w": w, "h": h, "dw": w // 4, "dh": h // 4, "fps": 30, "K": camera.T.ravel().tolist(),
        "poses": [[*quaternion(pose[:3, :3]), *pose[:3, 3].tolist()] for pose in back],
    } | changes  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata", json.dumps(metadata))
        for i, frame in enumerate(frames):
            archive.writestr(f"rgbd/{i}.jpg", cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes())
            archive.writestr(f"rgbd/{i}.depth", pack(depth[i].astype("<f4").tobytes()))
            if confidence is not None:
                archive.writestr(f"rgbd/{i}.conf", pack(confidence.tobytes()))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_record3d_gives_depth_of_its_own_size_and_poses_of_opencv(tmp_path, make_scene, assert_same, packed, each):
    pack = pytest.importorskip("lzfse", reason="needs steadydepth[record3d]").compress if packed else bytes
    scene = make_scene(K, h=32, w=44)
    large = scene.frames.repeat(4, axis=1).repeat(4, axis=2)
    camera = np.diag([4.0, 4, 1]) @ K + [[0, 0, 1.5], [0, 0, 1.5], [0, 0, 0]]
    own = {"perFrameIntrinsicCoeffs": [[camera[0, 0], camera[1, 1], camera[0, 2], camera[1, 2]]] * 3, "K": [1] * 9}
    write_r3d(tmp_path / "walk.r3d", large, scene.depth, camera, scene.poses, pack=pack, **(own if each else {}))
    (made,) = convert_layout("record3d", tmp_path, tmp_path / "out")
    assert (made.name, open_sequence(made).fps) == ("walk", 30)
    assert_same(made, scene, step_m=0.001, exact_frames=False)
    clip = open_sequence(made).read()
    np.testing.assert_allclose(clip.cam_to_world, scene.poses, atol=1e-6)


def test_record3d_does_not_trust_low_confidence(tmp_path, make_scene):
    scene = make_scene(K, h=32, w=44)
    levels = np.full((32, 44), 2, np.uint8)
    levels[:10] = 0
    large = scene.frames.repeat(4, axis=1).repeat(4, axis=2)
    write_r3d(tmp_path / "a.r3d", large, scene.depth, K, scene.poses, pack=bytes, confidence=levels)
    (made,) = convert_layout("record3d", tmp_path / "a.r3d", tmp_path / "out")
    depth = open_sequence(made).read().depth
    assert not depth[:, :10].any()
    np.testing.assert_allclose(depth[:, 10:], scene.depth[:, 10:], atol=0.0006)


def test_a_damaged_record3d_file_is_named(tmp_path, make_scene):
    scene = make_scene(K, h=32, w=44)
    large = scene.frames.repeat(4, axis=1).repeat(4, axis=2)
    write = {"frames": large, "depth": scene.depth, "camera": K, "poses": scene.poses}
    write_r3d(tmp_path / "short.r3d", **write, pack=lambda data: data[:-4])
    write_r3d(tmp_path / "huge.r3d", **write, pack=bytes, w=10**9)
    write_r3d(tmp_path / "poses.r3d", **write | {"poses": scene.poses[:2]}, pack=bytes)
    write_r3d(tmp_path / "no_lens.r3d", **write, pack=bytes, K=[1, 2])
    (tmp_path / "zip.r3d").write_bytes(b"PK no zip")
    expected = {
        "short": r"short\.r3d, frame 0: cannot be read \(.*bytes for 44 x 32|short\.r3d, frame 0: .*LZFSE|lzfse is",
        "huge": r"huge\.r3d: 3 images and 3 poses",
        "poses": r"poses\.r3d: 3 images and 2 poses",
        "no_lens": r"no_lens\.r3d: cannot be read as a Record3D file",
        "zip": r"zip\.r3d: cannot be read as a Record3D file",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message):
            list(convert_layout("record3d", tmp_path / f"{name}.r3d", tmp_path / "out"))
