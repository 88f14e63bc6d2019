"""Train the learned filter: imagined networks and a real one on the synthetic world, and its weights as one file."""

import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor, nn

from steadydepth.config import FilterConfig
from steadydepth.config_files import load_filter_config
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.files.atomic_writes import new_file
from steadydepth.models.load import load_model
from steadydepth.models.temporal_filter import TemporalFilter
from steadydepth.ops.masked import masked_mean
from steadydepth.ops.warp import as_grid, follow
from steadydepth.synthetic.world import make_world
from steadydepth.training.learned_filter.clips import Drawn, LabelledClip, draw_clip, label_clip
from steadydepth.training.learned_filter.imagined import imagine
from steadydepth.types import Claims, Clip, Depth, Frames, State

logger = logging.getLogger(__name__)


def train_filter(config: FilterConfig | Path | str) -> Path:
    """Train the learned filter and write its weights; the same config gives the same weights on the same machine.

    The synthetic world is rendered first, where `data` does not hold it yet.

    Args:
        config: the config, or its YAML file.

    Returns: the file of weights, `out` of the config.
    """
    if not isinstance(config, FilterConfig):
        config = load_filter_config(Path(config))
    clips = _read_clips(config)
    network = TemporalFilter(width=config.width)
    generator, draws = torch.Generator().manual_seed(config.seed), np.random.default_rng(config.seed)
    _draw_weights(network, generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    updates = config.sequences * len(range(0, config.frames, config.chunk))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=updates, pct_start=0.05)
    found: list[dict[str, float]] = []
    for number in range(1, config.sequences + 1):
        found += _learn(network, optimizer, schedule, _draw(clips, config, draws), config, generator)
        if number % config.log_every == 0 or number == config.sequences:
            means = {name: np.mean([one[name] for one in found]) for name in found[0]}
            shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
            logger.info("%s: batch %d of %d: %s", config.out, number, config.sequences, shown)
            found = []
    with new_file(config.out) as part:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, part)
    return config.out


def _read_clips(config: FilterConfig) -> list[LabelledClip]:
    """The clips of the world, with what the base network predicts for them."""
    folders = make_world(
        config.data, n_clips=config.clips, seed=config.world_seed, n_frames=config.clip_length, workers=config.workers
    )
    base = None if config.base is None else load_model(config.base)
    clips = []
    for folder in folders:
        clip = open_sequence(folder).read()
        clips.append(label_clip(clip, None if base is None else _predict(base, clip)))
    return clips


@torch.inference_mode()
def _predict(base: nn.Module, clip: Clip) -> np.ndarray:
    depth, _ = base(_as_frames(clip.frames[None]), None)
    return depth[0].float().numpy()


def _as_frames(images: np.ndarray) -> Frames:
    return torch.from_numpy(images).permute(0, 1, 4, 2, 3).float() / 255


def _draw(clips: list[LabelledClip], config: FilterConfig, draws: np.random.Generator) -> list[Drawn]:
    """A batch of sequences: all of what the base network predicts, or all to be predicted by imagined ones."""
    is_real = config.base is not None and draws.random() < config.real_share
    batch = []
    for _ in range(config.batch):
        clip, occluders = (clips[draws.integers(len(clips))] for _ in range(2))
        batch.append(draw_clip(clip if is_real else _unpredicted(clip), occluders, config.frames, draws))
    return batch


def _unpredicted(clip: LabelledClip) -> LabelledClip:
    return LabelledClip(
        clip.frames, clip.depth, clip.forward, clip.backward, clip.forward_visible, clip.backward_visible
    )


