"""ComfyUI nodes: load a model, predict a video with its memory, filter depth of any other node, stabilise a model.

Images are what ComfyUI calls IMAGE: float tensors (frame, h, w, 3) in [0, 1]. Depth is a type of its own, as an 8-bit
image of it would be too coarse to filter; `Show depth` makes an IMAGE of it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import steadydepth as sd
from steadydepth.inference.filters import NAMES, filter_depth
from steadydepth.inference.stereo import Stereo, side_by_side
from steadydepth.ops.depth_view import DepthView
from steadydepth.types import Claims

CATEGORY = "steadydepth"
FILTERS = ["learned", *(name for name in NAMES if name != "learned")]


@dataclass(frozen=True)
class DepthVideo:
    """What a wire of the type STEADYDEPTH_DEPTH carries."""

    depth: np.ndarray  # float32 (frame, h, w), in the units of the claims
    images: np.ndarray  # uint8 (frame, h, w, 3)
    claims: Claims


def as_frames(image: Tensor) -> np.ndarray:
    """An IMAGE as 8-bit RGB frames."""
    return np.ascontiguousarray((image[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy())


def as_image(frames: np.ndarray) -> Tensor:
    """8-bit RGB frames as an IMAGE."""
    return torch.from_numpy(np.ascontiguousarray(frames)).float() / 255


class LoadModel:
    """A model by any name that steadydepth takes."""

    RETURN_TYPES = ("STEADYDEPTH_MODEL",)
    FUNCTION = "load"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("STRING", {"default": "steadydepth-small"}),
                "max_side": ("INT", {"default": 0, "min": 0, "max": 8192, "tooltip": "0: frames as they are"}),
            }
        }

    def load(self, model: str, max_side: int) -> tuple[sd.Predictor]:
        return (sd.load(model, max_side=max_side or None),)


class PredictVideo:
    """Depth of a batch of frames in order; memory and filter go from frame to frame, and begin anew at a cut."""

    RETURN_TYPES = ("STEADYDEPTH_DEPTH",)
    FUNCTION = "predict"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("STEADYDEPTH_MODEL",), "image": ("IMAGE",), "filter": (FILTERS,)}}

    def predict(self, model: sd.Predictor, image: Tensor, filter: str) -> tuple[DepthVideo]:
        frames = as_frames(image)
        depth = np.stack([result.depth for result in model.session(filter=filter).run(frames)])
        return (DepthVideo(depth, frames, model.claims),)


class FilterDepth:
    """Depth images of any other node, made steady; near is bright, as most of them have it."""

    RETURN_TYPES = ("STEADYDEPTH_DEPTH",)
    FUNCTION = "filter"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"depth": ("IMAGE",), "image": ("IMAGE",), "filter": (FILTERS,)}}

    def filter(self, depth: Tensor, image: Tensor, filter: str) -> tuple[DepthVideo]:
        frames, disparity = as_frames(image), depth[..., :3].mean(-1).float().cpu().numpy()
        return (DepthVideo(filter_depth(filter, disparity, frames, claims="disparity"), frames, "disparity"),)


class StabiliseModel:
    """Train a model to be steady on a folder of videos without labels; what comes out is loaded like any other."""

    RETURN_TYPES = ("STEADYDEPTH_MODEL",)
    FUNCTION = "stabilise"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("STRING", {"default": "steadydepth-small"}),
                "videos": ("STRING", {"default": "videos"}),
                "out": ("STRING", {"default": "steady"}),
                "steps": ("INT", {"default": 600, "min": 1, "max": 100000}),
                "max_side": ("INT", {"default": 320, "min": 32, "max": 2048, "tooltip": "of the frames to train on"}),
            }
        }

    def stabilise(self, model: str, videos: str, out: str, steps: int, max_side: int) -> tuple[sd.Predictor]:
        sd.stabilise(videos, model=model, out=out, steps=steps, max_side=max_side)
        return (sd.load(out),)


class ShowDepth:
    """Depth as an IMAGE, in one range for all frames."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "show"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "depth": ("STEADYDEPTH_DEPTH",),
                "colours": ("STRING", {"default": "grey"}),
                "range": ("STRING", {"default": "2-98", "tooltip": "percentiles, or median"}),
                "look_ahead": ("INT", {"default": 0, "min": 0, "max": 10000, "tooltip": "0: one range for all"}),
            }
        }

    def show(self, depth: DepthVideo, colours: str, range: str, look_ahead: int) -> tuple[Tensor]:
        view = DepthView(colours, range, look_ahead or None)
        pairs = zip(depth.depth, view.ranges(lambda: iter(depth.depth), depth.claims), strict=False)
        return (as_image(np.stack([view.paint(one, shown, depth.claims) for one, shown in pairs])),)


class StereoPair:
    """Both eyes side by side, with one range of disparity for all frames."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "pair"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "depth": ("STEADYDEPTH_DEPTH",),
                "separation": ("FLOAT", {"default": 2.5, "min": 0.0, "max": 10.0, "step": 0.1}),
                "convergence": ("FLOAT", {"default": 0.5, "min": -1.0, "max": 2.0, "step": 0.05}),
            }
        }

    def pair(self, depth: DepthVideo, separation: float, convergence: float) -> tuple[Tensor]:
        view, stereo = DepthView(), Stereo(separation, convergence)
        shown = next(view.ranges(lambda: iter(depth.depth), depth.claims))
        nearness = (view.nearness(one, shown, depth.claims) for one in depth.depth)
        pairs = (stereo.pair(image, near) for image, near in zip(depth.images, nearness, strict=True))
        return (as_image(np.stack([side_by_side(*pair) for pair in pairs])),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "SteadydepthLoad": LoadModel,
    "SteadydepthPredict": PredictVideo,
    "SteadydepthFilter": FilterDepth,
    "SteadydepthStabilise": StabiliseModel,
    "SteadydepthShow": ShowDepth,
    "SteadydepthStereo": StereoPair,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SteadydepthLoad": "Load depth model",
    "SteadydepthPredict": "Predict depth of a video",
    "SteadydepthFilter": "Filter depth",
    "SteadydepthStabilise": "Stabilise depth model",
    "SteadydepthShow": "Show depth",
    "SteadydepthStereo": "Stereo pair",
}
