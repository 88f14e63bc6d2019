"""One clip made ready for scoring: what its label and its frames say, whatever the prediction."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from steadydepth.metrics.matches import where_colours_agree
from steadydepth.metrics.moving import Split, split_by_objects, split_by_pose
from steadydepth.metrics.protocol import Protocol, valid_labels
from steadydepth.metrics.steadiness import fixed_static_set
from steadydepth.ops.two_way import TwoWayFlow, two_way_from_frames, two_way_from_labels
from steadydepth.types import Clip


@dataclass(frozen=True)
class Label:
    """The measured depth of a clip and the sets of pixels it tells apart; None where the data does not tell."""

    truth: Float32[Tensor, "t h w"]  # metres; anything where not valid
    valid: Bool[Tensor, "t h w"]  # where the label counts in this protocol; somewhere at least
    split: Split | None
    split_source: str | None  # objects, poses, fixed camera
    static_set: Bool[Tensor, "h w"] | None  # only under a camera that stands still
    flow: TwoWayFlow | None


@dataclass(frozen=True)
class Scene:
    """A clip, its label if it has one that counts anywhere, and the flow that its frames alone give."""

    clip: Clip
    protocol: Protocol
    label: Label | None
    image_flow: TwoWayFlow  # DIS, seen where forward and backward agree
    trusted_flow: TwoWayFlow  # the same where colours agree as well


def prepare_scene(clip: Clip, protocol: Protocol) -> Scene:
    """Everything of `clip` that does not depend on a prediction, computed once for all that are scored on it."""
    image_flow = two_way_from_frames(clip.frames)
    return Scene(
        clip, protocol, _prepare_label(clip, protocol), image_flow, where_colours_agree(image_flow, clip.frames)
    )


def _prepare_label(clip: Clip, protocol: Protocol) -> Label | None:
    if clip.depth is None:
        return None
    measured = clip.depth > 0 if clip.valid is None else clip.valid
    counted = valid_labels(clip.depth, measured, protocol)
    if not counted.any():
        return None
    flow = None
    if clip.flow is not None and clip.flow_valid is not None:
        flow = two_way_from_labels(clip.flow, clip.flow_valid, clip.depth, counted)
    truth, valid = torch.from_numpy(clip.depth), torch.from_numpy(counted)
    split, split_source = _split(clip, truth, valid, flow)
    moving = None if clip.objects is None else torch.from_numpy(clip.objects > 0)
    static_set = fixed_static_set(truth, valid, moving) if clip.fixed_camera else None
    return Label(truth, valid, split, split_source, static_set, flow)


def _split(
    clip: Clip, truth: Tensor, valid: Bool[Tensor, "t h w"], flow: TwoWayFlow | None
) -> tuple[Split | None, str | None]:
    """Static and moving pixels by the best that the data has, and what that was."""
    if clip.objects is not None:
        return split_by_objects(clip.objects > 0, valid), "objects"
    seen = None
    if flow is not None and len(valid) > 1:
        seen = np.concatenate((flow.forward_seen, flow.backward_seen[-1:]))
    if clip.K is not None and clip.cam_to_world is not None:
        return split_by_pose(truth, valid, K=clip.K, cam_to_world=clip.cam_to_world, seen_next=seen), "poses"
    if clip.fixed_camera:
        still = np.tile(np.eye(4), (len(valid), 1, 1))
        return split_by_pose(truth, valid, K=np.eye(3), cam_to_world=still, seen_next=seen), "fixed camera"
    return None, None
