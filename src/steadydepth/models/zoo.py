"""Ready models by short names: where they come from, what they claim, and under which licence."""

from dataclasses import dataclass
from pathlib import Path

from steadydepth.types import Claims


@dataclass(frozen=True)
class ReadyModel:
    """A model that somebody trained, and that `load` takes by its short name."""

    name: str
    source: str  # what `load` opens: a folder of this package, or a name on the hub
    claims: Claims
    licence: str  # of the weights, by its card on the hub
    description: str


# What predicts where no model is named.
DEFAULT = "steadydepth-small"
_HUB = "depth-anything/Depth-Anything-V2"
_MODELS = (
    ReadyModel(
        DEFAULT,
        str(Path(__file__).parent / "steadydepth_small"),
        "scale",
        "Apache-2.0",
        "in the package, trained on the rendered world",
    ),
    ReadyModel(
        "depth-anything-v2-small", f"{_HUB}-Small-hf", "disparity", "Apache-2.0", "ViT-S, trained on many worlds"
    ),
    ReadyModel(
        "depth-anything-v2-metric-indoor-small",
        f"{_HUB}-Metric-Indoor-Small-hf",
        "metric",
        "Apache-2.0",
        "the same network in metres, indoors",
    ),
    ReadyModel(
        "depth-anything-v2-metric-outdoor-small",
        f"{_HUB}-Metric-Outdoor-Small-hf",
        "metric",
        "Apache-2.0",
        "the same network in metres, on streets",
    ),
)


def list_models() -> list[ReadyModel]:
    """The models that have a short name; weights that are not in the package are downloaded when first loaded."""
    return list(_MODELS)


def source_of(name: str) -> str:
    """What a short name stands for; every other name stands for itself."""
    return next((model.source for model in _MODELS if model.name == name), name)


def licence_of(name: str) -> str | None:
    """The licence of a ready model's weights, by its short name or by what that stands for; None of any other."""
    return next((model.licence for model in _MODELS if name in (model.name, model.source)), None)
