"""Tune the learned filter to one model and to videos like those it will filter, with labels or without."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from steadydepth.config import FilterConfig
from steadydepth.data.cuts import mark_cuts
from steadydepth.data.sequence_folder import Sequence as SequenceFolder
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.errors import failure, leaving_out
from steadydepth.files.atomic_writes import write_json
from steadydepth.files.tensors import write_tensors
from steadydepth.filter_training.clips import Lesson, mirrored
from steadydepth.filter_training.learner import Learner
from steadydepth.filter_training.train import learn, measure
from steadydepth.inference.filter_runtime import filter_offline
from steadydepth.inference.learned_filter import LearnedFilter
from steadydepth.inference.predictor import AnyModel, Predictor, as_predictor
from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.models.temporal_filter import FilterGates, load_gates
from steadydepth.ops.bidirectional_flow import pair_from_frames
from steadydepth.ops.fast_flow import fast_flow
from steadydepth.ops.filter_step import GUIDE_SIDE, find_unit, to_log
from steadydepth.ops.resize import resize_depth
from steadydepth.training.checkpoint import CHECKPOINT, PREVIOUS
from steadydepth.training.log import LOG
from steadydepth.types import Claims, InputError

MOST_FRAMES = 480  # of a video that are learned from: its first ones
LEAST_FRAMES = 8  # of a shot
NOTE = "tuning.json"


@dataclass(frozen=True)
class Tuned:
    """What tuning came to."""

    folder: Path
    scores: dict[str, tuple[float, float]]  # on sequences that were held back: before, after
    is_better: bool  # if not, the folder has the filter unchanged


def tune_filter(
    videos: str | Path | Sequence[str | Path],
    *,
    model: AnyModel,
    out: str | Path,
    batches: int = 40,
    seed: int = 0,
) -> Tuned | None:
    """Tune the filter that the package ships to a model and to videos, and write it to a folder.

    What it is to return is the measured depth where there is a label, up to a straight line in log depth; elsewhere
    the depth of the model filtered there and back, which is steadier and more accurate than what the filter makes of
    the frames before. The last fifth of each shot is held back; where the tuned filter is not better there, the folder
    gets the filter unchanged. The same call again resumes an interrupted tuning from its checkpoint; SIGTERM or Ctrl-C
    ends it after the batch under way.

    Args:
        videos: videos, sequence folders, or folders of them.
        model: a name, a module or what `load` returns.
        out: the folder, which must not exist, or hold an interrupted tuning; `filter` of predict, stream and evaluate
            takes it.
        batches: of three sequences each; about two seconds a batch on one core.
        seed: of what is drawn.

    Returns: what it came to; None where it was asked to stop before.

    Raises:
        InputError: there is no video, no shot is long enough, or the folder has something else in it.
    """
    out = Path(out)
    _refuse_other(out)
    if batches < 1:
        raise InputError(f"batches {batches}: give 1 or more; the default is 40")
    predictor = as_predictor(model)
    given = [videos] if isinstance(videos, str | Path) else list(videos)
    paths = [path for each in map(Path, given) for path in find_sequences(each)]
    shots = _read_all(paths, predictor)
    if not shots:
        raise InputError(
            f"{', '.join(map(str, given))}: no shot has {LEAST_FRAMES} frames with a predicted depth at every pixel: "
            "give longer videos, or others"
        )
    every = max(1, batches // 20)
    config = FilterConfig(out=out / WEIGHTS.name, sequences=batches, learning_rate=5e-4, seed=seed, log_every=every)
    learned, held = zip(*(_split(shot) for shot in shots), strict=True)
    gates = load_gates()
    named = str(model) if isinstance(model, str | Path) else type(model).__name__
    learns_from = [named, [str(path) for path in paths], [len(shot.frames) for shot in shots]]
    learner = Learner(copy.deepcopy(gates), config, out, learns_from=learns_from)
    if not learn(learner, islice(_draw_batches(learned, config), learner.number, None)):
        return None
    tuned = learner.gates.eval()
    before, after = (measure(one, held, config) for one in (gates, tuned))
    is_better = after["target"] < before["target"]
    scores = {name: (before[name], after[name]) for name in ("error", "flicker", "lost")}
    _write(tuned if is_better else gates, out, scores, is_better=is_better, videos=paths)
    learner.forget()
    return Tuned(out, scores, is_better)


def _refuse_other(out: Path) -> None:
    """InputError where the folder has more in it than an interrupted tuning leaves."""
    of_a_cut = {CHECKPOINT, PREVIOUS, LOG, WEIGHTS.name}
    if out.exists() and not (out.is_dir() and all(it.name in of_a_cut or it.name[0] == "." for it in out.iterdir())):
        raise InputError(f"{out} exists and is never overwritten: choose another name, or move it away")


def _read_all(paths: Sequence[Path], predictor: Predictor) -> list[Lesson]:
    """The shots of all videos; a video that cannot be read is named and left out, InputError where none can."""
    shots: list[Lesson] = []
    failed: dict[str, str] = {}
    for path in paths:
        with leaving_out(path, failed):
            shots += list(_read_shots(path, predictor))
    if len(failed) == len(paths):
        raise failure(failed, 0, [])
    return shots


def _read_shots(path: Path, predictor: Predictor) -> Iterator[Lesson]:
    """Each shot of a video as one long lesson, at the size at which the filter compares frames."""
    sequence = open_sequence(path)
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
    results = predictor.session(filter="none").run(islice(sequence.images(), MOST_FRAMES))
    cuts = mark_cuts(islice(sequence.images(), MOST_FRAMES))
    for number, (result, (_, is_cut)) in enumerate(zip(results, cuts, strict=True)):
        if is_cut and held:
            yield from _as_lesson(held, predictor.claims)
            held = []
        truth = _measured(sequence, number) if sequence.has_depth else None
        held.append(_shrunk(result.image, result.measured, truth))
    yield from _as_lesson(held, predictor.claims)


def _measured(sequence: SequenceFolder, number: int) -> Float32[np.ndarray, "h w"]:
    """The label of a frame; 0 where there is none, or it is not to count."""
    return np.where(sequence.read_label("valid", number) != 0, sequence.read_label("depth", number), np.float32(0))


def _shrunk(
    image: UInt8[np.ndarray, "h w 3"], depth: Float32[np.ndarray, "h w"], truth: Float32[np.ndarray, "h w"] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Image, depth and label with a shorter side of about the guide's, in even numbers; a label is never blended."""
    share = min(1.0, GUIDE_SIDE / min(image.shape[:2]))
    height, width = (max(2, 2 * round(side * share / 2)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    nearest = None if truth is None else cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return small, resize_depth(depth.astype(np.float32), height, width), nearest


def _as_lesson(held: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]], claims: Claims) -> Iterator[Lesson]:
    """One shot, if it is long enough and has a depth everywhere."""
    if len(held) < LEAST_FRAMES:
        return
    frames, depth = np.stack([image for image, _, _ in held]), np.stack([one for _, one, _ in held])
    if not np.isfinite(depth).all():
        return
    both = np.stack(list(filter_offline(zip(depth, frames, strict=True), LearnedFilter(claims, strength=1.0))))
    unit = find_unit(depth[0], claims)
    raw, target = to_log(depth, unit, claims), to_log(both, unit, claims)
    truth = [one for _, _, one in held if one is not None]
    if truth:
        target = _with_label(raw, target, np.stack(truth))
    steps = [(fast_flow(now, before), pair_from_frames(before, now)) for before, now in pairwise(frames)]
    nothing = np.zeros((*frames.shape[1:3], 2), np.float32)
    yield Lesson(
        frames,
        raw.astype(np.float32),
        target.astype(np.float32),
        np.stack([nothing, *(motion for motion, _ in steps)]),
        np.stack([nothing, *(pair.backward for _, pair in steps)]),
        np.stack([nothing[..., 0] > 0, *(pair.backward_visible for _, pair in steps)]),
    )


