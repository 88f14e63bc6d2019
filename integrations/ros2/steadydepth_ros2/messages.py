"""Between sensor_msgs/Image and arrays, without cv_bridge."""

from array import array
from typing import Any

import numpy as np

# Encodings of sensor_msgs/image_encodings.h: bytes of a pixel, and which of them are red, green and blue.
_COLOURS = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC1": (1, (0, 0, 0)),
    "8UC3": (3, (2, 1, 0)),  # as OpenCV has it
}


def read_image(message: Any) -> np.ndarray:
    """RGB uint8 (h, w, 3) of a sensor_msgs/Image; rows may be padded.

    Raises:
        ValueError: its encoding is none of the 8-bit ones, or it holds fewer bytes than it says.
    """
    if message.encoding not in _COLOURS:
        raise ValueError(f"encoding {message.encoding!r}: there are {', '.join(_COLOURS)}: convert it (image_proc)")
    n_channels, order = _COLOURS[message.encoding]
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(bytes(message.data), np.uint8)
    if step < width * n_channels or len(data) < height * step:
        raise ValueError(f"an image of {width} x {height}, {step} bytes a row, has {len(data)} bytes: send all of it")
    pixels = data[: height * step].reshape(height, step)[:, : width * n_channels].reshape(height, width, n_channels)
    return np.ascontiguousarray(pixels[..., list(order)])


def fill_depth(message: Any, depth: np.ndarray, header: Any) -> Any:
    """Make `message`, a sensor_msgs/Image, the depth (h, w): 32FC1, metres as REP 118 has it, NaN where not known."""
    message.header = header
    message.height, message.width = depth.shape
    message.encoding, message.is_bigendian, message.step = "32FC1", 0, 4 * depth.shape[1]
    # Of anything else rclpy looks at each byte.
    message.data = array("B", np.ascontiguousarray(depth, "<f4").tobytes())
    return message


def seconds_of(stamp: Any) -> float:
    """A builtin_interfaces/Time in seconds."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)
