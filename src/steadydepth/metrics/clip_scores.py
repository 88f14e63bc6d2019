"""All numbers of one clip, for one method or for several that share what the label and the frames say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from steadydepth.metrics import moving, steadiness
from steadydepth.metrics.accuracy import accuracy
from steadydepth.metrics.arrays import Scores
from steadydepth.metrics.matches import (
    backward_matches,
    forward_matches,
    photometric_matches,
    rigid_matches,
    triples,
)
from steadydepth.metrics.protocol import METRICS, clean, crop_mask
from steadydepth.metrics.scene import Label, Scene
from steadydepth.ops import align as fit
from steadydepth.types import Claims, Clip, InputError

Values = dict[str, float | int | None]
Depths = Float64[Tensor, "m t h w"]

ALIGNMENTS = ("none", "scale", "affine", "disparity")
# What a model claims decides what it is forgiven.
_AUTO = {"metric": "none", "scale": "scale", "affine": "affine", "disparity": "disparity"}
# Pixels of all methods together that are scored in one go: about 2 GB with what is computed from them.
_MOST_PIXELS = 2**25


@dataclass(frozen=True)
class AlignedDepth:
    """A prediction in metres as it is scored, and what was done to it; no scale when there was no label to fit."""

    depth: Float64[Tensor, "t h w"]
    scale: float | None
    shift: float | None
    n_nonfinite: int


def choose_alignment(align: str, claims: Claims) -> str:
    """`align`, or for "auto" what the claims call for; InputError for anything that is not one alignment a clip."""
    if claims not in _AUTO:
        raise InputError(f"claims {claims!r}: unknown; a model claims one of {', '.join(_AUTO)}")
    if align == "auto":
        return _AUTO[claims]
    if align not in ALIGNMENTS:
        raise InputError(
            f"align {align!r}: choose auto or one of {', '.join(ALIGNMENTS)}; all are fitted once for a clip, because "
            "aligning each frame would hide the flicker that the temporal metrics measure"
        )
    return align


def align_depth(raw: Float[np.ndarray, "t i j"], scene: Scene, *, claims: Claims, align: str = "auto") -> AlignedDepth:
    """`raw` resized to the label, aligned once for the clip, and cleaned to the protocol's range.

    Alignments: none; scale, one median ratio; affine, least squares in depth; disparity, least squares in inverse
    depth. Values that are not finite are counted and have no part in the fit. InputError when `raw` has another number
    of frames than the clip.
    """
    chosen = choose_alignment(align, claims)
    n_nonfinite = int((~np.isfinite(raw)).sum())
    values = resize(torch.from_numpy(np.array(raw, np.float32)), scene.clip)
    depth = 1 / values.clamp(min=fit.LEAST_DISPARITY) if claims == "disparity" else values
    label = scene.label
    if label is None:
        return AlignedDepth(_unscored(depth), None, None, n_nonfinite)
    if chosen == "none":
        return AlignedDepth(clean(depth, scene.protocol), 1.0, 0.0, n_nonfinite)
    if chosen == "disparity":
        disparity = values if claims == "disparity" else 1 / depth.clamp(min=fit.LEAST_DISPARITY)
        fitted = fit.fit_disparity(disparity, label.truth, label.valid)
        aligned = fit.apply_disparity(disparity, fitted)
    else:
        fitted = (fit.fit_median_scale if chosen == "scale" else fit.fit_scale_shift)(depth, label.truth, label.valid)
        aligned = fit.apply(depth, fitted)
    return AlignedDepth(clean(aligned, scene.protocol), _number(fitted.scale), _number(fitted.shift), n_nonfinite)


def resize(values: Float[Tensor, "t i j"], clip: Clip) -> Float64[Tensor, "t h w"]:
    """Bilinear with half-pixel centres, as cv2.resize does, to the size of the clip's frames."""
    t, height, width, _ = clip.frames.shape
    if len(values) != t:
        raise InputError(f"{clip.name}: {len(values)} predicted frames for {t} frames: predict every frame once")
    if values.shape[1:] == (height, width):
        return values.double()
    size = (height, width)
    return F.interpolate(values[:, None].double(), size, mode="bilinear", align_corners=False)[:, 0]


def _unscored(depth: Float64[Tensor, "t h w"]) -> Float64[Tensor, "t h w"]:
    """Depth of unknown scale, positive and finite so that its logarithm is: there is no range without a label."""
    return torch.nan_to_num(depth, nan=1e-3, posinf=1e6).clamp(1e-3, 1e6)


