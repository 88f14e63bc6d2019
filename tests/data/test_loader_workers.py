import gc
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from clip_samples import open_mix, open_samples
from torch import Tensor
from torch.utils.data import default_collate

from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import gather_items, load_items


def same(one, other):
    return all(torch.equal(a, other[name]) if isinstance(a, Tensor) else a == other[name] for name, a in one.items())


def test_items_are_gathered_as_torch_gathers_them(world):
    samples = open_samples(world, range(3))
    items = [samples[i] for i in range(3)]
    gathered = gather_items(items)
    assert same(gathered, default_collate(items) | {"labels": ("depth",) * 3, "source": (0, 0, 0)})
    assert gathered["frames"].shape == (3, 3, 40, 56, 3)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="no process is forked here")
def test_loader_processes_free_nothing_of_the_process_that_they_are_forked_from(world, tmp_path):
    """What PyAV's frames wait for when they are freed are threads, of which a forked process has none."""

    class Garbage:
        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            (tmp_path / str(os.getpid())).touch()

    class Collecting(ClipSamples):
        def __getitem__(self, item):
            gc.collect()
            return super().__getitem__(item)

    kept = [Garbage(), Garbage()]
    gc.collect()  # among what is old, and is looked at seldom
    kept.pop()
    items = load_items(open_samples(world, range(4), Collecting), batch=2, workers=1)
    kept.clear()
    assert len(list(items)) == 2
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


@pytest.fixture
def spawned():
    """Processes are begun as macOS begins them: they are sent all that they read, and inherit nothing."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_loader_processes_that_inherit_nothing_change_nothing(world, spawned):
    alone = load_items(open_mix(world, range(10)), batch=2, workers=0)
    helped = load_items(open_mix(world, range(10)), batch=2, workers=2)
    assert sum(same(one, other) for one, other in zip(alone, helped, strict=True)) == 5


def test_mixed_batches_come_the_same_from_loader_processes_and_fit_together(world):
    for one, other in zip(
        load_items(open_mix(world, range(50)), batch=5, workers=0),
        load_items(open_mix(world, range(50)), batch=5, workers=1),
        strict=True,
    ):
        assert same(one, other)
        still = one["motion"][list(one["labels"]).index("none")]
        assert (still == 0).all()


def test_loader_processes_write_into_the_same_memory_over_and_over(world):
    places, before, kept = set(), None, None
    for items in load_items(open_samples(world, range(48)), batch=2, workers=2):
        places.add(items["frames"].data_ptr())
        # What was there last stays until the one after this is asked for, however far ahead the processes are.
        assert before is None or same(before, kept)
        before, kept = items, {name: one.clone() if isinstance(one, Tensor) else one for name, one in items.items()}
    assert len(places) == 2 * 4


def test_batches_of_another_shape_get_memory_of_their_own():
    sizes = Sizes([(40, 56), (24, 32), (40, 56), (40, 56), (24, 32)] * 4)
    for items, (height, width) in zip(load_items(sizes, batch=1, workers=1), sizes.sizes, strict=True):
        assert items["depth"].shape == (1, height, width)
        assert (items["depth"] == height).all()


class Sizes(ClipSamples):
    """Samples of many sizes, each full of its height."""

    seed = 0

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, number):
        return {"depth": torch.full(self.sizes[number], float(self.sizes[number][0]))}


CRASH = """
import multiprocessing
import sys
from pathlib import Path
from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import load_items

def use():
    samples = ClipSamples(
        Path(sys.argv[1]), length=3, height=32, width=40, motion="none", labels="depth",
        seed=0, cached_clips=0, numbers=range(10**6),
    )
    items = load_items(samples, batch=2, workers=2)
    next(items)
    print(len(multiprocessing.active_children()), "workers")
    raise RuntimeError("crash")

use()
"""


def test_a_process_that_crashes_while_its_loader_reads_on_ends(world):
    command = [sys.executable, "-c", CRASH, str(world)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert ended.stdout == "2 workers\n"
    assert ended.stderr.strip().endswith("RuntimeError: crash")


THREADS = """
import sys
from pathlib import Path
import cv2
import numpy as np
from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import load_items
from steadydepth.ops.optical_flow import dis_flow

cv2.setNumThreads(3)
image = np.random.default_rng(0).integers(0, 256, (192, 256, 3), np.uint8)
dis_flow(image, image)
samples = ClipSamples(
    Path(sys.argv[1]), length=3, height=32, width=40, motion="dis", labels="depth",
    seed=0, cached_clips=0, numbers=range(4),
)
print(len(list(load_items(samples, batch=2, workers=1))), "batches", cv2.getNumThreads(), "threads")
"""


def test_loader_processes_start_though_opencv_has_threads(world):
    command = [sys.executable, "-c", THREADS, str(world)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "2 batches 3 threads\n"), ended.stderr
