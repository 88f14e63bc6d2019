"""Train, evaluate and run per-frame depth models whose video depth does not flicker.

The public names are loaded when first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadydepth import data as data
    from steadydepth import metrics as metrics
    from steadydepth.commands import doctor as doctor
    from steadydepth.commands import export as export
    from steadydepth.commands import predict as predict
    from steadydepth.commands import report as report
    from steadydepth.commands import serve as serve
    from steadydepth.commands import stabilise as stabilise
    from steadydepth.commands import stream as stream
    from steadydepth.config import Config as Config
    from steadydepth.config_files import load_config as load_config
    from steadydepth.data.sequence_folder import open_sequence as open_sequence
    from steadydepth.errors import InputError as InputError
    from steadydepth.evaluation.evaluate import evaluate as evaluate
    from steadydepth.evaluation.evaluate import evaluate_clip as evaluate_clip
    from steadydepth.experiments.compare import compare as compare
    from steadydepth.experiments.search import search as search
    from steadydepth.exporters.bench import bench as bench
    from steadydepth.exporters.export_filter import export_filter as export_filter
    from steadydepth.exporters.verify import verify as verify
    from steadydepth.files.sequence_writer import write_sequence as write_sequence
    from steadydepth.filter_training.train import train_filter as train_filter
    from steadydepth.filter_training.tune import tune_filter as tune_filter
    from steadydepth.gradio_app import app as app
    from steadydepth.inference import runtime as runtime
    from steadydepth.inference.predictor import Predictor as Predictor
    from steadydepth.inference.predictor import load as load
    from steadydepth.method import losses as losses
    from steadydepth.models.depth_net import DepthNet as DepthNet
    from steadydepth.models.zoo import list_models as list_models
    from steadydepth.training.loop import train as train
    from steadydepth.training.model_card import push as push
    from steadydepth.types import Batch as Batch
    from steadydepth.types import Clip as Clip
    from steadydepth.types import VideoDepthModel as VideoDepthModel

_HOMES = {
    "Batch": "types",
    "Clip": "types",
    "Config": "config",
    "DepthNet": "models.depth_net",
    "InputError": "errors",
    "Predictor": "inference.predictor",
    "VideoDepthModel": "types",
    "app": "gradio_app",
    "bench": "exporters.bench",
    "compare": "experiments.compare",
    "doctor": "commands",
    "evaluate": "evaluation.evaluate",
    "evaluate_clip": "evaluation.evaluate",
    "export": "commands",
    "export_filter": "exporters.export_filter",
    "list_models": "models.zoo",
    "load": "inference.predictor",
    "load_config": "config_files",
    "open_sequence": "data.sequence_folder",
    "predict": "commands",
    "push": "training.model_card",
    "report": "commands",
    "search": "experiments.search",
    "serve": "commands",
    "stabilise": "commands",
    "stream": "commands",
    "train": "training.loop",
    "train_filter": "filter_training.train",
    "tune_filter": "filter_training.tune",
    "verify": "exporters.verify",
    "write_sequence": "files.sequence_writer",
}
_MODULES = {"data": "data", "losses": "method.losses", "metrics": "metrics", "runtime": "inference.runtime"}

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"steadydepth.{_MODULES[name]}")
    if name in _HOMES:
        return getattr(import_module(f"steadydepth.{_HOMES[name]}"), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("steadydepth")
    raise AttributeError(f"module 'steadydepth' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
