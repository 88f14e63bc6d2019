"""One clip scored from start to end in constant memory: read once to fit and survey, once more to score."""

from collections.abc import Mapping
from typing import get_args

import numpy as np
from jaxtyping import Bool

from steadydepth.config import FilterName
from steadydepth.evaluation.alignment import ClipFit, Fitter, Prediction
from steadydepth.evaluation.clip_scorer import ClipScorer, ReferenceFrame, Settings
from steadydepth.evaluation.footage import Footage, SceneFrame, excerpt, read_label, scene_frames, split_source
from steadydepth.evaluation.summary import ScoredClip
from steadydepth.metrics.arrays import Chosen, Pixels, log_depth
from steadydepth.metrics.temporal import StaticSearch
from steadydepth.ops.sampling import Places
from steadydepth.ops.smoothing import FILTERS, Memory
from steadydepth.types import DepthFrames, InputError

# What anyone has without training; each is made from the aligned prediction of the model itself.
CONTROLS = get_args(FilterName)


def score_clip(
    clip: Footage, depth: DepthFrames, settings: Settings, reference: DepthFrames | None = None
) -> ScoredClip:
    """Every number of one clip: the model's depth, the controls made of it, and the label beside it.

    Args:
        clip: with all its frames.
        depth: predicted for it.
        settings: how clips are scored.
        reference: what another model predicts, for the metrics that compare with one.

    Raises:
        InputError: a prediction does not belong to the clip.
    """
    protocol = settings.protocol
    footage = excerpt(clip, protocol)
    given = {"model": depth} | ({} if reference is None else {"reference": reference})
    if settings.constant is not None:
        given["constant"] = _constant(settings.constant, footage, depth)
    predictions = {name: Prediction(one, footage, clip.n_frames, protocol) for name, one in given.items()}
    for prediction in predictions.values():
        prediction.check()
    fits, static_set, has_label = _survey(footage, predictions, settings)
    # Of depth as it is scored, and as it is compared with the reference: each remembers its own.
    controls, compared = (None, None) if settings.constant is None else (_Controls(), _Controls())
    methods = ("model", "constant", *CONTROLS) if controls is not None else ("model",)
    scorer = ClipScorer(footage, settings, methods, static_set)
    values = {name: one.read() for name, one in predictions.items()}
    for frame in scene_frames(footage, protocol, has_label=has_label):
        raw = {name: one.resize(next(values[name])) for name, one in predictions.items()}
        found = {name: fits[name].depth(one) for name, one in raw.items()}
        depths, logs = _methods(found, frame, controls)
        beside = None if reference is None else _compare(raw, found["reference"], frame, fits, compared)
        scorer.add(frame, depths, logs, beside)
    flow = "label" if footage.flow is not None else "DIS"
    return ScoredClip(
        name=footage.name,
        methods=scorer.values(fits | dict.fromkeys(CONTROLS, fits["model"])),
        label=scorer.label_values() if has_label else {},
        facts={
            "align": fits["model"].align,
            "claims": depth.claims,
            "fps": footage.fps / protocol.stride,
            "flow_source": flow if has_label else None,
            "split_source": split_source(footage) if has_label else None,
        },
        curves=scorer.curves,
        lengths=scorer.length_values(),
        clipped=fits["model"].clipped,
        times_label=fits["model"].times_label,
        lost_label=footage.depth is not None and not has_label,
    )


def _constant(value: float, footage: Footage, depth: DepthFrames) -> DepthFrames:
    flat = np.full((footage.height, footage.width), value, np.float32)
    shape = footage.n_frames, footage.height, footage.width
    return DepthFrames(depth.claims, *shape, lambda: (flat for _ in range(footage.n_frames)))


def _survey(
    footage: Footage, predictions: Mapping[str, Prediction], settings: Settings
) -> tuple[dict[str, ClipFit], Chosen | None, bool]:
    """The first reading: each prediction's fit, the static set of a fixed camera, whether a label counts anywhere."""
    protocol = settings.protocol
    fitters = {name: Fitter(settings.align, one.depth.claims, protocol) for name, one in predictions.items()}
    search = StaticSearch() if footage.fixed_camera and footage.depth is not None else None
    has_label = False
    for number_of_round in range(max(fitter.n_rounds for fitter in fitters.values())):
        values = {name: one.read() for name, one in predictions.items()}
        for number in range(footage.n_frames):
            label = None if footage.depth is None else read_label(footage, number, protocol)
            if label is not None and number_of_round == 0:
                has_label |= bool(label.valid.any())
                if search is not None:
                    search.add(label.log, label.valid, label.objects_moving)
            for name, fitter in fitters.items():
                raw = next(values[name])
                if number_of_round == 0 and fitter.count(raw) and settings.is_strict:
                    raise InputError(
                        f"{footage.name}, frame {number}: predicted values that are not finite (strict); fix the "
                        "model, or leave strict out: they are then counted and scored as very wrong"
                    )
                if label is not None and number_of_round < fitter.n_rounds:
                    add = fitter.add if number_of_round == 0 else fitter.add_again
                    add(predictions[name].resize(raw), label)
        if number_of_round == 0:
            for fitter in fitters.values():
                fitter.begin_second_round()
    try:
        fits = {name: fitter.result(has_label=has_label) for name, fitter in fitters.items()}
    except InputError as error:
        raise InputError(f"{footage.name}: {error}") from error
    return fits, search.result() if search is not None and has_label else None, has_label


class _Controls:
    """The filters of `ops.smoothing` side by side, each with its memory, given one frame of log depth after another."""

    def __init__(self) -> None:
        self._memories: dict[str, Memory] = {}

    def next(self, log: Pixels, frame: SceneFrame) -> list[Pixels]:
        """The next frame as each of CONTROLS leaves it; `log` is finite."""

        def motion() -> tuple[Places, Bool[np.ndarray, "n"]]:
            assert frame.before is not None
            flow = frame.before.image.backward
            return flow.to.places, flow.visible

        found = []
        for name in CONTROLS:
            smooth, self._memories[name] = FILTERS[name](log, self._memories.get(name, {}), motion)
            found.append(smooth)
        return found


def _methods(
    found: Mapping[str, Pixels], frame: SceneFrame, controls: _Controls | None
) -> tuple[list[Pixels], list[Pixels]]:
    """Depth of every method and its logarithm, in the order of the methods."""
    model = found["model"]
    log = log_depth(model)
    if controls is None:
        return [model], [log]
    smooth = controls.next(log, frame)
    depths = [model, found["constant"], *map(np.exp, smooth)]
    return depths, [log, log_depth(found["constant"]), *smooth]


def _compare(
    raw: Mapping[str, Pixels],
    aligned: Pixels,
    frame: SceneFrame,
    fits: Mapping[str, ClipFit],
    controls: _Controls | None,
) -> ReferenceFrame:
    """In log depth that needs no label, what is predicted by name (`raw`), and its controls; `aligned` is in metres."""
    logs = {name: fit.comparable_log(raw[name], fits["reference"]) for name, fit in fits.items()}
    methods = [logs["model"]]
    if controls is not None:
        methods += [logs["constant"], *controls.next(logs["model"], frame)]
    valid = np.isfinite(raw["reference"])
    return ReferenceFrame(log_depth(aligned), logs["reference"], valid, np.stack(methods))
