"""Feature maps to one map at the finest feature size."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def _mix(width: int) -> nn.Sequential:
    """Depthwise 3x3, pointwise, norm and ReLU6: cheap on phones, and its range survives int8."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(inplace=True),
    )


class LightDecoder(nn.Module):
    """A feature pyramid of one width (Lin et al. 2017), coarse to fine, ending in one channel.

    Fixed sizes in, fixed sizes out, with plain convolutions, bilinear resizing and ReLU6 only: it exports everywhere.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.mixes = nn.ModuleList(_mix(width) for _ in channels)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, features: list[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n 1 h w"]:
        merged = self.mixes[-1](self.laterals[-1](features[-1]))
        for feature, lateral, mix in zip(
            features[-2::-1], reversed(self.laterals[:-1]), reversed(self.mixes[:-1]), strict=True
        ):
            size = feature.shape[-2:]
            merged = mix(lateral(feature) + F.interpolate(merged, size, mode="bilinear", align_corners=False))
        return self.head(merged)
