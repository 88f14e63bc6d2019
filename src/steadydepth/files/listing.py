"""What a folder holds, the order in which a person counts it, and stretches of numbers without a gap."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool

# What a desktop leaves in every folder it shows.
_CLUTTER = {"thumbs.db", "desktop.ini"}


def visible(folder: Path) -> list[Path]:
    """What is in `folder`, in no order, but for hidden files and what desktops leave; empty when it is no folder."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in _CLUTTER]


def in_order(files: Iterable[Path]) -> list[Path]:
    """Files as a person counts: by the numbers in their names, frame_2 before frame_10.

    Where all names differ in one decimal number alone, such as a time in seconds, it is by its value: 1.1 is before
    1.09 as text, and after it in time.
    """
    found = list(files)
    numbers = _decimals([file.stem for file in found])
    if numbers is not None:
        return [file for _, file in sorted(zip(numbers, found, strict=True))]
    return sorted(found, key=counted)


def counted(path: Path) -> tuple[list[tuple[bool, str]], str]:
    """What sorts frame_2 before frame_10, and img_2 between IMG_1 and IMG_3."""
    name = path.as_posix()
    parts = re.split(r"(\d+)", name.casefold())
    return [(part.isdigit(), part.zfill(20) if part.isdigit() else part) for part in parts], name


def gaps_between(names: Sequence[str]) -> list[int]:
    """After which of the names, in their order, numbers are missing: 1, 2, 5 have a gap after the second.

    A gap is more than the usual distance. There is none where names do not end in whole numbers, or most distances
    differ, as those of times do.
    """
    ends = [re.search(r"\d+$", name, re.ASCII) for name in names]
    numbers = [int(end.group()) for end in ends if end]
    if len(names) < 3 or len(numbers) < len(names):
        return []
    steps = [after - before for before, after in pairwise(numbers)]
    usual, times = Counter(steps).most_common(1)[0]
    return [i for i, step in enumerate(steps) if step > usual > 0] if times > len(steps) / 2 else []


def _decimals(names: list[str]) -> list[Decimal] | None:
    """The one decimal number in which names differ, of each; None when they differ in more, or none has a point."""
    if len(set(names)) < 2:
        return None
    before = re.sub(r"[\d.]+$", "", _common_start(names))
    after = re.sub(r"^[\d.]+", "", _common_start([name[::-1] for name in names])[::-1])
    numbers = [name[len(before) : len(name) - len(after)] for name in names]
    if not all(re.fullmatch(r"\d+(\.\d+)?", number, re.ASCII) for number in numbers):
        return None
    fractions = [number.partition(".")[2] for number in numbers]
    if not any(fractions):
        return None
    # No program writes 9.5, 9.10 and 9.2 for times: with as many digits each, or without a 0 at the end, it is one.
    is_counter = any(fraction[1:].endswith("0") for fraction in fractions) and len(set(map(len, fractions))) > 1
    return None if is_counter else [Decimal(number) for number in numbers]


def _common_start(names: list[str]) -> str:
    first, last = min(names), max(names)
    pairs = zip(first, last, strict=False)
    return first[: next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))]


def unbroken(follows: Sequence[bool] | Bool[np.ndarray, "n"], n_frames: int) -> Iterator[range]:
    """Stretches of frames without a gap: `follows[i]` says that frame i + 1 comes right after frame i."""
    start = 0
    for number in range(1, n_frames + 1):
        if number == n_frames or not follows[number - 1]:
            yield range(start, number)
            start = number
