"""What a run starts from: the model of a config, what of it is trained, its losses, and its first state."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn
from torch.optim.swa_utils import AveragedModel

from steadydepth.config import Config, ModelConfig
from steadydepth.method.absolute_loss import absolute_loss
from steadydepth.method.losses import AbsoluteLoss, RelativeLoss
from steadydepth.method.parameter_groups import freeze_unused, is_encoder, train_only
from steadydepth.method.relative_loss import relative_loss
from steadydepth.method.update import build_optimizer
from steadydepth.models.adapt import add_lora, backward_keeping_buffers, checkpoint_gradients
from steadydepth.models.declare import claims_of
from steadydepth.models.decoders import GuidedDecoder
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.encoders import load_encoder_weights
from steadydepth.models.features import last_layer
from steadydepth.models.load import load_model
from steadydepth.training.guard import Guard
from steadydepth.training.label_free.teacher_depth import contrast_lost, write_teacher_depth
from steadydepth.training.log import LossMeter
from steadydepth.training.processes import gather, open_accelerator, shard
from steadydepth.training.state import TrainingState, Watchers
from steadydepth.training.validation import EarlyStopping
from steadydepth.types import Claims, InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What no step of a run changes."""

    config: Config
    accelerator: "Accelerator"
    claims: Claims
    teacher: nn.Module | None  # a frozen copy of the starting model, where a source is labelled by it
    absolute: AbsoluteLoss
    relative: RelativeLoss
    backward: Callable[[torch.Tensor], Any]
    teacher_depth: Sequence[Mapping[str, Path]] = ()  # for each source the files of what labels its videos
    last_layer: nn.Module | None = None  # of the model that is trained, where its features are compared
    unsharded: nn.Module | None = None  # a network on the CPU that takes the average of a sharded run, to be saved


def set_up(config: Config) -> tuple[Setup, TrainingState]:
    """Open the processes and devices of a config and build all that a run starts from.

    Raises:
        InputError: the device, the precision, the tracker, the weights or the parts that are to be trained do not fit.
    """
    accelerator = open_accelerator(config)
    model = build_model(config)
    if not accelerator.is_main_process:
        # Dropout of its own; the first process draws as one that is alone.
        torch.manual_seed(config.run.seed + accelerator.process_index)
    by_teacher = any(one.labels == "teacher" for one in config.data.all_sources())
    # With another upsampling the model does not begin as the one that teaches.
    first = model
    if by_teacher and config.model.init is not None and config.model.upsampling is not None:
        first = load_model(config.model.init, config.model.claims)
    teacher = copy.deepcopy(first).eval().requires_grad_(False).to(accelerator.device) if by_teacher else None
    claims = claims_of(model)
    _prepare_parts(model.to(accelerator.device), config)
    compared = last_layer(model, config.data.height, config.data.width) if config.loss.relative_features else None
    # FSDP2 takes no other order than the usual one.
    model = model.to(memory_format=torch.contiguous_format if config.run.shard else torch.channels_last)
    average, unsharded = average_weights(model, config.optim.average), None
    if config.run.shard:
        unsharded = copy.deepcopy(model).cpu()
        shard(model)
        shard(average.module)
    optimizer = build_optimizer(
        model,
        learning_rate=config.optim.learning_rate,
        encoder_learning_rate=config.optim.encoder_learning_rate,
        weight_decay=config.optim.weight_decay,
        layer_decay=config.optim.layer_decay,
    )
    # A sharded model gathers its gradients itself: in Accelerate's words, as one that is only evaluated.
    model = accelerator.prepare_model(model, evaluation_mode=config.run.shard)
    if config.run.compile:
        # In place: Accelerate would wrap it, and give the weights of checkpoints other names.
        model.compile()
    state = TrainingState(model, average, accelerator.prepare_optimizer(optimizer))
    absolute, relative = choose_losses(config)
    backward: Callable[[torch.Tensor], Any] = accelerator.backward
    if config.model.checkpointing:
        backward = partial(backward_keeping_buffers, model=model, backward=backward)
    setup = Setup(
        config, accelerator, claims, teacher, absolute, relative, backward,
        last_layer=compared, unsharded=unsharded,
    )  # fmt: skip
    return setup, state


def label_videos(setup: Setup) -> Setup:
    """The setup with the teacher's depth of each video that it labels; called in all processes together.

    The first process writes it. Where edges of the labels count, they are asked for with the contrast of the model's
    own edges, some of which the filter takes.

    Raises:
        InputError: a video cannot be read and `data.strict` is set, or the disk is full.
    """
    if setup.teacher is None:
        return setup
    config, accelerator = setup.config, setup.accelerator
    with accelerator.main_process_first():
        files = write_teacher_depth(setup.teacher, config, accelerator.device)
    absolute = setup.absolute
    if config.loss.edges and "depth" not in {one.labels for one in config.data.all_sources()}:
        contrast = contrast_lost(setup.teacher, config, files, accelerator.device)
        absolute = partial(absolute, edge_contrast=contrast)
    return replace(setup, absolute=absolute, teacher_depth=files)


