"""How much uploads and jobs may take."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True)
class JobLimits:
    """Bounds of uploads and jobs; what is beyond one is refused, and the refusal names it."""

    upload_bytes: int = 4 * GIB  # of one file
    stored_bytes: int = 40 * GIB  # of all uploads together, unpacked
    free_bytes: int = 2 * GIB  # of the disk, which are left free
    uploads: int = 200  # kept at a time
    files: int = 200_000  # in an archive
    ratio: float = 50.0  # of what an archive holds to its own size; images are packed already
    pixels: int = 4096 * 2304  # of a frame
    frames: int = 200_000  # of a sequence
    keep_unfinished_s: float = 24 * 3600.0  # of an upload that nobody resumes
    check_s: float = 1800.0  # that unpacking and checking an upload may take
    running: int = 1  # jobs at a time
    waiting: int = 20  # jobs in the queue
    job_s: float = 48 * 3600.0  # of one start of a job
    steps: int = 20_000  # of a training
    niceness: int = 10  # of a job's process, 0 to 19, so that predictions go first
    threads: int = 1  # of a job's process


def give_way(niceness: int) -> None:
    """Have this process take what predictions leave of the processor.

    Linux shares it out among sessions first (`sched_autogroup_enabled`), each with a niceness of its own, and a job is
    a session: that of the process alone changes nothing there.
    """
    os.nice(niceness)
    if niceness and os.getsid(0) == os.getpid():
        with suppress(OSError):  # a kernel without it
            Path("/proc/self/autogroup").write_text(str(niceness))
