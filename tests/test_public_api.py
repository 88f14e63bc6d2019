"""The public names, held to a list: adding or losing one is a decision, and a changelog line."""

import subprocess
import sys

import pytest

import steadydepth

NAMES = [
    "Batch",
    "Clip",
    "Config",
    "DepthNet",
    "InputError",
    "Predictor",
    "VideoDepthModel",
    "compare",
    "evaluate",
    "evaluate_clip",
    "load",
    "load_config",
    "losses",
    "make_world",
    "metrics",
    "open_sequence",
    "runtime",
    "search",
    "train",
    "write_report",
    "write_sequence",
]


METRICS = [
    "METRICS",
    "PROTOCOLS",
    "accuracy_scores",
    "bend_scores",
    "change_scores",
    "fit_disparity",
    "fit_median_scale",
    "fit_scale",
    "fit_scale_shift",
    "fixed_camera_scores",
    "fixed_static_set",
    "flow_flicker",
    "flow_roughness",
    "image_flow",
    "label_change_scores",
    "label_flow",
    "log_depth_correlation",
    "opw_nvds",
    "rigid_error",
    "split_by_objects",
    "split_by_pose",
    "tae",
    "tcc",
    "warping_scores",
]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_public_names_are_these():
    assert steadydepth.__all__ == NAMES
    assert dir(steadydepth) == NAMES
    for name in NAMES:
        assert getattr(steadydepth, name) is not None


def test_the_public_metrics_are_these():
    metrics = steadydepth.metrics
    assert metrics.__all__ == dir(metrics) == METRICS
    for name in METRICS:
        assert getattr(metrics, name).__doc__
    with pytest.raises(AttributeError, match=r"'tay'; it has .*tae"):
        _ = metrics.tay


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"'lod'; it has .*load"):
        _ = steadydepth.lod


def test_importing_the_package_loads_nothing():
    code = "import sys, steadydepth.metrics; print([m for m in ('torch', 'cv2', 'av', 'numpy') if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from steadydepth.cli import app\n"
        "commands = ['train', 'evaluate', 'compare', 'predict', 'stream', 'export', 'bench']\n"
        "commands += ['report', 'doctor', 'data make']\n"
        "for words in ([], *(command.split() for command in commands)):\n"
        "    result = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert result.exit_code == 0, words\n"
        "    assert not words or words == ['doctor'] or 'Example: ' in result.output, words\n"
        "print([m for m in ('torch', 'cv2', 'av', 'numpy', 'timm') if m in sys.modules])\n"
    )
    assert run(code).strip() == "[]"