def score_clip(methods: Mapping[str, AlignedDepth], scene: Scene) -> dict[str, Values]:
    """Every metric of METRICS, and the counts behind them, for each method; None where one does not apply."""
    names = list(methods)
    at_once = max(1, _MOST_PIXELS // methods[names[0]].depth.numel())
    values: dict[str, Values] = {}
    for start in range(0, len(names), at_once):
        group = names[start : start + at_once]
        scores = _scores(torch.stack([methods[name].depth for name in group]), scene)
        values |= {name: _plain(scores, i) for i, name in enumerate(group)}
    nothing: Values = dict.fromkeys(METRICS)
    common = _counts(scene)
    return {name: nothing | values[name] | common | _alignment_values(methods[name]) for name in names}


def score_label(scene: Scene) -> Values:
    """What the label itself scores in the temporal metrics: the floor that sensor noise and occlusion set."""
    label = scene.label
    if label is None:
        return {}
    # Every sample reads valid pixels only; 1 m elsewhere keeps the logarithm finite where the weight is 0.
    depth = torch.where(label.valid, label.truth, 1).double()[None]
    scores = _static_scores(depth, scene.clip, label) | _moving_scores(depth, label)
    scores |= _alignment_errors(depth, scene.clip, label, label.valid)
    scores |= _warping(depth, scene, label.valid, landing=label.valid)
    scores |= _label_free_scores(depth, scene, label.valid)
    return {name: value for name, value in _plain(scores, 0).items() if name in METRICS}


def _scores(depth: Depths, scene: Scene) -> Scores:
    clip, label = scene.clip, scene.label
    scores = _label_free_scores(depth, scene, torch.ones(clip.frames.shape[:3], dtype=torch.bool))
    if label is None:
        return scores
    scores |= accuracy(depth, label.truth, label.valid)
    if label.split is not None:
        for suffix, pixels in (("static", label.split.static), ("moving", label.split.moving)):
            scores |= {f"{name}_{suffix}": value for name, value in accuracy(depth, label.truth, pixels).items()}
    scores["tcc"] = steadiness.tcc(depth, label.truth, label.valid)
    scores |= moving.label_change_scores(depth, label.truth, label.valid)
    scores |= _static_scores(depth, clip, label) | _moving_scores(depth, label)
    height, width = label.valid.shape[1:]
    inside = torch.from_numpy(crop_mask(scene.protocol.crop, height, width)).expand_as(label.valid)
    return scores | _alignment_errors(depth, clip, label, inside) | _warping(depth, scene, label.valid)


def _label_free_scores(depth: Depths, scene: Scene, kept: Bool[Tensor, "t h w"]) -> Scores:
    flicker = steadiness.flow_flicker(depth, backward_matches(scene.trusted_flow, kept))
    return flicker | steadiness.flow_roughness(depth, triples(scene.trusted_flow, kept))


def _static_scores(depth: Depths, clip: Clip, label: Label) -> Scores:
    """Claim 1: static things keep their depth."""
    scores: Scores = {}
    if label.static_set is not None:
        scores |= steadiness.fixed_camera_scores(depth, label.valid, label.static_set)
    if label.split is not None and clip.K is not None and clip.cam_to_world is not None:
        K, poses = torch.from_numpy(clip.K), torch.from_numpy(clip.cam_to_world)
        matches = rigid_matches(label.truth, label.valid, label.split.static, K=K, cam_to_world=poses)
        scores |= steadiness.rigid_error(depth, matches)
    return scores


def _moving_scores(depth: Depths, label: Label) -> Scores:
    """Claim 2: moving things change depth as they should."""
    if label.flow is None or label.split is None:
        return {}
    followed = forward_matches(label.flow, label.split.moving)
    bends = moving.bend_scores(depth, label.truth, triples(label.flow, label.split.moving))
    return moving.change_scores(depth, label.truth, followed) | bends


def _alignment_errors(depth: Depths, clip: Clip, label: Label, kept: Bool[Tensor, "t h w"]) -> Scores:
    if clip.K is None or clip.cam_to_world is None:
        return {}
    scores = {"tae": steadiness.tae(depth, kept, K=clip.K, cam_to_world=clip.cam_to_world)}
    if label.split is not None:
        scores["tae_static"] = steadiness.tae(depth, label.split.static, K=clip.K, cam_to_world=clip.cam_to_world)
    return scores


def _warping(
    depth: Depths, scene: Scene, kept: Bool[Tensor, "t h w"], landing: Bool[Tensor, "t h w"] | None = None
) -> Scores:
    """Along label flow where there is one, along DIS flow otherwise."""
    clip = scene.clip
    if clip.flow is not None and clip.flow_valid is not None:
        flow, flow_valid = clip.flow, clip.flow_valid
    else:
        flow = scene.image_flow.forward
        flow_valid = np.ones(flow.shape[:3], bool)
    return steadiness.warping_scores(depth, photometric_matches(clip.frames, flow, flow_valid, kept, landing=landing))


def _counts(scene: Scene) -> Values:
    n_frames, label = len(scene.clip.frames), scene.label
    split = None if label is None else label.split
    static_set = None if label is None else label.static_set
    return {
        "n_frames": n_frames,
        "n_skipped": n_frames if label is None else int((~label.valid.flatten(1).any(dim=1)).sum()),
        "n_static": 0 if split is None else int(split.static.sum()),
        "n_moving": 0 if split is None else int(split.moving.sum()),
        "n_fixed": 0 if static_set is None else int(static_set.sum()),
        "fixed_camera": scene.clip.fixed_camera,
    }


def _alignment_values(aligned: AlignedDepth) -> Values:
    return {
        "scale": aligned.scale,
        "shift": aligned.shift,
        "negative_scale": None if aligned.scale is None else aligned.scale < 0,
        "n_nonfinite": aligned.n_nonfinite,
    }


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _plain(scores: Scores, method: int) -> Values:
    """Numbers of one method: counts as int, NaN (no sample) as None."""
    return {
        name: int(value[method]) if name.startswith("n_") else _number(value[method]) for name, value in scores.items()
    }
