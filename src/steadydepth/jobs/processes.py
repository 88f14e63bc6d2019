"""The process of each job, and of each check of an upload: started in its folder, and found by the lock that it has.

Processes outlive a server that is killed; the lock is one of the open file, and so lives as long as the process:
whoever comes after that server sees what it left at work.
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

from steadydepth.files.locks import open_locked
from steadydepth.jobs.worker import DOING, LOG_FILE, ORDER, OUTCOME, PID

LOCK = "process.lock"
PATIENCE_S = 60.0  # from the request to stop to SIGKILL: a step may take as long


def lock_file(path: Path) -> int | None:
    """An open file with its lock, for as long as it is open anywhere; None where another process has it."""
    return open_locked(path, with_children=True, mode=0o600)


def start_process(
    module: str, folder: Path, order: Mapping[str, Any], lock: int, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a module of this room in a folder, whose order it reads and whose log it writes.

    It has a session of its own: Ctrl-C on the server is none for it.

    Args:
        module: worker or receive.
        folder: of the job or upload.
        order: what it is to do.
        lock: of `lock_file`, which lives in the process, however the server ends.
        environment: in place of that of this process.
    """
    (folder / ORDER).write_text(json.dumps(order), encoding="utf-8")
    with (folder / LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"steadydepth.jobs.{module}", str(folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=[lock], start_new_session=True,
        )  # fmt: skip


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
        lock = lock_file(folder / LOCK)
        if lock is None:
            return False
        environment = os.environ | {"OMP_NUM_THREADS": str(order["limits"]["threads"]), "PYTHONUNBUFFERED": "1"}
        try:
            self.children[folder] = start_process("worker", folder, order, lock, environment)
        finally:  # a lock that stays here would be taken for that of a process at work
            os.close(lock)
        return True

    def is_alive(self, folder: Path) -> bool:
        """Whether the process of a job is at work; none is where somebody removed its folder."""
        if not folder.is_dir():
            return False
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
        if not self.is_alive(folder):
            return False
        try:
            os.kill(int((folder / PID).read_text(encoding="utf-8")), number)
        except (FileNotFoundError, ValueError, ProcessLookupError):  # it has just begun, or has just ended
            return False
        return True
