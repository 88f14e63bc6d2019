"""Accuracy and temporal consistency of depth video: plain functions, and the benchmarks' protocols as data.

The names of `__all__` are loaded when first used. Functions of complete clips take NumPy arrays or tensors, depth
(*methods, t, h, w) in metres after one alignment for the complete clip, and give float64 tensors, NaN where there is no
sample; a mask of other numbers than 0 and 1 is an InputError. `VideoMetrics` goes from raw predictions to the numbers
of metrics.json, with `update` and `compute`.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "METRICS": "protocols",
    "PROTOCOLS": "protocols",
    # It aligns and scores complete clips, so it stands above this room.
    "VideoMetrics": "steadydepth.evaluation.video_metrics",
    "accuracy_scores": "accuracy",
    "bend_scores": "dynamic",
    "boundary_f1": "edges",
    "change_scores": "dynamic",
    "edge_gain": "edges",
    "edges_kept": "edges",
    "fit_disparity": "fits",
    "fit_median_scale": "fits",
    "fit_scale": "fits",
    "fit_scale_shift": "fits",
    "fixed_camera_scores": "temporal",
    "fixed_static_set": "temporal",
    "flow_flicker": "along_flow",
    "flow_roughness": "along_flow",
    "image_flow": "along_flow",
    "label_change_scores": "dynamic",
    "label_flow": "along_flow",
    "opw_nvds": "along_flow",
    "rigid_error": "temporal",
    "split_by_objects": "dynamic",
    "split_by_pose": "dynamic",
    "log_depth_correlation": "accuracy",
    "tae": "temporal",
    "tcc": "temporal",
    "warping_scores": "along_flow",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = _HOMES[name]
        return getattr(import_module(home if "." in home else f"steadydepth.metrics.{home}"), name)
    raise AttributeError(f"module 'steadydepth.metrics' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
