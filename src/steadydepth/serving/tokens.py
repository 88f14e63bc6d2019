"""Tokens: who may do what. The file holds their hashes alone, so that reading it opens nothing."""

import hashlib
import hmac
import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import new_file

LOG = logging.getLogger(__name__)
Scope = Literal["predict", "train", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True)
class Identity:
    """Who asks, and what they may do; `admin` may do everything."""

    name: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether this is within what they may do."""
        return scope in self.scopes or "admin" in self.scopes


# Without tokens, for programs of the same machine.
LOCAL = Identity("local", frozenset(SCOPES))


@dataclass(frozen=True)
class _Entry:
    name: str
    scopes: tuple[Scope, ...]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


_FILE = TypeAdapter(list[_Entry])


def new_token(path: Path, name: str, scopes: tuple[str, ...] = ("predict",)) -> str:
    """Add a token to a file that only its owner can read; the file is made where it is not there.

    On Windows it has the rights of its folder.

    Args:
        path: the file, JSON.
        name: of whom it is for, shown in the audit log; one that is there is replaced.
        scopes: of `predict`, `train` and `admin`.

    Returns: the token, 32 random bytes as text. It is kept nowhere: note it.

    Raises:
        InputError: there is no such scope, the name does not fit, or the file is damaged.
    """
    if not scopes or not set(scopes) <= set(SCOPES):
        raise InputError(f"scopes {', '.join(scopes) or 'none'}: give some of {', '.join(SCOPES)}")
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise InputError(f"token name {name!r}: give 1 to 64 letters")
    others = [entry for entry in _read(path) if entry.name != name] if path.exists() else []
    token = secrets.token_urlsafe(32)
    entries = [*others, _Entry(name, tuple(one for one in SCOPES if one in scopes), _hash(token))]
    with new_file(path) as part:
        part.touch(mode=0o600)
        part.chmod(0o600)
        part.write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n", encoding="utf-8")
    return token


class Tokens:
    """The tokens of a file; what is added or taken out while the server runs counts from the next request on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._entries: list[_Entry] = []
        self._refresh()
        if not self._entries:
            raise InputError(f"{path}: holds no token: add one with steadydepth serve --new-token NAME --tokens {path}")

    def find(self, token: str) -> Identity | None:
        """Whose token it is, None where it is nobody's; the time that it takes says nothing about any token."""
        try:
            self._refresh()
        except InputError as error:
            LOG.error("nobody is let in: %s", error)
            self._entries = []
        asked, found = _hash(token), None
        for entry in self._entries:
            # No early end: all are compared, each in constant time.
            if hmac.compare_digest(asked, entry.sha256):
                found = entry
        return None if found is None else Identity(found.name, frozenset(found.scopes))

    def _refresh(self) -> None:
        try:
            facts = os.stat(self.path)  # noqa: PTH116
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        except FileNotFoundError:
            stamp = None
        if stamp != self._stamp or stamp is None:
            self._entries, self._stamp = _read(self.path), stamp


def _hash(token: str) -> str:
    # A token is 32 random bytes, so a fast hash without salt is as good as a slow one: there is nothing to guess.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _read(path: Path) -> list[_Entry]:
    try:
        return _FILE.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist; make it with steadydepth serve --new-token NAME --tokens {path}"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}): give us the right to read it") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ", ".join(map(str, first["loc"])) or "its beginning"
        raise InputError(
            f"{path}: no file of tokens, or damaged ({where}: {first['msg']}): scopes are of {', '.join(SCOPES)}, "
            "hashes are SHA-256 in hex: make it anew"
        ) from error
