"""Anything with frames in; files of depth out, each complete or not there, in constant memory."""

import logging
import math
import os
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from steadydepth.errors import InputError, failure, why_refused
from steadydepth.files.atomic_writes import check_folder, check_name, hidden_folder, move
from steadydepth.files.predictions import read_noted
from steadydepth.files.video_read import probe_video, read_depth_video
from steadydepth.inference.depth_cache import cache_depth
from steadydepth.inference.filters import ChosenFilter
from steadydepth.inference.frame_sources import Input, Source, expand_input, may_open, open_source, source_name
from steadydepth.inference.point_clouds import Lens
from steadydepth.inference.predictor import Predictor
from steadydepth.inference.stereo import Stereo
from steadydepth.inference.writers import (
    NEED_CAMERA,
    NOTING,
    PREVIEW_SIDE,
    WITHOUT_PREVIEW,
    Output,
    check_output,
    folder_content,
    outputs,
    write_outputs,
)
from steadydepth.ops.depth_view import DepthView
from steadydepth.progress import Progress, show_progress

LOG = logging.getLogger(__name__)
_MOST_NAMED = 10


def predict_files(
    predictor: Predictor,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    format: str = "npz",
    view: DepthView | None = None,
    stereo: Stereo | None = None,
    keep_names: bool = False,
    max_side: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    shard: tuple[int, int] | None = None,
    filter: str | ChosenFilter | None = None,
    strength: float | None = None,
    seconds: float | None = None,
    fps: float | None = None,
    lens: Lens | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write depth, and a coloured preview, of images, folders, videos, cameras and URLs.

    Args:
        predictor: the model.
        inputs: what `frame_sources.expand_input` takes; a folder is one video, in the order of its names.
        out: folder of the results, each complete or not there.
        format: `npz`, `png16`, `exr` and `exr16` (floats of 16 bits) are prediction folders for evaluate; `mkv` is
            16-bit FFV1 with a json that describes its codes; `mp4` shows frame and depth side by side, with the sound
            and the times of the video; `png` is depth in colours, an image a frame; `sbs` and `anaglyph` are stereo
            pairs, with sound and times as well; `ply` is a point cloud a frame, `rerun` a recording of all of them.
        view: range and colours of what shows depth; None is one range for each video, in turbo.
        stereo: how deep stereo pairs are.
        keep_names: whether files of frames are named as the images of the input, and not by numbers from 0000.
        max_side: shrink frames to this longer side in pixels for the network.
        overwrite: replace outputs that exist; with `resume` those alone that note another model, filter or option.
        resume: leave out inputs whose outputs are all there; what a run that was killed left of them is made again.
        shard: (i, n), i from 1: of all inputs the i-th, the (i + n)-th, ...
        filter: what `filters.choose_filter` takes, in place of the predictor's own.
        strength: of the learned filter, from 0 to 1.
        seconds: end of a camera or URL; Ctrl-C ends it as well.
        fps: frames a second of folders of images, which do not say; None is 25.
        lens: the camera of `ply` and `rerun`, in place of that of a sequence folder.
        progress: is called with (what, frames done, frames in all or 0); None shows a bar on a terminal.

    Returns: the paths of all files and folders written.

    Raises:
        InputError: before anything is done, when an output exists and is not to be replaced, or was made otherwise than
            it would be now, two inputs share one name, or the format does not fit; at the end, naming each, when no
            input could be read.
        SomeFailedError: the same at the end when others are written.
    """
    output = Output(format, view or DepthView(), stereo or Stereo(), keep_names)
    check_output(output, predictor.claims)
    check_folder(out)
    chosen = predictor.choose_filter(filter, strength)
    if max_side is not None:
        predictor = predictor.shrinking(max_side)
    output = replace(output, made_by=predictor.noted() if format in NOTING else {})
    sources, failed = _open_all(inputs, shard or (1, 1), lens, out, format)
    if fps is not None:
        sources = _at_rate(sources, fps)
    if seconds is not None and sources and not any(source.is_live for source in sources.values()):
        raise InputError(f"seconds {seconds:g}: no input is a camera or URL; files are read to their end: leave it out")
    _check_cameras(sources, format)
    _check_names(sources, format, keep_names=keep_names)
    _refuse_inputs(sources, out, format)
    done = {given for given, source in sources.items() if resume and _is_done(source, out, format)}
    if format in NOTING:
        noted = {"claims": predictor.claims, **output.noted(chosen)}
        done -= _made_otherwise({given: sources[given] for given in done}, out, format, noted, overwrite=overwrite)
    missing = {given: source for given, source in sources.items() if given not in done}
    if done:
        whatever = "" if format in NOTING else f", whatever made them, which {format} does not note"
        LOG.info("%s: has the outputs of %d inputs, which are left as they are%s", out, len(done), whatever)
    _refuse_outputs(missing, out, format, overwrite=overwrite, resume=resume)
    written: list[Path] = []
    with nullcontext(progress) if progress is not None else show_progress() as report:
        for given, source in missing.items():
            try:
                with hidden_folder(out, source.name) as staging:
                    (staging / "ready").mkdir()
                    side = None if format in WITHOUT_PREVIEW else PREVIEW_SIDE
                    cached = cache_depth(
                        predictor, source, staging, filter=chosen, seconds=seconds, keep_side=side,
                        find_cuts=output.view.look_ahead is not None, report=report,
                    )  # fmt: skip
                    write_outputs(staging / "ready", cached, output)
                    written += _publish(staging, out, outputs(source, format))
            except InputError as error:
                failed[given] = str(error)
            except Exception as error:
                error.add_note(f"while predicting {given}")
                raise
    if failed:
        fine = len(sources.keys() - failed.keys())
        raise failure({str(given): why for given, why in failed.items()}, fine, written)
    return written


def _open_all(
    inputs: Sequence[Path | str], shard: tuple[int, int], lens: Lens | None, out: Path, format: str
) -> tuple[dict[Input, Source], dict[Input, str]]:
    index, n_shards = shard
    if not 1 <= index <= n_shards:
        raise InputError(f"shard {index}/{n_shards}: the first of four is 1/4, the last 4/4")
    failed: dict[Input, str] = {}
    expanded: list[Input] = []
    for given in inputs:
        try:
            expanded += expand_input(given)
        except (InputError, PermissionError) as error:
            failed[given] = why_refused(error)
    sources: dict[Input, Source] = {}
    for each in expanded[index - 1 :: n_shards]:
        try:
            source = _open(each, lens)
            for name in (source.name, *outputs(source, format)):
                check_name(name, out)
            sources[each] = source
        except (InputError, PermissionError) as error:
            failed[each] = why_refused(error)
    first: dict[str, Input] = {}  # by the name as the file system tells names apart
    # What other shards open is known by its ending alone; they write into the same folder.
    for each in (each for each in expanded if each in sources or (n_shards > 1 and may_open(each))):
        name = source_name(each)
        if (other := first.setdefault(os.path.normcase(name), each)) != each:
            raise InputError(f"{other} and {each} would both be written as {name}: rename one, or run twice")
    return sources, failed


def _open(given: Input, lens: Lens | None) -> Source:
    source = open_source(given)
    if isinstance(given, str):
        # What has come from a URL does not come again: its rate is asked for before.
        source = replace(source, fps=probe_video(given).fps)
    return source if lens is None else replace(source, camera=lens.K)


def _at_rate(sources: dict[Input, Source], fps: float) -> dict[Input, Source]:
    """The same sources, folders of images with so many frames a second."""
    if not 0 < fps < math.inf:
        raise InputError(f"fps {fps:g}: frames a second are more than 0: give 24, for example")
    if sources and not any(source.says_no_rate for source in sources.values()):
        raise InputError(f"fps {fps:g}: no input is a folder of images, and the others need no rate: leave it out")
    return {
        given: replace(source, fps=float(fps)) if source.says_no_rate else source for given, source in sources.items()
    }


def _check_cameras(sources: dict[Input, Source], format: str) -> None:
    without = [str(given) for given, source in sources.items() if source.camera is None]
    if format in NEED_CAMERA and without:
        raise InputError(
            f"{', '.join(without)}: the camera is not known; {format} needs a focal length or a field of view "
            "(--focal, --fov), or the K of a sequence folder's meta.json"
        )


def _check_names(sources: dict[Input, Source], format: str, *, keep_names: bool) -> None:
    first: dict[str, Source] = {}
    for source in sources.values():
        for name in outputs(source, format):
            if (other := first.setdefault(os.path.normcase(name), source)) is not source:
                raise InputError(f"{other.name} and {source.name} would both write {name}: rename one, or run twice")
    for source in sources.values() if keep_names else ():
        names = source.names
        if names is None:
            raise InputError(f"{source.name}: its frames have no names to keep: leave keep-names out")
        if len(set(names)) < len(names):
            raise InputError(f"{source.name}: two images have one name but for the ending: rename one")


def _is_done(source: Source, out: Path, format: str) -> bool:
    paths = [out / name for name in outputs(source, format)]
    return all(path.exists() and not (path.is_dir() and _is_of_another_format(path, format)) for path in paths)


def _made_otherwise(
    sources: dict[Input, Source], out: Path, format: str, noted: dict[str, Any], *, overwrite: bool
) -> set[Input]:
    """The inputs whose outputs note another model, filter or option than `noted`; InputError unless `overwrite`."""
    found = {}
    for given, source in sources.items():
        path = out / outputs(source, format)[0]
        there = read_noted(path)  # what an older version did not note is not compared
        # A folder of images has the rate that is asked for; others have their own.
        wanted = {**noted, "fps": source.fps} if source.says_no_rate else noted
        differ = [key for key in wanted if key in there and there[key] != wanted[key]]
        words = ["another model" if key == "model" else f"{key} {there[key]} and not {wanted[key]}" for key in differ]
        if words:
            found[given] = f"{path}: was made with {', '.join(words)}"
    if found and not overwrite:
        more = f"\n... and {len(found) - _MOST_NAMED} more" * (len(found) > _MOST_NAMED)
        raise InputError(
            "\n".join([*found.values()][:_MOST_NAMED]) + more + "\nsay overwrite=True as well (--resume --overwrite), "
            "which makes these anew and leaves the others; repeat what they were made with; or choose another folder"
        )
    return set(found)


def _is_of_another_format(folder: Path, format: str) -> bool:
    """Whether a folder holds frames of another format than that: png16 and exr differ in the endings alone."""
    if {each.name for each in folder.iterdir()} != folder_content(format):
        return True
    endings = {path.suffix for path in (folder / "depth").glob("*")}
    return bool(endings) and endings != {".exr" if format.startswith("exr") else ".png"}


def _was_cut(out: Path, names: list[str], there: list[str]) -> bool:
    """Whether a run that was killed between two renames left what is there; other files are somebody's own."""
    if there != names[: len(there)]:
        return False
    path = out / there[0]
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return {"depth.npy", "claims.npy"} <= set(archive.namelist())
        # Folders are looked at elsewhere.
        return path.suffix != ".mkv" or next(read_depth_video(path), None) is not None
    except (InputError, OSError, zipfile.BadZipFile):
        return False


def _refuse_inputs(sources: dict[Input, Source], out: Path, format: str) -> None:
    inputs = {os.path.realpath(given) for given in sources if isinstance(given, Path)}
    for source in sources.values():
        for path in (out / name for name in outputs(source, format)):
            if os.path.realpath(path) in inputs:
                raise InputError(f"{path} is an input and would be overwritten: choose another folder for the output")


def _refuse_outputs(sources: dict[Input, Source], out: Path, format: str, *, overwrite: bool, resume: bool) -> None:
    for source in sources.values():
        names = outputs(source, format)
        there = [name for name in names if (out / name).exists()]
        if resume and there and not overwrite and not _was_cut(out, names, there):
            raise InputError(
                f"{out / there[-1]} is there without the rest of what predict writes: move it away, or say "
                "overwrite=True (--overwrite)"
            )
        for path in (out / name for name in names):
            if path.exists() and not (overwrite or resume):
                raise InputError(f"{path} exists: choose another folder, or say overwrite=True (--overwrite)")
            if path.is_dir() and not overwrite and _is_of_another_format(path, format):
                raise InputError(f"{path} holds something else than {format}: choose another folder for the output")
            # Overwriting a folder deletes it: only one that holds nothing but a prediction.
            if path.is_dir() and {each.name for each in path.iterdir()} != folder_content(format):
                raise InputError(f"{path} is a folder with more than a prediction in it: choose another folder")


def _publish(staging: Path, out: Path, names: list[str]) -> list[Path]:
    """Rename what is ready to where it is looked for; what was there goes with `staging`.

    All of it stays where one cannot be renamed, such as a preview that a player has open on Windows.
    """
    (staging / "old").mkdir()
    moves = [(out / name, staging / "old" / name) for name in names if (out / name).exists()]
    moves += [(staging / "ready" / name, out / name) for name in names]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            move(source, target)
            done.append((source, target))
    except OSError as error:
        for source, target in reversed(done):
            move(target, source)
        raise OSError(error.errno, error.strerror, error.filename) from error  # not of where it was to go
    return [out / name for name in names]
