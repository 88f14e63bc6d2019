"""The loop: batches to steps, logging, checkpoints, and resuming an interrupted run."""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from steadydepth.config import Config
from steadydepth.config_files import dump_config, load_config
from steadydepth.data.loader_workers import load_items
from steadydepth.data.rendered import RenderedSamples
from steadydepth.data.samples import Item, make_batch
from steadydepth.files.atomic_writes import write_text
from steadydepth.files.writing import writing_in
from steadydepth.models.adapt import without_lora
from steadydepth.progress import Progress, show_progress
from steadydepth.training.checkpoint import CARD, load_checkpoint, remove_remains, save_checkpoint, save_model
from steadydepth.training.failures import explained
from steadydepth.training.guard import MOST_BACK, N_CLIPS
from steadydepth.training.label_free.teacher_depth import remove_teacher_depth
from steadydepth.training.lock import alone_in
from steadydepth.training.log import LOG, SKIPPED, add_line, keep_lines_until, numbers_of
from steadydepth.training.model_card import write_card
from steadydepth.training.processes import any_process
from steadydepth.training.profile import StepClock
from steadydepth.training.samples import Samples, open_samples, sample_numbers
from steadydepth.training.setup import Setup, averaged_model, is_guarded, label_videos, set_up, set_watchers
from steadydepth.training.signals import asked_to_stop
from steadydepth.training.state import TrainingState, Watchers, back_off, pack, unpack
from steadydepth.training.step import take_step
from steadydepth.training.validation import check_validation, validate
from steadydepth.types import InputError

logger = logging.getLogger(__name__)


def _lines_that_matter(config: str) -> list[str]:
    """The lines of a config without those that change how it is computed, not what: they may differ at each start."""
    how = ("workers", "cached_clips", "accumulate", "shard", "compile")
    return [line for line in config.splitlines() if line.split(":")[0].strip() not in how]


def _claim_folder(config: Config, *, has_begun: bool) -> None:
    """Write the resolved config into the run folder, or refuse a folder in which another run has begun."""
    path = config.run.folder / "config.yaml"
    text = dump_config(config)
    ours, theirs = (
        _lines_that_matter(one)
        for one in (text, path.read_text(encoding="utf-8", errors="replace") if path.is_file() else text)
    )
    if has_begun and ours != theirs:
        other = [
            f"{old.strip()} there, {new.strip()} here" for old, new in zip(theirs, ours, strict=False) if old != new
        ]
        raise InputError(
            f"{path}: another run lives in this folder ({'; '.join(other[:5]) or 'other keys'}); "
            "choose another run.folder, or delete that one"
        )
    if ours != theirs:  # cut before its first checkpoint: what its teacher labelled is of the other config
        remove_teacher_depth(config.run.folder)
    with writing_in(config.run.folder):
        write_text(path, text)


def train(config: Config | str | Path, *, profile: bool = False) -> Path:
    """Train as a config describes, or resume the same run where it was interrupted.

    SIGTERM or Ctrl-C ends the run after the current step: the folder then has a checkpoint, and no model yet. A
    finished run is left as it is.

    Args:
        config: a config, or the path of its YAML file.
        profile: follow every line of the log on the screen with where the time since the last one went.

    Returns: the run folder. It gets config.yaml, metrics.jsonl (a line every `run.log_every` steps with the mean losses
        since the line before), skipped.jsonl (the clips of steps whose gradient was not finite), the last two
        checkpoints, and in the end the model and its card, README.md.

    Raises:
        InputError: the config, its data or its starting model do not fit, another run lives or trains in the folder, or
            something happened that the user can put right: a full disk, no memory, a lost process.
    """
    config = config if isinstance(config, Config) else load_config(config)
    check_validation(config)
    setup, state = set_up(config)
    folder, accelerator = config.run.folder, setup.accelerator
    rank, world, is_main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    if not is_main:
        logging.getLogger("steadydepth").setLevel(logging.WARNING)
    logger.info(
        "%s: %d process(es) on %s, precision %s%s",
        folder, world, accelerator.device.type, accelerator.mixed_precision,
        ", compiled" if config.run.compile else "",
    )  # fmt: skip
    with alone_in(folder) if is_main else nullcontext():
        with explained():
            # From here on nobody else writes there: all processes find one and the same checkpoint.
            accelerator.wait_for_everyone()
        checkpoint = load_checkpoint(folder)
        first_step = checkpoint["step"] if checkpoint else 0
        if first_step < config.optim.steps and setup.teacher is not None:
            if is_main:
                _claim_folder(config, has_begun=checkpoint is not None)
            setup = label_videos(setup)
        samples = open_samples(
            config, first_step, rank, world, teacher_depth=setup.teacher_depth, device=accelerator.device
        )
        _go_on(setup, state, samples, checkpoint, StepClock() if profile else None)
    accelerator.end_training()
    return folder


