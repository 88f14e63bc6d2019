"""A depth model for iw3 of nunif, by its BaseDepthModel, for names that begin with `steadydepth:`.

iw3 sends frames in order, in batches of one video, and calls `reset` at scene boundaries. Larger is nearer for models
that are not metric, and metric depth is negative: both as iw3's own models give it.
"""

import sys
from typing import Any

import numpy as np
import torch
from iw3 import depth_model_factory
from iw3.base_depth_model import BaseDepthModel
from torch import Tensor, nn

import steadydepth as sd

PREFIX = "steadydepth:"
FILTER = "learned"


class SteadydepthModel(BaseDepthModel):
    """`steadydepth:NAME`, where NAME is any that `steadydepth predict --model` takes; behind the learned filter."""

    def load_model(self, model_type: str, resolution: int | None = None, device: Any = None, **_: Any) -> nn.Module:
        self.predictor = sd.load(model_type.removeprefix(PREFIX), device=device, max_side=resolution)
        self.reset_state()
        return self.predictor.model

    def reset_state(self) -> None:
        """A new scene: nothing before it counts."""
        self.session = self.predictor.session(filter=FILTER)

    def infer(self, x: Tensor, tta: bool = False, **_: Any) -> Tensor:
        """Depth (1, h, w) of a frame (3, h, w) in [0, 1], or (n, 1, h, w) of n frames in order.

        `tta` is left out: the mean with the mirrored frame is a second model, whose memory would be another.
        """
        frames = (x if x.ndim == 4 else x[None]).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        depth = np.stack([self.session.step(np.ascontiguousarray(frame)).depth for frame in frames])
        # What has no value is as far as can be.
        depth = np.nan_to_num(depth, nan=0.0 if self.predictor.claims == "disparity" else 1e4)
        signed = depth if self.predictor.claims == "disparity" else -depth
        found = torch.from_numpy(signed).to(x.device)[:, None]
        return found if x.ndim == 4 else found[0]

    def is_metric(self) -> bool:
        return self.predictor.claims == "metric"

    @classmethod
    def get_name(cls) -> str:
        return "steadydepth"

    @classmethod
    def supported(cls, model_type: str) -> bool:
        return model_type.startswith(PREFIX)

    @classmethod
    def has_checkpoint_file(cls, model_type: str) -> bool:
        return cls.supported(model_type)

    @classmethod
    def get_model_path(cls, model_type: str) -> str:
        return model_type.removeprefix(PREFIX)

    @classmethod
    def multi_gpu_supported(cls, model_type: str) -> bool:
        return False  # frames of one video follow each other

    @classmethod
    def force_update(cls) -> None:
        """Nothing to do: models are found where they lie."""


def register() -> None:
    """Let iw3 make these models; call it before iw3 begins, whichever of its modules are imported."""
    others = depth_model_factory.create_depth_model

    def create_depth_model(model_type: str) -> BaseDepthModel:
        return SteadydepthModel(model_type) if SteadydepthModel.supported(model_type) else others(model_type)

    # Modules such as iw3.utils have taken the function by its name when they were imported.
    for name, module in list(sys.modules.items()):
        if name.startswith("iw3.") and getattr(module, "create_depth_model", None) is others:
            module.create_depth_model = create_depth_model
