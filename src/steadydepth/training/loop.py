"""The loop: batches to steps, logging, checkpoints, and going on where an earlier run was cut."""

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from steadydepth.config import Config
from steadydepth.config_files import dump_config
from steadydepth.data.loader import ClipSamples, Item, MixedSamples, make_batch
from steadydepth.data.loader_workers import load_items
from steadydepth.files.atomic_writes import new_file
from steadydepth.models.adapt import without_lora
from steadydepth.ops.photometric import Photometric
from steadydepth.training.checkpoint import load_state, remove_remains, save_model, save_state, writing_in
from steadydepth.training.failures import explained
from steadydepth.training.lock import alone_in
from steadydepth.training.log import LOG, SKIPPED, add_line, keep_lines_until, line_of_losses, numbers_of, progress_bar
from steadydepth.training.model_card import write_card
from steadydepth.training.profile import StepClock
from steadydepth.training.signals import asked_to_stop
from steadydepth.training.state import Run
from steadydepth.training.validation import check_validation, validate
from steadydepth.types import Batch, InputError

logger = logging.getLogger(__name__)


def _sample_numbers(first: int, last: int, batch: int, rank: int, world: int) -> list[int]:
    """Which samples this process takes of steps [first, last): its share of each global batch."""
    share = batch // world
    return [step * batch + rank * share + i for step in range(first, last) for i in range(share)]


def open_samples(config: Config, first_step: int, rank: int, world: int) -> ClipSamples | MixedSamples:
    """The samples that the steps from `first_step` on will see."""
    data, seed = config.data, config.run.seed
    if config.optim.batch % (world * config.optim.accumulate):
        raise InputError(
            f"optim.batch: {config.optim.batch}: must be a multiple of the {world} process(es) x optim.accumulate "
            f"{config.optim.accumulate}"
        )
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
            photometric=Photometric(
                data.exposure, data.white_balance, data.gamma, data.vignetting, data.noise, data.blur, data.jpeg
            ),
            max_crf=data.max_crf,
            max_zoom=data.max_zoom,
            max_rotation_deg=data.max_rotation_deg,
            seed=seed,
            cached_clips=data.cached_clips,
            find_cuts=data.find_cuts,
            numbers=numbers,
            source=number,
        )
        for number, source in enumerate(data.all_sources())
    ]
    if not data.sources:
        return sources[0]
    return MixedSamples(sources, shares=[one.share for one in data.sources], seed=seed, numbers=numbers)


def _what_is_learnt(config: str) -> list[str]:
    """The lines of a config but for those that only say how it is computed: these may change from start to start."""
    how = ("workers", "cached_clips", "accumulate", "shard", "compile")
    return [line for line in config.splitlines() if line.split(":")[0].strip() not in how]


def _claim_folder(config: Config, *, has_begun: bool) -> None:
    """Write the resolved config into the run folder, or refuse a folder in which another run has begun."""
    path = config.run.folder / "config.yaml"
    text = dump_config(config)
    ours, theirs = (_what_is_learnt(one) for one in (text, path.read_text() if path.is_file() else text))
    if has_begun and ours != theirs:
        other = [
            f"{old.strip()} there, {new.strip()} here" for old, new in zip(theirs, ours, strict=False) if old != new
        ]
        raise InputError(
            f"{path}: another run lives in this folder ({'; '.join(other[:5]) or 'other keys'}); "
            "choose another run.folder, or delete that one"
        )
    with writing_in(config.run.folder), new_file(path) as part:
        part.write_text(text)


def train(config: Config, *, profile: bool = False) -> Path:
    """Train as the config says, or go on where the same run was cut; returns the run folder with the model in it.

    The folder gets config.yaml, metrics.jsonl (a line every `run.log_every` steps with the mean losses since the line
    before), skipped.jsonl (the clips of steps whose gradient was not finite), the last two checkpoints, and in the end
    the model and its card, README.md. SIGTERM or Ctrl-C ends the run after the step under way: the folder has a
    checkpoint then, and no model yet. A finished run is left as it is. With `profile` every line of the log on the
    screen is followed by where the time since the last one went.
    """
    folder = config.run.folder
    check_validation(config)
    run = Run(config)
    rank, world, is_main = run.accelerator.process_index, run.accelerator.num_processes, run.accelerator.is_main_process
    if not is_main:
        logging.getLogger("steadydepth").setLevel(logging.WARNING)
    logger.info(
        "%s: %d process(es) on %s, precision %s%s",
        folder, world, run.accelerator.device.type, run.accelerator.mixed_precision,
        ", compiled" if config.run.compile else "",
    )  # fmt: skip
    with alone_in(folder) if is_main else nullcontext():
        with explained():
            # From here on nobody else writes there: all processes find one and the same checkpoint.
            run.accelerator.wait_for_everyone()
        state = load_state(folder)
        samples = open_samples(config, state["step"] if state else 0, rank, world)
        _go_on(run, samples, state, StepClock() if profile else None)
    run.accelerator.end_training()
    return folder