def outcome(folder: Path) -> tuple[int, bool]:
    """The steps that the ended run in `folder` took, and whether its guard let it end: False where it stopped it."""
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        return 0, True
    guard = checkpoint["guard"]
    return checkpoint["step"], guard is None or guard["backed_off"] <= MOST_BACK


def _go_on(
    setup: Setup,
    state: TrainingState,
    samples: Samples,
    checkpoint: dict[str, Any] | None,
    clock: StepClock | None,
) -> None:
    """From `checkpoint`, or from the beginning, to the model in the folder, unless the run is asked to stop before."""
    config, folder, accelerator = setup.config, setup.config.run.folder, setup.accelerator
    watchers = set_watchers(setup, samples.frames_to_watch(N_CLIPS) if is_guarded(config) else [])
    if watchers.guard is not None:
        watchers.guard.keep(state.average.module)
    if accelerator.is_main_process:
        _claim_folder(config, has_begun=checkpoint is not None)
        remove_remains(folder)
    if checkpoint is not None:
        state = unpack(checkpoint, state, watchers, accelerator)
        logger.info("%s: resuming after step %d of %d", folder, state.step, config.optim.steps)
    if accelerator.is_main_process:
        for name in (LOG, SKIPPED):
            keep_lines_until(folder / name, state.step)
    logger.info("%s: %s clips", folder, len(samples.clips) or "rendered")
    share = config.optim.batch // accelerator.num_processes
    batches = (
        samples.batches(share)
        if isinstance(samples, RenderedSamples)
        else load_items(samples, batch=share, workers=config.data.workers)
    )
    is_finished = watchers.stopped or state.step >= config.optim.steps  # before this start
    if not watchers.stopped:
        if clock:
            setup, batches = clock.watch(setup, state.model, batches)
        state = take_steps(setup, state, watchers, samples, batches, clock=clock)
    if state.step < config.optim.steps and not watchers.stopped:
        logger.info("%s: stopped after step %d as asked; the same command resumes from there", folder, state.step)
        return
    model = averaged_model(setup, state)
    if accelerator.is_main_process:
        save_model(without_lora(model), folder)
        if not (is_finished and (folder / CARD).is_file()):  # people write in the card of a finished run
            write_card(folder)
        remove_teacher_depth(folder)


