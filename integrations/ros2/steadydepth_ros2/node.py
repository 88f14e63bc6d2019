"""A node that turns the images of a camera into depth: one session for its lifetime, the newest image first."""

from copy import copy
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

import steadydepth as sd
from steadydepth_ros2.messages import fill_depth, read_image, seconds_of


class DepthNode(Node):
    """Subscribes `image`, publishes `depth`.

    Parameters: `model`, a name that steadydepth takes; `filter`, one of its filters; `max_side`, the longer side of the
    network's image in pixels, 0 for none.
    """

    def __init__(self) -> None:
        super().__init__("steadydepth")
        model = self.declare_parameter("model", "steadydepth-small").value
        filter = self.declare_parameter("filter", "learned").value
        max_side = self.declare_parameter("max_side", 0).value
        predictor = sd.load(model, max_side=max_side or None)
        if predictor.claims != "metric":
            self.get_logger().warning(f"{model} claims {predictor.claims}: the numbers of depth are no metres")
        self.session = predictor.session(filter=filter)
        self.publisher = self.create_publisher(Image, "depth", qos_profile_sensor_data)
        # A queue of one: while the model works, an image that comes takes the place of the one that waits.
        newest = copy(qos_profile_sensor_data)
        newest.depth = 1
        self.create_subscription(Image, "image", self.take, newest)

    def take(self, message: Any) -> None:
        """Depth of one image, with its header: the same time and frame of the camera."""
        try:
            image = read_image(message)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        result = self.session.step(image, time_s=seconds_of(message.header.stamp))
        depth = np.where(result.valid, result.depth, np.float32(np.nan))
        self.publisher.publish(fill_depth(Image(), depth, message.header))


def main() -> None:
    """Spin until the node is shut down."""
    rclpy.init()
    node = DepthNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
