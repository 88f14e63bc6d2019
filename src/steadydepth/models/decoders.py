"""Feature maps to one map, at the finest feature size or, of a ViT, at four times its own."""

import torch
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


def _merge(
    features: list[Float[Tensor, "n _ _ _"]], laterals: nn.ModuleList, mixes: nn.ModuleList
) -> Float[Tensor, "n c h w"]:
    """A feature pyramid of one width (Lin et al. 2017) from coarse to fine, of the size of the first of `features`."""
    merged = mixes[-1](laterals[-1](features[-1]))
    for feature, lateral, mix in zip(features[-2::-1], reversed(laterals[:-1]), reversed(mixes[:-1]), strict=True):
        merged = mix(lateral(feature) + F.interpolate(merged, feature.shape[-2:], mode="bilinear", align_corners=False))
    return merged


class LightDecoder(nn.Module):
    """A feature pyramid that ends in one channel.

    Fixed sizes in, fixed sizes out, with plain convolutions, bilinear resizing and ReLU6 only: it exports everywhere.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.mixes = nn.ModuleList(_mix(width) for _ in channels)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, features: list[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n 1 h w"]:
        """One channel at the size of the first of `features`, which go from fine to coarse."""
        return self.head(_merge(features, self.laterals, self.mixes))


class GuidedDecoder(nn.Module):
    """A feature pyramid that ends one level earlier, and what the finest features make of it.

    Each pixel of their size is a mean of nine bilinear samples around it, one coarse cell apart, with weights that
    these features choose: an edge can lie where the image has it, and need be no mixture of both sides. The convex
    upsampling of RAFT (Teed and Deng 2020), guided by the image alone. RAFT weighs whole cells; its weights know where
    in its cell a pixel lies. Ours do not, and a slope of whole cells would have steps.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels[1:])
        self.mixes = nn.ModuleList(_mix(width) for _ in channels[1:])
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        self.guide = nn.Sequential(nn.Conv2d(channels[0], width, 1), _mix(width), nn.Conv2d(width, 9, 3, padding=1))

    def forward(self, features: list[Float[Tensor, "n _ _ _"]]) -> Float[Tensor, "n 1 h w"]:
        """One channel at the size of the first of `features`, which go from fine to coarse."""
        weights = self.guide(features[0]).softmax(dim=1)
        # The layer that makes depth is called last: `models.features` takes what it is given.
        coarse = self.head(_merge(features[1:], self.laterals, self.mixes))
        height, width = coarse.shape[-2:]
        padded = F.pad(coarse, (1, 1, 1, 1), mode="replicate")
        around = torch.cat([padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)], dim=1)
        around = F.interpolate(around, weights.shape[-2:], mode="bilinear", align_corners=False)
        return (weights * around).sum(dim=1, keepdim=True)


class _Residual(nn.Module):
    """Two 3x3 convolutions with a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return features + self.second(F.relu(self.first(F.relu(features))))


class DPTDecoder(nn.Module):
    """Four feature maps of one size, as a ViT gives them, to one channel at four times that size (Ranftl et al. 2021).

    The maps are spread over 4, 2, 1 and 1/2 times their size, and fused from coarse to fine.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        resize = (
            nn.ConvTranspose2d(width, width, 4, stride=4),
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.Identity(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        self.reassemble = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1), layer) for count, layer in zip(channels, resize, strict=True)
        )
        self.residuals = nn.ModuleList(_Residual(width) for _ in channels)
        self.fusions = nn.ModuleList(_Residual(width) for _ in channels)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, features: list[Float[Tensor, "n _ h w"]]) -> Float[Tensor, "n 1 _ _"]:
        """One channel at four times the size of `features`, which go from early to late layers."""
        maps = [
            residual(reassemble(feature))
            for residual, reassemble, feature in zip(self.residuals, self.reassemble, features, strict=True)
        ]
        merged = self.fusions[-1](maps[-1])
        for one, fusion in zip(maps[-2::-1], reversed(self.fusions[:-1]), strict=True):
            merged = fusion(one + F.interpolate(merged, one.shape[-2:], mode="bilinear", align_corners=False))
        return self.head(merged)
