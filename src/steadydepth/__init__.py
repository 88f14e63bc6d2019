"""Train, evaluate and run per-frame depth models whose video depth does not flicker.

The public names are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadydepth import metrics as metrics
    from steadydepth.config import Config as Config
    from steadydepth.config_files import load_config as load_config
    from steadydepth.data.sequence_folder import open_sequence as open_sequence
    from steadydepth.errors import InputError as InputError
    from steadydepth.evaluation.evaluate import evaluate as evaluate
    from steadydepth.evaluation.evaluate import evaluate_clip as evaluate_clip
    from steadydepth.experiments.compare import compare as compare
    from steadydepth.experiments.search import search as search
    from steadydepth.files.sequence_writer import write_sequence as write_sequence
    from steadydepth.inference import runtime as runtime
    from steadydepth.inference.predictor import Predictor as Predictor
    from steadydepth.inference.predictor import load as load
    from steadydepth.method import losses as losses
    from steadydepth.models.depth_net import DepthNet as DepthNet
    from steadydepth.reports.report import write_report as write_report
    from steadydepth.synthetic.world import make_world as make_world
    from steadydepth.training.loop import train as train
    from steadydepth.types import Batch as Batch
    from steadydepth.types import Clip as Clip
    from steadydepth.types import VideoDepthModel as VideoDepthModel

_HOMES = {
    "Batch": "steadydepth.types",
    "Clip": "steadydepth.types",
    "Config": "steadydepth.config",
    "DepthNet": "steadydepth.models.depth_net",
    "InputError": "steadydepth.errors",
    "Predictor": "steadydepth.inference.predictor",
    "VideoDepthModel": "steadydepth.types",
    "compare": "steadydepth.experiments.compare",
    "evaluate": "steadydepth.evaluation.evaluate",
    "evaluate_clip": "steadydepth.evaluation.evaluate",
    "load": "steadydepth.inference.predictor",
    "load_config": "steadydepth.config_files",
    "make_world": "steadydepth.synthetic.world",
    "open_sequence": "steadydepth.data.sequence_folder",
    "search": "steadydepth.experiments.search",
    "train": "steadydepth.training.loop",
    "write_report": "steadydepth.reports.report",
    "write_sequence": "steadydepth.files.sequence_writer",
}
_MODULES = {
    "losses": "steadydepth.method.losses",
    "metrics": "steadydepth.metrics",
    "runtime": "steadydepth.inference.runtime",
}

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'steadydepth' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
