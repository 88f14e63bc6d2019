"""The mistakes that the user can put right. Apart from the other nouns, so that `--help` needs no torch."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)
_MOST_LINES = 50


class InputError(ValueError):
    """The user's mistake, in one message that names the file or value, the rule and the way out; the CLI exits 2."""


class SomeFailedError(InputError):
    """Some inputs failed, each named in the message with its reason, and the others are done; the CLI exits 1.

    Attributes:
        written: what was written of the others.
    """

    def __init__(self, message: str, written: list[Path]) -> None:
        super().__init__(message)
        self.written = written


def failure(failed: Mapping[str, str], n_fine: int, written: list[Path]) -> InputError:
    """The error for what failed, by name with the reason.

    Args:
        failed: the reason by the name of the input.
        n_fine: inputs that were done.
        written: what they left.

    Returns: SomeFailedError where others were done, else InputError.
    """
    lines = [f"{name}: {why}" if name not in why else why for name, why in failed.items()]
    more = [f"... and {len(lines) - _MOST_LINES} more"] * (len(lines) > _MOST_LINES)
    message = "\n".join([f"{len(failed)} input(s) failed, {n_fine} written:", *lines[:_MOST_LINES], *more])
    return SomeFailedError(message, written) if n_fine else InputError(message)


@contextmanager
def leaving_out(name: object, failed: dict[str, str], *, strict: bool = False) -> Iterator[None]:
    """Name an input that cannot be read and continue without it: its mistake ends the block, and no more than that.

    Args:
        name: of the input.
        failed: takes the reason by that name, for `failure` where nothing is left.
        strict: whether one that cannot be read ends everything.
    """
    try:
        yield
    except InputError as error:
        if strict:
            raise
        failed[str(name)] = str(error)
        LOG.warning("left out: %s", error)


def why_refused(error: InputError | PermissionError) -> str:
    """What to tell of a mistake, or of a file that may not be read or written."""
    if isinstance(error, PermissionError):
        where = error.filename2 or error.filename  # the first is the place that something was to be moved to
        # Windows gives nobody the right to replace or remove what somebody has open.
        or_else = ", or close it in other programs" if sys.platform == "win32" else ""
        return f"{where}: permission denied: ask its owner for the right to it{or_else}"
    return str(error)


def import_extra(module: str, extra: str, why: str | None = None, otherwise: str = "") -> Any:
    """An optional module, imported where it is needed.

    Args:
        module: its name.
        extra: of this package, that installs it.
        why: begins the error, in place of: it is not installed.
        otherwise: ends the error, with what can be done without it.

    Raises:
        InputError: it is not there.
    """
    return import_package(module, f"'steadydepth[{extra}]'{otherwise}", why)


def import_package(module: str, packages: str, why: str | None = None) -> Any:
    """An optional module of what does without torch: an exported file's runtime, a terminal.

    Its own package is enough; an extra would bring torch, and what exports or serves.

    Args:
        module: its name.
        packages: what to install for it.
        why: begins the error, in place of: it is not installed.

    Raises:
        InputError: it is not there.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{why or f'{module} is not installed'}: pip install {packages}") from error
