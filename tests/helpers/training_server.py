"""What a server trains on, and a server as a process of its own, which can be killed."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import suppress
from pathlib import Path

import httpx
from waiting import wait_until

from steadydepth.jobs.limits import JobLimits
from steadydepth.models.depth_net import DepthNet
from steadydepth.synthetic.world import make_world

# Nobody else is to be spared here.
QUICK = JobLimits(niceness=0)
SMALL = {"optim.steps": 6, "optim.batch": 2, "data.height": 32, "data.width": 40}
TUS = {"Tus-Resumable": "1.0.0"}


def make_model(folder: Path) -> Path:
    DepthNet("test_efficientnet", decoder_width=8).save_pretrained(folder)
    return folder


def make_archive(folder: Path) -> Path:
    """Two sequences of six frames with depth, as a zip."""
    make_world(folder / "world", n_clips=2, seed=3, n_frames=6, height=48, width=64, workers=1)
    return Path(shutil.make_archive(str(folder / "world"), "zip", folder / "world"))


def metadata(name: str, data: bytes | None = None) -> str:
    """Of an upload; with its checksum where the data is given."""
    pairs = [("filename", name)]
    pairs += [("sha256", hashlib.sha256(data).hexdigest())] if data is not None else []
    return ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in pairs)


def begin_upload(http: httpx.Client, name: str, data: bytes) -> str:
    answer = http.post(
        "/v1/uploads", headers={**TUS, "Upload-Length": str(len(data)), "Upload-Metadata": metadata(name, data)}
    )
    assert answer.status_code == 201, answer.text
    return answer.headers["Location"]


def send(http: httpx.Client, place: str, piece: bytes, offset: int, **headers: str) -> httpx.Response:
    kind = {"Content-Type": "application/offset+octet-stream"}
    return http.patch(place, content=piece, headers={**TUS, **kind, "Upload-Offset": str(offset), **headers})


def offset_of(http: httpx.Client, place: str) -> int:
    return int(http.head(place, headers=TUS).headers["Upload-Offset"])


def wait_for(look, *states: str, seconds: float = 120) -> dict:
    """What `look` shows, once its state is one of these."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found["state"] in states:
            return found
        assert found["state"] not in ("failed", "refused"), found
        time.sleep(0.05)
    raise AssertionError(f"still {found}")


def upload_all(http: httpx.Client, name: str, data: bytes) -> str:
    """The number of an upload that is ready."""
    place = begin_upload(http, name, data)
    assert send(http, place, data, 0).status_code == 204
    number = place.rsplit("/", 1)[1]
    wait_for(lambda: find(http, "uploads", number), "ready")
    return number


def find(http: httpx.Client, kind: str, number: str) -> dict:
    return next(each for each in http.get(f"/v1/{kind}").json() if each["id"] == number)


class Server:
    """`steadydepth serve` in a process of its own."""

    CODE = (
        "import sys\n"
        "from steadydepth.jobs.limits import JobLimits\n"
        "from steadydepth.serving.server import run_server\n"
        "from steadydepth.serving.settings import Limits, Settings\n"
        "from pathlib import Path\n"
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "run_server(Settings(model=sys.argv[1], port=int(sys.argv[3]), data=Path(sys.argv[2]),\n"
        "                    job_limits=JobLimits(niceness=0), limits=Limits(requests_s=1e4)))\n"
    )

    def __init__(self, model: Path, folder: Path, log: Path) -> None:
        self.model, self.folder, self.log, self.port = model, folder, log, 0

    def start(self) -> httpx.Client:
        """Returns a client of it, once it answers."""
        begin = self.log.stat().st_size if self.log.is_file() else 0
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", self.CODE, str(self.model), str(self.folder), str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

        def port() -> str:
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", self.log.read_bytes()[begin:].decode())
            return found[1] if found else ""

        self.port = int(wait_until(port))  # the next one is where this one was: clients find it again
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=60)
        return self.http

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.http.close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(90)
        self.http.close()

    def workers(self) -> list[int]:
        """Processes of its jobs that live."""
        found = []
        for path in (self.folder / "jobs").glob("*/pid"):
            with suppress(ProcessLookupError, ValueError):
                number = int(path.read_text(encoding="utf-8"))
                os.kill(number, 0)
                found.append(number)
        return found

    def end_all(self) -> None:
        """Whatever of it still runs."""
        if self.process.poll() is None:
            self.kill()
        for number in self.workers():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