def _draw_weights(network: TemporalFilter, generator: torch.Generator) -> None:
    """Weights by the generator, so that they do not depend on who drew before."""
    for layer in network.layers:
        assert isinstance(layer, nn.Conv2d)
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _learn(
    network: TemporalFilter,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    drawn: list[Drawn],
    config: FilterConfig,
    generator: torch.Generator,
) -> list[dict[str, float]]:
    """Learn from a batch of sequences, a chunk after the other; the state goes on, the gradient does not.

    Returns: of each chunk the loss and its parts, each as a share of what it is without the filter.
    """
    frames = _as_frames(np.stack([one.frames for one in drawn]))
    truth = torch.from_numpy(np.stack([one.depth for one in drawn]))
    motion, true_motion = (
        torch.from_numpy(np.stack([getattr(one, name) for one in drawn])) for name in ("motion", "true_motion")
    )
    visible = torch.from_numpy(np.stack([one.visible for one in drawn]))
    predicted = [one.predicted for one in drawn if one.predicted is not None]
    claims: Claims = "metric"
    if predicted:
        raw = torch.from_numpy(np.stack(predicted)).float()
        target = truth * (raw.log() - truth.log()).mean((1, 2, 3), keepdim=True).exp()
    else:
        imagined = imagine(frames, truth, generator)
        claims = "disparity" if torch.rand((), generator=generator) < 0.5 else "metric"
        sign = -1 if claims == "disparity" else 1
        raw, target = (sign * imagined.predicted).exp(), (sign * imagined.steady).exp()
    strength = torch.rand(len(drawn), generator=generator)
    strength[torch.rand(len(drawn), generator=generator) < 0.5] = 1.0

    network.claims = claims
    state: State | None = None
    before: Tensor | None = None
    found = []
    unit = network.start(frames[:, 0], raw[:, 0])["unit"]
    error = network.to_log(raw, unit) - network.to_log(target, unit)
    # Of the depth as it comes, so that a network that hardly flickers counts as much as one that does.
    of_raw = (
        error.abs().mean((1, 2, 3)) + 0.01,
        _change(error, true_motion[:, 1:], visible[:, 1:]) + 0.003,
        _roughness(error) + 0.003,
    )
    for first in range(0, raw.shape[1], config.chunk):
        part = slice(first, first + config.chunk)
        out, state = network(frames[:, part], raw[:, part], state, motion=motion[:, part], strength=strength)
        error = network.to_log(out, state["unit"]) - network.to_log(target[:, part], state["unit"])
        joined = error if before is None else torch.cat((before, error), 1)
        pairs = slice(first + (before is None), first + config.chunk)
        flicker = _change(joined, true_motion[:, pairs], visible[:, pairs]) / of_raw[1]
        wrong = error.abs().mean((1, 2, 3)) / of_raw[0]
        edges = _roughness(error) / of_raw[2]
        loss = (wrong + config.relative_weight * strength.square() * flicker + config.edge_weight * edges).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        state = {name: tensor.detach() for name, tensor in state.items()}
        before = error[:, -1:].detach()
        found.append(
            {
                name: float(value.detach().mean())
                for name, value in (("target", loss), ("error", wrong), ("flicker", flicker), ("edges", edges))
            }
        )
    return found


def _change(error: Depth, motion: Float[Tensor, "b p h w 2"], visible: Bool[Tensor, "b p h w"]) -> Float[Tensor, "b"]:
    """How much the error of a point changes from frame to frame: mean over the pixels that both show."""
    pairs = error[:, 1:].flatten(0, 1), error[:, :-1].flatten(0, 1), motion.flatten(0, 1)
    grid = as_grid(follow(pairs[2]), *error.shape[-2:])
    before = nn.functional.grid_sample(pairs[1][:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    return masked_mean((pairs[0] - before).abs().unflatten(0, visible.shape[:2]), visible, dim=(1, 2, 3))


def _roughness(error: Depth) -> Float[Tensor, "b"]:
    """Mean difference of the error between neighbours, 1 and 4 pixels apart: edges that were blurred or moved."""
    steps = [
        (error[..., d:, :] - error[..., :-d, :]).abs().mean((1, 2, 3))
        + (error[..., d:] - error[..., :-d]).abs().mean((1, 2, 3))
        for d in (1, 4)
    ]
    return torch.stack(steps).sum(0)
