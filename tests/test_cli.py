"""The commands as a user types them: what they write, and how they refuse what is wrong."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from waiting import wait_until

import steadydepth
from steadydepth import cli, commands
from steadydepth.cli.expansion import expand
from steadydepth.files.images import write_png
from steadydepth.files.video_write import write_video
from steadydepth.synthetic.world import make_clip
from steadydepth.training.checkpoint import save_model
from steadydepth.training.label_free.stabilise import Stabilised


@pytest.fixture
def copy(world, tmp_path):
    """A copy of the two sequences that a test may damage."""
    return Path(shutil.copytree(world, tmp_path / "copy"))


@pytest.fixture
def config(copy, tmp_path):
    path = tmp_path / "config.yaml"
    content = {
        "data": {"root": str(copy), "height": 48, "width": 64},
        "model": {"decoder_width": 16},
        "optim": {"steps": 3, "batch": 2},
        "run": {"folder": str(tmp_path / "run"), "device": "cpu", "log_every": 1},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def everything(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def truncate(copy):
    path = copy / "fixed_000003" / "rgb" / "0002.png"
    path.write_bytes(path.read_bytes()[:-40])
    return path


def resize(copy):
    path = copy / "fixed_000003" / "rgb" / "0003.png"
    cv2.imwrite(str(path), np.zeros((40, 64, 3), np.uint8))
    return path


def eight_bits(copy):
    path = copy / "fixed_000003" / "depth" / "0001.png"
    cv2.imwrite(str(path), np.ones((48, 64), np.uint8))
    return path


def spoil_poses(copy):
    path = copy / "fixed_000003" / "meta.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    meta["cam_to_world"][1][0][3] = float("nan")
    path.write_text(json.dumps(meta), encoding="utf-8")
    return path


@pytest.mark.parametrize("damage", [truncate, resize, eight_bits, spoil_poses], ids=lambda damage: damage.__name__)
def test_damaged_data_is_refused_in_one_message_that_names_the_file(run, copy, config, damage):
    path = damage(copy)
    before = everything(copy)
    status, _, complaint = run("train", "-c", config, "data.strict=true")
    assert status == 2
    assert path.name in complaint
    assert "Traceback" not in complaint
    # The same fault is found by the check, which exits 1 and lists it.
    status, listed, _ = run("data", "check", copy)
    assert status == 1
    assert path.name in listed
    assert everything(copy) == before
    assert not (config.parent / "run" / "model.safetensors").exists()


def test_a_missing_folder_is_named(run, config, tmp_path, model):
    status, _, complaint = run("train", "-c", config, f"data.root={tmp_path / 'nowhere'}")
    assert status == 2
    assert "nowhere" in complaint
    assert not (tmp_path / "run").exists()
    save_model(model, tmp_path / "model")
    status, _, complaint = run(
        "evaluate", "--model", tmp_path / "model", "--data", tmp_path / "gone", "--out", tmp_path
    )
    assert status == 2
    assert "gone" in complaint
    assert not (tmp_path / "metrics.json").exists()
    status, _, complaint = run("evaluate", "--model", tmp_path / "no", "--data", tmp_path, "--out", tmp_path)
    assert status == 2
    assert "no model" in complaint


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "FILM", "--out", "OUT"),
        ("stream", "FILM"),
        ("evaluate", "--data", "FILM", "--out", "OUT"),
        ("serve", "--port", "0"),
        ("app", "--port", "0"),
    ],
)
def test_a_device_that_is_not_there_is_named_by_each_command_that_runs_a_model(run, tmp_path, words):
    if find_spec({"serve": "fastapi", "app": "gradio"}.get(words[0], "steadydepth")) is None:
        pytest.skip(f"{words[0]}: its extra is not installed")
    film = tmp_path / "film.mp4"
    write_video(film, make_clip(0, fixed_camera=True, n_frames=2, height=32, width=48).frames, 25.0)
    places = {"FILM": str(film), "OUT": str(tmp_path / "out")}
    given = (places.get(word, word) for word in words)
    status, _, complaint = run(*given, "--model", "steadydepth-small", "--device", "cuda:99")
    assert status == 2
    assert complaint.count("device cuda:99: cannot be used") == 1


def test_a_device_and_a_server_exclude_each_other(run):
    status, _, complaint = run("stream", "0", "--server", "http://127.0.0.1:9", "--device", "cpu")
    assert status == 2
    assert "a server's model is where the server was told to run it" in complaint


def test_a_clip_of_one_frame_is_refused_for_training(run, config, copy):
    for sequence in copy.iterdir():
        for path in sequence.glob("*/*.png"):
            if path.stem != "0000":
                path.unlink()
        meta = json.loads((sequence / "meta.json").read_text(encoding="utf-8"))
        meta["cam_to_world"] = meta["cam_to_world"][:1]
        (sequence / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        shutil.rmtree(sequence / "flow")
    status, _, complaint = run("train", "-c", config)
    assert status == 2
    assert "data.clip_length" in complaint


def test_a_config_with_three_mistakes_lists_all_three(run, config):
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    content["loss"] = {"weigth": 1}
    content["optim"]["steps"] = 0
    content["data"]["motion"] = "sideways"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    status, _, complaint = run("train", "-c", config)
    assert status == 2
    for mistake in ("loss.weigth", "optim.steps: 0", "data.motion: 'sideways'"):
        assert mistake in complaint
    assert not (config.parent / "run").exists()


def test_a_world_with_extras_is_made_or_refused(run, tmp_path):
    sizes = ("--clips", 1, "--frames", 2, "--height", 34, "--width", 46)
    extras = ("--shake", "--deform", "--blur", "--compress", 35)
    assert run("data", "make", tmp_path / "made", *sizes, *extras)[0] == 0
    meta = json.loads((tmp_path / "made" / "fixed_000000" / "meta.json").read_text(encoding="utf-8"))
    assert meta["source"] == "steadydepth synthetic world: shake, deform, blur, compress 35"
    status, _, complaint = run("data", "make", tmp_path / "none", *sizes, "--textures", tmp_path / "made" / "nowhere")
    assert status == 2
    assert "nowhere: no image for textures" in complaint
    assert not (tmp_path / "none").exists()


def test_a_list_of_images_is_converted_and_mistakes_exit_2(run, tmp_path, copy):
    image = next((copy / next(path.name for path in sorted(copy.iterdir())) / "rgb").iterdir())
    (tmp_path / "list.csv").write_text(f"image,sequence\n{image},kitchen\n", encoding="utf-8")
    status, printed, _ = run("data", "convert", "pairs", tmp_path / "list.csv", tmp_path / "out")
    assert (status, printed.strip()) == (0, str(tmp_path / "out" / "kitchen"))
    assert (tmp_path / "out" / "kitchen" / "rgb" / "0000.png").read_bytes() == image.read_bytes()
    for mistake in (("kitty",), ("kitti", "--split-shots"), ("kitti", "--name", "a"), ("kitti", "--split", "dev")):
        status, _, complaint = run("data", "convert", mistake[0], tmp_path, tmp_path / "none", *mistake[1:])
        assert status == 2
        assert len(complaint.strip().splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_sequences_are_packed_and_checked_and_mistakes_exit_2(run, tmp_path, copy):
    out = tmp_path / "shards"
    status, printed, _ = run("data", "pack", copy, out, "--shard-size", "50KB", "--size", "40x56", "--flow")
    assert (status, printed) == (0, f"{out}: 2 sequences\n")
    assert run("data", "check", out)[:2] == (0, f"{out}: no faults\n")
    for words, message in (
        (["--shard-size", "1 cup"], "--shard-size 1 cup: give an integer number of bytes"),
        (["--size", "40"], "--size 40: give two numbers"),
        (["--size", "40x56", "--max-side", "40"], "give one of them"),
        (["--codec", "gif"], "gif: unknown codec; there are zstd, png"),
    ):
        status, _, complaint = run("data", "pack", copy, tmp_path / "other", *words)
        assert status == 2
        assert message in complaint
    assert run("data", "pack", copy, out)[0] == 2


def test_a_run_from_data_to_report(run, tmp_path, config, copy):
    """make, check, train, train again, evaluate, predict, report: the whole way on two tiny clips."""
    data = tmp_path / "made"
    assert run("data", "make", data, "--clips", 2, "--frames", 6, "--height", 48, "--width", 64, "--workers", 1)[0] == 0
    assert run("data", "check", data)[0] == 0
    assert run("train", "-c", config, f"data.root={data}")[0] == 0
    assert run("train", "-c", config, f"data.root={data}")[0] == 0
    folder = tmp_path / "run"
    assert run("evaluate", "--model", folder, "--data", data, "--out", folder)[0] == 0
    report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert report["header"]["n_clips"] == 2
    assert 0 < report["mean"]["abs_rel"] < 10
    assert report["mean"]["flicker"] > 0
    status, printed, _ = run("predict", data / "fixed_000000", "--model", folder, "--out", tmp_path / "out")
    assert status == 0
    assert "fixed_000000.npz" in printed
    assert run("report", folder)[0] == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:video/mp4;base64" in page
    assert "<svg" in page
    assert 'src="http' not in page


def test_predictions_score_as_the_model_that_made_them(run, tmp_path, copy, model):
    save_model(model, tmp_path / "model")
    assert run("predict", *sorted(copy.iterdir()), "--model", tmp_path / "model", "--out", tmp_path / "pred")[0] == 0
    for source, out in (("--model", "model"), ("--predictions", "pred")):
        assert run("evaluate", source, tmp_path / out, "--data", copy, "--out", tmp_path / f"{out}-scores")[0] == 0
    one, other = (
        json.loads((tmp_path / f"{out}-scores" / "metrics.json").read_text(encoding="utf-8"))["mean"]
        for out in ("model", "pred")
    )
    assert {name for name in one if one[name] is None} == {name for name in other if other[name] is None}
    for name in one:
        assert one[name] is None or one[name] == pytest.approx(other[name], rel=1e-6, abs=1e-6), name
    assert one["flicker"] is not None


def test_evaluate_tells_intervals_and_what_is_better_than_another_report(run, tmp_path, copy, model):
    save_model(model, tmp_path / "model")
    words = ("evaluate", "--model", tmp_path / "model", "--data", copy, "--no-controls")
    assert run(*words, "--out", tmp_path / "one")[0] == 0
    assert "interval" not in json.loads((tmp_path / "one" / "metrics.json").read_text(encoding="utf-8"))
    versus = ("--versus", tmp_path / "one" / "metrics.json")
    status, printed, _ = run(*words, "--out", tmp_path / "two", "--bootstrap", 50, *versus)
    assert status == 0
    report = json.loads((tmp_path / "two" / "metrics.json").read_text(encoding="utf-8"))
    pair = sorted(clip["abs_rel"] for clip in report["clips"].values())
    assert report["interval"]["abs_rel"] == pair
    assert f"[{pair[0]:.3g}, {pair[1]:.3g}]" in printed
    assert "2 clips in both" in printed
    assert "0 of 2" in printed
    (tmp_path / "not.json").write_text("[]", encoding="utf-8")
    status, _, complaint = run(*words, "--out", tmp_path / "three", "--versus", tmp_path / "not.json")
    assert status == 2
    assert "not.json: is no metrics.json" in complaint
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(("left", "edges", "status"), [(0.5, 0.97, 0), (0.5, 0.7, 1), (1.2, 1.0, 1)])
def test_stabilise_says_what_was_reached_and_so_does_its_exit_status(run, monkeypatch, tmp_path, left, edges, status):
    asked = {}

    def stabilise(videos, **options):
        asked.update(options, videos=videos)
        scores = {"flicker_flow": 2.0}, {"flicker_flow": 2 * left, "edges_kept": edges}
        return Stabilised(tmp_path, 40, 3e-4, *scores)

    monkeypatch.setattr(commands, "stabilise", stabilise)
    code, out, _ = run("stabilise", "a.mp4", "b", "--model", "M", "--out", tmp_path, "--minutes", 3, "--strength", 0.8)
    assert code == status
    assert asked["videos"] == ["a.mp4", "b"]
    assert (asked["model"], asked["minutes"], asked["strength"], asked["steps"]) == ("M", 3, 0.8, None)
    assert f"{tmp_path}: 40 steps at a learning rate of 0.0003" in out
    assert f"{left:.2f} of the flicker is left, and {edges:.2f} of the edges" in out
    assert [line.split()[1::2] for line in out.splitlines() if "flicker_flow" in line] == [
        ["flicker_flow", "2", f"{2 * left:g}", f"{left:.2f}"]
    ]
    monkeypatch.setattr(commands, "stabilise", lambda videos, **options: None)
    code, out, _ = run("stabilise", "a.mp4", "--model", "M", "--out", tmp_path)
    assert code == 0
    assert "stopped as asked" in out


def test_evaluate_wants_one_of_model_and_predictions(run, tmp_path):
    status, _, complaint = run("evaluate", "--data", tmp_path, "--out", tmp_path)
    assert status == 2
    assert "--model or --predictions" in complaint


def test_export_and_predict_say_what_they_need(run, tmp_path):
    words = ("export", "--model", tmp_path, "--to", "onnx", "--out", tmp_path / "a.onnx")
    for size in ("192", "192x", "0x256", "192*256"):
        status, _, complaint = run(*words, "--size", size)
        assert status == 2
        assert f"--size {size}: give two numbers, such as 192x256" in complaint
    status, _, complaint = run(*words, "--size", "32x64", "--int8")
    assert status == 2
    assert "--int8 needs --data" in complaint
    assert list(tmp_path.iterdir()) == []


def test_predict_filters_shards_and_goes_on(run, tmp_path, copy, model):
    save_model(model, tmp_path / "model")
    words = ("predict", *sorted(copy.iterdir()), "--model", tmp_path / "model", "--out", tmp_path / "out")
    status, printed, _ = run(*words, "--shard", "2/2", "--filter", "ema")
    assert status == 0
    assert [Path(line).name for line in printed.split()] == ["moving_000004.npz", "moving_000004_preview.mp4"]
    status, _, complaint = run(*words, "--resume")
    assert (status, "moving_000004" in complaint, "ema" in complaint) == (2, True, True)
    status, printed, _ = run(*words, "--resume", "--filter", "ema")
    assert status == 0
    assert [Path(line).name for line in printed.split()] == ["fixed_000003.npz", "fixed_000003_preview.mp4"]
    status, _, complaint = run(*words, "--shard", "3/2", "--resume")
    assert status == 2
    assert "shard 3/2" in complaint


def test_predict_goes_on_past_what_it_cannot_read(run, tmp_path, copy, model):
    save_model(model, tmp_path / "model")
    (copy / "cut.mp4").write_bytes(b"")
    words = ("--model", tmp_path / "model", "--out", tmp_path / "out")
    status, printed, complaint = run("predict", copy / "*", *words)
    assert status == 1
    assert [Path(line).suffix for line in printed.split()] == [".npz", ".mp4"] * 2
    assert complaint.startswith("steadydepth: 1 input(s) failed, 2 written:\n")
    assert "cut.mp4: cannot be read as video" in complaint
    status, printed, complaint = run("predict", copy / "cut.mp4", *words)
    assert (status, printed) == (2, "")
    assert "cut.mp4: cannot be read as video" in complaint


def test_stream_prints_a_line_for_a_frame(run, tmp_path, copy, model):
    save_model(model, tmp_path / "model")
    status, printed, _ = run("stream", copy / "fixed_000003", "--model", tmp_path / "model")
    assert status == 0
    assert printed.splitlines()[-1].startswith("frame 4: ")
    assert " ms, " in printed


def test_an_unknown_option_is_the_users_mistake(run):
    assert run("train", "--confg", "x")[0] == 2
    assert run("tarin")[0] == 2


def test_the_version_is_printed(run):
    from importlib.metadata import version

    assert run("--version")[:2] == (0, f"steadydepth {version('steadydepth')}\n")
    assert steadydepth.__version__ == version("steadydepth")


def test_a_name_that_a_pipe_does_not_take_is_shown_by_its_numbers(monkeypatch):
    usual = "surrogateescape" if sys.platform == "win32" else "strict"
    shown = io.TextIOWrapper(io.BytesIO(), "cp1252", usual)
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(cli, "app", lambda *_, **__: sys.stdout.write("\u65e5\u672c.mp4"))
    cli.main()
    shown.flush()
    assert shown.buffer.getvalue().strip() == rb"\u65e5\u672c.mp4"


def test_doctor_tells_versions_devices_and_codecs(run):
    status, printed, _ = run("doctor")
    assert status == 0
    for word in ("steadydepth", "torch", "cpu:", "libx264", "ffv1"):
        assert word in printed


def test_doctor_knows_every_extra_and_the_packages_that_it_brings(run, monkeypatch):
    from steadydepth import diagnosis

    extras = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    brought = {package: extra for package, (_, extra) in diagnosis.OPTIONAL.items()}
    assert set(brought.values()) == set(extras) - {"demo", "dev", "docs"}
    # What comes with a package of the extra, in its place.
    by_others = {"aiohttp": "fsspec[http]", "ai-edge-litert": "litert-torch"}
    for package, extra in brought.items():
        assert any(one.startswith(by_others.get(package, package)) for one in extras[extra]), package
    monkeypatch.setattr(diagnosis, "_version", lambda package: None)
    assert "onnxruntime not installed (pip install 'steadydepth[onnx]'): exported .onnx" in run("doctor")[1]


def test_every_key_of_a_config_is_printed(run):
    status, printed, _ = run("train", "--keys")
    assert status == 0
    assert "| `relative_weight` |" in printed


def test_a_torchvision_for_another_torch_is_named(tmp_path):
    """As where torch came for CPUs, and torchvision for GPUs: its import ends so."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n", encoding="utf-8"
    )
    cv2.imwrite(str(tmp_path / "room.png"), np.zeros((32, 32, 3), np.uint8))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    def ask(*words):
        command = [sys.executable, "-m", "steadydepth", *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = ask("predict", "room.png", "--out", "out")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "torchvision does not fit this torch" in done.stderr
    assert "torchvision does not fit this torch" in ask("doctor").stdout


def test_doctor_says_what_is_wrong_with_an_older_pyav(run, monkeypatch):
    from steadydepth import diagnosis

    asked = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    assert [one for one in asked if one.startswith("av>")] == [f"av>={diagnosis.OLDEST['av'][0]}"]
    for old in ("16.1.0", "18.0.0"):
        monkeypatch.setattr(diagnosis, "version", lambda package, old=old: old)
        _, printed, _ = run("doctor")
        assert f"av {old}: TOO OLD, damaged and odd videos fail" in printed
        assert "wrong colours: pip install 'av>=18.1'" in printed
    monkeypatch.setattr(diagnosis, "version", lambda package: "18.1.0")
    assert "TOO OLD" not in run("doctor")[1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.ENAMETOOLONG])
