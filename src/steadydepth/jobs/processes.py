"""The process of each job: started in the job's folder, found by the lock that it holds there, and signalled.

Processes outlive a server that is killed; the lock is one of the open file, and so lives as long as the process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from steadydepth.jobs.lock import LOCK, lock_file
from steadydepth.jobs.worker import DOING, LOG_FILE, ORDER, OUTCOME, PID

PATIENCE_S = 60.0  # from the request to stop to SIGKILL: a step may take as long


class Processes:
    """Processes by the folders of their jobs, whichever server started them."""

    def __init__(self) -> None:
        self.children: dict[Path, subprocess.Popen[bytes]] = {}  # those of this server

    def start(self, folder: Path, order: Mapping[str, Any]) -> bool:
        """Start the process of the job in a folder, which reads the order (`worker`).

        Returns: whether it was started; False where one that a killed server had just started is at work.
        """
        for name in (OUTCOME, PID, DOING):
            (folder / name).unlink(missing_ok=True)
        (folder / ORDER).write_text(json.dumps(order))
        lock = lock_file(folder / LOCK)
        if lock is None:
            return False
        try:
            environment = os.environ | {"OMP_NUM_THREADS": str(order["limits"]["threads"]), "PYTHONUNBUFFERED": "1"}
            with (folder / LOG_FILE).open("ab") as log:
                self.children[folder] = subprocess.Popen(
                    [sys.executable, "-m", "steadydepth.jobs.worker", str(folder)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=[lock],
                    start_new_session=True,
                )  # fmt: skip
        finally:  # a lock that stays here would be taken for that of a process at work
            os.close(lock)
        return True

    def is_alive(self, folder: Path) -> bool:
        """Whether the process of a job is at work."""
        lock, process = lock_file(folder / LOCK), self.children.get(folder)
        if lock is not None:
            os.close(lock)
            # A process lets go of its lock a moment before it can be waited for.
            if process is not None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_S)
        if process is not None and process.poll() is not None:
            self.children.pop(folder, None)
        return lock is None

    def signal(self, folder: Path, number: signal.Signals) -> bool:
        """Send a signal to the process of a job; whether there was one."""
        pid = folder / PID
        if not folder.is_dir() or not self.is_alive(folder) or not pid.is_file() or not pid.read_text():
            return False
        try:
            os.kill(int(pid.read_text()), number)
        except ProcessLookupError:
            return False
        return True
