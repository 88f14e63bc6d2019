"""A prediction aligned to the label once for a clip, in constant memory: sums from each frame, then a number."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64

from steadydepth.evaluation.footage import Footage, LabelFrame, chosen_frames
from steadydepth.metrics.arrays import Pixels, log_depth
from steadydepth.metrics.protocols import KB_SIZE, Protocol, clean, kb_part
from steadydepth.ops.alignment import (
    LEAST_DISPARITY,
    Alignment,
    comparable_depth,
    count_keys,
    find_rank,
    fit_line,
    fitted_values,
    to_depth,
    value_of,
)
from steadydepth.ops.moments import Moments
from steadydepth.ops.resize import resize_depth
from steadydepth.types import Claims, DepthFrames, InputError

ALIGNMENTS = ("none", "scale", "affine", "disparity")
# What a model claims decides what it is forgiven.
_AUTO = {"metric": "none", "scale": "scale", "affine": "affine", "disparity": "disparity"}
# How far the shape of a prediction may be from that of its frames: networks round to multiples of 14 or 32 pixels.
_MOST_SQUEEZE = 0.05


def choose_alignment(align: str, claims: Claims, protocol: Protocol | None = None) -> str:
    """The alignment of each clip.

    Args:
        align: a key of ALIGNMENTS, or "auto" for what the protocol or else the claims call for.
        claims: what the predicted numbers mean.
        protocol: may have an alignment of its own.

    Raises:
        InputError: `align` is not one alignment a clip.
    """
    if claims not in _AUTO:
        raise InputError(f"claims {claims!r}: unknown; a model claims one of {', '.join(_AUTO)}")
    if align == "auto":
        return (protocol.align if protocol is not None else None) or _AUTO[claims]
    if align not in ALIGNMENTS:
        raise InputError(
            f"align {align!r}: choose auto or one of {', '.join(ALIGNMENTS)}; all are fitted once for a clip, because "
            "aligning each frame would hide the flicker that the temporal metrics measure"
            + (f", and the claims {claims!r} allow one factor and offset a clip" if claims == "affine" else "")
        )
    return align


@dataclass(frozen=True)
class ClipFit:
    """How one prediction of a clip becomes metres as they are scored."""

    align: str  # one of ALIGNMENTS
    claims: Claims
    protocol: Protocol
    alignment: Alignment | None  # None where there was no label, or nothing finite to fit
    n_nonfinite: int = 0
    has_label: bool = True
    low: float = 0.0  # the smallest finite predicted value, or 0 where none is below 0
    mean: float = 1.0  # of the finite predicted values
    clipped: float = 0.0  # share of the fitted pixels whose disparity the protocol raised before the fit
    times_label: float | None = None  # of metres that are scored as they are: the geometric mean of d / g

    def depth(self, values: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
        """Depth in metres, cleaned to the protocol's range; without a label of unknown scale, positive and finite."""
        if self.has_label and self.alignment is None:
            return clean(np.full(values.shape, np.nan), self.protocol)
        if not self.has_label:
            return _positive(self._up_to_a_factor(values))
        clips = self.protocol.clips_disparity
        depth = to_depth(torch.from_numpy(values), self.claims, self.align, self.alignment, clips_disparity=clips)
        return clean(depth.numpy(), self.protocol)

    def _up_to_a_factor(self, values: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
        """Depth up to a factor, without a label.

        Of disparity and affine depth the offset is unknown: 0 where all values are above it, and then nothing is below
        a thousandth of their mean; else that of `comparable_depth`.
        """
        if self.claims in ("metric", "scale"):
            return values
        if self.low < 0:
            return comparable_depth(values, self.claims, low=self.low, mean=self.mean)
        mean = self.mean if self.mean > 0 else 1.0
        x = np.maximum(values, 1e-3 * mean) / mean
        return 1 / x if self.claims == "disparity" else x

    def comparable_log(self, values: Float64[np.ndarray, "*any"], reference: "ClipFit") -> Float64[np.ndarray, "*any"]:
        """Log depth to be compared with that of another model without a label (`comparable_depth`).

        Measured by the values of the `reference`, or by its own where the reference claims something else.
        """
        unit = reference if reference.claims == self.claims else self
        mean = unit.mean if unit.mean > unit.low else unit.low + 1
        return log_depth(_positive(comparable_depth(values, self.claims, low=unit.low, mean=mean)))


def _positive(depth: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    return np.clip(np.nan_to_num(depth, nan=1e-3, posinf=1e6, neginf=1e-3), 1e-3, 1e6)


class Fitter:
    """Fits one prediction to the label of a clip, given frame by frame; the exact median takes two passes.

    scale, one ratio of medians; affine, least squares in depth; disparity, least squares in inverse depth. Values that
    are not finite are counted and have no part in the fit.

    Args:
        align: how, as `choose_alignment` takes it.
        claims: what the numbers of the prediction mean.
        protocol: which pixels of the label count, and from which depth to which, in metres.
    """

    def __init__(self, align: str, claims: Claims, protocol: Protocol) -> None:
        self.chosen, self.claims, self.protocol = choose_alignment(align, claims, protocol), claims, protocol
        self._line = Moments.of(np.zeros(0), np.zeros(0))
        self._counts = [np.zeros(65536, np.int64) for _ in range(2)]
        self._halves: list[list[tuple[int, int]]] = [[], []]
        self._second: list[dict[int, np.ndarray]] = [{}, {}]
        self._n_nonfinite = self._n_values = self._n_fitted = self._n_clipped = 0
        self._total = self._low = self._log_ratio = 0.0
        self._n_ratios = 0

    @property
    def n_rounds(self) -> int:
        """How often the fitter must see the clip."""
        return 2 if self.chosen == "scale" else 1

    def count(self, raw: Float32[np.ndarray, "i j"]) -> int:
        """Note how many values of a frame are not finite, and return it; and the sum and least of the others."""
        finite = np.isfinite(raw)
        missing = int(raw.size - finite.sum())
        self._n_nonfinite += missing
        self._n_values += raw.size
        self._total += float(raw.sum(where=finite, dtype=np.float64))
        self._low = min(self._low, float(raw.min(where=finite, initial=0)))
        return missing

    def add(self, values: Pixels, label: LabelFrame) -> None:
        """One frame of the first round."""
        if self.chosen == "none" and self.claims != "metric":
            return
        x, y = self._pairs(values, label)
        if self.chosen == "none":
            ratios = (x / y)[x > 0]
            self._log_ratio += float(np.log(ratios).sum())
            self._n_ratios += len(ratios)
        elif self.chosen != "scale":
            self._line = self._line + Moments.of(x, y)
        else:
            for counts, one in zip(self._counts, (x, y), strict=True):
                counts += count_keys(one.astype(np.float32))

    def begin_second_round(self) -> None:
        """Between the rounds: which values the middle ones begin as."""
        for number, counts in enumerate(self._counts):
            n = int(counts.sum())
            self._halves[number] = [find_rank(counts, rank) for rank in ((n - 1) // 2, n // 2)] if n else []
            self._second[number] = {half: np.zeros(65536, np.int64) for half, _ in self._halves[number]}

    def add_again(self, values: Pixels, label: LabelFrame) -> None:
        """One frame of the second round."""
        for found, one in zip(self._second, self._pairs(values, label), strict=True):
            for half, counts in found.items():
                counts += count_keys(one.astype(np.float32), half)

    def _pairs(self, values: Pixels, label: LabelFrame) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "k"]]:
        clips = self.protocol.clips_disparity
        x = fitted_values(torch.from_numpy(values), self.claims, self.chosen, clips_disparity=clips).numpy()
        kept = label.valid & np.isfinite(values) & np.isfinite(x)
        y = label.truth[kept]
        if clips and self.claims == self.chosen == "disparity":
            self._n_fitted += len(y)
            self._n_clipped += int((values[kept] < LEAST_DISPARITY).sum())
        return x[kept], 1 / (y + 1e-8) if self.chosen == "disparity" else y

    def result(self, *, has_label: bool) -> ClipFit:
        """The fit.

        Raises:
            InputError: there was no finite value at all.
        """
        if self._n_values and self._n_nonfinite == self._n_values:
            raise InputError("every predicted value is NaN or infinite: nothing can be scored; look at the model")
        scale, shift = 1.0, 0.0
        if self.chosen != "none":
            scale, shift = (self._ratio(), 0.0) if self.chosen == "scale" else fit_line(self._line)
        return ClipFit(
            align=self.chosen,
            claims=self.claims,
            protocol=self.protocol,
            alignment=Alignment.of(scale, shift) if has_label and not np.isnan(scale) else None,
            n_nonfinite=self._n_nonfinite,
            has_label=has_label,
            low=self._low,
            mean=self._total / max(self._n_values - self._n_nonfinite, 1),
            clipped=self._n_clipped / max(self._n_fitted, 1),
            times_label=float(np.exp(self._log_ratio / self._n_ratios)) if self._n_ratios else None,
        )

    def _ratio(self) -> float:
        if not self._halves[0]:
            return float("nan")
        middles = [
            sum(value_of(half, find_rank(second[half], rank)[0]) for half, rank in halves) / 2
            for halves, second in zip(self._halves, self._second, strict=True)
        ]
        return 0.0 if middles[0] == 0 else middles[1] / middles[0]


@dataclass(frozen=True)
class Prediction:
    """What was predicted for a clip, or for the frames alone that the protocol takes of it."""

    depth: DepthFrames
    footage: Footage  # those frames, the clip's excerpt
    n_total: int  # frames of the clip
    protocol: Protocol

    def check(self) -> None:
        """See that it can belong to the footage.

        Raises:
            InputError: it has another number of frames, or frames of another shape.
        """
        depth, footage = self.depth, self.footage
        if depth.n_frames not in (footage.n_frames, self.n_total):
            fewer = "" if self.n_total == footage.n_frames else f", or {footage.n_frames} for those of the protocol"
            given = f"{footage.name}: {depth.n_frames} predicted frames for {self.n_total} frames{fewer}"
            raise InputError(f"{given}: predict every frame once")
        own, other = (depth.height, depth.width), (footage.height, footage.width)
        squeeze = abs(own[0] * other[1] / (own[1] * other[0]) - 1)
        one_pixel = min(1 / own[0], 1 / own[1])
        if squeeze > max(_MOST_SQUEEZE, one_pixel) and not (self.protocol.pastes_kb and own == KB_SIZE):
            raise InputError(
                f"{footage.name}: predictions are {own[0]} x {own[1]}, frames {other[0]} x {other[1]}, which is "
                "another shape, not another size: predict the complete frame, neither cropped nor turned"
            )

    def read(self) -> Iterator[Float32[np.ndarray, "i j"]]:
        """The predicted frames of the footage.

        Raises:
            InputError: the prediction ends before the clip does.
        """
        is_of_all = self.depth.n_frames == self.n_total
        numbers = chosen_frames(self.n_total, self.protocol) if is_of_all else range(self.footage.n_frames)
        for number, values in enumerate(self.depth.read()):
            if number in numbers:
                yield values
            if number >= numbers[-1]:
                return
        raise InputError(f"{self.footage.name}: the prediction ends before the clip does: write it again")

    def resize(self, values: Float[np.ndarray, "i j"]) -> Pixels:
        """A predicted frame at the size of the footage (`resize_depth`), flattened.

        A prediction for BTS's KITTI crop is pasted where it was cut, and 0 is around it, in protocols that say so.
        """
        height, width = self.footage.height, self.footage.width
        if (part := kb_part(self.protocol, values.shape, height, width)) is not None:
            pasted = np.zeros((height, width))
            pasted[part] = values
            return pasted.ravel()
        return resize_depth(values.astype(np.float64), height, width).ravel()
