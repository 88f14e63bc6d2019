"""Stabilise a model on videos without labels, with nothing to choose: what `steadydepth stabilise` does.

The model behind the learned filter teaches a copy of the model, which then runs alone, as fast as before.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadydepth.config import Config, ModelConfig
from steadydepth.config_files import load_config
from steadydepth.data.conversion import convert_video
from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import load_items
from steadydepth.data.samples import make_batch
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences, name_clashes, name_of
from steadydepth.errors import InputError, failure, leaving_out
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.evaluation.stored_report import read_report
from steadydepth.files.atomic_writes import check_folder, move, write_json
from steadydepth.files.linked_folders import link_folder
from steadydepth.inference.predictor import load
from steadydepth.models.load import load_model
from steadydepth.training.checkpoint import CARD
from steadydepth.training.label_free.learning_rate import N_KEPT, N_STEPS, find_learning_rate
from steadydepth.training.label_free.teacher_depth import remove_teacher_depth
from steadydepth.training.lock import alone_in
from steadydepth.training.loop import train
from steadydepth.training.samples import open_samples
from steadydepth.training.setup import label_videos, set_up

logger = logging.getLogger(__name__)

VIDEOS, MEASURED, BEFORE, AFTER = "videos", "measured", "before", "after"  # folders in that of the run
PART = f".{VIDEOS}.part"  # what becomes VIDEOS when it is complete
NOTE = ".stabilise.json"  # what was asked for, with paths: hidden, so that `push` leaves it here
LAYERS = ("all", "coarse")
STEPS = 600
PIECE = 120  # frames of a long video that stay together
MOST_FRAMES, MOST_MEASURED = 1500, 400
LEAST_STEPS = 50
SIDE_MULTIPLE = 32
# What counts as having worked: so much of the flicker is left at the most, so much of the edges at the least.
MOST_FLICKER, LEAST_EDGES = 0.9, 0.9


@dataclass(frozen=True)
class Stabilised:
    """What came of stabilising a model, measured on the videos themselves."""

    folder: Path  # of the model, its log and its metrics
    steps: int
    learning_rate: float
    before: dict[str, float | None]  # means of evaluate
    after: dict[str, float | None]  # the same, with `edges_kept` and `log_depth_correlation` beside the model before

    @property
    def flicker_left(self) -> float | None:
        """Share of `flicker_flow` that is left; None where it could not be measured."""
        before, after = (scores.get("flicker_flow") for scores in (self.before, self.after))
        return after / before if before and after is not None else None

    @property
    def verdict(self) -> str:
        """What was reached, as a sentence."""
        left, edges = self.flicker_left, self.after.get("edges_kept")
        if left is None:
            return "no flicker could be measured: no pixel was followed from frame to frame"
        what = f"{left:.2f} of the flicker is left, and {1 if edges is None else edges:.2f} of the edges"
        if self.has_worked:
            return f"steadier: {what}"
        reason = "it is not steadier" if left > MOST_FLICKER else "edges were lost"
        return f"not as wanted, {reason}: {what}; more steps or time, more video, or another strength may help"

    @property
    def has_worked(self) -> bool:
        """Whether the model is steadier, and has kept its edges."""
        left, edges = self.flicker_left, self.after.get("edges_kept")
        return left is not None and left <= MOST_FLICKER and (edges is None or edges >= LEAST_EDGES)


def stabilise(
    videos: str | Path | Iterable[str | Path],
    *,
    model: str | Path,
    out: str | Path,
    minutes: float | None = None,
    strength: float | None = None,
    steps: int | None = None,
    max_side: int = 320,
    layers: str = "all",
    seed: int = 0,
    device: str = "auto",
) -> Stabilised | None:
    """Make a model steady on videos that have no depth; the same call again resumes where it was interrupted.

    Args:
        videos: video files, sequence folders, or folders of them.
        model: a name that `load` takes, of a model with weights.
        out: folder that gets the model, its log, and its metrics before and after.
        minutes: about how long it may take, measuring included; None takes `STEPS` steps.
        strength: of the learned filter that teaches, 0 to 1; None takes its default.
        steps: in place of what `minutes` allows.
        max_side: longer side in pixels of the frames that are trained and measured on.
        layers: "all" of the model are trained, or the "coarse" ones (`method.parameter_groups.coarse_parameters`): half
            of the flicker goes and not more, and where few videos are given, accuracy and most edges stay on others.
        seed: of what is drawn in training: another one is another try.
        device: "auto" takes a GPU where there is one, or "cpu".

    Returns: what was reached; None where it was asked to stop before the last step.

    Raises:
        InputError: a video, the model or a number does not fit, or another run lives in the folder.
    """
    started, out = time.monotonic(), Path(out)
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"minutes is {minutes:g}; give a finite number above 0")
    if steps is not None and steps < 1:
        raise InputError(f"steps is {steps}; give 1 or more, or leave it out")
    if layers not in LAYERS:
        raise InputError(f"layers {layers!r}: train {' or '.join(LAYERS)}")
    given = [Path(one) for one in ([videos] if isinstance(videos, str | Path) else videos)]
    named = ModelConfig(init=str(model)).init  # as a run's config names it: on Windows with other slashes
    asked = {
        "videos": [str(one.resolve()) for one in given], "model": named, "minutes": minutes, "strength": strength,
        "steps": steps, "max_side": max_side, "layers": layers, "seed": seed,
    }  # fmt: skip
    check_folder(out)
    with alone_in(out):  # as the run itself is: another call deletes nothing of what this one prepares
        _take(out, asked)
        if (out / "config.yaml").is_file():
            config = load_config(out / "config.yaml")
        else:
            n_frames = MOST_FRAMES if minutes is None else int(min(max(150 * minutes, PIECE), MOST_FRAMES))
            if not (out / VIDEOS).is_dir():
                load_model(model)  # what is no model is refused before the videos are prepared
                _gather(given, out, n_frames=n_frames, max_side=max_side)
            config = _plan(out, asked, device)
        before = _measure(str(model), out, BEFORE, config.run.device)
        if not (out / "config.yaml").is_file():
            config = _tune(config, minutes=minutes if steps is None else None, started=started)
    train(config)
    if not (out / CARD).is_file():
        return None
    after = _measure(str(out), out, AFTER, config.run.device, reference=str(model))
    return Stabilised(out, config.optim.steps, config.optim.learning_rate, before, after)


def _take(out: Path, asked: dict[str, Any]) -> None:
    """See that the folder is free, or of a call that asked for the same.

    What a call that asked for something else has left before its training began is deleted.

    Raises:
        InputError: something else lives there.
    """
    note, has_begun = out / NOTE, (out / "config.yaml").is_file()
    left = [out / name for name in (PART, VIDEOS, MEASURED, BEFORE) if (out / name).exists()]
    if note.is_file():
        before = json.loads(note.read_text(encoding="utf-8"))
    elif has_begun and (out / VIDEOS).is_dir():
        before = _asked_without_note(out, asked)
    elif has_begun:
        raise InputError(f"{out}: another run lives here: choose another folder")
    elif left:
        names = ", ".join(path.name for path in left)
        raise InputError(
            f"{out}: holds {names}, and no note of who made them: choose another folder, or, where version 0.2.0 was "
            f"interrupted here before its training began, delete {names} and call again"
        )
    else:
        before = None
    other = [] if before is None else [name for name, value in asked.items() if before.get(name) != value]
    if has_begun and other:
        raise InputError(
            f"{out}: a run with other {', '.join(other)} lives here: give what was given then, or choose another folder"
        )
    if other:
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
    if before is None or other:
        write_json(note, asked)


def _asked_without_note(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run of version 0.2.0, which left no note; what is not known counts as asked for again."""
    config = load_config(out / "config.yaml")
    steps = None if asked["steps"] is None else config.optim.steps
    return asked | {"model": config.model.init, "seed": config.run.seed, "steps": steps}


