import os
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from steadydepth.files.locks import open_locked

HOLD = """
import os, pathlib, subprocess, sys
from steadydepth.files.locks import open_locked
lock = open_locked(pathlib.Path(sys.argv[1]), with_children=sys.argv[2] == "True")
os.set_inheritable(lock, sys.argv[2] == "True")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
print(child.pid, flush=True)
input()
"""


@pytest.fixture
def hold(tmp_path):
    """A function that lets another process hold the lock; it returns that one and its child, which outlives it."""
    started = []

    def hold(path, with_children):
        command = [sys.executable, "-c", HOLD, str(path), str(with_children)]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child = psutil.Process(int(other.stdout.readline()))
        started.extend((other, child))
        return other, child

    yield hold
    for process in started:
        end(process)


def end(process):
    with suppress(psutil.NoSuchProcess):
        process.kill()
    process.wait()
    if isinstance(process, subprocess.Popen):
        process.stdin.close()
        process.stdout.close()


def is_free(path, with_children):
    lock = open_locked(path, with_children=with_children)
    if lock is not None:
        os.close(lock)
    return lock is not None


def test_a_lock_is_one_process_s_until_it_ends_and_the_file_stays_readable(tmp_path, hold):
    path = tmp_path / "lock"
    path.write_bytes(b"whose")
    other, _ = hold(path, False)
    assert not is_free(path, False)
    assert path.read_bytes() == b"whose"
    end(other)
    assert is_free(path, False)
    assert path.read_bytes() == b"whose"


def test_a_lock_that_children_inherit_lasts_as_long_as_they_do(tmp_path, hold):
    path = tmp_path / "lock"
    path.write_bytes(b"whose")
    other, child = hold(path, True)
    assert not is_free(path, True)
    end(other)
    assert child.is_running()
    assert not is_free(path, True)
    assert path.read_bytes() == b"whose"
    end(child)
    assert is_free(path, True)
