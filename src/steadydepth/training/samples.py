"""The samples of a run, as its config describes them: of one source or of several, read or rendered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from steadydepth.config import Config, DataConfig, SourceConfig
from steadydepth.data.loader import ClipSamples
from steadydepth.data.mixed_samples import MixedSamples
from steadydepth.data.rendered import RenderedSamples
from steadydepth.data.samples import Augmentation
from steadydepth.ops.photometric import Photometric
from steadydepth.training.guard import N_CLIPS
from steadydepth.training.setup import is_guarded
from steadydepth.types import InputError

Samples = ClipSamples | MixedSamples | RenderedSamples


def sample_numbers(first: int, last: int, batch: int, rank: int, world: int) -> list[int]:
    """Which samples a process takes of steps [first, last): its share of each batch.

    Args:
        first: step.
        last: the step after them.
        batch: samples of a step, over all processes.
        rank: number of the process, from 0 on.
        world: number of processes.
    """
    share = batch // world
    return [step * batch + rank * share + i for step in range(first, last) for i in range(share)]


def open_samples(
    config: Config,
    first_step: int,
    rank: int,
    world: int,
    *,
    teacher_depth: Sequence[Mapping[str, Path]] = (),
    device: torch.device | None = None,
) -> Samples:
    """The samples that this process takes in the steps from `first_step` on.

    Args:
        config: of the run.
        first_step: steps taken before.
        rank: number of this process, from 0 on.
        world: number of processes.
        teacher_depth: for each source the files of what labels its videos.
        device: where a source that is rendered, and is the only one, is rendered; the CPU without it.

    Raises:
        InputError: the batch cannot be split evenly, or the data does not fit.
    """
    data, seed = config.data, config.run.seed
    if config.optim.batch % (world * config.optim.accumulate):
        raise InputError(
            f"optim.batch: {config.optim.batch}: must be a multiple of the {world} process(es) x optim.accumulate "
            f"{config.optim.accumulate}"
        )
    numbers = sample_numbers(first_step, config.optim.steps, config.optim.batch, rank, world)
    photometric = Photometric(
        data.exposure, data.white_balance, data.gamma, data.vignetting, data.noise, data.blur, data.jpeg
    )
    common: dict[str, Any] = {
        "length": data.clip_length, "height": data.height, "width": data.width, "seed": seed, "numbers": numbers,
        "augmentation": Augmentation(
            flip=data.flip, photometric=photometric, max_crf=data.max_crf, max_zoom=data.max_zoom,
            max_rotation_deg=data.max_rotation_deg,
        ),
    }  # fmt: skip
    configs = data.all_sources()
    if len(configs) == 1 and configs[0].synthetic is not None:
        place = device or torch.device("cpu")
        return _rendered(configs[0], data, place, common | {"workers": data.workers})
    sources = [
        _rendered(source, data, torch.device("cpu"), common | {"source": number})
        if source.synthetic is not None
        else ClipSamples(
            source.folder,
            strides=data.strides,
            motion=source.motion or data.motion,
            labels="single" if source.single else source.labels,
            cached_clips=data.cached_clips,
            find_cuts=data.find_cuts,
            strict=data.strict,
            teacher_depth=teacher_depth[number] if teacher_depth else None,
            held_out=N_CLIPS if is_guarded(config) else 0,
            source=number,
            **common,
        )
        for number, source in enumerate(configs)
    ]
    if not data.sources:
        return sources[0]
    return MixedSamples(sources, shares=[one.share for one in data.sources], seed=seed, numbers=numbers)


def _rendered(source: SourceConfig, data: DataConfig, device: torch.device, common: dict[str, Any]) -> RenderedSamples:
    synthetic = source.synthetic
    assert synthetic is not None
    # Nothing has to be estimated where the motion is known: flow in place of dis.
    motion = "none" if (source.motion or data.motion) == "none" else "flow"
    return RenderedSamples(
        device, assets=synthetic.assets, textures=synthetic.textures, repeats=synthetic.repeats, keep=synthetic.keep,
        stills=data.strides.count(0) / len(data.strides), motion=motion, **common,
    )  # fmt: skip
