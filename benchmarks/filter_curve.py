"""The trade-off of the learned filter over its strength, against that of averages over their decay.

    .venv/bin/python benchmarks/filter_curve.py --model runs/demo/plain --data runs/demo/data/test
    .venv/bin/python benchmarks/filter_curve.py --predictions FOLDER --data DATA --strengths 0.9 --decays 0.8

Each row is a filter of the same predictions: ratios of its metrics to those without a filter (delta1: difference in
points), as means over the clips. Edges are compared with those of the unfiltered prediction (edges_kept).
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.data.sequence_listing import name_of
from steadydepth.evaluation.clip_evaluation import score_clip
from steadydepth.evaluation.clip_scorer import Settings
from steadydepth.evaluation.sources import open_footage, predict_sequence
from steadydepth.files.stored_depth import open_array, open_predictions
from steadydepth.inference.filters import choose_filter, filter_depth
from steadydepth.inference.predictor import load
from steadydepth.metrics.protocols import choose_protocol
from steadydepth.ops.bidirectional_flow import pair_from_frames
from steadydepth.ops.smoothing import backward_places, ema, flow_ema

METRICS = (
    "abs_rel", "abs_rel_static", "abs_rel_moving", "delta1", "flicker", "tae", "sre", "vel", "gain", "flicker_flow",
    "edge_gain", "edges_kept", "boundary_f1",
)  # fmt: skip
Apply = Callable[[np.ndarray, np.ndarray, str], np.ndarray]


def average(step: Callable, depth: np.ndarray, frames: np.ndarray, claims: str) -> np.ndarray:
    """An average of any decay, in log depth where there is no offset, as `filters` has those of its names."""
    is_log, memory, found = claims in ("metric", "scale"), {}, []
    for number, one in enumerate(depth):

        def motion(number: int = number) -> tuple:
            flow = pair_from_frames(frames[number - 1], frames[number])
            return backward_places(flow.backward), flow.backward_visible.ravel()

        values = one.astype(np.float64).ravel()
        smooth, memory = step(np.log(values) if is_log else values, memory, motion)
        found.append((np.exp(smooth) if is_log else smooth).reshape(one.shape))
    return np.stack(found).astype(np.float32)


def rows(asked: argparse.Namespace) -> Iterator[tuple[str, Apply]]:
    def learned(strength: float, name: str, depth: np.ndarray, frames: np.ndarray, claims: str) -> np.ndarray:
        return filter_depth(choose_filter(name, strength), depth, frames, claims=claims)

    for name, strength in product(asked.filter, asked.strengths):
        yield f"{name} {strength:g}", partial(learned, strength, name)
    for decay in asked.decays:
        yield f"ema {decay:g}", partial(average, partial(ema, decay=decay))
        yield f"flow_ema {decay:g}", partial(average, partial(flow_ema, decay=decay))
    if asked.decays:
        yield "median", lambda depth, frames, claims: filter_depth("median", depth, frames, claims=claims)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--filter", nargs="+", default=["learned"], help="as predict has it; several")
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.5, 0.75, 0.9, 1.0])
    parser.add_argument("--decays", type=float, nargs="*", default=[0.5, 0.8, 0.9])
    asked = parser.parse_args()
    model = None if asked.model is None else load(asked.model, device="cpu")
    settings, found = Settings(choose_protocol("plain")), {}
    for path in find_sequences(asked.data):
        sequence = open_sequence(path)
        frames = np.stack(list(sequence.images()))
        if model is not None:
            claims, depth = model.claims, predict_sequence(model, sequence)
        else:
            stored = open_predictions(asked.predictions, name_of(path))
            claims, depth = stored.claims, np.stack(list(stored.read()))
        footage, reference = open_footage(path), open_array(depth, claims)
        raw = score_clip(footage, reference, settings, reference).methods["model"]
        for name, apply in rows(asked):
            filtered = open_array(apply(depth, frames, claims), claims)
            scores = score_clip(footage, filtered, settings, reference).methods["model"]
            ratios = {
                key: scores[key] - raw[key] if key == "delta1" else scores[key] / raw[key]
                for key in METRICS
                if scores.get(key) is not None and raw.get(key)
            }
            found.setdefault(name, []).append(ratios)
    print(" ".join(("filter".ljust(18), *(key.rjust(12) for key in METRICS))))
    for name, clips in found.items():
        means = [[clip[key] for clip in clips if key in clip] for key in METRICS]
        print(" ".join((name.ljust(18), *(f"{np.mean(values):12.3f}" if values else " " * 12 for values in means))))


if __name__ == "__main__":
    main()
