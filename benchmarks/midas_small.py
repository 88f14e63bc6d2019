"""The architecture of MiDaS v2.1 small with random weights: to compare speed, and for nothing else.

Ranftl et al., Towards Robust Monocular Depth Estimation (TPAMI 2022); github.com/isl-org/MiDaS, midas_net_custom.py:
EfficientNet-Lite3, a 3x3 convolution on each of its four scales to 64, 128, 256 and 512 channels, and four fusions from
the smallest up, each of two residual units, an enlargement and a 1x1 convolution to half of the channels.
"""

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from steadydepth.types import State

WIDTHS = (64, 128, 256, 512)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class Fusion(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.lateral, self.fused, self.narrow = Residual(width), Residual(width), nn.Conv2d(width, out, 1)

    def forward(self, features: Tensor, from_below: Tensor | None) -> Tensor:
        if from_below is not None:
            features = from_below + self.lateral(features)
        larger = F.interpolate(self.fused(features), scale_factor=2, mode="bilinear", align_corners=True)
        return self.narrow(larger)


class MidasSmall(nn.Module):
    """Inverse depth of frames whose sides are multiples of 32; 21.3 M parameters, the 21 M that are published."""

    claims = "disparity"

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model("tf_efficientnet_lite3", features_only=True, out_indices=(1, 2, 3, 4))
        scales = zip(self.encoder.feature_info.channels(), WIDTHS, strict=True)
        self.adapt = nn.ModuleList(nn.Conv2d(found, width, 3, padding=1, bias=False) for found, width in scales)
        self.fuse = nn.ModuleList(Fusion(width, max(width // 2, WIDTHS[0])) for width in WIDTHS)
        self.head = nn.Sequential(
            nn.Conv2d(64, 32, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )
        # Random weights could leave nothing above 0, and a file of zeros would pass every check.
        nn.init.constant_(self.head[-2].bias, 10.0)

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        b, t = frames.shape[:2]
        features = [adapt(each) for adapt, each in zip(self.adapt, self.encoder(frames.flatten(0, 1)), strict=True)]
        fused = None
        for fuse, each in zip(reversed(self.fuse), reversed(features), strict=True):
            fused = fuse(each, fused)
        return self.head(fused)[:, 0].unflatten(0, (b, t)), {}
