"""Train the learned filter: imagined networks and a real one on the synthetic world, and its weights as one file."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from steadydepth.config import FilterConfig
from steadydepth.config_files import load_filter_config
from steadydepth.data.cuts import shots_of
from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.files.pools import make_ahead
from steadydepth.files.tensors import write_tensors
from steadydepth.filter_training.clips import LabelledClip, Lesson, draw_lesson, label_clip, parts_of
from steadydepth.filter_training.learner import Learner
from steadydepth.models.load import load_model
from steadydepth.models.temporal_filter import FilterGates, TemporalFilter, load_gates
from steadydepth.ops.filter_step import find_unit, to_log
from steadydepth.ops.masked import masked_mean
from steadydepth.ops.warp import follow, sample
from steadydepth.synthetic.world import make_world
from steadydepth.training.signals import asked_to_stop
from steadydepth.types import Clip, Depth, InputError, State

logger = logging.getLogger(__name__)


def train_filter(config: FilterConfig | Path | str) -> Path | None:
    """Train the learned filter and write its weights; the same config gives the same weights on the same machine.

    The synthetic world is rendered first, where `data` does not hold it yet. An interrupted training resumes from its
    checkpoint, in a folder beside `out` that is there until the weights are written; SIGTERM or Ctrl-C ends it after
    the batch under way.

    Args:
        config: the config, or its YAML file.

    Returns: the file of weights, `out` of the config; None where it was asked to stop.

    Raises:
        InputError: the config does not fit, the device is not there, or a training of another one was interrupted
            beside `out`.
    """
    if not isinstance(config, FilterConfig):
        config = load_filter_config(config)
    if config.weights is None:
        gates = FilterGates(config.width)
        _draw_weights(gates, torch.Generator().manual_seed(config.seed))
    else:
        gates = load_gates(config.weights).train()
    learner = Learner(gates, config, config.out.with_suffix(".learning"))
    with _lessons(_read_clips(config), config, first=learner.number) as lessons:
        if not learn(learner, lessons):
            return None
    write_tensors(config.out, gates.state_dict())
    shutil.rmtree(learner.folder, ignore_errors=True)
    return config.out


def learn(learner: Learner, lessons: Iterator[list[Lesson]]) -> bool:
    """Teach the network `config.sequences` batches of sequences, or as many as there is time for.

    Args:
        learner: what is taught, from where it is.
        lessons: the batches that it has not had yet.

    Returns: whether it is at the end; False where SIGTERM or Ctrl-C came before, with a checkpoint.
    """
    config, begun = learner.config, time.monotonic() - learner.spent_s
    network = TemporalFilter(gates=learner.gates)
    if learner.share >= 1:
        return True
    with asked_to_stop() as is_asked:
        for batch in lessons:
            learner.number += 1
            learner.share = learner.number / config.sequences
            if config.minutes is not None:
                learner.share = max(learner.share, (time.monotonic() - begun) / (60 * config.minutes))
            for group in learner.optimizer.param_groups:
                group["lr"] = config.learning_rate * _share_of_rate(min(1.0, learner.share))
            for loss, parts in _losses(network, batch, config, learner.generator):
                learner.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                learner.optimizer.step()
                learner.found.append(parts)
            learner.spent_s = time.monotonic() - begun
            is_over = learner.share >= 1
            is_full = is_over or learner.number % config.log_every == 0
            if is_full:
                shown = 100 * min(1, learner.share), learner.log()
                logger.info("%s: batch %d, %.0f %%: %s", config.out, learner.number, *shown)
            if is_full or is_asked():
                learner.save()
            if is_over or is_asked():
                return is_over
    return True


def _share_of_rate(passed: float) -> float:
    """Of the learning rate, by the share of the training that is over: up over the first twentieth, then down."""
    return passed / 0.05 if passed < 0.05 else 0.5 * (1 + math.cos(math.pi * (passed - 0.05) / 0.95))


@torch.no_grad()
def measure(gates: FilterGates, lessons: Sequence[Lesson], config: FilterConfig) -> dict[str, float]:
    """What `learn` looks at, of the network as it is: means over sequences, each as a share of no filter's.

    Args:
        gates: the network.
        lessons: sequences that it did not learn from.
        config: of the run that taught it.
    """
    network, generator = TemporalFilter(gates=gates), torch.Generator().manual_seed(config.seed)
    found = [parts for one in lessons for _, parts in _losses(network, [one], config, generator)]
    return {name: torch.stack([one[name] for one in found]).mean().item() for name in found[0]}


def _read_clips(config: FilterConfig) -> list[LabelledClip]:
    """The clips of the world and of further folders, with what the base network predicts for them."""
    folders = make_world(
        config.data, n_clips=config.clips, seed=config.world_seed, n_frames=config.clip_length, workers=config.workers
    )
    base = None if config.base is None else load_model(config.base).to(config.device)
    clips: list[LabelledClip] = []
    for folder in (*folders, *(path for more in config.more_data for path in find_sequences(more))):
        sequence = open_sequence(folder)
        # A point before a cut is not there after it: each shot is a clip; one frame alone has no motion to learn from.
        shots = [shot for shot in shots_of(sequence) if len(shot) > 1]
        if not shots:
            raise InputError(f"{folder}: has no two frames of one shot, and so no motion to learn from: leave it out")
        for shot in shots:
            clip = sequence.read(shot.start, shot.stop)
            if clips and clip.frames.shape[1:3] != clips[0].frames.shape[1:3]:
                sizes = (f"{h} x {w}" for h, w in (clip.frames.shape[1:3], clips[0].frames.shape[1:3]))
                raise InputError(f"{folder}: has frames of {' and others of '.join(sizes)}: render all of one size")
            clips.append(label_clip(clip, None if base is None else _predict(base, clip, config.device)))
    return clips


@torch.inference_mode()
def _predict(base: nn.Module, clip: Clip, device: str) -> np.ndarray:
    frames = torch.from_numpy(clip.frames[None]).to(device).permute(0, 1, 4, 2, 3).float() / 255
    depth, _ = base(frames, None)
    return depth[0].float().cpu().numpy()


@contextmanager
def _lessons(clips: list[LabelledClip], config: FilterConfig, *, first: int) -> Iterator[Iterator[list[Lesson]]]:
    """Batches of sequences from number `first` on, the same in whatever number of processes they are drawn."""
    numbers = range(first, config.sequences)
    if config.workers == 1:
        yield (_draw(clips, config, number) for number in numbers)
        return
    with TemporaryDirectory(prefix="steadydepth-") as folder:
        # Mapped into each process, so that all share one copy.
        for number, clip in enumerate(clips):
            (Path(folder) / str(number)).mkdir()
            for name, array in parts_of(clip).items():
                np.save(Path(folder) / str(number) / f"{name}.npy", array)
        with make_ahead(_begin_drawing, (folder, len(clips), config), numbers, config.workers) as drawn:
            yield map(drawn, numbers)


def _begin_drawing(folder: str, n_clips: int, config: FilterConfig) -> Callable[[int], list[Lesson]]:
    """What draws a batch by its number, in a process of its own."""
    cv2.setNumThreads(1)
    files = [(Path(folder) / str(number)).iterdir() for number in range(n_clips)]
    clips = [LabelledClip(**{path.stem: np.load(path, mmap_mode="r") for path in paths}) for paths in files]
    return partial(_draw, clips, config)


def _draw(clips: list[LabelledClip], config: FilterConfig, number: int) -> list[Lesson]:
    """A batch of sequences: all of what the base network predicts, or all predicted by imagined ones."""
    draws = np.random.default_rng((config.seed, number))
    is_real = clips[0].predicted is not None and draws.random() < config.real_share
    return [draw_lesson(clips, config.frames, draws, is_real=is_real) for _ in range(config.batch)]


def _draw_weights(gates: FilterGates, generator: torch.Generator) -> None:
    """Weights by the generator, so that they do not depend on who drew before."""
    for layer in gates.layers:
        assert isinstance(layer, nn.Conv2d)
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _losses(
    network: TemporalFilter, lessons: list[Lesson], config: FilterConfig, generator: torch.Generator
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """The loss of a batch of sequences, a chunk after the other; the state is passed on, the gradient is not.

    Yields: the loss and its parts, each as a share of what it is without the filter.
    """

    def batch(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(one, name) for one in lessons])).to(config.device)

    frames = batch("frames").permute(0, 1, 4, 2, 3).float() / 255
    motion, true_motion, visible = batch("motion"), batch("true_motion"), batch("visible")
    # Depth or disparity, whatever the network predicts.
    is_disparity = bool(torch.rand((), generator=generator) < 0.5)
    sign = -1 if is_disparity else 1
    raw, target = ((sign * batch(name)).exp() for name in ("raw", "target"))
    strength = torch.rand(len(lessons), generator=generator)
    strength[torch.rand(len(lessons), generator=generator) < 0.5] = 1.0
    strength = strength.to(config.device)

    network.claims = "disparity" if is_disparity else "metric"
    state: State | None = None
    before: Tensor | None = None
    unit = torch.stack([torch.from_numpy(find_unit(one.cpu().numpy(), network.claims)) for one in raw[:, 0]]).to(raw)
    raw_log, target_log = (to_log(one, unit[:, None], network.claims) for one in (raw, target))
    raw_error = raw_log - target_log
    # Of the depth as it comes, so that a network that hardly flickers counts as much as one that does.
    of_raw = (
        raw_error.abs().mean((1, 2, 3)) + 0.01,
        _change(raw_error, true_motion[:, 1:], visible[:, 1:]) + 0.003,
        _roughness(raw_error) + 0.003,
    )
    for first in range(0, raw.shape[1], config.chunk):
        part = slice(first, first + config.chunk)
        out, state = network(frames[:, part], raw[:, part], state, motion=motion[:, part], strength=strength)
        out_log = to_log(out, unit[:, None], network.claims)
        error = out_log - target_log[:, part]
        joined = error if before is None else torch.cat((before, error), 1)
        pairs = slice(first + (before is None), first + config.chunk)
        flicker = _change(joined, true_motion[:, pairs], visible[:, pairs]) / of_raw[1]
        wrong = error.abs().mean((1, 2, 3)) / of_raw[0]
        edges = _roughness(error) / of_raw[2]
        lost = 1 - _contrast_kept(out_log, raw_log[:, part])
        excess = (error.abs() - raw_error[:, part].abs()).clamp(min=0)
        trails = masked_mean(excess, ~visible[:, part], dim=(1, 2, 3)) / of_raw[0]
        loss = (
            wrong
            + config.relative_weight * strength.square() * flicker
            + config.edge_weight * edges
            + config.contrast_weight * lost.abs()
            + config.trail_weight * trails
        ).mean()
        parts = {"target": loss, "error": wrong, "flicker": flicker, "edges": edges, "lost": lost, "trails": trails}
        yield loss, {name: value.detach().mean() for name, value in parts.items()}
        state = {name: tensor.detach() for name, tensor in state.items()}
        before = error[:, -1:].detach()


def _change(error: Depth, motion: Float[Tensor, "b p h w 2"], visible: Bool[Tensor, "b p h w"]) -> Float[Tensor, "b"]:
    """How much the error of a point changes from frame to frame: mean over the pixels that both show."""
    pairs = error[:, 1:].flatten(0, 1), error[:, :-1].flatten(0, 1), motion.flatten(0, 1)
    before = sample(pairs[1][:, None], follow(pairs[2]))[:, 0]
    return masked_mean((pairs[0] - before).abs().unflatten(0, visible.shape[:2]), visible, dim=(1, 2, 3))


def _contrast_kept(out: Depth, raw: Depth) -> Float[Tensor, "b"]:
    """How much of the contrast of the raw depth's edges is left: `metrics.edges.edges_kept`, over each clip."""
    both = square = out.new_zeros(len(out))
    for distance in (1, 2, 4, 8):
        for axis in (2, 3):
            length = raw.shape[axis] - distance
            here, there = ((one.narrow(axis, 0, length) - one.narrow(axis, distance, length)) for one in (out, raw))
            steep = torch.where(there.abs() > 0.05, there, 0)
            both = both + (here * steep).sum((1, 2, 3))
            square = square + steep.square().sum((1, 2, 3))
    return both / square.clamp(min=1e-6)


def _roughness(error: Depth) -> Float[Tensor, "b"]:
    """Mean difference of the error between neighbours, 1 and 4 pixels apart: edges that were blurred or moved."""
    steps = [
        (error[..., d:, :] - error[..., :-d, :]).abs().mean((1, 2, 3))
        + (error[..., d:] - error[..., :-d]).abs().mean((1, 2, 3))
        for d in (1, 4)
    ]
    return torch.stack(steps).sum(0)
