"""A model, or a folder of predictions, and videos in; metrics.json out."""

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import nn

from steadydepth.data.sequence_folder import Sequence, find_sequences, open_sequence
from steadydepth.data.sequence_listing import name_of
from steadydepth.files.whole_files import new_file
from steadydepth.metrics.accuracy import log_correlation
from steadydepth.metrics.clip_scores import (
    AlignedDepth,
    Values,
    align_depth,
    choose_alignment,
    score_clip,
    score_label,
)
from steadydepth.metrics.protocol import Protocol, choose_protocol
from steadydepth.metrics.scene import Scene, prepare_scene
from steadydepth.metrics.summary import ClipRecord, build_report
from steadydepth.ops.smooth import causal_median, ema, flow_ema
from steadydepth.output.depth_files import find_predictions, read_predictions
from steadydepth.types import Claims, Clip, InputError

LOG = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]

# What anyone has without training; each is made from the aligned prediction of the model itself.
CONTROLS: dict[str, Callable[[np.ndarray, Scene], np.ndarray]] = {
    "ema": lambda depth, scene: ema(depth, decay=0.5),
    "ema_0.8": lambda depth, scene: ema(depth, decay=0.8),
    "median": lambda depth, scene: causal_median(depth),
    "flow_ema": lambda depth, scene: flow_ema(depth, scene.image_flow.backward, scene.image_flow.backward_seen),
}


@dataclass(frozen=True)
class Source:
    """One clip to score: how to read it, and how to read what was predicted for it."""

    name: str
    read_clip: Callable[[], Clip]
    read_depth: Callable[[], tuple[Float[np.ndarray, "t i j"], Claims]]
    # what another model says of it
    read_reference: Callable[[], tuple[Float[np.ndarray, "t i j"], Claims]] | None = None


def evaluate_clip(
    depth: Float[np.ndarray, "t i j"],
    clip: Clip,
    *,
    claims: Claims,
    align: str = "auto",
    max_depth: float | None = None,
    protocol: str = "plain",
) -> Values:
    """Every metric of one clip and one prediction of it, by name; None where a metric does not apply.

    `depth` in the units of `claims`, of any size. Aligned once for the clip: `auto` does what the claims call for.
    """
    scene = prepare_scene(clip, choose_protocol(protocol, max_depth=max_depth))
    return score_clip({"model": align_depth(depth, scene, claims=claims, align=align)}, scene)["model"]


