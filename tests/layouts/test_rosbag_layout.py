"""Bags of robots, written by the same package that reads them: ROS 1 and ROS 2."""

import cv2
import numpy as np
import pytest

from steadydepth.data.conversion import convert_layout
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError

pytest.importorskip("rosbags", reason="needs steadydepth[rosbag]")

H, W, K = 24, 30, [40.0, 0, 15, 0, 41, 12, 0, 0, 1]
DEPTH = np.linspace(500, 4000, H * W).reshape(H, W).astype(np.uint16)


def colour_of(number):
    image = np.full((H, W, 3), (200, 40 + 20 * number, 30), np.uint8)
    image[:8, :10] = (10, 220, 240)
    return image


class Writer:
    """Messages into a bag of ROS 1 or 2."""

    def __init__(self, path, version):
        from rosbags import rosbag1, rosbag2
        from rosbags.typesys import Stores, get_typestore

        self.version = version
        self.store = get_typestore(Stores.ROS1_NOETIC if version == 1 else Stores.ROS2_HUMBLE)
        self.bag = rosbag1.Writer(path) if version == 1 else rosbag2.Writer(path, version=9)
        self.connections = {}

    def message(self, kind, **fields):
        return self.store.types[kind](**fields)

    def header(self, time_s, frame):
        stamp = self.message("builtin_interfaces/msg/Time", sec=int(time_s), nanosec=round(time_s % 1 * 1e9))
        return self.message(
            "std_msgs/msg/Header", stamp=stamp, frame_id=frame, **({"seq": 0} if self.version == 1 else {})
        )

    def write(self, topic, kind, time_s, **fields):
        if topic not in self.connections:
            self.connections[topic] = self.bag.add_connection(topic, kind, typestore=self.store)
        serialize = self.store.serialize_ros1 if self.version == 1 else self.store.serialize_cdr
        # Recorded some time after it was taken.
        self.bag.write(
            self.connections[topic], round((time_s + 0.05) * 1e9), serialize(self.message(kind, **fields), kind)
        )

    def image(self, topic, time_s, pixels, encoding, *, frame="camera_color", big=0, fill=0):
        height, width = pixels.shape[:2]
        lines = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
        lines = np.pad(lines, ((0, 0), (0, fill)), constant_values=77)
        self.write(
            topic, "sensor_msgs/msg/Image", time_s, header=self.header(time_s, frame), height=height, width=width,
            encoding=encoding, is_bigendian=big, step=lines.shape[1], data=lines.ravel(),
        )  # fmt: skip

    def compressed(self, topic, time_s, data, form, *, frame="camera_color"):
        self.write(
            topic, "sensor_msgs/msg/CompressedImage", time_s, header=self.header(time_s, frame), format=form,
            data=np.frombuffer(data, np.uint8),
        )  # fmt: skip

    def camera(self, topic, time_s):
        numbers = {"d": np.zeros(5), "k": np.array(K), "r": np.eye(3).ravel(), "p": np.zeros(12)}
        roi = self.message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        self.write(
            topic, "sensor_msgs/msg/CameraInfo", time_s, header=self.header(time_s, "camera_color"), height=H, width=W,
            distortion_model="plumb_bob", binning_x=0, binning_y=0, roi=roi,
            **{name.upper() if self.version == 1 else name: value for name, value in numbers.items()},
        )  # fmt: skip


@pytest.mark.parametrize(("version", "name"), [(1, "walk.bag"), (2, "walk")])
@pytest.mark.parametrize("metres", [False, True])
def test_registered_depth_and_colour_of_a_bag(tmp_path, version, name, metres):
    writer = Writer(tmp_path / name, version)
    with writer.bag:
        for number in range(4):
            time_s = 100 + number / 10 + (5 if number == 3 else 0)  # a pause before the last
            writer.image("/camera/color/image_raw", time_s, colour_of(number)[..., ::-1], "bgr8", fill=6)
            writer.camera("/camera/color/camera_info", time_s)
            writer.image("/camera/infra1/image_rect_raw", time_s, np.full((H, W), 50, np.uint8), "mono8", frame="infra")
            writer.image("/camera/depth/image_rect_raw", time_s, DEPTH, "16UC1", frame="camera_depth")
            if number != 1:
                pixels, encoding = (DEPTH.astype("<f4") / 1000, "32FC1") if metres else (DEPTH.astype(">u2"), "16UC1")
                topic = "/camera/aligned_depth_to_color/image_raw"
                writer.image(topic, time_s + 0.004, pixels, encoding, big=int(not metres))
    first, last = convert_layout("rosbag", tmp_path, tmp_path / "out")
    assert (first.name, last.name) == ("walk_00000", "walk_00003")
    sequence = open_sequence(first)
    assert sequence.fps == pytest.approx(10)
    clip = sequence.read()
    np.testing.assert_array_equal(clip.frames, np.stack([colour_of(number) for number in range(3)]))
    np.testing.assert_allclose(clip.depth[0], DEPTH / 1000, atol=1e-6)
    assert not clip.depth[1].any()
    np.testing.assert_allclose(clip.K, np.reshape(K, (3, 3)))
    assert clip.cam_to_world is None


