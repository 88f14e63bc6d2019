"""Every fault of a data folder at once, each with the file, the rule and the way out; nothing is changed."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from steadydepth.data.cuts import Shots
from steadydepth.data.depth_labels import DepthSeen
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import (
    LABELS,
    is_sequence,
    join_neighbours,
    list_files,
    list_sequences,
    name_clashes,
)
from steadydepth.data.sequence_meta import SequenceMeta, against_files, bent_poses, misspelt_keys, read_meta
from steadydepth.data.shards.read import find_pack
from steadydepth.errors import why_refused
from steadydepth.files.images import (
    read_colour,
    read_depth_codes,
    read_flow,
    read_labelled_colour,
    read_labels,
    size_rule,
)
from steadydepth.files.listing import visible
from steadydepth.files.video_read import frame_times_s, probe_video, read_video
from steadydepth.types import InputError

# Of what the median pixel shows: a hand before the lens, a valley from a mountain.
_NEAREST_M, _FARTHEST_M = 0.05, 500.0
_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "depth": read_depth_codes,
    "objects": read_labels,
    "flow": lambda file: read_flow(file)[0],
    "valid": read_labels,
}


def check_data(root: str | Path) -> list[str]:
    """Every fault of a data folder, each naming file and rule; empty when there is none.

    Every file is read and none is written. Beyond what keeps a sequence from being read: poses that are no rigid
    motion, keys of meta.json that look misspelt, frames that repeat, cuts inside a sequence, pauses in a video's time,
    and depth in a unit that cannot be. InputError when `root` holds no sequence at all.
    """
    root = Path(root)
    paths = list_sequences(root)
    if find_pack(root):
        return [fault for path in paths for fault in _check_packed(path)]
    faults = name_clashes(paths)
    if not is_sequence(root):
        headless = [path for path in sorted(visible(root)) if (path / "meta.json").is_file() and path not in paths]
        faults += [f"{path}: meta.json without rgb/; a sequence has its frames there: add them" for path in headless]
    for path in paths:
        try:
            faults += _check_folder(path) if path.is_dir() else _check_video(path)
        except PermissionError as error:
            faults.append(why_refused(error))
    return faults


def _check_packed(path: Path) -> list[str]:
    sequence, faults = open_sequence(path), []
    for kind, images in {"rgb": sequence.rgb, **sequence.labels}.items():
        for number in images:
            try:
                sequence.read_frames(number, number + 1) if kind == "rgb" else sequence.read_label(kind, number)
            except InputError as error:
                faults.append(str(error))
    return faults


def _check_video(path: Path) -> list[str]:
    shots, shown = Shots(), list[str]()
    try:
        n_read = sum(1 for _ in shots.watch(read_video(path, report=shown.append)))
        n_frames = probe_video(path).n_frames
        times_s = frame_times_s(path)
    except InputError as error:
        return [str(error)]
    faults = [f"{path}: {fault}" for fault in shown] + _shot_faults(path, shots) + _pauses(path, times_s)
    if n_read != n_frames:
        faults.append(f"{path}: promises {n_frames} frames and decodes to {n_read}: encode it again")
    return faults


def _shot_faults(path: Path, shots: Shots, numbers: Sequence[int] | None = None) -> list[str]:
    """Cuts and repeated frames.

    Args:
        path: of the sequence.
        shots: what its frames were shown to.
        numbers: of those frames, where some could not be read; in a folder another size is another fault.
    """
    one_shot = "a sequence is one shot: begin a new one there (data convert video --split-shots)"
    moves = "the frames of a video follow one another in time: leave the copies out"
    is_video = numbers is None
    numbers = range(len(shots.changes)) if numbers is None else numbers
    return [
        f"{path}: {'the size changes' if shots.resized[cut] else 'a cut'} between frames {numbers[cut - 1]} and "
        f"{numbers[cut]}; {one_shot}"
        for cut in shots.cuts()
        if is_video or not shots.resized[cut]
    ] + [
        f"{path}: frames {numbers[still.start]} to {numbers[still.stop - 1]} are one image; {moves}"
        for still in shots.stills()
    ]


def _pauses(path: Path, times_s: Float64[np.ndarray, "t"]) -> list[str]:
    """Where a video's time jumps: by more than three usual steps, frames are missing."""
    steps = np.diff(times_s)
    late = np.flatnonzero(steps > 3 * np.median(steps)) if len(steps) else np.zeros(0, np.intp)
    rule = "frames are missing there: cut it there, with data convert video --start --stop"
    return [f"{path}: {steps[number]:.3g} s between frames {number} and {number + 1}; {rule}" for number in late]


