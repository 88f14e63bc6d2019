"""Rendered clips in files: rendered once, by processes that run ahead, and shown as often as a run wants."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steadydepth.files.damage import reading
from steadydepth.files.prefetch import pool_of
from steadydepth.files.tensors import write_tensors
from steadydepth.synthetic.batched import Rendered

_AHEAD = 4  # things that each process is asked for before they are wanted
# Renders what belongs in the file of a number. Each process builds its own: models and textures are too large to send.
Render = Callable[[int], None]


def write_render(path: Path, rendered: Rendered) -> None:
    """What training takes of rendered clips, in one file: light in 16 bits, labels as they are."""
    labels = {name: getattr(rendered, name) for name in ("depth", "motion", "visible")}
    write_tensors(path, {"light": rendered.light.half(), **labels})


def read_render(path: Path, device: torch.device) -> dict[str, Tensor]:
    """The parts that `write_render` wrote, on `device`; InputError when the file is damaged."""
    with reading(path, "as rendered clips", "remove it, and it is rendered again", SafetensorError):
        parts = load_file(path)
    # Not inside: a device without memory for them is no damage to the file.
    parts = {name: part.to(device) for name, part in parts.items()}
    return parts | {"light": parts["light"].float()}


@contextmanager
def make_ahead(
    begin: Callable[..., Callable[[int], Any]], arguments: tuple[object, ...], numbers: Sequence[int], workers: int
) -> Iterator[Callable[[int], Any]]:
    """Processes that make what belongs to each of `numbers`, in order, a few ahead of what is asked for.

    Args:
        begin: called with `arguments` in each process; it returns what makes what belongs to a number.
        arguments: what a process can be sent.
        numbers: in the order in which they are wanted.
        workers: processes, at least 1.

    Yields: a function that waits for what is made of a number; what failed in the process is raised from it.
    """
    pool = pool_of(workers, _begin, begin, arguments)
    waiting: dict[int, Future[Any]] = {}
    rest = iter(numbers)

    def wait_for(number: int) -> Any:
        while len(waiting) < _AHEAD * workers and (wanted := next(rest, None)) is not None:
            waiting[wanted] = pool.submit(_make, wanted)
        one = waiting.pop(number, None)
        return None if one is None else one.result()

    try:
        yield wait_for
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_make_here: list[Callable[[int], Any]] = []  # of this process, one


def _begin(begin: Callable[..., Callable[[int], Any]], arguments: tuple[object, ...]) -> None:
    # The run itself is asked to stop, by the keyboard too, and ends these processes then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _make_here.append(begin(*arguments))


def _make(number: int) -> Any:
    return _make_here[0](number)
