"""Ready models by short names: where they come from, what they claim, and under which licence."""

from dataclasses import dataclass
from pathlib import Path

from steadydepth.video_types import Claims


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


def _depth_anything(kind: str, claims: Claims, description: str) -> ReadyModel:
    source = f"depth-anything/Depth-Anything-V2-{kind.title()}-hf"
    return ReadyModel(f"depth-anything-v2-{kind}", source, claims, "Apache-2.0", description)


_OURS = str(Path(__file__).parent / "steadydepth_small")
_MODELS = (
    ReadyModel(DEFAULT, _OURS, "scale", "Apache-2.0", "in the package, trained on the rendered world"),
    _depth_anything("small", "disparity", "ViT-S, trained on many worlds"),
    _depth_anything("metric-indoor-small", "metric", "the same network in metres, indoors"),
    _depth_anything("metric-outdoor-small", "metric", "the same network in metres, on streets"),
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