def evaluate_predictions(
    sources: Iterable[Source],
    *,
    align: str = "auto",
    max_depth: float | None = None,
    protocol: str = "plain",
    controls: bool = True,
    data: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The report of `evaluate` over clips that are read one at a time, each twice when there are controls.

    A clip that raises InputError is named under `failed` and the others still count; InputError when all fail.
    """
    chosen = choose_protocol(protocol, max_depth=max_depth)
    choose_alignment(align, "metric")
    sources, tell = list(sources), progress or _silent
    constant = _geometric_mean(sources, tell) if controls else None
    records: list[ClipRecord] = []
    failed: dict[str, str] = {}
    for done, source in enumerate(sources):
        tell(f"scoring {source.name}", done, len(sources))
        try:
            records.append(_score_source(source, protocol=chosen, align=align, constant=constant))
        except InputError as error:
            LOG.warning("%s is left out: %s", source.name, error)
            failed[source.name] = str(error)
    if not records:
        listed = "\n".join(f"{name}: {why}" for name, why in failed.items())
        raise InputError(f"no clip of {data or 'the data'} could be evaluated\n{listed}")
    tell("scored", len(sources), len(sources))
    return build_report(records, failed, data=data, protocol=chosen)


def _silent(what: str, done: int, total: int) -> None:
    pass


def _geometric_mean(sources: list[Source], tell: Progress) -> float:
    """Geometric mean of all positive finite predictions of the data set: the constant that knows nothing else."""
    total, count = 0.0, 0
    for done, source in enumerate(sources):
        tell(f"predicting {source.name}", done, len(sources))
        try:
            depth, _ = source.read_depth()
        except InputError:
            continue  # named when its turn to be scored comes
        usable = depth[np.isfinite(depth) & (depth > 0)]
        total += float(np.log(usable.astype(np.float64)).sum())
        count += usable.size
    return math.exp(total / count) if count else 1.0


def _score_source(source: Source, *, protocol: Protocol, align: str, constant: float | None) -> ClipRecord:
    depth, claims = source.read_depth()
    scene = prepare_scene(source.read_clip(), protocol)
    aligned = align_depth(depth, scene, claims=claims, align=align)
    methods = {"model": aligned}
    if constant is not None:
        flat = np.full(scene.clip.frames.shape[:3], constant, np.float32)
        methods["constant"] = align_depth(flat, scene, claims=claims, align=align)
        for name, smooth in CONTROLS.items():
            smoothed = torch.from_numpy(smooth(aligned.depth.numpy(), scene))
            methods[name] = AlignedDepth(smoothed, aligned.scale, aligned.shift, aligned.n_nonfinite)
    scores = score_clip(methods, scene)
    if source.read_reference is not None:
        other, other_claims = source.read_reference()
        kept = align_depth(other, scene, claims=other_claims, align=align)
        scores = _with_structure(scores, methods, kept)
    label, flow = scene.label, "label" if scene.clip.flow is not None else "DIS"
    return ClipRecord(
        name=source.name,
        methods=scores,
        label=score_label(scene),
        facts={
            "align": choose_alignment(align, claims),
            "claims": claims,
            "fps": scene.clip.fps,
            "flow_source": None if label is None else flow,
            "split_source": None if label is None else label.split_source,
        },
    )


def _with_structure(
    scores: Mapping[str, Values], methods: Mapping[str, AlignedDepth], reference: AlignedDepth
) -> dict[str, Values]:
    """The scores with the correlation of each method's log depth to that of `reference`."""
    kept = reference.depth.double().flatten()
    found = {name: log_correlation(method.depth.double().flatten(), kept).item() for name, method in methods.items()}
    return {
        name: {**values, "structure": found[name] if math.isfinite(found[name]) else None}
        for name, values in scores.items()
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module trains, or not, as before."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


def predict_sequence(
    model: nn.Module, sequence: Sequence, *, chunk: int = 16, stop: int | None = None
) -> Float32[np.ndarray, "t i j"]:
    """Depth of every frame, or of those before `stop`, `chunk` at a time in order, the state carried on.

    On the model's own device.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    pictures = replace(sequence, labels={})  # or each chunk would read its depth and flow as well
    state, depth = None, []
    with _evaluating(model):
        last = sequence.n_frames if stop is None else min(stop, sequence.n_frames)
        for start in range(0, last, chunk):
            frames = pictures.read(start, min(start + chunk, last)).frames
            images = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)[None].float() / 255
            predicted, state = model(images, state)
            depth.append(predicted[0].float().cpu().numpy())
    return np.concatenate(depth)


def _sources_of_model(model: nn.Module, paths: Iterable[Path], keep: Path, chunk: int) -> Iterator[Source]:
    """Each sequence is predicted when first asked for, and kept on disk for the second time."""
    claims = _claims_of(model)

    def read_depth(path: Path) -> tuple[np.ndarray, Claims]:
        stored = keep / f"{name_of(path)}.npy"
        if not stored.exists():
            np.save(stored, predict_sequence(model, open_sequence(path), chunk=chunk))
        return np.load(stored), claims

    for path in paths:
        yield Source(name_of(path), partial(_read_clip, path), partial(read_depth, path))


def _claims_of(model: nn.Module) -> Claims:
    claims = getattr(model, "claims", None)
    if claims is None:
        raise InputError("the model has no attribute `claims`: set it to metric, scale, affine or disparity")
    return claims


def _with_reference(
    sources: Iterable[Source], paths: Iterable[Path], reference: nn.Module, chunk: int
) -> Iterator[Source]:
    """The same sources, each with what `reference` says of its sequence."""
    claims = _claims_of(reference)

    def read_reference(path: Path) -> tuple[np.ndarray, Claims]:
        return predict_sequence(reference, open_sequence(path), chunk=chunk), claims

    for source, path in zip(sources, paths, strict=True):
        yield replace(source, read_reference=partial(read_reference, path))


def _sources_of_folder(folder: Path, paths: list[Path]) -> Iterator[Source]:
    unknown = set(find_predictions(folder)) - {name_of(path) for path in paths}
    if unknown:
        LOG.warning("%s: predictions of sequences that the data does not have: %s", folder, ", ".join(sorted(unknown)))
    for path in paths:
        yield Source(name_of(path), partial(_read_clip, path), partial(read_predictions, folder, name_of(path)))


def _read_clip(path: Path) -> Clip:
    return open_sequence(path).read()


def evaluate(
    model_or_predictions: nn.Module | str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    align: str = "auto",
    max_depth: float | None = None,
    protocol: str = "plain",
    controls: bool = True,
    chunk: int = 16,
    model_name: str | None = None,
    reference: nn.Module | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a model (a module with `claims`), or a folder of predictions, on the sequences of `data`.

    Returns what is written to `out`/metrics.json: header, mean, mean_fixed, mean_moving, clips, label, failed and,
    unless `controls` is False, the same tables for a constant and for filters of the same predictions. A value is None
    where a metric does not apply. `model_name` is noted in the header, for whoever looks for the model later. With a
    `reference`, a second model, `structure` says how much of its picture is kept. `progress` is told (what, done,
    total).
    """
    paths = find_sequences(Path(data))
    settings: dict[str, Any] = {"align": align, "max_depth": max_depth, "protocol": protocol, "controls": controls}
    settings |= {"data": str(data), "progress": progress}
    with tempfile.TemporaryDirectory(prefix="steadydepth-") as keep:
        if isinstance(model_or_predictions, nn.Module):
            sources = _sources_of_model(model_or_predictions, paths, Path(keep), chunk)
        else:
            sources = _sources_of_folder(Path(model_or_predictions), paths)
        if reference is not None:
            sources = _with_reference(sources, paths, reference, chunk)
        report = evaluate_predictions(sources, **settings)
    report["header"]["model"] = model_name
    if out is not None:
        write_report(report, Path(out) / "metrics.json")
    return report


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """JSON of `report` at `path`, whole or not at all; NaN and infinity are refused, None becomes null."""
    with new_file(path) as part:
        part.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