def _go_on(
    run: Run, samples: ClipSamples | MixedSamples, state: dict[str, Any] | None, clock: StepClock | None
) -> None:
    """From `state`, or from the beginning, to the model in the folder, unless the run is asked to stop before."""
    config, folder, is_main = run.config, run.config.run.folder, run.accelerator.is_main_process
    if is_main:
        _claim_folder(config, has_begun=state is not None)
        remove_remains(folder)
    if state is not None:
        run.restore(state)
        logger.info("%s: going on after step %d of %d", folder, run.step, config.optim.steps)
    if is_main:
        for name in (LOG, SKIPPED):
            keep_lines_until(folder / name, run.step)
    logger.info("%s: %d clips", folder, len(samples.clips))
    share = config.optim.batch // run.accelerator.num_processes
    batches = load_items(samples, batch=share, workers=config.data.workers)
    if not run.stopped:
        take_steps(run, samples, clock.watch(run, batches) if clock else batches, clock)
    if run.step < config.optim.steps and not run.stopped:
        logger.info("%s: stopped after step %d as asked; the same command goes on from there", folder, run.step)
        return
    model = run.averaged()
    if is_main:
        save_model(without_lora(model), folder)
        write_card(folder)


def take_steps(run: Run, samples: ClipSamples | MixedSamples, batches: Iterator[Item], clock: StepClock | None) -> None:
    """Steps until the last, or until the run stops or is asked to, or `batches` end; a checkpoint at the end.

    `samples` know the names of the clips of a step that is skipped.
    """
    config, started, is_main = run.config, time.monotonic(), run.accelerator.is_main_process
    logged = run.step // config.run.log_every * config.run.log_every
    with explained(), asked_to_stop() as is_asked, progress_bar(is_main) as progress:
        task = progress.add_task(config.run.folder.name, total=config.optim.steps, completed=run.step, losses="")
        for items in batches:
            batch = make_batch(items, run.accelerator.device)
            terms = run.learn(batch)
            if clock:
                clock.mark("update")
            if not terms.is_finite and is_main:
                _note_skipped(run, samples)
            progress.update(task, completed=run.step)
            if run.step % config.run.log_every == 0:
                line = line_of_losses(run, steps=run.step - logged, seconds=time.monotonic() - started)
                progress.update(task, losses=_log(run, line, batch))
                logged = run.step
                if clock:
                    logger.info("%s: %s", config.run.folder, clock.take())
            ends = run.stopped or run.step == config.optim.steps or run.any_process(is_asked())
            if ends or run.step % config.run.checkpoint_every == 0:
                state = run.state()
                if is_main:
                    save_state(state, config.run.folder)
            _refuse_only_skipping(run)
            if ends:
                break


def _log(run: Run, line: dict[str, Any], batch: Batch) -> str:
    """Write a line of losses with what the guard and the validation see; returns the losses in words."""
    config = run.config.run
    line |= run.keep_watch(batch)
    if config.validate_every and run.step % config.validate_every == 0:
        line["validation"] = validate(run)
    if run.accelerator.is_main_process:
        add_line(config.folder / LOG, line)
    if config.tracker:
        run.accelerator.log(numbers_of(line), step=run.step)
    return _tell(run, line)


def _tell(run: Run, line: dict[str, Any]) -> str:
    """The losses of a line of the log in words, for people who watch."""
    if line["target"] is None:
        losses = "all steps skipped"
    else:
        losses = f"absolute {line['absolute']:.4f} relative {line['relative']:.4f}"
    logger.info("%s: step %d of %d: %s", run.config.run.folder, run.step, run.config.optim.steps, losses)
    return losses


def _note_skipped(run: Run, samples: ClipSamples | MixedSamples) -> None:
    """Write down the clips, of all processes, of a step whose gradient was not finite."""
    numbers = _sample_numbers(run.step - 1, run.step, run.config.optim.batch, 0, 1)
    clips = [samples.describe(number) for number in numbers]
    add_line(run.config.run.folder / SKIPPED, {"step": run.step, "clips": clips})
    logger.warning("%s: step %d skipped, its gradient is not finite", run.config.run.folder, run.step)


def _refuse_only_skipping(run: Run) -> None:
    if run.skipped_in_a_row >= run.config.optim.most_skipped:
        raise InputError(
            f"{run.config.run.folder / SKIPPED}: stopped after step {run.step}: the gradient of {run.skipped_in_a_row} "
            "steps in a row was not finite, and changed no weight; their clips are named there. Look at them, or take "
            "another run.folder and a smaller optim.learning_rate or loss.relative_weight"
        )
