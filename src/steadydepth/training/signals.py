"""A run that is asked to stop ends after the current step; asked a second time, at once."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = 1.0  # seconds; an earlier signal is the same request, passed on by a launcher


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Yield a function: has SIGTERM, SIGHUP or Ctrl-C come since? False in other threads, which get no signals.

    Windows has no SIGHUP, and none that asks for an end but Ctrl-C and Ctrl-Break: SIGTERM ends a process at once.
    """
    asked: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    hung_up = getattr(signal, "SIGHUP", None)  # not on Windows
    if hung_up is not None and signal.getsignal(hung_up) != signal.SIG_IGN:  # under nohup it stays ignored
        numbers.append(hung_up)
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: Any) -> None:
        if not asked:
            asked.append(time.monotonic())
        elif time.monotonic() - asked[0] >= AGAIN:
            restore()
            signal.raise_signal(number)  # os.kill would end the process unasked on Windows

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        restore()
