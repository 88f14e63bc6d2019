"""A terminal: images and frames to a steadydepth server, depth back. Needs NumPy, OpenCV and websockets, no torch."""

from steadydepth.client.images import ServedDepth, StreamedDepth
from steadydepth.client.server import Client

__all__ = ["Client", "ServedDepth", "StreamedDepth"]