def _with_label(
    raw: Float32[np.ndarray, "t h w"], target: Float32[np.ndarray, "t h w"], truth: Float32[np.ndarray, "t h w"]
) -> Float32[np.ndarray, "t h w"]:
    """The target, and the label where there is one, by the straight line through log depth that fits the shot."""
    known: Bool[np.ndarray, "t h w"] = truth > 0
    if known.mean() < 0.01:
        return target
    log = np.log(np.where(known, truth, 1))
    slope, offset = np.polyfit(log[known], raw[known], 1)
    return np.where(known, slope * log + offset, target).astype(np.float32)


def _cut(lesson: Lesson, first: int, last: int) -> Lesson:
    return Lesson(**{name: array[first:last] for name, array in vars(lesson).items()})


def _split(lesson: Lesson) -> tuple[Lesson, Lesson]:
    """What is learned from, and the last fifth, or four frames, that are held back."""
    held = max(4, len(lesson.frames) // 5)
    return _cut(lesson, 0, len(lesson.frames) - held), _cut(lesson, len(lesson.frames) - held, len(lesson.frames))


def _draw_batches(shots: Sequence[Lesson], config: FilterConfig) -> Iterator[list[Lesson]]:
    """Batches of as many frames as the shot of each has, at the most; every shot has one size."""
    draws = np.random.default_rng(config.seed)
    weights = np.array([len(shot.frames) for shot in shots], float)
    for _ in range(config.sequences):
        shot = shots[int(draws.choice(len(shots), p=weights / weights.sum()))]
        length = min(config.frames, len(shot.frames))
        starts = draws.integers(len(shot.frames) - length + 1, size=config.batch)
        lessons = [_cut(shot, i, i + length) for i in starts.tolist()]
        yield [lesson if draws.random() < 0.5 else mirrored(lesson) for lesson in lessons]


def _known(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _write(
    gates: FilterGates, out: Path, scores: dict[str, tuple[float, float]], *, is_better: bool, videos: list[Path]
) -> None:
    write_tensors(out / WEIGHTS.name, gates.state_dict())
    noted = {
        "is_better": is_better,
        "scores": {name: {"before": _known(was), "after": _known(is_now)} for name, (was, is_now) in scores.items()},
        "videos": [path.name for path in videos],
    }
    # Last: with it the folder is complete.
    write_json(out / NOTE, noted)
