"""Whoever loads, and wherever it begins, a sample has the same pixels: checksums, by real processes."""

import multiprocessing
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from itertools import chain

import pytest

from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import load_items
from steadydepth.data.samples import Augmentation
from steadydepth.data.shards.write import pack
from steadydepth.ops.photometric import Photometric
from steadydepth.training.samples import sample_numbers


@pytest.fixture(scope="module", params=["folder", "shards"])
def root(request, world, tmp_path_factory):
    if request.param == "folder":
        return world
    shards = tmp_path_factory.mktemp("same") / "shards"
    pack(world, shards, shard_size=30_000)
    return shards


def checksums(root, numbers, workers, photometric=0.2):
    """Of the frames, depth and motion of each of the samples `numbers`."""
    samples = ClipSamples(
        root, length=2, height=40, width=56, motion="flow", labels="depth", seed=3, cached_clips=2, numbers=numbers,
        augmentation=Augmentation(flip=True, photometric=Photometric(exposure=photometric), max_zoom=1.3),
    )  # fmt: skip
    return [
        tuple(zlib.crc32(items[name].numpy().tobytes()) for name in ("frames", "depth", "motion"))
        for items in load_items(samples, batch=1, workers=workers)
    ]


def test_a_run_resumed_in_mid_epoch_with_other_workers_sees_the_samples_that_follow(root):
    whole = checksums(root, range(12), workers=0)
    assert len(set(whole)) == 12
    # An epoch is 8 clips; the run is cut after 3, and again after 10.
    parts = [(range(3), 1), (range(3, 10), 2), (range(10, 12), 0)]
    assert [one for numbers, workers in parts for one in checksums(root, numbers, workers)] == whole


@pytest.mark.skipif(sys.platform == "win32", reason="its processes are forked")
def test_one_two_and_four_processes_see_the_same_samples_together(root):
    batch, first_step, stop = 4, 1, 3
    alone = dict(zip(range(4, 12), checksums(root, range(4, 12), workers=0), strict=True))
    for world_size in (1, 2, 4):
        shares = [sample_numbers(first_step, stop, batch, rank, world_size) for rank in range(world_size)]
        assert sum(len(share) for share in shares) == len(alone)
        with ProcessPoolExecutor(world_size, mp_context=multiprocessing.get_context("fork")) as processes:
            sums = list(processes.map(checksums, [root] * world_size, shares, [0, 1, 0, 0][:world_size]))
        assert dict(zip(chain(*shares), chain(*sums), strict=True)) == alone
