"""Rendered clips in files: rendered once, by processes that run ahead, and shown as often as a run wants."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steadydepth.files.damage import reading
from steadydepth.files.prefetch import pool_of
from steadydepth.files.tensors import write_tensors
from steadydepth.synthetic.batched import Rendered

_AHEAD = 4  # files that each process is asked for before they are wanted
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
def render_ahead(
    begin: Callable[..., Render], arguments: tuple[object, ...], numbers: Sequence[int], workers: int
) -> Iterator[Callable[[int], None]]:
    """Processes that make the files of `numbers`, in order, a few ahead of what is asked for.

    Args:
        begin: called with `arguments` in each process; it returns what makes the file of a number.
        arguments: what a process can be sent.
        numbers: of the files, in the order in which they are wanted.
        workers: processes, at least 1.

    Yields: a function that waits until the file of a number is there; what failed in the process is raised from it.
    """
    pool = pool_of(workers, _begin, begin, arguments)
    waiting: dict[int, Future[None]] = {}
    rest = iter(numbers)

    def wait_for(number: int) -> None:
        while len(waiting) < _AHEAD * workers and (wanted := next(rest, None)) is not None:
            waiting[wanted] = pool.submit(_render, wanted)
        if (one := waiting.pop(number, None)) is not None:
            one.result()

    try:
        yield wait_for
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_render_here: list[Render] = []  # of this process, one


def _begin(begin: Callable[..., Render], arguments: tuple[object, ...]) -> None:
    # The run itself is asked to stop, by the keyboard too, and ends these processes then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _render_here.append(begin(*arguments))


def _render(number: int) -> None:
    _render_here[0](number)
