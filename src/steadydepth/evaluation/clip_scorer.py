"""All numbers of one clip, for one method or for several that share what the label and the frames say.

Given one frame after another; never more than three are held. What a frame adds is a part (`metrics.accumulators`), so
the numbers do not depend on how the clip was cut up for reading.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from steadydepth.evaluation.alignment import ClipFit
from steadydepth.evaluation.footage import Footage, SceneFrame
from steadydepth.evaluation.windows import Values, Window, number_of, series_values, values_of
from steadydepth.metrics import along_flow, dynamic, edges, temporal
from steadydepth.metrics.accumulators import Correlation, Part, Parts, PixelSeries, merge
from steadydepth.metrics.accuracy import accuracy_parts
from steadydepth.metrics.arrays import Chosen, Layers, Pixels, pick
from steadydepth.metrics.correspondences import Match, RigidMove, photometric_match, pose_move, rigid_match, triple
from steadydepth.metrics.protocols import METRICS, Protocol, crop_mask
from steadydepth.ops.sampling import sees_only

FRAME_CURVES = ("abs_rel", "delta1")
PAIR_CURVES = ("flicker", "sre", "vel", "flicker_flow")
# What is asked of the label as of any method; the rest of what it scores reads its own holes.
_OF_LABEL = ("flicker", "sre", "n_rigid", "vel", "gain", "n_tracked", "tae_static", "acc", "rough", "n_tracked_twice")


@dataclass(frozen=True)
class Settings:
    """How every clip is scored."""

    protocol: Protocol
    align: str = "auto"
    constant: float | None = None  # in the units of the model; None: no controls
    lengths: tuple[int | None, ...] = ()  # temporal metrics also over windows of so many frames; None: all
    is_strict: bool = False  # a value that is not finite is an InputError
    with_opw_nvds: bool = False


@dataclass(frozen=True)
class ReferenceFrame:
    """One frame of what another model predicts, beside every method; log depth."""

    aligned: Pixels  # as scored
    comparable: Pixels  # with an offset chosen where the claims leave it open, the same as that of `methods`
    valid: Chosen  # where it is finite
    methods: Layers


@dataclass(frozen=True)
class Moment:
    """One frame and what every method says of it; the last layer is the label itself where there is one."""

    frame: SceneFrame
    depth: Layers  # metres, as scored
    log: Layers
    change: dynamic.LabelChange | None = None  # of the methods, since the moment before


class ClipScorer:
    """The metrics of several methods on one clip, given its frames in order.

    Args:
        footage: of the clip.
        settings: what counts, and how; windows are of the first method.
        methods: their names, in the order of what `add` is given.
        static_set: the pixels of `temporal.StaticSearch`, None unless the camera stands still.
    """

    def __init__(self, footage: Footage, settings: Settings, methods: Iterable[str], static_set: Chosen | None) -> None:
        self.methods = tuple(methods)
        self._footage, self._with_opw_nvds = footage, settings.with_opw_nvds
        self._size = footage.height, footage.width
        self._static_pixels = None if static_set is None else np.flatnonzero(static_set)
        self._inside = crop_mask(settings.protocol.crop, footage.height, footage.width).ravel()
        self._recent: list[Moment] = []
        self._total: dict[str, Part] = {}
        self._label_total: dict[str, Part] = {}
        self._series: PixelSeries | None = None
        self._windows = [Window(length) for length in settings.lengths]
        n_fixed = 0 if self._static_pixels is None else len(self._static_pixels)
        self._counts = {"n_frames": 0, "n_skipped": 0, "n_static": 0, "n_moving": 0, "n_fixed": n_fixed}
        self.curves: dict[str, list[float | None]] = {name: [] for name in (*FRAME_CURVES, *PAIR_CURVES)}

    def add(
        self, frame: SceneFrame, depths: list[Pixels], logs: list[Pixels], reference: ReferenceFrame | None = None
    ) -> None:
        """Score the next frame.

        Args:
            frame: with its label, and what the next frame shows of it.
            depths: of each method, metres, as scored.
            logs: their logarithms.
            reference: what another model predicts for it.
        """
        label = frame.label
        depth = np.stack(depths if label is None else [*depths, label.truth])
        log = np.stack(logs if label is None else [*logs, label.log])
        self._count(frame)
        now = self._moment(frame, depth, log)
        one = self._of_frame(now)
        if reference is not None:
            one["log_depth_correlation"] = Correlation.of(self._of_methods(log), reference.aligned)
            one["edges_kept"] = edges.edge_gain_part(
                reference.methods, reference.comparable, reference.valid, *self._size
            )
        two = self._of_pair(self._recent[-1], now) if self._recent else {}
        three = self._of_three(self._recent[-2], self._recent[-1], now) if len(self._recent) > 1 else {}
        for parts in (one, two, three):
            self._total = merge(self._total, parts)
        self._follow_pixels(now)
        self._draw(one, two)
        self._fill_windows(now, two, three)
        self._recent = [*self._recent[-1:], now]

    def _of_methods(self, layers: Layers) -> Float64[np.ndarray, "k n"]:
        """All but the label, which needs no comparison with itself."""
        return layers[: len(self.methods)]

    def _count(self, frame: SceneFrame) -> None:
        self._counts["n_frames"] += 1
        self._counts["n_skipped"] += int(frame.label is None or not frame.label.valid.any())
        self._counts["n_static"] += 0 if frame.static is None else int(frame.static.sum())
        self._counts["n_moving"] += 0 if frame.moving is None else int(frame.moving.sum())

    def _moment(self, frame: SceneFrame, depth: Layers, log: Layers) -> Moment:
        if frame.label is None or not self._recent or self._recent[-1].frame.label is None:
            return Moment(frame, depth, log)
        before, label = self._recent[-1], self._recent[-1].frame.label
        both = label.valid & frame.label.valid
        true_change = np.where(both, frame.label.log - label.log, 0)
        change = self._of_methods(log) - self._of_methods(before.log)
        return Moment(frame, depth, log, dynamic.label_change(change, true_change, both))

    def _of_frame(self, now: Moment) -> dict[str, Part]:
        """How wrong the frame is, over all pixels, static and moving ones, and how sharp its edges are."""
        frame, label = now.frame, now.frame.label
        if label is None:
            return {}
        sets = {"": label.valid}
        if frame.static is not None and frame.moving is not None:
            sets |= {"_static": frame.static, "_moving": frame.moving}
        depth, log = self._of_methods(now.depth), self._of_methods(now.log)
        parts = accuracy_parts(depth, log, label.truth, label.log, sets)
        parts["edge_gain"] = edges.edge_gain_part(log, label.log, label.valid, *self._size)
        sharp = edges.boundary_parts(now.depth, label.truth, label.valid, *self._size)
        # What the label leaves empty in some direction keeps its own score below 1.
        self._label_total = merge(self._label_total, {name: part.only(-1) for name, part in sharp.items()})
        return parts | sharp

    def _of_pair(self, before: Moment, now: Moment) -> dict[str, Part]:
        first, second, motion = before.frame, now.frame, now.frame.before
        assert motion is not None
        back = motion.trusted.backward
        followed = back.match(back.visible)
        parts = along_flow.flow_flicker_parts(before.log, now.log, followed)
        if self._with_opw_nvds:
            colours = first.colours, second.colours
            parts["opw_nvds"] = along_flow.nvds_part(before.depth, now.depth, *colours, motion.image.backward)
        if first.label is None or second.label is None:
            return parts
        here, there = first.label, second.label
        match = photometric_match(motion.warping, here.valid & motion.warping.visible, first.colours, second.colours)
        parts |= along_flow.warping_parts(before.depth, now.depth, match)
        if here.valid.all() and there.valid.all():
            own = {name: part.only(-1) for name, part in parts.items()}
        else:
            own = _label_pair(before, now, followed, match, here.valid, there.valid)
        change = self._of_methods(now.depth) - self._of_methods(before.depth)
        parts |= temporal.tcc_parts(change, there.truth - here.truth, here.valid & there.valid, *self._size)
        if now.change is not None:
            parts |= dynamic.label_change_parts(now.change)
        if first.moving is not None and second.moving is not None and motion.label is not None:
            correspondence = motion.label.forward
            tracked = correspondence.match(first.moving & correspondence.visible, second.moving)
            parts |= dynamic.change_parts(before.log, now.log, here.log, there.log, tracked)
        if self._static_pixels is not None:
            chosen, both = self._static_pixels, here.valid & there.valid
            logs = pick(before.log, chosen), pick(now.log, chosen)
            parts |= temporal.flicker_parts(*logs, both[chosen])
        for source, target in ((before, now), (now, before)):
            alignment, label_own = self._of_direction(source, target)
            parts, own = merge(parts, alignment), merge(own, label_own)
        own |= {name: parts[name].only(-1) for name in _OF_LABEL if name in parts}
        self._label_total = merge(self._label_total, own)
        return parts

    def _of_direction(self, source: Moment, target: Moment) -> tuple[dict[str, Part], dict[str, Part]]:
        """Along the poses from one frame to its neighbour; and what the label scores there with holes of its own."""
        poses, K = self._footage.cam_to_world, self._footage.K
        here, there = source.frame.label, target.frame.label
        if poses is None or K is None or here is None or there is None:
            return {}, {}
        move = pose_move(K, poses[source.frame.number], poses[target.frame.number], self._size)
        parts = self._alignment_errors(source, target, move, slice(None), self._inside, self._inside)
        if here.valid.all() and there.valid.all() and self._inside.all():
            own = {"tae": parts["tae"].only(-1)}
        else:
            own = {"tae": self._alignment_errors(source, target, move, slice(-1, None), here.valid, there.valid)["tae"]}
        static, static_there = source.frame.static, target.frame.static
        if static is None or static_there is None:
            return parts, own
        match = rigid_match(here.truth, static, there.log, static_there, move)
        return parts | temporal.rigid_parts(source.depth, target.log, match, move), own

    def _alignment_errors(
        self, source: Moment, target: Moment, move: RigidMove, methods: slice, kept: Chosen, kept_there: Chosen
    ) -> dict[str, Part]:
        """`tae` over the kept pixels, and `tae_static` over the static ones, whose landings are found once."""
        own, other = source.depth[methods], target.depth[methods]
        static, static_there = source.frame.static, target.frame.static
        if static is None or static_there is None:
            moved = temporal.splat(own, kept.astype(np.int64) - 1, move)
            return {"tae": temporal.tae_part(other, moved, kept_there)}
        moved = temporal.splat(own, np.where(static, 1, kept.astype(np.int64) - 1), move, n_images=2)
        return {
            "tae": temporal.tae_part(other, moved, kept_there),
            "tae_static": temporal.tae_part(other, moved[1:], static_there),
        }

    def _of_three(self, first: Moment, middle: Moment, last: Moment) -> dict[str, Part]:
        motion, onward = middle.frame.before, last.frame.before
        assert motion is not None
        assert onward is not None
        logs = (first.log, middle.log, last.log)
        tracked = triple(onward.trusted.forward, motion.trusted.backward, None, None, None)
        parts = along_flow.flow_roughness_parts(logs, tracked)
        labels = [moment.frame.label for moment in (first, middle, last)]
        if any(label is None for label in labels):
            return parts
        before, now, after = (label.valid for label in labels if label is not None)
        known = now[tracked.pixels] & sees_only(before, tracked.behind) & sees_only(after, tracked.ahead)
        truths = (first.log[-1:], middle.log[-1:], last.log[-1:])
        own = along_flow.flow_roughness_parts(truths, tracked.only(known))
        if middle.change is not None and last.change is not None:
            parts |= dynamic.label_bend_parts(middle.change, last.change)
        sets = [moment.frame.moving for moment in (first, middle, last)]
        if motion.label is not None and onward.label is not None and all(one is not None for one in sets):
            tracked = triple(onward.label.forward, motion.label.backward, *sets)
            parts |= dynamic.bend_parts(logs, (first.log[-1], middle.log[-1], last.log[-1]), tracked)
        own |= {name: parts[name].only(-1) for name in _OF_LABEL if name in parts}
        self._label_total = merge(self._label_total, own)
        return parts

    def _follow_pixels(self, now: Moment) -> None:
        if self._static_pixels is None or now.frame.label is None:
            return
        valid = now.frame.label.valid[self._static_pixels]
        one = PixelSeries.of(now.frame.number, pick(now.log, self._static_pixels), valid)
        self._series = one if self._series is None else self._series + one

    def _draw(self, one: Parts, two: Parts) -> None:
        for name in FRAME_CURVES:
            self.curves[name].append(number_of(one, name, 0))
        if self._recent:
            for name in PAIR_CURVES:
                self.curves[name].append(number_of(two, name, 0))

    def _fill_windows(self, now: Moment, two: Parts, three: Parts) -> None:
        for window in self._windows:
            for parts, n_before in ((two, 1), (three, 2)):
                if window.n_frames >= n_before:
                    window.parts = merge(window.parts, {name: part.only(0) for name, part in parts.items()})
            if self._static_pixels is not None and now.frame.label is not None:
                log, valid = pick(now.log[:1], self._static_pixels), now.frame.label.valid[self._static_pixels]
                series = PixelSeries.of(now.frame.number, log, valid)
                window.series = series if window.series is None else window.series + series
            window.n_frames += 1
            if window.n_frames == window.length:
                window.close()

    def values(self, fits: Mapping[str, ClipFit]) -> dict[str, Values]:
        """Every metric of METRICS, and the counts behind them, for each method; None where one does not apply."""
        common: Values = {**self._counts, "fixed_camera": self._footage.fixed_camera}
        nothing: Values = dict.fromkeys(METRICS)
        found = {}
        for method, name in enumerate(self.methods):
            own = values_of(self._total, self._series, self._counts["n_frames"], method)
            found[name] = nothing | own | common | _alignment_values(fits[name])
        return found

    def label_values(self) -> Values:
        """What the label itself scores in the temporal metrics: the floor that sensor noise and occlusion set."""
        own = values_of(self._label_total, None, self._counts["n_frames"], 0)
        if self._series is not None:
            own |= series_values(self._series, self._counts["n_frames"], -1)
        return {name: value for name, value in own.items() if name in METRICS}

    def length_values(self) -> dict[int | None, Values]:
        """For each of the lengths the temporal metrics of the first method, windows averaged."""
        counts: Values = {name: self._counts[name] for name in ("n_fixed", "n_static", "n_moving")}
        return {window.length: window.values() | counts for window in self._windows}


def _label_pair(
    before: Moment, now: Moment, followed: Match, match: Match, here: Chosen, there: Chosen
) -> dict[str, Part]:
    """What the label scores along flow, where it may read its own valid pixels alone: those of `here` and `there`."""
    known = there[followed.pixels] & sees_only(here, followed.at)
    parts = along_flow.flow_flicker_parts(before.log[-1:], now.log[-1:], followed.only(known))
    shown = match.only(sees_only(there, match.at))
    return parts | along_flow.warping_parts(before.depth[-1:], now.depth[-1:], shown)


def _alignment_values(fit: ClipFit) -> Values:
    scale, shift = (None, None) if fit.alignment is None else map(float, (fit.alignment.scale, fit.alignment.shift))
    return {
        "scale": scale,
        "shift": shift,
        "negative_scale": None if scale is None else scale < 0,
        "n_nonfinite": fit.n_nonfinite,
    }
