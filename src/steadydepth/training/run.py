"""The loop: batches to steps, logging, checkpoints, and going on where an earlier run was cut."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steadydepth.config import Config, dump_config
from steadydepth.data.augment import Light
from steadydepth.data.loader import ClipSamples, MixedSamples, load_batches, to_device
from steadydepth.files.whole_files import new_file
from steadydepth.models.adapt import without_lora
from steadydepth.training.checkpoint import load_state, save_model, save_state
from steadydepth.training.hub import write_card
from steadydepth.training.learner import Run
from steadydepth.types import Batch, InputError

logger = logging.getLogger(__name__)

LOG = "metrics.jsonl"


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