def test_a_disk_that_takes_nothing_is_one_line(run, monkeypatch, code):
    from steadydepth import diagnosis

    def fail():
        raise OSError(code, os.strerror(code), "out/a.npz")

    monkeypatch.setattr(diagnosis, "diagnose", fail)
    status, _, error = run("doctor")
    assert status == 1
    assert error.startswith("steadydepth: out/a.npz: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("number", [123, 206])
def test_a_name_that_windows_does_not_take_is_one_line(run, monkeypatch, number):
    from steadydepth import diagnosis

    def fail():
        error = OSError(errno.EINVAL, "refused", "out/a?.npz")
        error.winerror = number
        raise error

    monkeypatch.setattr(diagnosis, "diagnose", fail)
    status, _, error = run("doctor")
    assert status == 2
    assert error.startswith("steadydepth: out/a?.npz: ")
    assert len(error.strip().splitlines()) == 1


def test_patterns_are_expanded_as_by_a_shell_and_names_that_are_there_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("clip 1.mp4", "clip [1].mp4", "clip 2.mp4"):
        (tmp_path / name).touch()
    assert expand(["clip [1].mp4", "clip ?.mp4"]) == ["clip [1].mp4", "clip 1.mp4", "clip 2.mp4"]
    assert expand(["clip [12].mp4", "*.png", "--out", "o"]) == ["clip 1.mp4", "clip 2.mp4", "*.png", "--out", "o"]
    assert expand(["~/a"]) == [str(Path.home() / "a")]


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot limit its files there")
def test_a_full_disk_is_one_line_in_every_command_that_writes(world, tmp_path):
    """No file may grow beyond 4 kB, as on a disk without room: nothing is half written, and one line says why."""
    (tmp_path / "reds.py").write_text(
        "import torch\nclass Red(torch.nn.Module):\n    def forward(self, x):\n        return x[:, 0] + 1\n",
        encoding="utf-8",
    )
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 96, 3), dtype=np.uint8)
    write_video(tmp_path / "films" / "x.mp4", iter(frames), 10.0)
    write_png(tmp_path / "a.png", frames[0])
    np.save(tmp_path / "a.npy", np.random.default_rng(0).uniform(1, 9, (64, 96)))
    (tmp_path / "list.csv").write_text("image,depth\na.png,a.npy\n", encoding="utf-8")
    predict = ["predict", "films/x.mp4", "--model", "reds:Red,claims=metric"]
    formats = [
        "npz",
        "png16",
        "png",
        "mp4",
        "mkv",
        "sbs",
        "anaglyph",
        *(["exr", "exr16"] if find_spec("OpenEXR") else []),
    ]
    commands = [[*predict, "--format", name, "--out", f"out_{name}"] for name in formats]
    commands += [
        ["data", "make", "made", "--clips", "1", "--frames", "2"],
        ["data", "pack", str(world), "packed"],
        ["data", "convert", "pairs", "list.csv", "pairs"],
        ["data", "convert", "video", "films/x.mp4", "video"],
        ["data", "convert", "videos", "films", "videos"],
        ["data", "convert", "videos", "films", "shots", "--split-shots"],
        ["export", "--model", "reds:Red,claims=metric", "--to", "onnx", "--size", "32x64", "--out", "model.onnx"],
    ]
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    code = (
        "import contextlib, io, json, resource, sys\n"
        "from steadydepth import cli\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv, said, status = ['steadydepth', *words], io.StringIO(), 0\n"
        "    limit = 4096 if words[0] != 'export' else 256\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):\n"
        "            cli.main()\n"
        "    except SystemExit as stop:\n"
        "        status = stop.code\n"
        "    print(json.dumps([status, said.getvalue()]))\n"
    )
    environment = os.environ | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for words, line in zip(commands, ran.stdout.splitlines(), strict=True):
        status, said = json.loads(line)
        assert (status, len(said.strip().splitlines())) == (1, 1), (words, said)
        assert "larger than the file system or a limit allows" in said, (words, said)
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} - before
    assert not [path for path in left if (tmp_path / path).is_file()], left


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGBREAK"])
def test_a_polite_kill_leaves_nothing_behind(tmp_path, name):
    number = getattr(signal, name, None)
    if sys.platform == "win32" and name == "SIGTERM":
        pytest.skip("it ends a process at once there, who is asked to end gets Ctrl-Break")
    if number is None or signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here")
    clip = make_clip(0, fixed_camera=True, n_frames=60, height=96, width=128)
    write_video(tmp_path / "long.mp4", np.concatenate([clip.frames] * 10), 25.0)
    command = [sys.executable, "-m", "steadydepth", "predict", tmp_path / "long.mp4", "--out", tmp_path / "out"]
    group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # or Ctrl-Break would reach the tests as well
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, creationflags=group)
    wait_until(lambda: process.poll() is not None or list(tmp_path.glob("out/.long.*.part/depth.raw")))
    assert process.poll() is None
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", number))
    except OSError:
        process.kill()
        process.communicate()
        if name != "SIGBREAK":
            raise
        pytest.skip("Ctrl-Break needs a console, and there is none here")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list((tmp_path / "out").iterdir()) == []