def _gather(videos: list[Path], out: Path, *, n_frames: int, max_side: int) -> None:
    """The sequences of all videos in one folder, and some of them in another, that is measured on.

    What cannot be read is named and left out; InputError where nothing can.

    Video files become frames, which are read at random much faster; of long ones pieces are taken, evenly spread.
    """
    found = [path for video in videos for path in find_sequences(video)]
    if clashes := name_clashes(found):
        raise InputError("\n".join(clashes))
    if packed := [path for path in found if not path.exists()]:
        raise InputError(f"{packed[0]}: is packed: give the folder or the videos that it was packed from")
    lengths, failed = dict[Path, int](), dict[str, str]()
    for path in found:
        with leaving_out(path, failed):
            lengths[path] = open_sequence(path).n_frames
    if not lengths:
        raise failure(failed, 0, [])
    longest, least = max(lengths, key=lengths.__getitem__), load_config("stabilise").data.clip_length
    if lengths[longest] < least:
        has = f"has {lengths[longest]} frame{'s' if lengths[longest] > 1 else ''}, and no other one has more"
        raise InputError(f"{longest}: {has}; stabilise learns from at least {least} in a row: give a longer video")
    share = min(1.0, n_frames / sum(lengths.values()))
    (out / MEASURED).mkdir(parents=True, exist_ok=True)
    part = out / PART
    part.mkdir(exist_ok=True)
    measured = 0
    for path, length in lengths.items():
        for start, stop in _pieces(length, share) if path.is_file() else [(0, length)]:
            name = name_of(path) if stop - start == length else f"{name_of(path)}_{start:06d}"
            if (part / name).exists():
                pass  # of an interrupted call
            elif path.is_file():
                with leaving_out(path, failed):
                    convert_video(path, part, name=name, start=start, stop=stop, max_side=max_side)
            else:
                link_folder(path, part / name)
            if measured < MOST_MEASURED and (part / name).exists():
                measured += stop - start
                link_folder(part / name, out / MEASURED / name, target=Path("..") / VIDEOS / name)
    if not any(part.iterdir()):
        raise failure(failed, 0, [])
    move(part, out / VIDEOS)


