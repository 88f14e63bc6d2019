"""The ROS 2 node beside the message definitions of ROS 2 Humble, and a stand-in for rclpy that hands messages over."""

import sys
from configparser import ConfigParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from steadydepth.inference.predictor import Predictor
from steadydepth.training.checkpoint import save_model

HOME = Path(__file__).parent.parent.parent / "integrations" / "ros2"


class Image:
    """The fields of sensor_msgs/msg/Image."""

    def __init__(self, **fields):
        self.header, self.height, self.width = None, 0, 0
        self.encoding, self.is_bigendian, self.step, self.data = "", 0, 0, b""
        vars(self).update(fields)


def image_of(pixels, encoding, *, padding=0, stamp=0.0):
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)))
    header = SimpleNamespace(stamp=SimpleNamespace(sec=int(stamp), nanosec=int(stamp % 1 * 1e9)), frame_id="camera")
    return Image(header=header, height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.tobytes())


def through_ros2(image):
    """The image as another node gets it: written and read by the definitions of ROS 2 Humble that rosbags carries."""
    from rosbags.typesys import Stores, get_typestore

    humble = get_typestore(Stores.ROS2_HUMBLE)
    kinds = humble.types
    stamp = kinds["builtin_interfaces/msg/Time"](sec=image.header.stamp.sec, nanosec=image.header.stamp.nanosec)
    header = kinds["std_msgs/msg/Header"](stamp=stamp, frame_id=image.header.frame_id)
    fields = vars(image) | {"header": header, "data": np.frombuffer(image.data, np.uint8)}
    name = "sensor_msgs/msg/Image"
    return humble.deserialize_cdr(humble.serialize_cdr(kinds[name](**fields), name), name)


class Node:
    """What the node asks of rclpy's."""

    parameters: ClassVar[dict] = {}

    def __init__(self, name):
        self.name, self.published, self.said, self.take_from = name, [], [], {}

    def declare_parameter(self, name, value):
        return SimpleNamespace(value=self.parameters.get(name, value))

    def create_publisher(self, kind, topic, qos):
        return SimpleNamespace(publish=self.published.append)

    def create_subscription(self, kind, topic, callback, qos):
        self.take_from[topic] = (kind, callback, qos.depth)

    def get_logger(self):
        return SimpleNamespace(warning=self.said.append, error=lambda text, **_: self.said.append(text))


@pytest.fixture
def ros(monkeypatch):
    def module(name, **content):
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("rclpy")
    module("rclpy.node", Node=Node)
    module("rclpy.qos", qos_profile_sensor_data=SimpleNamespace(depth=5))
    module("sensor_msgs")
    module("sensor_msgs.msg", Image=Image)
    monkeypatch.syspath_prepend(str(HOME))
    import steadydepth_ros2.messages as messages
    import steadydepth_ros2.node as node

    yield SimpleNamespace(messages=messages, node=node)
    for name in [name for name in sys.modules if name.startswith("steadydepth_ros2")]:
        del sys.modules[name]


def test_images_of_every_encoding_become_rgb(ros):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    alpha = np.full((5, 7, 1), 9, np.uint8)
    for encoding, pixels in {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.dstack((rgb, alpha)),
        "bgra8": np.dstack((rgb[..., ::-1], alpha)),
    }.items():
        for padding in (0, 3):
            message = image_of(np.ascontiguousarray(pixels), encoding, padding=padding)
            np.testing.assert_array_equal(ros.messages.read_image(message), rgb)
    grey = ros.messages.read_image(image_of(rgb[..., 0].copy(), "mono8"))
    np.testing.assert_array_equal(grey, rgb[..., :1].repeat(3, axis=-1))
    with pytest.raises(ValueError, match="encoding 'bayer_rggb8': there are rgb8"):
        ros.messages.read_image(image_of(rgb[..., 0].copy(), "bayer_rggb8"))
    short = image_of(rgb, "rgb8")
    short.data = short.data[:-1]
    with pytest.raises(ValueError, match="has 104 bytes: send all of it"):
        ros.messages.read_image(short)


def test_the_node_publishes_filtered_depth_with_the_header_of_the_image(ros, model, moving_clip, tmp_path, monkeypatch):
    save_model(model, tmp_path / "model")
    monkeypatch.setattr(Node, "parameters", {"model": str(tmp_path / "model")})
    node = ros.node.DepthNode()
    kind, take, queue = node.take_from["image"]
    assert (kind, queue, node.said) == (Image, 1, [])
    session = Predictor(model).session(filter="learned")
    pytest.importorskip("rosbags", reason="needs steadydepth[rosbag]")
    # The last image comes two seconds late: what was before it is forgotten.
    for number, (frame, stamp) in enumerate(zip(moving_clip.frames, (0.0, 0.1, 0.2, 0.3, 2.3), strict=True)):
        message = through_ros2(image_of(frame, "rgb8", stamp=stamp))
        take(message)
        expected = session.step(frame, time_s=stamp).depth
        depth = through_ros2(node.published[number])
        assert depth.header == message.header
        assert (depth.encoding, depth.height, depth.width, depth.step) == ("32FC1", 48, 64, 256)
        np.testing.assert_allclose(np.frombuffer(depth.data, "<f4").reshape(48, 64), expected, rtol=1e-5)
    np.testing.assert_allclose(expected, Predictor(model).predict(frame).depth, rtol=1e-5)
    take(image_of(moving_clip.frames[0][..., 0].copy(), "bayer_rggb8"))
    assert len(node.published) == 5
    assert "encoding" in node.said[0]


def test_programs_are_installed_where_ros2_run_looks_for_them():
    settings = ConfigParser()
    settings.read(HOME / "setup.cfg")
    assert settings["develop"]["script_dir"] == "$base/lib/steadydepth_ros2"
    assert settings["install"]["install_scripts"] == "$base/lib/steadydepth_ros2"
