"""Pools of processes that end with this one, and what they make before it is asked for."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

_AHEAD = 4  # things that each process is asked for before they are wanted


def processes_at_once(asked: int) -> int:
    """How many processes a pool has where so many are asked for: on Windows it can wait for 61 at the most."""
    return min(asked, 61) if sys.platform == "win32" else asked


def pool_of(workers: int, begin: Callable[..., object] | None = None, *arguments: object) -> ProcessPoolExecutor:
    """A pool of processes that end with this one, however that ends.

    They are spawned, not forked: the caller may have started threads (torch, OpenCV) that a forked one would wait for.

    Args:
        workers: how many, at least 1; `processes_at_once` has the most.
        begin: called with `arguments` in each process before its first task.
        arguments: what a process can be sent.
    """
    return ProcessPoolExecutor(processes_at_once(workers), get_context("spawn"), _begin_worker, (begin, arguments))


def _begin_worker(begin: Callable[..., object] | None, arguments: tuple[object, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """A process that waits for its next task does not notice by itself that nobody is left to give one."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


@contextmanager
def ended_at_once(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """A pool just made, that an error or a signal ends at once: nothing that is queued or under way is waited for."""
    with pool:
        try:
            yield pool
        except BaseException:
            # Those of this pool alone; Python 3.14 has terminate_workers for it.
            workers = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.terminate()
            raise


@contextmanager
def make_ahead(
    begin: Callable[..., Callable[[int], Any]], arguments: tuple[object, ...], numbers: Sequence[int], workers: int
) -> Iterator[Callable[[int], Any]]:
    """Processes make the thing of each number, in order, a few ahead of what is asked for.

    Args:
        begin: called with `arguments` once in each process; it returns the function that makes the thing of a number.
        arguments: what a process can be sent.
        numbers: in the order in which their things are wanted.
        workers: processes, at least 1.

    Yields: a function that waits for the thing of a number, and raises what failed in the process; None of a number
        that is none of `numbers`.
    """
    pool = pool_of(workers, _begin_maker, begin, arguments)
    waiting: dict[int, Future[Any]] = {}
    rest = iter(numbers)

    def wait_for(number: int) -> Any:
        while len(waiting) < _AHEAD * workers and (wanted := next(rest, None)) is not None:
            waiting[wanted] = pool.submit(_make_one, wanted)
        one = waiting.pop(number, None)
        return None if one is None else one.result()

    try:
        yield wait_for
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_maker: list[Callable[[int], Any]] = []  # of this process, one


def _begin_maker(begin: Callable[..., Callable[[int], Any]], arguments: tuple[object, ...]) -> None:
    # The run itself is asked to stop, by the keyboard too, and ends these processes then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch  # here: it takes seconds, and pools of others have no use for it

    torch.set_num_threads(1)
    _maker.append(begin(*arguments))


def _make_one(number: int) -> Any:
    return _maker[0](number)