def take_steps(
    setup: Setup,
    state: TrainingState,
    watchers: Watchers,
    samples: Samples,
    batches: Iterator[Item],
    *,
    clock: StepClock | None = None,
) -> TrainingState:
    """Take steps until the last, or until a watcher or a signal ends the run, or `batches` end.

    Args:
        setup: of the run.
        state: of the run; it is not used again.
        watchers: of the run; they take note of each step.
        samples: they know the names of the clips of a step that is skipped.
        batches: what this process takes of each step.
        clock: it measures the parts of each step.

    Returns: the state after the last step, of which the folder has a checkpoint unless `batches` ended.
    """
    config, accelerator, started = setup.config, setup.accelerator, time.monotonic()
    is_main, folder, steps = accelerator.is_main_process, config.run.folder, config.optim.steps
    bar: AbstractContextManager[Progress | None] = show_progress() if is_main else nullcontext()
    shown = folder.name
    with explained(), asked_to_stop() as is_asked, bar as report:
        for items in batches:
            batch = make_batch(items, accelerator.device)
            state, terms = take_step(setup, state, batch)
            if clock:
                clock.mark("update")
            if terms.is_finite:
                watchers.meter.add(terms)
            elif is_main:
                _note_skipped(config, samples, state.step)
            if state.step % config.run.log_every == 0:
                backed_off = watchers.guard.backed_off if watchers.guard else 0
                losses = _log(setup, state, watchers, seconds=time.monotonic() - started)
                if watchers.guard and watchers.guard.backed_off > backed_off:
                    state = back_off(state, accelerator)
                shown = f"{folder.name}: {losses}"
                if clock:
                    logger.info("%s: %s", folder, clock.take())
            if report:
                report(shown, state.step, steps)
            ends = watchers.stopped or state.step == steps or any_process(is_asked(), accelerator)
            if ends or state.step % config.run.checkpoint_every == 0:
                content = pack(state, watchers, accelerator)
                if is_main:
                    save_checkpoint(content, folder)
            _refuse_only_skipping(config, state)
            if ends:
                break
    return state


def _log(setup: Setup, state: TrainingState, watchers: Watchers, *, seconds: float) -> str:
    """Write a line of losses with what the watchers find; returns the losses as text."""
    run, guard, accelerator = setup.config.run, watchers.guard, setup.accelerator
    line = {
        "step": state.step,
        **watchers.meter.take(run.log_every, accelerator),
        "learning_rate": state.optimizer.param_groups[-1]["lr"],
        "seconds": round(seconds, 3),
    }
    if guard is not None:
        line |= guard.check(state.average.module, accelerator)
        line["backed_off"] = guard.backed_off
        for name in guard.too_little(line):
            logger.warning(
                "%s: step %d: %s, beside the starting model, is %.3f, below loss.min_%s %g: %s",
                run.folder, state.step, name, line[name], name, guard.least[name],
                "stopped; the weights before are kept" if guard.stopped
                else "back to the weights before, with half of the learning rate",
            )  # fmt: skip
    if run.validate_every and state.step % run.validate_every == 0:
        line["validation"] = validate(
            averaged_model(setup, state),
            setup.config,
            watchers.early_stopping,
            step=state.step,
            accelerator=accelerator,
        )
    if accelerator.is_main_process:
        add_line(run.folder / LOG, line)
    if run.tracker:
        accelerator.log(numbers_of(line), step=state.step)
    losses = (
        "all steps skipped"
        if line["target"] is None
        else f"absolute {line['absolute']:.4f} relative {line['relative']:.4f}"
    )
    if guard is not None:
        losses += (
            f" flicker {line['flicker_flow']:.2f}, before {line['flicker_flow_before']:.2f}, edges kept "
            f"{line['edges_kept']:.3f}, correlation {line['log_depth_correlation']:.3f}"
        )
    logger.info("%s: step %d of %d: %s", run.folder, state.step, setup.config.optim.steps, losses)
    return losses


def _note_skipped(config: Config, samples: Samples, step: int) -> None:
    """Write down the clips, of all processes, of a step whose gradient was not finite."""
    numbers = sample_numbers(step - 1, step, config.optim.batch, 0, 1)
    add_line(config.run.folder / SKIPPED, {"step": step, "clips": [samples.describe(number) for number in numbers]})
    logger.warning("%s: step %d skipped, its gradient is not finite", config.run.folder, step)


def _refuse_only_skipping(config: Config, state: TrainingState) -> None:
    if state.skipped_in_a_row >= config.optim.max_skipped:
        raise InputError(
            f"{config.run.folder / SKIPPED}: stopped after step {state.step}: the gradient of {state.skipped_in_a_row} "
            "steps in a row was not finite, and changed no weight; their clips are named there. Look at them, or take "
            "another run.folder and a smaller optim.learning_rate or loss.relative_weight"
        )
