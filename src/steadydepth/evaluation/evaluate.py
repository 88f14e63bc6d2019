"""A model, or a folder of predictions, and videos in; metrics.json out."""

import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import as_completed
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float

from steadydepth.data.sequence_folder import find_sequences
from steadydepth.evaluation.alignment import choose_alignment
from steadydepth.evaluation.clip_evaluation import score_clip
from steadydepth.evaluation.clip_scorer import Settings
from steadydepth.evaluation.footage import footage_of
from steadydepth.evaluation.sources import Source, sources_of_folder, sources_of_model, with_reference
from steadydepth.evaluation.summary import ScoredClip, build_report
from steadydepth.evaluation.windows import Values
from steadydepth.files.atomic_writes import check_folder, write_json
from steadydepth.files.pools import ended_at_once, pool_of, processes_at_once
from steadydepth.files.predictions import open_array
from steadydepth.inference.filters import choose_filter
from steadydepth.inference.predictor import AnyModel, Predictor, as_predictor
from steadydepth.metrics.arrays import as_array
from steadydepth.metrics.protocols import Protocol, choose_protocol
from steadydepth.progress import Progress
from steadydepth.types import Claims, Clip, InputError

LOG = logging.getLogger(__name__)
# Share of the pixels that a sky, of which the disparity is 0, may well be.
_MOST_CLIPPED = 0.01
# Metres in another unit are so many times what they should be, within a model's own error of scale.
_UNITS = {1000.0: "millimetres", 100.0: "centimetres"}
_MOST_ERROR_OF_SCALE = 1.2
# Scored in half a minute or more; a process spends a few seconds on its imports.
_PIXELS_A_PROCESS = 20_000_000


def evaluate_clip(
    depth: Float[np.ndarray, "t i j"] | Float[torch.Tensor, "t i j"],
    clip: Clip,
    *,
    claims: Claims,
    align: str = "auto",
    max_depth: float | None = None,
    protocol: str = "plain",
) -> Values:
    """Every metric of one clip and one prediction of it, by name; None where a metric does not apply.

    Args:
        depth: in the units of `claims`, of any size.
        clip: frames and labels.
        claims: what the predicted numbers mean.
        align: fitted once for the clip; `auto` does what the claims call for.
        max_depth: metres, in place of the protocol's.
        protocol: a key of PROTOCOLS.

    Raises:
        InputError: the prediction, or a label, cannot belong to the frames, or an option is none.
    """
    array, shape = as_array(depth), clip.frames.shape[:3]
    if array.ndim != 3:
        raise InputError(f"{clip.name}: depth is {array.shape}, frames are {shape}: give (t, i, j), one for each frame")
    for name in ("depth", "valid", "objects"):
        if (label := getattr(clip, name)) is not None and label.shape != shape:
            raise InputError(f"{clip.name}: the label {name} is {label.shape}, frames are {shape}: resize one of them")
    settings = Settings(choose_protocol(protocol, max_depth=max_depth), align)
    return dict(score_clip(footage_of(clip), open_array(array, claims), settings).methods["model"])


def _settings(
    align: str, protocol: Protocol, lengths: Iterable[int | None], *, strict: bool, opw: str, jobs: int | None
) -> Settings:
    choose_alignment(align, "metric")
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs {jobs}: give 1 or more processes")
    lengths = tuple(lengths)
    if wrong := [one for one in lengths if one is not None and not (isinstance(one, Integral) and one >= 2)]:
        raise InputError(f"lengths {wrong}: a window has 2 frames or more, or all of them")
    if opw not in ("khan", "nvds"):
        raise InputError(f"opw {opw!r}: choose khan, or nvds to have that script's number as well")
    return Settings(protocol, align, lengths=lengths, is_strict=strict, with_opw_nvds=opw == "nvds")


def _geometric_mean(sources: list[Source], tell: Progress) -> float:
    """Geometric mean of all positive finite predictions of the data set: the constant that knows nothing else."""
    total, count = 0.0, 0
    for done, source in enumerate(sources):
        tell(f"reading {source.name}", done, len(sources))
        try:
            for depth in source.open_depth().read():
                usable = depth[np.isfinite(depth) & (depth > 0)]
                total += float(np.log(usable.astype(np.float64)).sum())
                count += usable.size
        except InputError:
            continue  # named when its turn to be scored comes
    return math.exp(total / count) if count else 1.0