def _check_folder(path: Path) -> list[str]:
    rgb, labels, faults = list_files(path)
    meta, meta_faults = read_meta(path / "meta.json")
    if meta is not None:
        misspelt = misspelt_keys(path / "meta.json")
        # What is misspelt is not missing as well, nor are frames that a gap leaves out one pose too many.
        is_scale_due = (path / "depth").is_dir() and not any("depth_scale_m" in fault for fault in misspelt)
        n_frames = int(rgb[-1].stem) + 1 if rgb else len(meta.cam_to_world or ())
        meta_faults = against_files(path / "meta.json", meta, n_frames, has_depth_folder=is_scale_due)
        meta_faults += misspelt + bent_poses(path / "meta.json", meta)
    if rgb and int(rgb[-1].stem) in labels["flow"]:
        faults.append(f"{labels['flow'][int(rgb[-1].stem)]}: the last frame has no flow to a next one: remove it")
    shots, numbers, medians, labels_seen = Shots(), list[int](), [], DepthSeen()
    wrong = dict[Path, str]()
    sizes = dict[Path, tuple[int, int]]()
    readers = _READERS | {"rgb": read_labelled_colour if any(labels.values()) else read_colour}
    files = [("rgb", file) for file in rgb]
    files += [(kind, labels[kind][number]) for kind in LABELS for number in sorted(labels[kind])]
    for kind, file in files:
        try:
            image = readers[kind](file)
        except InputError as error:
            wrong[file] = str(error)
            continue
        sizes[file] = (image.shape[0], image.shape[1])
        if kind == "rgb":
            shots.see(image)
            numbers.append(int(file.stem))
        elif kind == "depth":
            labels_seen.see(image)
            if image.any():
                medians.append(np.median(image[image > 0]))
    wrong |= _other_sizes(sizes, rgb)
    faults += join_neighbours([(file, wrong.get(file)) for _, file in files])
    faults += _shot_faults(path, shots, numbers) + labels_seen.faults(path / "depth")
    return meta_faults + faults + _units(path, float(np.median(medians)) if medians else None, meta)


def _other_sizes(sizes: dict[Path, tuple[int, int]], rgb: list[Path]) -> dict[Path, str]:
    """Files of another size than most frames, and why that is wrong."""
    usual = Counter(sizes[file] for file in rgb if file in sizes).most_common(1)
    if not usual:
        return {}
    height, width = usual[0][0]
    return {file: size_rule(file, size, (height, width)) for file, size in sizes.items() if size != (height, width)}


def _units(path: Path, median_code: float | None, meta: SequenceMeta | None) -> list[str]:
    """Depth of which half lies beyond what is ever filmed: a wrong unit."""
    if median_code is None or meta is None or meta.depth_scale_m is None:
        return []
    median_m = median_code * meta.depth_scale_m
    if _NEAREST_M <= median_m <= _FARTHEST_M:
        return []
    side = "within" if median_m < _NEAREST_M else "beyond"
    return [
        f"{path / 'depth'}: half of the depth is {side} {median_m:.3g} m; half of a scene is {_NEAREST_M} to "
        f"{_FARTHEST_M} m away: correct depth_scale_m of meta.json, the metres of one step"
    ]
