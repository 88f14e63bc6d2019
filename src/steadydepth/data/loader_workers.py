"""Loader processes: batches made ahead of the training process, in memory that both of them see."""

import atexit
import gc
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from steadydepth.data.loader import ClipSamples
from steadydepth.data.mixed_samples import MixedSamples
from steadydepth.data.samples import Item

_AHEAD = 2  # batches that each process makes ahead
# Beside those made ahead the one that the training process has, and the one that a process is writing.
_SLOTS = _AHEAD + 2
# What a loader process sends: its number, one of its slots, and the parts; None for a tensor that was sent before.
_Parcel = tuple[int, int, Item]


def load_items(samples: ClipSamples | MixedSamples, *, batch: int, workers: int) -> Iterator[Item]:
    """The samples in order, for `make_batch`; the last ones that do not fill a batch are left out.

    Loader processes write into the same memory over and over: what is wanted for longer than the next batch is cloned.

    Args:
        samples: of one epoch after another.
        batch: samples at a time.
        workers: processes; with 0 this one reads.
    """
    # Its own generator: a loader without one draws from the global state and breaks exact resume.
    loader = DataLoader(
        samples,
        batch_size=batch,
        num_workers=workers,
        collate_fn=_Packer() if workers else gather_items,
        drop_last=True,
        persistent_workers=workers > 0,
        prefetch_factor=_AHEAD if workers else None,
        generator=torch.Generator().manual_seed(samples.seed),
        worker_init_fn=_begin_worker,
    )
    if not workers:
        return iter(loader)
    before = set(active_children())
    with _ready_to_fork():
        items = iter(loader)
    atexit.register(_end_workers, set(active_children()) - before)
    return _unpack(items)


@contextmanager
def _ready_to_fork() -> Iterator[None]:
    """A process that is forked has none of the threads of this one, and must wait for none of them.

    OpenCV would use its own. The garbage collector would free what waits for threads to end, such as PyAV's frames that
    were converted here: what is garbage is freed before, and what is not the new process leaves alone.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        cv2.setNumThreads(threads)


def gather_items(items: Sequence[Item]) -> Item:
    """The parts of all items: tensors stacked, others side by side."""
    return {name: torch.stack(values) if isinstance(values[0], Tensor) else values for name, values in _by_part(items)}


def _by_part(items: Sequence[Item]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    return ((name, tuple(item[name] for item in items)) for name in items[0])


class _Packer:
    """Gathers items in a loader process, in slots of shared memory that it takes in turns.

    Fresh shared memory for each batch, cleared page by page, costs a fifth of the time of decoding small frames.
    """

    def __init__(self) -> None:
        self.n_done = 0
        self.slots: list[dict[str, Tensor]] = [{} for _ in range(_SLOTS)]

    def __call__(self, items: Sequence[Item]) -> _Parcel:
        worker, slot = get_worker_info(), self.n_done % _SLOTS
        assert worker is not None
        self.n_done += 1
        parts: Item = {}
        for name, values in _by_part(items):
            if not isinstance(values[0], Tensor):
                parts[name] = values
                continue
            shape, dtype = (len(values), *values[0].shape), values[0].dtype
            memory = self.slots[slot].get(name)
            known = memory is not None and (memory.shape, memory.dtype) == (shape, dtype)
            if memory is None or not known:
                memory = self.slots[slot][name] = torch.empty(shape, dtype=dtype).share_memory_()
            torch.stack(values, out=memory)
            parts[name] = None if known else memory
        return worker.id, slot, parts


def _unpack(parcels: Iterator[_Parcel]) -> Iterator[Item]:
    """What the loader processes packed; of what lies in memory that has been sent before, that memory."""
    sent: dict[tuple[int, int], Item] = {}
    for worker, slot, parts in parcels:
        memory = sent.setdefault((worker, slot), {})
        memory |= {name: part for name, part in parts.items() if part is not None}
        yield {name: memory[name] for name in parts}


def _end_workers(workers: set[Any]) -> None:
    """Python's own end of a process asks its children to stop, which they ignore, and waits: after a crash forever."""
    if sys.platform != "win32":
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes each for a failure
    for worker in workers:
        worker.kill()


def _begin_worker(worker: int) -> None:
    """Loader processes share the cores with the network: none of them takes more than one.

    Ctrl-C, SIGTERM and SIGHUP, on Windows Ctrl-Break, reach all of the group; how the run ends is for the process of
    the network to say.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
