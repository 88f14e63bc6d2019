"""What the last layer of a network is given."""

import pytest
import torch
from torch import nn

from steadydepth.models.declare import Declared
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.features import features_before, last_layer
from steadydepth.models.per_frame import PerFrame
from steadydepth.types import InputError

FRAMES = torch.rand(2, 3, 3, 40, 72, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("encoder", "upsampling"),
    [("mobilenetv3_small_100", "bilinear"), ("mobilenetv3_small_100", "guided"), ("vit_tiny_patch16_224", "bilinear")],
)
def test_our_networks_end_in_the_head_of_their_decoder(encoder, upsampling):
    model = DepthNet(encoder=encoder, decoder_width=16, upsampling=upsampling).train()
    assert last_layer(model, 48, 64) is model.decoder.head
    assert model.training


def test_the_features_are_those_of_the_call_inside(model):
    layer = last_layer(model, 40, 72)
    with features_before(layer) as found:
        depth, _ = model(FRAMES)
    (features,) = found
    assert features.shape[:2] == (6, 16)
    assert features.requires_grad
    share = torch.sigmoid(
        nn.functional.interpolate(layer(features), (40, 72), mode="bilinear", align_corners=False)
    ).view_as(depth)
    torch.testing.assert_close(depth, model.min_depth * (model.max_depth / model.min_depth) ** share)
    model(FRAMES)
    assert len(found) == 1
    with features_before(None) as none:
        model(FRAMES)
    assert none == []


def test_a_network_that_cannot_be_asked_is_named():
    class OneByOne(nn.Module):
        claims = "scale"

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 1, 1)

        def forward(self, frames, state=None):
            depths = [self.layer(frame).exp()[:, 0] for frame in frames.unbind(1)]
            return torch.stack(depths, dim=1), {"last": depths[-1]}

    with pytest.raises(
        InputError, match=r"loss\.relative_features: the network has no last layer .* leave the key out"
    ):
        last_layer(OneByOne(), 8, 8)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images):
            return images.mean(dim=1, keepdim=True) * self.scale

    with pytest.raises(InputError, match="no last layer"):
        last_layer(PerFrame(Scaled(), Declared("scale"), "here:Scaled"), 8, 8)
