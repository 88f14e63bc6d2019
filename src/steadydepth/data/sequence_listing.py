"""Which sequences a folder holds, and which frames and labels a sequence: by their names, none of them opened."""

from collections.abc import Iterable
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from steadydepth.data.shards.read import find_pack, find_packed
from steadydepth.data.shards.store import url_of
from steadydepth.errors import InputError
from steadydepth.files.images import FRAME_SUFFIXES
from steadydepth.files.listing import visible
from steadydepth.files.video_read import VIDEO_SUFFIXES, names_a_file

LABELS = ("depth", "objects", "flow", "valid")


def find_sequences(root: Path) -> list[Path]:
    """Sequence folders (those with `rgb/`) and video files of `root` by name, or `root` itself when it is one.

    Of shards, in a folder or behind a URL, the sequences packed in them, each as a path below `root`.

    Raises:
        InputError: `root` is missing or holds none, or a folder and a video share one name.
    """
    found = list_sequences(root)
    if clashes := name_clashes(found):
        raise InputError("\n".join(clashes))
    return found


def list_sequences(root: Path) -> list[Path]:
    """As `find_sequences`, names that clash included.

    Raises:
        InputError: `root` is missing or holds none.
    """
    if pack := find_pack(root):
        return [root / name for name in sorted(pack.sequences)]
    if url := url_of(root):
        raise InputError(f"{url} has no index.json; behind a URL the data is what `steadydepth data pack` wrote")
    if not root.exists():
        raise InputError(f"{root} does not exist; the data is a folder of sequences or a video file: check the path")
    if is_sequence(root):
        return [root]
    found = sorted((path for path in visible(root) if is_sequence(path)), key=lambda path: path.name)
    if not found:
        if any(file.suffix.lower() in FRAME_SUFFIXES for file in visible(root)):
            raise InputError(
                f"{root} holds images and no sequence; a sequence has its frames in a folder rgb/, numbered from 0000, "
                "and a meta.json with their rate: move them there, or make one with: steadydepth data convert pairs"
            )
        raise InputError(
            f"{root} holds no sequence; a sequence is a folder with rgb/ inside or a video file "
            f"({', '.join(VIDEO_SUFFIXES)}): give the folder above them, or make one with: steadydepth data"
        )
    return found


def is_sequence(path: Path) -> bool:
    """Whether `path` is a folder with `rgb/` inside, a file named as a video, or a sequence of a pack.

    A link that leads nowhere is what it is named as: reading it says so, and passing over it would not.
    """
    is_video = path.suffix.lower() in VIDEO_SUFFIXES and names_a_file(path)
    return (path / "rgb").is_dir() or is_video or find_packed(path) is not None


def name_clashes(paths: list[Path]) -> list[str]:
    """One fault for each sequence whose name another one before it has: `a/` and `a.mp4` are both `a`."""
    first: dict[str, Path] = {}
    faults = []
    for path in paths:
        other = first.setdefault(name_of(path), path)
        if other != path:
            rule = "two sequences of one name, and results are kept by name: rename one"
            faults.append(f"{path}: {rule} (the other is {other})")
    return faults


def name_of(path: Path) -> str:
    """Name of a sequence: that of its folder, or of its video file without the ending."""
    path = path if path.name not in ("", ".", "..") else path.resolve()
    return path.stem if names_a_file(path) else path.name


def list_files(path: Path) -> tuple[list[Path], dict[str, dict[int, Path]], list[str]]:
    """Frames in order, label files by frame, and every breach of the numbering."""
    numbered, faults = _numbered(path / "rgb", FRAME_SUFFIXES)
    n_frames = max(numbered, default=-1) + 1
    if not numbered:
        faults.append(f"{path / 'rgb'}: no frames; they are 0000.png or .jpg, 0001, ...: put them there")
    elif len(numbered) < n_frames:
        # Some are enough, and a stray number may be huge.
        gaps = islice((number for number in range(n_frames) if number not in numbered), 5)
        rule = f"numbers begin at 0000 and have no gaps up to the last, {n_frames - 1:04d}: renumber"
        faults.append(f"{path / 'rgb'}: no file for frame {', '.join(f'{number:04d}' for number in gaps)}; {rule}")
    labels = {}
    for kind in LABELS:
        labels[kind], more = _numbered(path / kind, (".png",))
        beyond = [labels[kind][number] for number in sorted(labels[kind]) if number >= n_frames > 0]
        rule = f"a label without its frame, rgb/ ends at {n_frames - 1:04d}: remove it, or add the frame"
        faults += more + join_neighbours([(file, f"{file}: {rule}") for file in beyond])
    if labels["objects"]:
        # A frame without a depth file is one without labels: it needs no objects either.
        labelled = labels["depth"] or numbered
        rule = "missing; objects/ has one for every frame with a label: write it, 0 for the static world"
        due = [(number, path / "objects" / f"{number:04d}.png") for number in sorted(labelled) if number < n_frames]
        faults += join_neighbours(
            [(file, None if number in labels["objects"] else f"{file}: {rule}") for number, file in due]
        )
    return [numbered[number] for number in sorted(numbered)], labels, faults


def join_neighbours(faults: Iterable[tuple[Path, str | None]]) -> list[str]:
    """One line for each stretch of files with one and the same fault: of the first file, up to the last.

    Args:
        faults: every file in order, and its fault, which begins with its path; None where it has none.
    """
    rules = [(file.parent, fault and fault.removeprefix(f"{file}: "), file) for file, fault in faults]
    lines = []
    for (_, rule), stretch in groupby(rules, key=itemgetter(0, 1)):
        first, *others = (file for _, _, file in stretch)
        if rule is not None:
            lines.append(f"{first}{f' to {others[-1].name}' if others else ''}: {rule}")
    return lines


def _numbered(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[int, Path], list[str]]:
    files: dict[int, Path] = {}
    faults = []
    # A link that leads nowhere, say to a disk that is not mounted, would be passed over as labels that are not there.
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        faults.append(f"{folder}: is no folder, or a link that leads to none: fetch what it names, or remove it")
    found = list[tuple[Path, str | None]]()
    for file in sorted(visible(folder)):
        fault = None
        if file.suffix.lower() not in suffixes or not (file.stem.isascii() and file.stem.isdigit()):
            rule = f"only numbered images stand here, 0000{suffixes[0]}, 0001{suffixes[0]}, ..."
            fault = f"{file}: {rule}: rename or remove it, or let steadydepth data convert pairs write them so"
        elif int(file.stem) in files:
            fault = f"{file}: frame {int(file.stem)} is there twice ({files[int(file.stem)].name}): remove one"
        else:
            files[int(file.stem)] = file
        found.append((file, fault))
    return files, faults + join_neighbours(found)
