"""How a process keeps its memory."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_buffers() -> None:
    """Let glibc keep large buffers for the next frame or step; other C libraries are left as they are.

    Otherwise it gives them back to the system each time and asks for them again: of a frame of 480 x 640 through a
    small network in torch, on one core, that is 18 of 72 ms of processor, of the demo's training step 7 %. A process
    calls it once, and then keeps the most memory that it has needed.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 2_000_000_000)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
