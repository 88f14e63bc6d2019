"""What a client may ask of a job: a few keys of a config, each within bounds; all else is the server's to choose."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steadydepth.config import Config, DataConfig
from steadydepth.config_files import list_mistakes, resolve_config
from steadydepth.errors import InputError
from steadydepth.jobs.limits import JobLimits
from steadydepth.training.label_free.stabilise import STEPS

RUN = "run"  # folder of the run in that of its job
VIDEOS = "videos"


@dataclass(frozen=True)
class Setting:
    """A key that a client may set."""

    key: str
    label: str
    default: int | float | str
    least: int | float = 0
    most: int | float = 0
    choices: tuple[str, ...] = ()

    def check(self, value: object) -> str | None:
        """What is wrong with a value; None where nothing is."""
        if self.choices:
            return None if value in self.choices else f"{self.key}: {value!r}: choose one of {', '.join(self.choices)}"
        kinds = (int,) if isinstance(self.default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.least <= value <= self.most:
            whole = "a whole number" if kinds == (int,) else "a number"
            return f"{self.key}: {value!r}: {whole} from {self.least:g} to {self.most:g}"
        return None


@dataclass(frozen=True)
class Kind:
    """A kind of job: what it is for, and what may be set."""

    title: str
    settings: tuple[Setting, ...]


# What a client cannot set of a `train` job.
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "data": {"exposure": 0.15, "white_balance": 0.04, "gamma": 0.08, "noise": 0.02, "vignetting": 0.08},
    "loss": {"relative_ramp": 1},
    "optim": {"freeze_batch_norm_after": 0.5},
}
_STRENGTH = DataConfig.model_fields["teacher_strength"].default


def kinds(limits: JobLimits) -> dict[str, Kind]:
    """The kinds of jobs by name."""
    return {
        # What `steadydepth stabilise` lets choose.
        "stabilise": Kind(
            "Stabilise a model on your own videos, without labels",
            (
                Setting("steps", "steps", STEPS, 1, limits.steps),
                Setting("strength", "strength of the filter that teaches", _STRENGTH, 0, 1),
                Setting("max_side", "longer side of a training frame", 320, 32, 1024),
            ),
        ),
        # Those of configs/demo.yaml, for a model that is there already; without its stills.
        "train": Kind(
            "Train a model further on sequences with depth",
            (
                Setting("optim.steps", "steps", 500, 1, limits.steps),
                Setting("optim.batch", "clips in a step", 4, 1, 16),
                Setting("optim.learning_rate", "learning rate", 3e-4, 1e-7, 0.1),
                Setting("data.clip_length", "frames in a clip", 3, 2, 16),
                Setting("data.motion", "motion between frames", "none", choices=("none", "flow", "dis")),
                Setting("loss.absolute", "loss of each frame", "silog", choices=("silog", "log_l1")),
                Setting("loss.relative_weight", "weight of temporal consistency", 3.5, 0, 100),
                Setting("loss.relative_gradient", "weight of its gradient", 0.35, 0, 100),
                Setting("loss.edges", "weight of the contrast of edges", 2.2, 0, 100),
                Setting("data.height", "rows of a training frame", 144, 32, 1024),
                Setting("data.width", "columns of a training frame", 176, 32, 1024),
                Setting("run.seed", "seed", 0, 0, 2**31 - 1),
            ),
        ),
        "filter": Kind(
            "Tune the learned filter to a model and to your videos",
            (
                Setting("batches", "batches of three sequences", 40, 1, 1000),
                Setting("seed", "seed", 0, 0, 2**31 - 1),
            ),
        ),
    }  # fmt: skip


def describe(limits: JobLimits) -> dict[str, Any]:
    """The kinds as JSON, for forms."""
    return {
        name: {
            "title": kind.title,
            "settings": [asdict(each) | {"is_whole": isinstance(each.default, int)} for each in kind.settings],
        }
        for name, kind in kinds(limits).items()
    }


def check_settings(kind: str, settings: Mapping[str, object], limits: JobLimits) -> dict[str, Any]:
    """The settings of a job, defaults among them.

    Args:
        kind: of the job.
        settings: what a client sent, by key.
        limits: of the server.

    Raises:
        InputError: the kind is unknown; or every key that may not be set, and every value that is out of bounds.
    """
    known = kinds(limits)
    if kind not in known:
        raise InputError(f"{kind!r}: no kind of job; there are {', '.join(known)}")
    allowed = {setting.key: setting for setting in known[kind].settings}
    wrong = [f"{key}: may not be set; {kind} has {', '.join(allowed)}" for key in settings if key not in allowed]
    wrong += [fault for key in settings if key in allowed and (fault := allowed[key].check(settings[key]))]
    if wrong:
        raise list_mistakes("settings", wrong)
    return {key: settings.get(key, setting.default) for key, setting in allowed.items()}


def config_of(settings: Mapping[str, Any], model: str, folder: Path) -> Config:
    """The run of a `train` job in its folder.

    Args:
        settings: with defaults, by key.
        model: that the run begins with.
        folder: of the job.

    Raises:
        InputError: the settings do not fit together.
    """
    content = {name: dict(keys) for name, keys in _FIXED.items()}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        content.setdefault(section, {})[name] = value
    steps = int(settings["optim.steps"])
    content["data"]["root"] = str(folder / VIDEOS)
    content["model"] = {"init": model}
    # About a hundred points of a curve; and no more than a few minutes are lost.
    content["run"] |= {"folder": str(folder / RUN), "log_every": max(1, steps // 100),
                       "checkpoint_every": min(50, max(1, steps // 10))}  # fmt: skip
    return resolve_config(content, "settings")
