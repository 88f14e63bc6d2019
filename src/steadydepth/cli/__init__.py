"""The commands: parse, call, print. Everything they do can be called from Python."""

import errno
import io
import logging
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Annotated

import typer

from steadydepth.cli import data, evaluate, inference, serving, training
from steadydepth.cli.ending import end_as_by_the_keyboard
from steadydepth.cli.expansion import expand
from steadydepth.errors import InputError, SomeFailedError, why_refused
from steadydepth.ops.buffers import keep_buffers

# What a file system refuses, and what to do.
_NO_ROOM = {
    errno.ENOSPC: "no space left on the disk: make room, and the same command resumes (predict with --resume)",
    errno.EDQUOT: "the quota of the disk is used up: make room, and the same command resumes (predict with --resume)",
    errno.EFBIG: "a file would be larger than the file system or a limit allows (ulimit -f): choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder for what is written",
    errno.ENAMETOOLONG: "the name is too long for the file system: rename it",
}
# The same of Windows, which has numbers of its own for it (ERROR_INVALID_NAME, ERROR_FILENAME_EXCED_RANGE).
_NO_NAME = {
    123: 'Windows takes no such name: it has none of < > : " | ? *: choose another',
    206: "the name, with those of the folders above, is too long for Windows: choose a shorter one",
}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Temporally consistent depth of video: filter, train, evaluate, run, export and serve depth models.",
)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"steadydepth {metadata.version('steadydepth')}")
        raise typer.Exit
    return asked


@app.callback()
def _before_any(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    keep_buffers()
    end_as_by_the_keyboard()


_command: Callable[..., None]
for _command in (
    training.train, training.stabilise, evaluate.evaluate, training.compare, training.search, inference.predict,
    inference.stream, inference.app, inference.export, inference.export_filter, inference.bench, serving.serve,
    training.train_filter, training.tune_filter, training.verify, training.push, training.report,
):  # fmt: skip
    app.command()(_command)


@app.command()
def doctor() -> None:
    """List what is installed: versions, devices, codecs, optional parts, and what to install for the rest."""
    from steadydepth.diagnosis import diagnose

    for line in diagnose():
        print(line)


data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, check, convert and pack video data.")
for _data_command in (data.make, data.assets, data.check, data.convert, data.pack):
    data_app.command()(_data_command)
app.add_typer(data_app, name="data")


def main() -> None:
    """The `steadydepth` command: 0 done, 2 the user's mistake (one message), 1 anything else."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot show, not in its letters or not in UTF-8, is shown by its numbers. On Windows
        # the errors are not strict, and as fatal: a pipe has the letters of one language.
        if isinstance(stream, io.TextIOWrapper) and (stream.errors == "strict" or sys.platform == "win32"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if sys.platform == "win32":
            app(expand(sys.argv[1:]), windows_expand_args=False)
        else:
            app()
    except (InputError, RuntimeError, ImportError, OSError) as error:
        words, status = _explained(error)
        if words is None:
            raise
        print(f"steadydepth: {words}", file=sys.stderr)
        sys.exit(status)


def _explained(error: Exception) -> tuple[str | None, int]:
    """What to print of an error that the user can do something about, None of any other; and the exit status."""
    match error:
        case SomeFailedError():
            return str(error), 1
        case InputError():
            return str(error), 2
        case RuntimeError():
            from steadydepth.diagnosis import what_torchvision_lacks

            return what_torchvision_lacks(error), 2
        case ImportError(name="torch"):
            return "this needs torch; without it predict and stream run exported files alone: pip install torch", 2
        case PermissionError():
            return why_refused(error), 2
        case FileExistsError() | NotADirectoryError() | IsADirectoryError():
            where = error.filename2 or error.filename or "a path"
            return f"{where}: {error.strerror}: choose another name, or move it away", 2
        case OSError() if (number := getattr(error, "winerror", None)) in _NO_NAME:
            return f"{error.filename2 or error.filename}: {_NO_NAME[number]}", 2
        case OSError() if error.errno in _NO_ROOM:
            return f"{error.filename or 'writing'}: {_NO_ROOM[error.errno]}", 1
    return None, 1