def _pieces(n_frames: int, share: float) -> list[tuple[int, int]]:
    """First and last frame of each piece of a video of which about a `share` is wanted: all of it where it is short."""
    count = max(1, round(n_frames * share / PIECE))
    if share == 1 or count * PIECE >= n_frames:
        return [(0, n_frames)]
    return [(first, first + PIECE) for first in ((n_frames - PIECE) * i // max(count - 1, 1) for i in range(count))]


def _plan(out: Path, asked: dict[str, Any], device: str) -> Config:
    """The preset for these videos, at a size like theirs; of the learning rate nothing is known yet."""
    height, width = _training_size(out / VIDEOS, asked["max_side"])
    steps = asked["steps"] or STEPS
    changes = {
        "data.root": out / VIDEOS,
        "data.height": height,
        "data.width": width,
        "model.init": asked["model"],
        "optim.steps": steps,
        "run.folder": out,
        "run.seed": asked["seed"],
        "run.device": device,
        "run.log_every": max(5, steps // 20),
    }
    if asked["strength"] is not None:
        changes["data.teacher_strength"] = asked["strength"]
    if asked["layers"] != "all":
        changes["model.train"] = f"[{asked['layers']}]"
    return load_config("stabilise", [f"{key}={value}" for key, value in changes.items()])


def _training_size(videos: Path, max_side: int) -> tuple[int, int]:
    """Height and width of the sequence in the middle, by area, within `max_side`, in multiples of 32."""
    sizes = [(one.height, one.width) for one in map(open_sequence, find_sequences(videos))]
    height, width = sorted(sizes, key=lambda size: size[0] * size[1])[len(sizes) // 2]
    scale = min(1.0, max_side / max(height, width))
    height, width = (
        max(SIDE_MULTIPLE, round(side * scale / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in (height, width)
    )
    return height, width


def _tune(config: Config, *, minutes: float | None, started: float) -> Config:
    """The config with the learning rate that suits the model, and as many steps as there are minutes for, if any."""
    # What an earlier call left may be of another strength.
    remove_teacher_depth(config.run.folder)
    setup, state = set_up(config)
    setup = label_videos(setup)
    n_batches = N_STEPS + N_KEPT
    enough = config.model_copy(update={"optim": config.optim.model_copy(update={"steps": n_batches})})
    samples = open_samples(enough, 0, 0, 1, teacher_depth=setup.teacher_depth, device=setup.accelerator.device)
    assert isinstance(samples, ClipSamples)
    items = load_items(samples, batch=config.optim.batch, workers=0)
    batches = [make_batch(one, setup.accelerator.device) for one in items]
    found = find_learning_rate(setup, state.model, batches, n_scenes=len(find_sequences(config.run.folder / VIDEOS)))
    changes: dict[str, Any] = {"learning_rate": found.learning_rate}
    run = config.run
    if minutes is not None:
        # What is measured before takes about as long as what is measured after.
        left = 60 * minutes - (time.monotonic() - started)
        steps = max(LEAST_STEPS, int(0.8 * left / found.step_s))
        changes["steps"] = min(steps, 20 * STEPS)
        run = run.model_copy(update={"log_every": max(5, changes["steps"] // 20)})
    return config.model_copy(update={"optim": config.optim.model_copy(update=changes), "run": run})


def _measure(
    model: str, out: Path, folder: str, device: str, *, reference: str | None = None
) -> dict[str, float | None]:
    """The means of evaluate on the videos, which are there already where an earlier call was interrupted."""
    path = out / folder / "metrics.json"
    if not path.is_file():
        logger.info("%s: measuring the %s model", out, "starting" if reference is None else "trained")
        videos, to, place = out / MEASURED, path.parent, None if device == "auto" else device
        beside = None if reference is None else load(reference, device=place)
        evaluate(
            load(model, device=place), videos, out=to, controls=False, model_name=model, reference=beside, jobs=None
        )
    return dict(read_report(path)["mean"])
