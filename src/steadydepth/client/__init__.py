"""A terminal: images and frames to a steadydepth server, depth back. Needs NumPy, OpenCV and websockets, no torch."""

from steadydepth.client.server import Client
from steadydepth.client.stream import ServedDepth, StreamedDepth

__all__ = ["Client", "ServedDepth", "StreamedDepth"]
