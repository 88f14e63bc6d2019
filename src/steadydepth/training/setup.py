"""What a run starts from: the model of a config, what of it learns, and the running average of its weights."""

import logging

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from steadydepth.config import Config
from steadydepth.method.parameter_groups import freeze_unused, is_encoder, train_only
from steadydepth.models.adapt import add_lora, checkpoint_gradients
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.encoders import load_encoder_weights
from steadydepth.models.load import load_model
from steadydepth.types import InputError

logger = logging.getLogger(__name__)


def build_model(config: Config) -> nn.Module:
    """The network of a config with its starting weights: the seed alone decides what is random."""
    if config.model.init is not None:
        model = load_model(config.model.init, config.model.claims)
        torch.manual_seed(config.run.seed)  # dropout draws from it
        return model
    torch.manual_seed(config.run.seed)
    model = DepthNet(
        encoder=config.model.encoder,
        decoder_width=config.model.decoder_width,
        min_depth=config.model.min_depth,
        max_depth=config.model.max_depth,
        claims=config.model.claims or "metric",
    )
    load_encoder_weights(model.encoder, config.model.encoder, config.model.weights)
    return model


def prepare_parts(model: nn.Module, config: Config) -> None:
    """Choose in place what of `model` learns, and how; what takes no part in the depth is reported and stays."""
    if not any(True for _ in model.parameters()):
        raise InputError(f"model.init: {config.model.init}: has no weights, and cannot be trained")
    if config.model.lora:
        add_lora(model, config.model.lora, is_encoder)
    if config.model.train:
        train_only(model, config.model.train)
    if config.model.checkpointing:
        checkpoint_gradients(model)
    if unused := freeze_unused(model, config.data.height, config.data.width):
        few = ", ".join(unused[:8]) + ", ..." * (len(unused) > 8)
        logger.info("%s: %d parameters take no part in the depth and stay: %s", config.run.folder, len(unused), few)


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of weights and norm statistics: average <- d average + (1 - d) weights.

    d = min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not an average of its start.
    """

    def blend(average: torch.Tensor, weights: torch.Tensor, n: torch.Tensor | int) -> torch.Tensor:
        if not average.is_floating_point():
            return weights
        # A tensor, not a number: reading `n` would wait for the device, once for each weight.
        share = torch.as_tensor((1 + n) / (10 + n)).clamp(max=decay)
        return torch.lerp(weights, average, share.to(weights.dtype))

    return AveragedModel(model, avg_fn=blend, use_buffers=True)
