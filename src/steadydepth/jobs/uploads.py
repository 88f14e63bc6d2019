"""Files from terminals: received in pieces that can be sent again, checked when complete, unpacked, ready for a job.

What a client names is a title, never a path: everything lies below a number that the server has drawn.
"""

import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from steadydepth.errors import InputError
from steadydepth.files.video_read import VIDEO_SUFFIXES
from steadydepth.jobs.limits import JobLimits
from steadydepth.jobs.processes import LOCK, lock_file, start_process
from steadydepth.jobs.store import Job, Store, Upload
from steadydepth.jobs.unpack import ARCHIVES, remove

logger = logging.getLogger(__name__)
FOUND = "found.json"  # what the check of an upload has found
PART = "received.part"
DATA = "data"


class Uploads:
    """Uploads below one folder, each in a folder of its own.

    Args:
        folder: created if need be.
        store: remembers them.
        limits: of a file, of all together, and of what an archive may hold.
    """

    def __init__(self, folder: Path, store: Store, limits: JobLimits) -> None:
        self.folder, self.store, self.limits = folder, store, limits
        self._busy: set[str] = set()
        self._checks: dict[str, subprocess.Popen[bytes]] = {}
        self._is_over = False
        self._of_busy = threading.Lock()
        self._begun: dict[tuple[object, ...], str] = {}  # uploads that are there, by what they were asked for with
        self._of_begun = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, size: int, *, owner: str, sha256: str | None = None, key: str = "") -> Upload:
        """Begin an upload; asked again with the same key, whose answer was lost, it gives the same upload again.

        Args:
            name: what the sender calls the file; its ending tells a video from an archive.
            size: bytes.
            owner: who may see it.
            sha256: of all of it, in hexadecimal digits.
            key: chosen by the sender for one upload, and forgotten with this process; without one, another one begins.

        Raises:
            InputError: it is too large, there are too many, the disk is full, or the file is of no kind that is taken.
        """
        asked = (key, name, size, owner, sha256)
        with self._of_begun:
            upload = self.store.get(Upload, self._begun.get(asked, ""))
            if upload is None:
                upload = self._create(_as_title(name), size, owner, sha256)
                self._begun = {one: id for one, id in self._begun.items() if self.store.get(Upload, id)}
                self._begun |= {asked: upload.id} if key else {}
        return upload

    def _create(self, title: str, size: int, owner: str, sha256: str | None) -> Upload:
        if not title.lower().endswith((*VIDEO_SUFFIXES, *ARCHIVES)):
            raise InputError(f"{title}: neither a video ({', '.join(VIDEO_SUFFIXES)}) nor an archive of sequences "
                             f"({', '.join(ARCHIVES)})")  # fmt: skip
        if not 0 < size <= self.limits.upload_bytes:
            raise InputError(f"{title}: {size} bytes; a file has 1 to {self.limits.upload_bytes}: split a larger one")
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise InputError(f"{title}: a sha256 is 64 hexadecimal digits")
        held = self.store.all(Upload)
        if len(held) >= self.limits.uploads:
            raise InputError(f"there are {len(held)} uploads, the most that are kept: delete some")
        coming = sum(each.size - each.received for each in held if each.state == "receiving")
        if self.used_bytes() + coming + size > self.limits.stored_bytes:
            raise InputError(f"uploads may take {self.limits.stored_bytes} bytes together: delete some")
        if shutil.disk_usage(self.folder).free - coming - size < self.limits.free_bytes:
            raise InputError("the disk of the server is full: delete some uploads or jobs")
        upload = Upload(secrets.token_hex(8), title, size, sha256, owner, time.time())
        self.of(upload).mkdir()
        (self.of(upload) / PART).touch()
        self.store.add(upload)
        return upload

    def of(self, upload: Upload) -> Path:
        """The folder of an upload."""
        return self.folder / upload.id

    def link_sequences(self, upload: Upload, into: Path) -> None:
        """Link the sequences of an upload into a folder; names that are there already get its number behind them."""
        for path, name in _sequences(self.of(upload) / DATA, upload):
            stem, suffix = (Path(name).stem, Path(name).suffix) if path.is_file() else (name, "")
            taken = {each.stem if each.is_file() else each.name for each in into.iterdir()}
            (into / (f"{stem}_{upload.id}{suffix}" if stem in taken else name)).symlink_to(path)

    def without_depth(self, upload: Upload) -> list[str]:
        """Names of the sequences of an upload that have no depth/, as videos have none."""
        return [name for path, name in _sequences(self.of(upload) / DATA, upload) if not (path / "depth").is_dir()]

    def used_bytes(self) -> int:
        """What all uploads take on the disk."""
        taken = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    taken += (Path(folder) / name).lstat().st_size
        return taken

    @contextmanager
    def claim(self, upload: Upload) -> Iterator[bool]:
        """Whether the caller alone may send a piece of it, as long as the block lasts; False while another one is."""
        with self._of_busy:
            is_free = upload.id not in self._busy
            self._busy.add(upload.id)
        try:
            yield is_free
        finally:
            if is_free:
                self._busy.discard(upload.id)

    def begin_piece(self, upload: Upload) -> IO[bytes]:
        """The file of an upload, open behind the bytes that count; what an incomplete piece left there is dropped."""
        file = (self.of(upload) / PART).open("r+b")
        file.truncate(upload.received)
        file.seek(upload.received)
        return file

    def end_piece(self, upload: Upload, file: IO[bytes], *, keep: bool) -> Upload | None:
        """Count what was written since `begin_piece`, or drop it; None where the upload has gone meanwhile.

        Args:
            upload: as `begin_piece` found it.
            file: what `begin_piece` opened.
            keep: whether the piece is complete.
        """
        with file:
            if not keep:
                file.truncate(upload.received)
            file.flush()
            os.fsync(file.fileno())
            received = file.seek(0, os.SEEK_END)
        return self.store.change(
            upload, received=received, state="checking" if received == upload.size else upload.state
        )

    def delete(self, upload: Upload) -> None:
        """Delete an upload with its files.

        Raises:
            InputError: a job that is not over needs it.
        """
        using = [job for job in self.store.all(Job) if upload.id in job.uploads and job.ended is None]
        if using:
            raise InputError(f"{upload.name}: job {using[0].name!r} needs it: cancel and delete that first")
        self.store.remove(upload)
        with self._of_busy:
            check = self._checks.get(upload.id)
            if check is not None:
                check.kill()
                check.wait()
        remove(self.of(upload))

    def delete_stale(self) -> None:
        """Delete unfinished uploads that nobody resumes, and folders that no upload owns."""
        known = set()
        for upload in self.store.all(Upload):
            known.add(upload.id)
            part = self.of(upload) / PART
            since = part.stat().st_mtime if part.is_file() else upload.created
            if upload.state == "receiving" and time.time() - since > self.limits.keep_unfinished_s:
                self.delete(upload)
        for path in self.folder.iterdir():
            # One that is being created is remembered a moment after its folder is there.
            if path.name not in known and time.time() - path.stat().st_mtime > 60:
                remove(path)

    def check(self, upload: Upload) -> Upload | None:
        """Unpack and check an upload that is complete, in a process of its own: decoders meet strangers' bytes there.

        Returns: the upload, ready or refused; None where it has gone meanwhile, or is to be checked by the next server.
        """
        folder = self.of(upload)
        lock = lock_file(folder / LOCK)
        if lock is None:  # a server that was killed left its check behind, which is at work here
            return None
        try:
            return self._check(upload, folder, lock)
        finally:
            os.close(lock)

    def stop_checks(self) -> None:
        """End the checks under way, and begin no other: the next server begins with them anew."""
        with self._of_busy:
            self._is_over = True
            for process in self._checks.values():
                process.kill()

    def _check(self, upload: Upload, folder: Path, lock: int) -> Upload | None:
        (folder / FOUND).unlink(missing_ok=True)
        remove(folder / DATA)
        room = self.limits.stored_bytes - self.used_bytes() + upload.size  # the packed file goes when it is unpacked
        limits = vars(self.limits) | {"stored_bytes": room}
        order = {"name": upload.name, "size": upload.size, "sha256": upload.sha256, "limits": limits}
        with self._of_busy:
            if self._is_over:
                return None
            process = self._checks[upload.id] = start_process("receive", folder, order, lock)
        try:
            status = process.wait(self.limits.check_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        with self._of_busy:
            del self._checks[upload.id]
            if self._is_over and status != 0:
                return None
        found = json.loads((folder / FOUND).read_text(encoding="utf-8")) if (folder / FOUND).is_file() else {}
        if status != 0 or not found:
            found = {"message": f"{upload.name}: could not be checked: too large for the server, or damaged"}
            logger.warning("upload %s: its check ended with %d", upload.id, status)
        sequences, message = tuple(found.get("sequences", ())), found.get("message", "")
        state = "refused" if message else "ready"
        checked = self.store.change(upload, state=state, sequences=sequences, message=message)
        # Not before: a server that is killed in between checks it again.
        if checked is not None:
            (folder / PART).unlink(missing_ok=True)
            if message:
                remove(folder / DATA)
        return checked


def _sequences(data: Path, upload: Upload) -> Iterator[tuple[Path, str]]:
    if (data / "rgb").is_dir():
        yield data, upload.name.partition(".")[0] or upload.id
        return
    for path in sorted(data.iterdir()):
        yield path, path.name


def _as_title(name: str) -> str:
    """The last part of a name that a client gave, without what no file is called; the rest is not ours to keep."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]  # macOS takes letters and their marks apart
    return re.sub(r"[^\w .()+-]", "_", last).strip(" .")[-100:] or "unnamed"
