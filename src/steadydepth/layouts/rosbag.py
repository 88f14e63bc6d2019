"""Recordings of robots: ROS 1 bags (.bag), ROS 2 bags (a folder with metadata.yaml, or .mcap), by the package rosbags.

Colour is an image topic of 8-bit colours, compressed or not; depth one of 16UC1 (millimetres) or 32FC1 (metres) that is
registered to it: in its frame, or so named. Pairs are the nearest in time; K is that of the camera_info beside the
colour. There are no poses. Depth of a camera of its own, as RealSense' viewer records it, is refused: it shows other
pixels.
Sources: ROS' sensor_msgs (Image, CompressedImage, CameraInfo), REP 118, compressed_depth_image_transport.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from steadydepth.errors import import_extra
from steadydepth.files.damage import reading
from steadydepth.files.images import HeldImage, read_colour, read_depth_codes
from steadydepth.files.listing import visible
from steadydepth.layouts.recording import Found, Frame, Recording, each, unbroken_parts
from steadydepth.layouts.tum import nearest
from steadydepth.types import InputError

LOG = logging.getLogger(__name__)
_COLOURS = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2], "bgra8": [2, 1, 0], "mono8": [0, 0, 0]}
_DEPTHS = {"16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0)}
_COMPRESSED_DEPTH = "compressedDepth"  # of the format, and 12 bytes before the PNG
_NEAR_S = 0.02
_WAY_OUT = (
    "record depth that is registered to the colour (align_depth.enable:=true of realsense2_camera, depth_registered of "
    "others), or align it with its own tools (rs2::align) and give the images to data convert pairs"
)


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """The bags in `folder`, or `folder` itself, a file or a ROS 2 bag."""
    places = [folder] if _is_bag(folder) else sorted(path for path in visible(folder) if _is_bag(path))
    yield from each(places, _parts)


def _is_bag(path: Path) -> bool:
    return path.suffix.lower() in (".bag", ".mcap") if path.is_file() else (path / "metadata.yaml").is_file()


@contextmanager
def _opened(place: Path) -> Iterator[Any]:
    """The reader of a bag."""
    import_extra("rosbags", "rosbag")
    from rosbags import highlevel, typesys

    with _reading_bag(place):
        typestore = typesys.get_typestore(typesys.Stores.LATEST)  # for ROS 2 bags that do not say what they hold
        with highlevel.AnyReader([place], default_typestore=typestore) as reader:
            yield reader


def _reading_bag(place: Path) -> AbstractContextManager[None]:
    """`reading`, with what rosbags raises; what it reads is asserted there as well."""
    from rosbags import highlevel, rosbag1, rosbag2, serde, typesys

    # What reads ROS 2's .db3: rosbags of now, and of before.
    apsw = find_spec("apsw") and import_module("apsw")
    faults = (
        *(highlevel.AnyReaderError, rosbag1.ReaderError, rosbag2.ReaderError, serde.SerdeError, typesys.TypesysError),
        *(apsw.Error if apsw else sqlite3.Error, AssertionError),
    )
    return reading(place, "as a bag", "copy or record it again", *faults)


@dataclass(frozen=True)
class _Topic:
    """Messages of one topic of images, in order."""

    name: str
    connections: list[Any]
    first: Any  # message


def _parts(place: Path) -> Iterator[Recording]:
    with _opened(place) as reader:
        colour, depth = _topics(place, reader)
        if depth is not None:
            _check_registered(place, colour, depth)
        times, recorded = _times(reader, colour)
        depth_times, depth_recorded = _times(reader, depth) if depth is not None else (np.zeros(0), [])
        depth_of = nearest(times, depth_times, _NEAR_S)
        step_s = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        pairs = [(at, depth_recorded[n] if n >= 0 else None) for at, n in zip(recorded, depth_of, strict=True)]
        recording = Recording(
            name=place.stem,
            fps=1 / step_s,
            n_frames=len(times),
            read=_reader(place, reader, colour, depth, pairs),
            depth_scale_m=0.001,
            source="ROS bag",
            licence="",
            K=_camera(reader, colour.name),
        )
        yield from unbroken_parts(recording, np.diff(times) < 1.5 * step_s)


def _topics(place: Path, reader: Any) -> tuple[_Topic, _Topic | None]:
    """The topics of colour and depth; of several, colour and depth that are said to be so, and registered ones."""
    colours, depths = [], []
    for name, info in sorted(reader.topics.items()):
        connections = list(info.connections)
        if not (info.msgtype or "").endswith(("/Image", "/CompressedImage")):
            continue
        found = next(reader.messages(connections=connections), None)
        if found is None:
            continue
        first = reader.deserialize(found[2], found[0].msgtype)
        encoding = getattr(first, "encoding", None) or first.format
        topic = _Topic(name, connections, first)
        is_depth = encoding in ("16UC1", "32FC1") or _COMPRESSED_DEPTH in encoding
        if is_depth or (encoding == "mono16" and "depth" in name.lower()):  # mono16 may be infrared light as well
            depths.append(topic)
        elif encoding in _COLOURS or not hasattr(first, "encoding"):
            colours.append(topic)
    if not colours:
        raise InputError(f"{place}: no image topic of {', '.join(_COLOURS)} or compressed: record the colour camera")
    colours.sort(key=lambda one: not any(word in one.name.lower() for word in ("color", "colour", "rgb")))
    depths.sort(key=lambda one: not _says_registered(one.name))
    if len(colours) + len(depths) > 2:
        taken = ", ".join(one.name for one in (colours[0], *depths[:1]))
        LOG.info("%s: of %d topics of images these are taken: %s", place, len(colours) + len(depths), taken)
    return colours[0], depths[0] if depths else None


def _says_registered(name: str) -> bool:
    return "aligned" in name.lower() or "registered" in name.lower()


def _check_registered(place: Path, colour: _Topic, depth: _Topic) -> None:
    frames = [one.first.header.frame_id for one in (colour, depth)]
    if not _says_registered(depth.name) and frames[0] != frames[1]:
        raise InputError(
            f"{place}: {depth.name} is in the frame {frames[1]!r}, {colour.name} in {frames[0]!r}: {_WAY_OUT}"
        )
    sizes = [(one.first.width, one.first.height) for one in (colour, depth) if hasattr(one.first, "encoding")]
    if len(set(sizes)) == 2:
        raise InputError(f"{place}: {depth.name} is {sizes[1]}, {colour.name} {sizes[0]}: {_WAY_OUT}")


def _times(reader: Any, topic: _Topic) -> tuple[Float64[np.ndarray, "n"], list[int]]:
    """When the images of a topic were taken, in seconds and in order, and the times of the bag that find them."""
    found: dict[float, int] = {}
    for connection, recorded, data in reader.messages(connections=topic.connections):
        stamp = reader.deserialize(data, connection.msgtype).header.stamp
        # A driver that sets no time leaves 0.
        taken = stamp.sec + 1e-9 * stamp.nanosec if stamp.sec or stamp.nanosec else 1e-9 * recorded
        found.setdefault(taken, recorded)
    times = sorted(found)
    return np.array(times), [found[time] for time in times]


def _camera(reader: Any, colour: str) -> Float64[np.ndarray, "3 3"] | None:
    """K of the camera_info beside the topic `colour`; None where there is none, or none was calibrated."""
    above = colour.rsplit("/", 2 if colour.endswith(("/image/data", "/compressed")) else 1)[0]
    for name in (f"{above}/camera_info", f"{above}/info/camera_info"):
        info = reader.topics.get(name)
        message = None if info is None else next(reader.messages(connections=list(info.connections)), None)
        if message is not None:
            camera = reader.deserialize(message[2], message[0].msgtype)
            K = np.array(camera.K if hasattr(camera, "K") else camera.k, np.float64).reshape(3, 3)
            return K if K[0, 0] > 0 else None
    return None


def _reader(
    place: Path, reader: Any, colour: _Topic, depth: _Topic | None, pairs: list[tuple[int, int | None]]
) -> Callable[[int], Frame]:
    def message(topic: _Topic, recorded: int) -> Any:
        with _reading_bag(place):
            found = next(reader.messages(connections=topic.connections, start=recorded, stop=recorded + 1), None)
            if found is None:
                raise InputError(f"{place}: {topic.name} has no message at {recorded} ns: copy or record it again")
            return reader.deserialize(found[2], found[0].msgtype)

    def read(number: int) -> Frame:
        recorded, depth_recorded = pairs[number]
        where = f"{place}, {colour.name} at {recorded} ns"
        image = _image(message(colour, recorded), where)
        if depth is None or depth_recorded is None:
            return image, None
        return image, _metres(message(depth, depth_recorded), f"{place}, {depth.name} at {depth_recorded} ns")

    return read


def _image(message: Any, where: str) -> UInt8[np.ndarray, "h w 3"]:
    if not hasattr(message, "encoding"):
        return read_colour(HeldImage(where, message.data.tobytes()))
    if message.encoding not in _COLOURS:
        raise InputError(f"{where}: encoding {message.encoding}; there is {', '.join(_COLOURS)}: record one of them")
    n_channels = 1 if message.encoding == "mono8" else 4 if "a" in message.encoding else 3
    pixels = _pixels(message, where, np.dtype("u1"), n_channels)
    return np.ascontiguousarray(pixels[..., _COLOURS[message.encoding]])


def _metres(message: Any, where: str) -> Float32[np.ndarray, "h w"]:
    if not hasattr(message, "encoding"):
        if not message.format.startswith("16UC1"):
            raise InputError(f"{where}: {message.format}; of compressed depth 16UC1 is read: record it uncompressed")
        codes = read_depth_codes(HeldImage(where, message.data.tobytes()[12:]))
        return codes.astype(np.float32) * np.float32(0.001)
    if message.encoding not in _DEPTHS:
        raise InputError(f"{where}: encoding {message.encoding}; depth is {', '.join(_DEPTHS)}: record one of them")
    kind, step_m = _DEPTHS[message.encoding]
    numbers = _pixels(message, where, np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<"), 1)[..., 0]
    return np.where(np.isfinite(numbers), numbers * np.float64(step_m), 0).astype(np.float32)


def _pixels(message: Any, where: str, dtype: np.dtype, n_channels: int) -> np.ndarray:
    """The numbers of an uncompressed image (h, w, c), without what fills its lines."""
    height, width, step = int(message.height), int(message.width), int(message.step)
    used = width * n_channels * dtype.itemsize
    if min(height, width) < 1 or step < used or message.data.size != height * step:
        raise InputError(f"{where}: {message.data.size} bytes for {width} x {height}, {step} a line: record it again")
    lines = np.ascontiguousarray(message.data.reshape(height, step)[:, :used])
    return lines.view(dtype).reshape(height, width, n_channels)
