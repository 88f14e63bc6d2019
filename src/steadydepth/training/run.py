"""The loop: batches to steps, logging, checkpoints, and going on where an earlier run was cut."""

import json
import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim.swa_utils import AveragedModel

from steadydepth.config import Config, dump_config
from steadydepth.data.augment import Light
from steadydepth.data.loader import ClipSamples, MixedSamples, load_batches, to_device
from steadydepth.files.whole_files import new_file
from steadydepth.method.losses import absolute_loss, relative_loss
from steadydepth.method.parts import freeze_unused, is_encoder, train_only
from steadydepth.method.update import build_optimizer, learning_rate_at, set_learning_rate
from steadydepth.models.adapt import add_lora, checkpoint_gradients, without_lora
from steadydepth.models.declare import check_claims
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.encoders import load_encoder_weights
from steadydepth.models.frozen import frozen_copy
from steadydepth.models.load import load_model
from steadydepth.training.checkpoint import load_state, save_model, save_state
from steadydepth.training.guard import Guard
from steadydepth.training.hub import write_card
from steadydepth.training.step import train_step
from steadydepth.types import Batch, Claims, InputError, LossTerms

logger = logging.getLogger(__name__)

LOG = "metrics.jsonl"


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


def relative_weight_at(step: int, *, steps: int, weight: float, ramp: float) -> float:
    """Weight of the relative loss at a step: grows linearly over the share `ramp` of the steps, then stays."""
    rising = ramp * steps
    return weight if step >= rising else weight * step / rising


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


