import subprocess
import sys
import time
from concurrent.futures import wait
from contextlib import suppress

import psutil
import pytest
from waiting import wait_until

from steadydepth.files.pools import ended_at_once, pool_of


def test_an_interrupt_ends_a_pool_without_waiting_for_what_is_under_way():
    pool = pool_of(1)
    with pytest.raises(KeyboardInterrupt), ended_at_once(pool):  # noqa: PT012
        tasks = [pool.submit(time.sleep, 3600) for _ in range(3)]
        wait_until(tasks[0].running)
        raise KeyboardInterrupt
    assert not wait(tasks, 60).not_done


POOL = """
import os, time
from steadydepth.files.pools import pool_of
with pool_of(1) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def test_the_processes_of_a_pool_end_with_the_one_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE) as process:
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
    try:
        assert psutil.wait_procs([worker], timeout=60)[1] == []
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
