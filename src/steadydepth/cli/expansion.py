"""Patterns on a command line of Windows, whose shells leave them to the program."""

import glob
from collections.abc import Iterable
from pathlib import Path


def expand(words: Iterable[str]) -> list[str]:
    """The words of a command line as a shell of other systems hands them over.

    A pattern (*, ?, [..]) becomes the names that match it, sorted, and stays where none does; ~ is the home. A name
    that is there is no pattern: `clip [1].mp4` is that file.
    """
    expanded = list[str]()
    for word in words:
        path = str(Path(word).expanduser()) if word == "~" or word.startswith(("~/", "~\\")) else word
        is_pattern = glob.has_magic(path) and not Path(path).exists()
        expanded += (sorted(glob.glob(path, recursive=True)) if is_pattern else []) or [path]  # noqa: PTH207
    return expanded