class Run:
    """A run under way: everything that one step changes, and that a checkpoint must hold."""

    def __init__(self, config: Config) -> None:
        # Importing Accelerate costs a second: not at the import of this module.
        from accelerate import Accelerator

        self.config = config
        self.accelerator = Accelerator(
            cpu=config.run.device == "cpu", mixed_precision=config.run.precision, step_scheduler_with_optimizer=False
        )
        model = build_model(config)
        labels = {one.labels for one in config.data.all_sources()}
        self.anchor = frozen_copy(model).to(self.accelerator.device) if "anchor" in labels else None
        # Measured depth holds the picture by itself, and may well change it.
        guarded = self.anchor if "depth" not in labels else None
        self.guard = Guard(guarded, least=config.loss.least_structure) if guarded is not None else None
        self.claims: Claims = model.claims  # type: ignore[assignment]
        prepare_parts(model.to(self.accelerator.device), config)
        model = model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(
            model,
            rate=config.optim.rate,
            encoder_rate=config.optim.encoder_rate,
            weight_decay=config.optim.weight_decay,
            layer_decay=config.optim.layer_decay,
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.average = average_weights(self.accelerator.unwrap_model(self.model), config.optim.average)
        self.step, self.stopped = 0, False
        # Sums of the losses since the last line of the log; on the device, so that no step waits for them.
        self.window = torch.zeros(3, device=self.accelerator.device)
        # The same of each source: clips, absolute, relative.
        self.of_sources = torch.zeros(len(config.data.all_sources()), 3, device=self.accelerator.device)
        self.losses = partial(absolute_loss, kind=config.loss.absolute, smoothness_weight=config.loss.smoothness)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "window": self.window,
            "of_sources": self.of_sources,
            "random": torch.get_rng_state(),
            "guard": None if self.guard is None else self.guard.state(),
            "stopped": self.stopped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.window = state["step"], state["window"].to(self.window.device)
        self.of_sources = state["of_sources"].to(self.window.device)
        torch.set_rng_state(state["random"].clone())
        self.stopped = state["stopped"]
        if self.guard is not None:
            self.guard.restore(state["guard"])

    def prepare_to_learn(self) -> None:
        """Training mode; norm layers keep their statistics from the step on that the config says.

        Until then a batch is normalised by itself, which learns fast; from then on the network that learns is the
        network that will run, and what it does about light that changes is what it will do.
        """
        self.model.train()
        if self.step >= self.config.optim.norm_learns * self.config.optim.steps:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()

    def keep_watch(self, batch: Batch) -> dict[str, float]:
        """What the guard sees, for the log; when it is too little the run stops, back at the weights that were good."""
        if self.guard is None:
            return {}
        average, seen = self.average.module, batch.frames
        own = torch.tensor(self.guard.structure(average, seen), device=seen.device)
        # All processes together, or the others would go on when one has stopped.
        structure = float(self.accelerator.reduce(own, reduction="mean"))
        if self.guard.holds(structure):
            self.guard.keep(average)
        else:
            self.stopped = True
            average.load_state_dict(self.guard.kept or average.state_dict())
            logger.warning(
                "%s: stopped after step %d: %.3f of the starting model's picture is left, loss.least_structure is %g; "
                "the weights before are kept. A smaller loss.relative_weight or optim.rate goes further.",
                self.config.run.folder, self.step, structure, self.guard.least,
            )  # fmt: skip
        return {"structure": structure}

    def look_at_claims(self, batch: Batch) -> None:
        """Before the first step: InputError where what the model says is seen not to be what it claims."""
        self.model.eval()
        with torch.no_grad():
            said, _ = self.model(batch.frames)
        check_claims(said, self.claims, str(self.config.model.init or "model"))

    def learn(self, batch: Batch) -> LossTerms:
        """One step of the method on one batch."""
        if self.step == 0:
            self.look_at_claims(batch)
        self.prepare_to_learn()
        optim, loss = self.config.optim, self.config.loss
        rate = learning_rate_at(self.step, steps=optim.steps, rate=optim.rate, warmup=optim.warmup)
        set_learning_rate(self.optimizer, rate)
        weight = relative_weight_at(self.step, steps=optim.steps, weight=loss.relative_weight, ramp=loss.relative_ramp)
        terms = train_step(
            self.model,
            optimizer=self.optimizer,
            batch=batch,
            relative_weight=weight,
            max_grad_norm=optim.max_grad_norm,
            absolute=self._absolute,
            relative=partial(
                relative_loss,
                kind=loss.relative,
                robust=loss.robust,
                trim=loss.trim,
                moving_weight=loss.moving_weight,
                response_weight=loss.response_weight,
                both_frames=loss.both_frames,
            ),
            lags=loss.lags,
            claims=self.claims,
            anchor=self.anchor,
            window=loss.anchor_window,
            backward=self.accelerator.backward,
        )
        self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        self.step += 1
        return terms

    def _absolute(self, *arguments: Any, frames: torch.Tensor) -> torch.Tensor:
        return self.losses(*arguments, frames=frames if self.config.loss.edge_aware else None)


def _sample_numbers(first: int, last: int, batch: int, rank: int, world: int) -> list[int]:
    """Which samples this process takes of steps [first, last): its share of each global batch."""
    if batch % world:
        raise InputError(f"optim.batch: {batch}: must be a multiple of the {world} processes")
    share = batch // world
    return [step * batch + rank * share + i for step in range(first, last) for i in range(share)]


def open_samples(config: Config, first_step: int, rank: int, world: int) -> ClipSamples | MixedSamples:
    """The samples that the steps from `first_step` on will see."""
    data, seed = config.data, config.run.seed
    numbers = _sample_numbers(first_step, config.optim.steps, config.optim.batch, rank, world)
    sources = [
        ClipSamples(
            source.root,
            length=data.clip_length,
            strides=data.strides,
            height=data.height,
            width=data.width,
            motion=source.motion or data.motion,
            labels="single" if source.single else source.labels,
            flip=data.flip,
            light=Light(
                data.exposure, data.white_balance, data.gamma, data.unevenness, data.noise, data.blur, data.jpeg
            ),
            most_crf=data.most_crf,
            seed=seed,
            cached_clips=data.cached_clips,
            numbers=numbers,
            source=number,
        )
        for number, source in enumerate(data.all_sources())
    ]
    if not data.sources:
        return sources[0]
    return MixedSamples(sources, shares=[one.share for one in data.sources], seed=seed, numbers=numbers)


def _claim_folder(config: Config, *, has_begun: bool) -> None:
    """Write the resolved config into the run folder, or refuse a folder in which another run has begun."""
    path = config.run.folder / "config.yaml"
    text = dump_config(config)
    if has_begun and path.is_file() and path.read_text() != text:
        ours, theirs = text.splitlines(), path.read_text().splitlines()
        other = [
            f"{old.strip()} there, {new.strip()} here" for old, new in zip(theirs, ours, strict=False) if old != new
        ]
        raise InputError(
            f"{path}: another run lives in this folder ({'; '.join(other[:5]) or 'other keys'}); "
            "choose another run.folder, or delete that one"
        )
    config.run.folder.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part:
        part.write_text(text)


def _keep_log_until(path: Path, step: int) -> None:
    """Drop what a cut run logged after its last checkpoint: those steps are taken again."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    with new_file(path) as part:
        part.write_text("".join(kept))


def _progress(show: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
        console=console,
        disable=not (show and console.is_terminal),
    )


def _log_line(run: Run, seconds: float) -> dict[str, Any]:
    """Mean losses since the last line, over all clips and over those of each source; empties the window."""
    absolute, relative, target = (run.window / run.config.run.log_every).tolist()
    run.window.zero_()
    line = {
        "step": run.step,
        "absolute": absolute,
        "relative": relative,
        "target": target,
        "rate": run.optimizer.param_groups[-1]["lr"],
        "seconds": round(seconds, 3),
    }
    return line | ({"sources": _of_sources(run)} if run.config.data.sources else {})


def _of_sources(run: Run) -> list[dict[str, Any]]:
    """The clips of each source since the last line, and the mean losses over them; empties the sums."""
    sums = run.of_sources.tolist()
    run.of_sources.zero_()
    return [
        {
            "root": str(source.root),
            "clips": round(clips),
            "absolute": absolute / clips if clips and source.labels != "none" else None,
            "relative": relative / clips if clips and not source.single else None,
        }
        for source, (clips, absolute, relative) in zip(run.config.data.sources, sums, strict=True)
    ]


def train(config: Config) -> Path:
    """Train as the config says, or go on where the same run was cut; returns the run folder with the model in it.

    The folder gets config.yaml, metrics.jsonl (a line every `run.log_every` steps with the mean losses since the line
    before), checkpoint.pt, and in the end the model and its card, README.md. A finished run is left as it is.
    """
    folder = config.run.folder
    run = Run(config)
    rank, world, is_main = run.accelerator.process_index, run.accelerator.num_processes, run.accelerator.is_main_process
    state = load_state(folder)
    # The data first: a run that cannot start leaves no folder behind.
    samples = open_samples(config, state["step"] if state else 0, rank, world)
    if is_main:
        _claim_folder(config, has_begun=state is not None)
    if state is not None:
        run.restore(state)
        logger.info("%s: going on after step %d of %d", folder, run.step, config.optim.steps)
    if is_main:
        _keep_log_until(folder / LOG, run.step)
    logger.info(
        "%s: %d clips, %d process(es) on %s, precision %s",
        folder, len(samples.clips), world, run.accelerator.device, config.run.precision,
    )  # fmt: skip
    batches = load_batches(samples, batch=config.optim.batch // world, workers=config.data.workers)
    if not run.stopped:
        _take_steps(run, batches, is_main=is_main)
    if is_main:
        save_model(without_lora(run.average.module), folder)
        write_card(folder)
    run.accelerator.end_training()
    return folder


def _take_steps(run: Run, batches: Iterator[Batch], *, is_main: bool) -> None:
    config, started = run.config, time.monotonic()
    with _progress(is_main) as progress:
        task = progress.add_task(config.run.folder.name, total=config.optim.steps, completed=run.step, losses="")
        for on_disk in batches:
            batch = to_device(on_disk, run.accelerator.device)
            terms = run.learn(batch)
            run.window += torch.stack((terms.absolute, terms.relative, terms.target.detach()))
            for source, sums in terms.of_sources.items():
                run.of_sources[source] += sums
            progress.update(task, completed=run.step)
            at_line = run.step % config.run.log_every == 0
            seen = run.keep_watch(batch) if at_line else {}
            if at_line and is_main:
                line = _log_line(run, time.monotonic() - started) | seen
                with (config.run.folder / LOG).open("a") as file:
                    file.write(json.dumps(line) + "\n")
                losses = f"absolute {line['absolute']:.4f} relative {line['relative']:.4f}"
                progress.update(task, losses=losses)
                logger.info("%s: step %d of %d: %s", config.run.folder, run.step, config.optim.steps, losses)
            last = run.stopped or run.step == config.optim.steps
            if is_main and (last or run.step % config.run.checkpoint_every == 0):
                save_state(run.state(), config.run.folder)
            if last:
                break
