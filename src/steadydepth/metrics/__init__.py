"""Accuracy and steadiness of depth video: plain functions, the benchmarks' protocols as data, and the evaluator.

The names of `__all__` are loaded when first used. Functions of whole clips take NumPy arrays or tensors, depth
(*methods, t, h, w) in metres after one alignment for the whole clip, and give float64 tensors, NaN where there is no
sample; `evaluate_clip` does everything from a raw prediction to the numbers of metrics.json.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "METRICS": "protocol",
    "PROTOCOLS": "protocol",
    "accuracy_scores": "accuracy",
    "bend_scores": "moving",
    "change_scores": "moving",
    "evaluate_clip": "evaluate",
    "fit_disparity": "fits",
    "fit_median_scale": "fits",
    "fit_scale": "fits",
    "fit_scale_shift": "fits",
    "fixed_camera_scores": "steadiness",
    "fixed_static_set": "steadiness",
    "flow_flicker": "along_flow",
    "flow_roughness": "along_flow",
    "image_flow": "along_flow",
    "label_change_scores": "moving",
    "label_flow": "along_flow",
    "opw_nvds": "along_flow",
    "rigid_error": "steadiness",
    "split_by_objects": "moving",
    "split_by_pose": "moving",
    "structure": "accuracy",
    "tae": "steadiness",
    "tcc": "steadiness",
    "warping_scores": "along_flow",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"steadydepth.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'steadydepth.metrics' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
