"""Reading ahead and writing behind: what waits for a disk, a decoder or an encoder does so in threads of its own."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread, current_thread
from typing import Any, Generic, TypeVar

from steadydepth.errors import InputError

T = TypeVar("T")
BEGIN_S = 10.0  # for the first item of a live source at the least: a camera may take a while to begin

# Of decoded frames; one is enough to keep both sides busy, the other evens out frames that take longer.
_AHEAD = 2
_N_THREADS = 4
_LOOK_EVERY_S = 0.5
_END: Any = object()


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order, the next two of them made by a thread while the caller is at work.

    Nothing is asked for before the first is. An error is raised where its item would have come; closed early, the
    thread ends with the item that it is at.
    """
    source, own = iter(items), set[Thread]()
    thread = ThreadPoolExecutor(1, initializer=lambda: own.add(current_thread()))
    try:
        coming = deque(thread.submit(next, source, _END) for _ in range(_AHEAD))
        while (item := coming.popleft().result()) is not _END:
            coming.append(thread.submit(next, source, _END))
            yield item
    finally:
        # Forgotten rather than closed, it may be collected in that very thread, which cannot wait for itself.
        thread.shutdown(wait=current_thread() not in own, cancel_futures=True)


def up_to_error(items: Iterable[T], failed: list[InputError]) -> Iterator[T]:
    """The same items until the source raises an InputError, which is put into `failed` for whoever has more to do."""
    try:
        yield from items
    except InputError as error:
        failed.append(error)


def for_each_in_threads(function: Callable[[T], None], items: Iterable[T]) -> None:
    """Call `function` with every item, four at a time; no more of them are held, however many there are.

    The first error ends it: no further item is taken.
    """
    with ThreadPoolExecutor(_N_THREADS) as threads:
        running: deque[Future[None]] = deque()
        try:
            for item in items:
                running.append(threads.submit(function, item))
                if len(running) == _N_THREADS:
                    running.popleft().result()
            while running:
                running.popleft().result()
        finally:
            threads.shutdown(cancel_futures=True)


class Feed(Generic[T]):
    """The items of a source, read by a thread of its own: the newest one alone, or each when the last one is taken.

    Args:
        items: the source; an error of it is kept as `error`.
        is_live: the newest one wins.
        changed: what is told of each change; its lock is held by whoever looks at `kept` or takes it.
    """

    def __init__(self, items: Iterable[T], *, is_live: bool, changed: threading.Condition) -> None:
        self._changed, self._is_live = changed, is_live
        self.kept: tuple[int, T, float] | None = None  # its number, the item and when it came, monotonic
        self.error: BaseException | None = None
        self.is_over = self._is_stopped = False
        Thread(target=self._read, args=(items,), daemon=True).start()

    def stop(self) -> None:
        """Read no further."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def take(self) -> tuple[int, T, float]:
        """What is kept, for whoever holds the lock."""
        kept, self.kept = self.kept, None
        assert kept is not None
        self._changed.notify_all()
        return kept

    def next(self, wait_s: float | None) -> tuple[int, T, float] | None:
        """What is kept, taken as soon as it is there.

        Args:
            wait_s: how long it is waited for; None waits until the source ends.

        Returns: its number, the item and when it came; None where there is none by then.
        """
        end = math.inf if wait_s is None else time.monotonic() + wait_s
        with self._changed:
            # In pieces: Ctrl-C ends no wait for a lock on Windows, and would be noticed with the next item alone.
            while self.kept is None and not self.is_over and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(left, _LOOK_EVERY_S))
            return None if self.kept is None else self.take()

    def _read(self, items: Iterable[T]) -> None:
        try:
            for number, item in enumerate(items):
                with self._changed:
                    self._changed.wait_for(lambda: self._is_live or self.kept is None or self._is_stopped)
                    if self._is_stopped:
                        return
                    self.kept = number, item, time.monotonic()
                    self._changed.notify_all()
        # Whatever it is, it is raised where the items are asked for.
        except BaseException as error:
            self.error = error
        finally:
            with self._changed:
                self.is_over = True
                self._changed.notify_all()


def check_seconds(seconds: float | None) -> None:
    """See that a live source can end after so long.

    Raises:
        InputError: it is no number from 0 on.
    """
    if seconds is not None and not seconds >= 0:
        raise InputError(f"seconds is {seconds}; give a number from 0 on")
