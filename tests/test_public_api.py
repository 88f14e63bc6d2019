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
    "app",
    "bench",
    "compare",
    "data",
    "doctor",
    "evaluate",
    "evaluate_clip",
    "export",
    "export_filter",
    "list_models",
    "load",
    "load_config",
    "losses",
    "metrics",
    "open_sequence",
    "predict",
    "push",
    "report",
    "runtime",
    "search",
    "serve",
    "stabilise",
    "stream",
    "train",
    "train_filter",
    "tune_filter",
    "verify",
    "write_sequence",
]


METRICS = [
    "METRICS",
    "PROTOCOLS",
    "VideoMetrics",
    "accuracy_scores",
    "bend_scores",
    "boundary_f1",
    "change_scores",
    "edge_gain",
    "edges_kept",
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
        "commands = ['train', 'evaluate', 'compare', 'predict', 'stream', 'export', 'bench', 'serve']\n"
        "commands += ['report', 'doctor', 'data make']\n"
        "for words in ([], *(command.split() for command in commands)):\n"
        "    result = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert result.exit_code == 0, words\n"
        "    assert not words or words == ['doctor'] or 'Example: ' in result.output, words\n"
        "print([m for m in ('torch', 'cv2', 'av', 'numpy', 'timm') if m in sys.modules])\n"
    )
    assert run(code).strip() == "[]"


def test_every_command_is_a_function_of_the_same_name():
    from steadydepth.cli import app, data_app

    for command in app.registered_commands:
        assert callable(getattr(steadydepth, command.callback.__name__)), command.callback.__name__
    assert {command.callback.__name__ for command in data_app.registered_commands} == set(steadydepth.data.__all__)
    for name in steadydepth.data.__all__:
        assert getattr(steadydepth.data, name).__doc__
    with pytest.raises(AttributeError, match="'chek'; it has assets, check, convert, make, pack"):
        _ = steadydepth.data.chek


def test_the_doors_take_paths_as_text(tmp_path):
    root, out = str(tmp_path / "world"), str(tmp_path / "out")
    made = steadydepth.data.make(root, clips=1, frames=3, seed=4, height=48, width=64, workers=1)
    assert [path.name for path in made] == ["fixed_000004"]
    assert steadydepth.data.check(root) == []
    assert steadydepth.data.pack(root, str(tmp_path / "shards"), codec="png") == 1
    written = steadydepth.predict(
        str(made[0]), model=steadydepth.DepthNet("test_efficientnet", decoder_width=8), out=out
    )
    assert [path.name for path in written] == ["fixed_000004.npz", "fixed_000004_preview.mp4"]
    report = steadydepth.evaluate(out, root, controls=False)
    assert report["mean"]["abs_rel"] > 0


def test_ready_models_have_a_licence_and_claims():
    names = [model.name for model in steadydepth.list_models()]
    assert names[:2] == ["steadydepth-small", "depth-anything-v2-small"]
    assert {model.licence for model in steadydepth.list_models()} <= {"Apache-2.0", "MIT"}
