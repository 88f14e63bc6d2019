"""The audit log: who asked for what, when, and what they got; one JSON object a line, so that no name can forge one."""

import json
import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

LOG = logging.getLogger("steadydepth.audit")
_MOST_BYTES, _KEPT = 16 << 20, 4


class _OwnersFile(RotatingFileHandler):
    """A file that only its owner reads, and each that follows it; on Windows whoever may read its folder."""

    def _open(self) -> Any:
        Path(self.baseFilename).touch(mode=0o600)
        return super()._open()


class Audit:
    """Notes events in a file that is turned over at 16 MiB, four old ones kept, or in the log `steadydepth.audit`."""

    def __init__(self, path: Path | None = None) -> None:
        self._handler: RotatingFileHandler | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _OwnersFile(path, maxBytes=_MOST_BYTES, backupCount=_KEPT, encoding="utf-8")

    def note(self, event: str, **facts: Any) -> None:
        """One line; text of a client is cut at 200 letters, and no token is ever among the facts."""
        shown = {name: value[:200] if isinstance(value, str) else value for name, value in facts.items()}
        text = json.dumps({"time": round(time.time(), 3), "event": event, **shown})
        if self._handler is None:
            LOG.info("%s", text)
        else:
            self._handler.emit(logging.LogRecord(LOG.name, logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        """Close the file."""
        if self._handler is not None:
            self._handler.close()