def set_watchers(setup: Setup, watched: Sequence[UInt8[np.ndarray, "t h w 3"]] = ()) -> Watchers:
    """The sums of losses, early stopping and the guard of a run, before its first step.

    Args:
        setup: of the run.
        watched: clips that a guard looks at, each (t, h, w, 3) RGB; one at the least where `is_guarded`.
    """
    config, guard = setup.config, None
    if is_guarded(config) and setup.teacher is not None:
        guard = Guard(
            setup.teacher,
            watched,
            min_correlation=config.loss.min_log_depth_correlation,
            min_edges_kept=config.loss.min_edges_kept,
        )
    meter = LossMeter(config.data, setup.accelerator.device)
    return Watchers(meter, EarlyStopping(config.run.patience), guard)


def is_guarded(config: Config) -> bool:
    """Whether a teacher alone holds the image; measured depth holds it by itself, and may well change it."""
    labels = {one.labels for one in config.data.all_sources()}
    return "teacher" in labels and "depth" not in labels


def choose_losses(config: Config) -> tuple[AbsoluteLoss, RelativeLoss]:
    """The absolute and the relative loss with the options of `config.loss`."""
    loss = config.loss
    return (
        partial(
            absolute_loss,
            kind=loss.absolute,
            gradient_weight=loss.gradient,
            edge_weight=loss.edges,
            smoothness_weight=loss.smoothness,
            edge_aware=loss.edge_aware,
        ),
        partial(
            relative_loss,
            kind=loss.relative,
            robust=loss.robust,
            trim=loss.trim,
            moving_weight=loss.moving_weight,
            gradient_weight=loss.relative_gradient,
            motion_gain_weight=loss.motion_gain_weight,
            both_frames=loss.both_frames,
        ),
    )


def averaged_model(setup: Setup, state: TrainingState) -> nn.Module:
    """The model that is saved: the running average, none of it sharded; called in all processes together.

    Returns: a model that the next step changes again, or the next call.
    """
    if setup.unsharded is None:
        return state.average.module
    setup.unsharded.load_state_dict(gather(state.average.module.state_dict()))
    return setup.unsharded


def build_model(config: Config) -> nn.Module:
    """The network of a config with its starting weights: the seed alone decides what is random.

    Raises:
        InputError: there is no such encoder, model or file of weights.
    """
    if config.model.init is not None:
        model = load_model(config.model.init, config.model.claims)
        torch.manual_seed(config.run.seed)  # dropout draws from it, and new layers
        return _with_upsampling(model, config.model)
    torch.manual_seed(config.run.seed)
    model = DepthNet(
        encoder=config.model.encoder,
        decoder_width=config.model.decoder_width,
        upsampling=config.model.upsampling or "bilinear",
        min_depth=config.model.min_depth,
        max_depth=config.model.max_depth,
        claims=config.model.claims or "metric",
        max_side=config.model.max_side,
    )
    load_encoder_weights(model.encoder, config.model.encoder, config.model.weights)
    return model


def _with_upsampling(model: nn.Module, asked: ModelConfig) -> nn.Module:
    """The model to start from, with the end that is asked for."""
    if asked.upsampling is None:
        return model
    if not isinstance(model, DepthNet):
        why = "is no network that train wrote"
    elif asked.upsampling == "guided":
        return model.with_guided_upsampling()
    elif isinstance(model.decoder, GuidedDecoder):
        why = "is guided, and stays so"
    else:
        return model
    raise InputError(f"model.upsampling: {asked.upsampling}: {asked.init} {why}: leave it out")


def _prepare_parts(model: nn.Module, config: Config) -> None:
    """Choose in place what of `model` is trained, and how; parameters without effect on the depth are frozen."""
    if not any(True for _ in model.parameters()):
        raise InputError(f"model.init: {config.model.init}: has no weights, and cannot be trained")
    if config.model.lora:
        add_lora(model, config.model.lora, is_encoder)
    if config.model.train:
        train_only(model, config.model.train, height=config.data.height, width=config.data.width)
    if config.model.checkpointing:
        checkpoint_gradients(model)
    if unused := freeze_unused(model, config.data.height, config.data.width):
        few = ", ".join(unused[:8]) + ", ..." * (len(unused) > 8)
        logger.info(
            "%s: %d parameters have no effect on the depth and are frozen: %s", config.run.folder, len(unused), few
        )


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of weights and norm statistics: average <- d average + (1 - d) weights.

    d = min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not an average of its start.

    Args:
        model: copied as it is now.
        decay: in [0, 1).
    """

    # All tensors of one type together: `n` is sent to the device once for them, not for each, and never read there.
    def blend(averages: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], n: torch.Tensor | int) -> None:
        share = torch.as_tensor((1 + n) / (10 + n)).clamp(max=decay)
        for average, own in zip(averages, weights, strict=True):
            is_blended = average.is_floating_point()
            average.copy_(torch.lerp(own, average, share.to(own.dtype)) if is_blended else own)

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
