"""Waiting for what another thread, process or page does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(look: Callable[[], T], seconds: float = 90.0) -> T:
    """What `look` returns, once it is true."""
    ends = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.01)
    return found