def _enough_jobs(sources: Iterable[Source]) -> int:
    """A process for each thread of torch, but none that has less to score than its own start costs."""
    pixels, n_clips = 0, 0
    for source in sources:
        try:
            clip = source.open_clip()
        except InputError:
            continue  # named when its turn to be scored comes
        pixels, n_clips = pixels + clip.n_frames * clip.height * clip.width, n_clips + 1
    return max(1, min(torch.get_num_threads(), n_clips, pixels // _PIXELS_A_PROCESS))


def _score_all(
    sources: list[Source], settings: Settings, jobs: int, tell: Progress
) -> Iterator[tuple[str, ScoredClip | str]]:
    """Each clip and what was found on it, or why nothing was, in order."""
    if jobs == 1:
        for done, source in enumerate(sources):
            tell(f"scoring {source.name}", done, len(sources))
            yield source.name, _score_source(source, settings)
        return
    jobs = processes_at_once(jobs)
    threads = max(1, torch.get_num_threads() // jobs)
    with ended_at_once(pool_of(jobs, _begin_worker, threads)) as pool:
        tasks = {pool.submit(_score_source, source, settings): source.name for source in sources}
        for done, task in enumerate(as_completed(tasks), start=1):
            tell(f"scored {tasks[task]}", done, len(tasks))
            task.result()
        yield from ((name, task.result()) for task, name in tasks.items())


def _begin_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _score_source(source: Source, settings: Settings) -> ScoredClip | str:
    try:
        reference = None if source.open_reference is None else source.open_reference()
        return score_clip(source.open_clip(), source.open_depth(), settings, reference)
    except InputError as error:
        if settings.is_strict:
            raise
        return str(error)


def report_of(scored: Mapping[str, ScoredClip | str], settings: Settings, *, data: str) -> dict[str, Any]:
    """The report of clips that were scored in any number of processes: only their own numbers go into it.

    Args:
        scored: what was found by clip; a text in its place says why it was left out.
        settings: how they were scored.
        data: name of the data, for the header.

    Raises:
        InputError: no clip was scored.
    """
    clips = {name: found for name, found in scored.items() if isinstance(found, ScoredClip)}
    failed = {name: why for name, why in scored.items() if isinstance(why, str)}
    if not clips:
        listed = "\n".join(f"{name}: {why}" for name, why in failed.items())
        raise InputError(f"no clip of {data or 'the data'} could be evaluated\n{listed}")
    for name, why in failed.items():
        LOG.warning("%s is left out: %s", name, why)
    report = build_report(list(clips.values()), failed, data=data, protocol=settings.protocol)
    turned = [name for name, clip in clips.items() if clip.methods["model"]["negative_scale"]]
    if turned:
        LOG.warning("negative scale, so near and far are exchanged in the prediction of: %s", ", ".join(turned))
    holes = {name: clip.methods["model"]["n_nonfinite"] for name, clip in clips.items()}
    if any(holes.values()):
        listed = ", ".join(f"{number} in {name}" for name, number in holes.items() if number)
        LOG.warning("predicted values that are NaN or infinite are scored as they are, NaN as very near: %s", listed)
    if unlabelled := [name for name, clip in clips.items() if clip.lost_label]:
        LOG.warning(
            "no pixel of the depth images counts, all being 0 or outside %g to %g m, so they are not scored against "
            "them: %s; look at depth_scale_m of meta.json, and at max_depth (--max-depth)",
            settings.protocol.dmin,
            settings.protocol.dmax,
            ", ".join(unlabelled),
        )
    _warn_of_unit(clips.values())
    clipped = {name: clip.clipped for name, clip in clips.items() if clip.clipped > _MOST_CLIPPED}
    if clipped:
        LOG.warning(
            "%s raises disparity to 1e-3 before its fit, as its authors do, which flattens %s: the scores hang on unit "
            "and offset; --protocol plain, or another of the same data without vda_, fits first",
            settings.protocol.name,
            ", ".join(f"{share:.0%} of {name}" for name, share in clipped.items()),
        )
    return report


def _warn_of_unit(clips: Iterable[ScoredClip]) -> None:
    """Name the unit that predictions, or labels, seem to have in place of metres."""
    known = [clip.times_label for clip in clips if clip.times_label is not None]
    middle = float(np.median(known)) if known else 1.0
    larger, smaller = ("predictions", "labels") if middle > 1 else ("labels", "predictions")
    times = max(middle, 1 / middle)
    for factor, unit in _UNITS.items():
        if factor / _MOST_ERROR_OF_SCALE < times < factor * _MOST_ERROR_OF_SCALE:
            LOG.warning(
                "the %s are about %.0f times the %s, so the %s seem to be in %s, or the %s %g times too small: look at "
                "depth_scale_m of meta.json, or write metres; --align scale leaves the unit open",
                larger, times, smaller, larger, unit, smaller, factor,
            )  # fmt: skip


def evaluate(
    model_or_predictions: Any,
    data: str | Path,
    *,
    out: str | Path | None = None,
    align: str = "auto",
    max_depth: float | None = None,
    protocol: str = "plain",
    controls: bool = True,
    lengths: Iterable[int | None] = (),
    strict: bool = False,
    opw: str = "khan",
    jobs: int | None = 1,
    filter: str | None = None,
    strength: float | None = None,
    model_name: str | None = None,
    reference: AnyModel | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a model, or a folder of predictions, on the clips of a folder.

    Memory does not grow with the length of a clip; predictions of a model are kept in a temporary folder.

    Args:
        model_or_predictions: a module with `claims`, what `load` returns, or a folder of predictions.
        data: folder of sequences, with depth or without.
        out: folder that gets metrics.json; None writes nothing.
        align: "auto" does what the claims call for; or none, scale, affine or disparity, fitted once for a clip.
        max_depth: metres beyond which labels do not count; None takes the protocol's.
        protocol: a key of `metrics.protocols.PROTOCOLS`.
        controls: score a constant and the filters of `ops.smoothing` of the same predictions as well.
        lengths: repeat the temporal metrics on consecutive windows of so many frames; None in it is the complete clip.
        strict: stop at the first value that is not finite and the first clip that cannot be scored.
        opw: "nvds" adds `opw_nvds` to the usual "khan".
        jobs: processes that score clips side by side; None chooses how many. Any but 1 wants a script to have
            `if __name__ == "__main__":`.
        filter: what `inference.filters.choose_filter` takes, applied to the predictions that are scored.
        strength: of the learned filter, from 0, the depth as it is, to 1.
        model_name: noted in the header, for whoever looks for the model later.
        reference: a second model, or the name of one; how much of its depth is kept is measured.
        progress: is called with (what, done, total).

    Returns: what is written to metrics.json: header, mean, mean_fixed, mean_moving, clips, label, failed, curves, and
        with `controls` the same tables for each. A value is None where a metric does not apply.

    Raises:
        InputError: an option is wrong, or no clip can be scored.
    """
    is_predictor = isinstance(model_or_predictions, Predictor)
    is_model = is_predictor or isinstance(model_or_predictions, torch.nn.Module)
    applied = (model_or_predictions.choose_filter if is_predictor else choose_filter)(filter, strength)
    if out is not None:
        check_folder(Path(out))
    paths, chosen = find_sequences(Path(data)), choose_protocol(protocol, max_depth=max_depth)
    settings, tell = _settings(align, chosen, lengths, strict=strict, opw=opw, jobs=jobs), progress or (lambda *_: None)
    with tempfile.TemporaryDirectory(prefix="steadydepth-", ignore_cleanup_errors=True) as keep:
        sources: Iterable[Source]
        if is_model:
            sources = sources_of_model(model_or_predictions, paths, Path(keep), chosen, filter=applied, tell=tell)
        else:
            sources = sources_of_folder(Path(model_or_predictions), paths, chosen, filter=applied)
        if reference is not None:
            sources = with_reference(sources, paths, as_predictor(reference), Path(keep), chosen)
        listed = list(sources)
        if controls:
            settings = replace(settings, constant=_geometric_mean(listed, tell))
        scored = dict(_score_all(listed, settings, _enough_jobs(listed) if jobs is None else jobs, tell))
        tell("scored", len(scored), len(scored))
        report = report_of(scored, settings, data=str(data))
    predictions = None if is_model else str(model_or_predictions)
    report["header"] |= {"model": model_name, "predictions": predictions, **applied.noted()}
    if out is not None:
        write_json(Path(out) / "metrics.json", report)
    return report
