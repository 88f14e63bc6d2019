"""Folders that stand in a second place, without taking room twice where the system lets them."""

import os
import shutil
from pathlib import Path

from steadydepth.files.atomic_writes import new_folder


def link_folder(folder: Path, at: Path, *, target: Path | None = None) -> None:
    """Have `folder` at the path `at` as well; a link that is there already, or what stands for one, makes room.

    It is a symbolic link. Where there is none, as on Windows without the right to make them and on exFAT, it is a
    folder of hard links to the files, and where there are none either a copy: complete, or not there.

    Args:
        folder: one that is there.
        at: the second place.
        target: what a symbolic link says; None takes the complete path of `folder`.
    """
    if at.is_dir() and not at.is_symlink():
        shutil.rmtree(at)
    else:
        at.unlink(missing_ok=True)
    try:
        at.symlink_to(folder.resolve() if target is None else target, target_is_directory=True)
    except OSError:
        with new_folder(at) as part:
            shutil.copytree(folder, part, copy_function=_link_file, dirs_exist_ok=True)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without them
        shutil.copyfile(source, target)
