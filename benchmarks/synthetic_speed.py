"""Measure the frames a second that `data make` writes, with one process and with two.

    .venv/bin/python benchmarks/synthetic_speed.py

Whole clips, half with a moving camera, written as sequence folders. The clock starts when each process has written its
first clip, so that starting Python does not count. Frames per CPU second include all work, also starting
further processes: they show what a core can do while others use it as well.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from steadydepth.synthetic.world import make_world


def cpu_seconds() -> float:
    """CPU time of this process and of those that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def rates(root: Path, *, workers: int, n_clips: int, n_frames: int, height: int, width: int) -> tuple[float, float]:
    """Frames a second, and frames a CPU second."""
    times: list[float] = []
    begun = cpu_seconds()
    make_world(
        root,
        n_clips=n_clips,
        seed=0,
        n_frames=n_frames,
        height=height,
        width=width,
        workers=workers,
        on_clip=lambda _: times.append(time.perf_counter()),
    )
    n_timed = n_frames * (n_clips - workers)
    return n_timed / (times[-1] - times[workers - 1]), n_frames * n_clips / (cpu_seconds() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    for workers in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu = rates(
                Path(folder),
                workers=workers,
                n_clips=arguments.clips,
                n_frames=arguments.frames,
                height=arguments.height,
                width=arguments.width,
            )
        print(f"{workers} processes: {wall:.1f} frames/s, {cpu:.1f} frames a CPU second")


if __name__ == "__main__":
    main()