def test_compressed_images_and_depth(tmp_path):
    writer = Writer(tmp_path / "a.bag", 1)
    jpeg = cv2.imencode(".jpg", colour_of(0)[..., ::-1])[1].tobytes()
    png = cv2.imencode(".png", DEPTH)[1].tobytes()
    with writer.bag:
        writer.compressed("/camera/rgb/image_raw/compressed", 1.0, jpeg, "rgb8; jpeg compressed bgr8")
        writer.compressed(
            "/camera/depth_registered/compressedDepth", 1.0, bytes(12) + png, "16UC1; compressedDepth png"
        )
        writer.camera("/camera/rgb/camera_info", 1.0)
    (made,) = convert_layout("rosbag", tmp_path / "a.bag", tmp_path / "out")
    clip = open_sequence(made).read()
    assert np.abs(clip.frames[0].astype(int) - colour_of(0)).mean() < 4
    np.testing.assert_allclose(clip.depth[0], DEPTH / 1000, atol=1e-6)
    np.testing.assert_allclose(clip.K, np.reshape(K, (3, 3)))


def test_depth_of_a_camera_of_its_own_is_refused_with_the_way_out(tmp_path):
    """As RealSense' viewer records it: depth and colour side by side, each in its own frame."""
    writer = Writer(tmp_path / "20260101_120000.bag", 1)
    with writer.bag:
        writer.image("/device_0/sensor_1/Color_0/image/data", 1.0, colour_of(0), "rgb8", frame="1")
        writer.image("/device_0/sensor_0/Depth_0/image/data", 1.0, DEPTH, "mono16", frame="0")
    with pytest.raises(InputError, match=r"Depth_0/image/data is in the frame '0'.*rs2::align.*data convert pairs"):
        list(convert_layout("rosbag", tmp_path, tmp_path / "out"))


def test_depth_of_another_size_than_its_colour_is_refused_once(tmp_path):
    writer = Writer(tmp_path / "a.bag", 1)
    with writer.bag:
        for number in range(3):
            writer.image("/rgb/image", 1.0 + number, colour_of(0), "rgb8")
            writer.image("/depth/image", 1.0 + number, DEPTH[::2, ::2], "16UC1")
    with pytest.raises(InputError, match=r"/depth/image is \(15, 12\), /rgb/image \(30, 24\): record depth") as raised:
        list(convert_layout("rosbag", tmp_path, tmp_path / "out"))
    assert len(str(raised.value).splitlines()) == 2


def test_a_bag_without_images_or_cut_or_no_bag_is_named(tmp_path):
    writer = Writer(tmp_path / "none.bag", 1)
    with writer.bag:
        writer.camera("/camera/rgb/camera_info", 1.0)
    with pytest.raises(InputError, match=r"none\.bag: no image topic of rgb8"):
        list(convert_layout("rosbag", tmp_path / "none.bag", tmp_path / "out"))
    data = (tmp_path / "none.bag").read_bytes()
    for number, content in enumerate((b"", b"hello", data[: len(data) // 2], data[:40] + bytes(200))):
        (tmp_path / f"{number}.bag").write_bytes(content)
        with pytest.raises(InputError, match=rf"{number}\.bag: cannot be read as a bag"):
            list(convert_layout("rosbag", tmp_path / f"{number}.bag", tmp_path / "out"))


def test_a_bag_of_ros_2_whose_data_base_is_damaged_is_named(tmp_path):
    """As a robot leaves it whose power was cut."""
    writer = Writer(tmp_path / "walk", 2)
    with writer.bag:
        for number in range(20):
            writer.camera("/camera/rgb/camera_info", 1.0 + number)
    path = next((tmp_path / "walk").glob("*.db3"))
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(InputError, match=r"walk: cannot be read as a bag \("):
        list(convert_layout("rosbag", tmp_path / "walk", tmp_path / "out"))
