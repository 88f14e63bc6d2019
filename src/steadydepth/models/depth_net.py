"""An encoder and a decoder put together: an image in, metres out, nothing remembered."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from steadydepth.models.decoders import DPTDecoder, GuidedDecoder, LightDecoder
from steadydepth.models.encoders import build_encoder
from steadydepth.types import Claims, Depth, Frames, InputError, State

# ImageNet's statistics, those the encoders were trained with (timm.data.IMAGENET_DEFAULT_MEAN, _STD).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# By `upsampling`.
DECODERS: dict[str, type[nn.Module]] = {"bilinear": LightDecoder, "guided": GuidedDecoder}
DECODERS_OF_A_VIT: dict[str, type[nn.Module]] = {"bilinear": DPTDecoder}
SMALLEST = 32  # pixels a side: the coarsest feature map of a stride-32 encoder needs one cell


class DepthNet(nn.Module, PyTorchModelHubMixin):
    """A per-frame depth network; `save_pretrained` writes config.json and model.safetensors.

    The output of the network, in [0, 1], is a place between `min_depth` and `max_depth` in log depth, so that equal
    steps of it are equal relative changes.

    Args:
        encoder: name of a timm encoder: a convolutional network, or a plain ViT.
        decoder_width: channels of the decoder.
        min_depth: nearest depth that can be predicted, metres, above 0.
        max_depth: farthest, metres.
        claims: what its numbers mean after training.
        max_side: longer side in pixels of the images that it is for; who runs it shrinks longer ones to it. None: any.
        upsampling: bilinear, or guided by the finest features (`GuidedDecoder`); of a ViT bilinear.

    Raises:
        InputError: the depths are not in order, timm has no such encoder, or the upsampling is not for it.
    """

    mean: Tensor
    std: Tensor
    least_side = SMALLEST

    def __init__(
        self,
        encoder: str = "tf_efficientnet_lite0",
        decoder_width: int = 48,
        min_depth: float = 0.3,
        max_depth: float = 20.0,
        claims: str = "metric",
        max_side: int | None = None,
        upsampling: str = "bilinear",
    ) -> None:
        super().__init__()
        if not 0 < min_depth < max_depth:
            raise InputError(f"model: min_depth {min_depth} must be above 0 and below max_depth {max_depth}")
        self.encoder = build_encoder(encoder)
        feature_info: Any = self.encoder.feature_info
        channels, strides = feature_info.channels(), feature_info.reduction()
        is_vit = len(set(strides)) == 1
        decoders = DECODERS_OF_A_VIT if is_vit else DECODERS
        if upsampling not in decoders:
            kind = "a ViT" if is_vit else "a convolutional network"
            raise InputError(f"model.upsampling: {upsampling}: for {kind} there is {' and '.join(decoders)}")
        self.decoder = decoders[upsampling](channels, decoder_width)
        self.patch = strides[0] if is_vit else 1  # pixels a side; the encoder pads to multiples of it
        self.min_depth, self.max_depth, self.max_side = min_depth, max_depth, max_side
        self.claims: Claims = claims  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, frames: Frames, state: State | None = None) -> tuple[Depth, State]:
        """Depth of each frame by itself, metres where it claims `metric`; frames of 32 x 32 or more, and no state.

        Raises:
            InputError: the frames are smaller.
        """
        b, t, _, h, w = frames.shape
        if min(h, w) < SMALLEST:
            raise InputError(f"frames are {h} x {w}; the network needs {SMALLEST} x {SMALLEST} or more: resize them")
        images = (frames.flatten(0, 1) - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        share = self.decoder(self.encoder(images))
        padded = (h + -h % self.patch, w + -w % self.patch)
        share = F.interpolate(share, padded, mode="bilinear", align_corners=False)[..., :h, :w]
        share = torch.sigmoid(share.float())
        log_depth = math.log(self.min_depth) + share * math.log(self.max_depth / self.min_depth)
        return log_depth.exp()[:, 0].unflatten(0, (b, t)), {}

    def with_guided_upsampling(self) -> "DepthNet":
        """The network itself if it is guided, else one of its layers to continue training with.

        Encoder, coarse levels and last layer are taken over. The finest level is not, which stood before the last
        layer: until that has learned to do without, the depth is another. The guide begins as bilinear upsampling.

        Raises:
            InputError: the encoder is a ViT, for which there is none.
        """
        if isinstance(self.decoder, GuidedDecoder):
            return self
        config: dict[str, Any] = dict(self._hub_mixin_config)  # type: ignore[arg-type]
        guided = DepthNet(**config | {"upsampling": "guided"}).train(self.training)
        old: Any = self.decoder
        new: Any = guided.decoder
        guided.encoder = self.encoder
        new.laterals, new.mixes, new.head = old.laterals[1:], old.mixes[1:], old.head
        with torch.no_grad():
            new.guide[-1].bias[4] = 3.0  # of the nine samples, the one in the middle
        return guided
