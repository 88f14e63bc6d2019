"""Memory that a process keeps."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

# Bytes that are still held once four buffers of 24 MB have been used and freed.
HELD = """
import resource
import sys
from pathlib import Path
import numpy as np
from steadydepth.ops.buffers import keep_buffers

def held():
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "keep":
    keep_buffers()
before = held()
for _ in range(3):
    frames = [np.ones(6_000_000, np.float32) for _ in range(4)]
    del frames
print(held() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/statm").is_file(), reason="only glibc on Linux is told"
)
def test_large_buffers_are_kept_for_the_next_frame():
    def held(how: str) -> int:
        ran = subprocess.run([sys.executable, "-c", HELD, how], capture_output=True, text=True, check=True)
        return int(ran.stdout)

    assert held("leave") < 48e6 < held("keep")
