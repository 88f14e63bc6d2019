"""Compare recipes that make a per-frame network steady without blur: over seeds, many at once on one GPU.

    .venv/bin/python benchmarks/stabilise_sweep.py --out runs/sweep --model MODEL --videos VIDEOS --rgbd RGBD \\
        --train WORLD --test UNSEEN --jobs 14 --minutes 7

Label-free recipes train MODEL on VIDEOS and are measured on RGBD (sequence folders with depth); labelled ones train the
demo's network on WORLD and are measured on UNSEEN (`steadydepth data make`). Leave out a pair of folders to
skip its recipes. Each run appends a line of JSON to results.jsonl when it ends, and its network is kept in models/.
Existing results are not run again, so the same command resumes. Every run is a process, ended after --most seconds;
`--only REGEX` chooses runs, `--steps` shortens all.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METRICS = (
    "abs_rel", "delta1", "edge_gain", "boundary_f1", "edges_kept", "log_depth_correlation", "flicker", "tsd", "tae",
    "sre", "vel", "gain", "flicker_flow",
)  # fmt: skip
LIGHT = {"exposure": 0.05, "white_balance": 0.02, "gamma": 0.05, "noise": 0.01}
FILTERED: dict[str, Any] = {
    "data": {"labels": "teacher", "motion": "none", "height": 192, "width": 256, **LIGHT},
    "loss": {
        "absolute": "log_l1", "gradient": 0.5, "edges": 0.0, "relative_weight": 1.0, "relative_ramp": 0.0,
        "min_log_depth_correlation": 0.0, "min_edges_kept": 0.0,
    },
    "optim": {
        "steps": 600, "batch": 4, "learning_rate": 3e-4, "encoder_learning_rate": 1.0, "freeze_batch_norm_after": 0.0,
    },
}  # fmt: skip
WARPING = {
    "data": {"teacher_strength": 0.0, "motion": "dis", **dict.fromkeys(LIGHT, 0.0)},
    "loss": {
        "absolute": "silog", "gradient": 0.0, "relative": "warping", "relative_gradient": 2.5, "relative_ramp": 0.1,
    },
    "optim": {"steps": 150, "learning_rate": 6e-4, "encoder_learning_rate": 0.3},
}  # fmt: skip
LABELLED: dict[str, Any] = {
    "data": {"strides": [0, 1, 2], "exposure": 0.15, "white_balance": 0.04, "gamma": 0.08, "noise": 0.01},
    "loss": {
        "absolute": "silog", "relative_weight": 0.85, "relative_gradient": 0.3, "motion_gain_weight": 0.02,
    },
    "optim": {"steps": 700, "learning_rate": 2e-3, "freeze_batch_norm_after": 0.5},
}  # fmt: skip


def edges(weight: float, **loss: Any) -> dict[str, Any]:
    return {"loss": {"edges": weight, **loss}}


def idea(name: str) -> dict[str, Any]:
    """A change of the package, of those in sweep_ideas.py."""
    return {"idea": {"name": name}}


def both(*changes: dict[str, Any]) -> dict[str, Any]:
    """Sections of several changes, the later ones on top."""
    merged: dict[str, Any] = {}
    for change in changes:
        for section, values in change.items():
            merged[section] = merged.get(section, {}) | values
    return merged


FAST = {"optim": {"learning_rate": 1e-3}}
# In the order in which they are run: what comes late may find no time.
FREE: dict[str, dict[str, Any]] = {
    "before": {"optim": {"steps": 0}},
    "fast-edges-1-2000-steps": both(FAST, edges(1.0), {"optim": {"steps": 2000}}),
    "filtered": {},
    "edges-1": edges(1.0),
    "fast-edges-1": both(FAST, edges(1.0)),
    "fast-edges-3": both(FAST, edges(3.0)),
    "fast": FAST,
    "warping": WARPING,
    "warping-1e-4": both(WARPING, {"optim": {"learning_rate": 1e-4}}),
    "fast-edges-1-change-3": both(FAST, edges(1.0, relative_weight=3.0)),
    "fast-gain-1": both(FAST, edges(1.0), idea("gain_of_edges")),
    "fast-edges-1-own-size": both(FAST, edges(1.0), {"data": {"height": 240, "width": 320}}),
    "fast-edges-1-transforms": both(FAST, edges(1.0), {"data": {"max_zoom": 1.2, "max_rotation_deg": 5.0}}),
    "fast-edges-1-strength-0.8": both(FAST, edges(1.0), {"data": {"teacher_strength": 0.8}}),
    "fast-edges-1-strong-light": both(FAST, edges(1.0), {"data": {name: 3 * value for name, value in LIGHT.items()}}),
    "fast-edges-1-no-light": both(FAST, edges(1.0), {"data": dict.fromkeys(LIGHT, 0.0)}),
    "fast-edges-1-along-flow": both(FAST, edges(1.0), {"data": {"motion": "dis"}}),
    "fast-edges-1-gain": both(FAST, edges(1.0, motion_gain_weight=0.1)),
    "fast-edges-1-silog": both(FAST, edges(1.0, absolute="silog")),
    "fast-edges-1-no-gradient": both(FAST, edges(1.0, gradient=0.0)),
    "fast-edges-1-average": both(FAST, edges(1.0), {"optim": {"average": 0.998}}),
    "fast-edges-1-strides": both(FAST, edges(1.0), {"data": {"strides": [0, 1, 2]}}),
}
PLAIN = {"loss": {"relative_weight": 0.0, "relative_gradient": 0.0, "motion_gain_weight": 0.0}}
LONG = {"optim": {"steps": 2000}}


def ramped(weight: float, edge_weight: float, ramp: float = 1.0, **loss: float) -> dict[str, Any]:
    """The edge term beside a relative weight that grows over that share of the run, and no reward for the gain."""
    return edges(edge_weight, relative_weight=weight, relative_ramp=ramp, motion_gain_weight=0.0, **loss)


GUIDED = {"model": {"upsampling": "guided"}}
LITE2 = {"model": {"upsampling": "guided", "encoder": "tf_efficientnet_lite2"}}
UNEVEN = {"data": {"noise": 0.02, "vignetting": 0.08}}
STILLS = {"data": {"strides": [0, 0, 1, 2]}}
DEMO_02 = ramped(2.2, 1.5)  # of version 0.2.0
FEATURES = both(DEMO_02, {"loss": {"relative_features": 0.14}})
NEXT = both(GUIDED, UNEVEN, STILLS)
DEMO = both(NEXT, ramped(3.5, 2.2, relative_gradient=0.35, relative_features=0.1))
WEIGHT_4 = both(NEXT, ramped(4.0, 2.5, relative_gradient=0.4, relative_features=0.1))
GRADIENT_05 = both(NEXT, ramped(4.0, 2.2, relative_gradient=0.5, relative_features=0.15))
GRADIENT_LONG = both(GUIDED, ramped(2.2, 1.5, relative_gradient=0.5, relative_features=0.2), LONG)
GRADIENT_08_LONG = both(GUIDED, ramped(2.2, 1.8, relative_gradient=0.8, relative_features=0.2), LONG)
WEIGHT_32_LONG = both(GUIDED, ramped(3.2, 2.0, relative_gradient=0.45, relative_features=0.2), LONG)
# Recipes without a weight are those of the demo before it had an edge term.
WITH_LABELS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "demo-before": {},
    "demo-0.2": DEMO_02,
    "next-plain": both(PLAIN, NEXT),
    "demo": DEMO,
    "next-weight-4-edges-2.5-gradient-0.4": WEIGHT_4,
    "next-weight-3.5-edges-2": both(NEXT, ramped(3.5, 2.0, relative_features=0.1)),
    "next-weight-5-edges-2.5": both(NEXT, ramped(5.0, 2.5, relative_features=0.1)),
    "next-weight-4-edges-2-features-0.3": both(NEXT, ramped(4.0, 2.0, relative_features=0.3)),
    "next-weight-4-edges-2.2-gradient-0.5": GRADIENT_05,
    "next-plain-long": both(PLAIN, NEXT, LONG),
    "demo-long": both(DEMO, LONG),
    "next-weight-4-edges-2.5-gradient-0.4-long": both(WEIGHT_4, LONG),
    "next-weight-4-edges-2.2-gradient-0.5-long": both(GRADIENT_05, LONG),
    "guided-plain-long": both(PLAIN, GUIDED, LONG),
    "guided-features-long": both(FEATURES, GUIDED, LONG),
    "guided-plain-pooled-long": both(PLAIN, GUIDED, LONG, idea("pooled_scale")),
    "guided-gradient-0.5-pooled-long": both(GRADIENT_LONG, idea("pooled_scale")),
    "guided-gradient-0.5-long": GRADIENT_LONG,
    "lite2-plain-long": both(PLAIN, LITE2, LONG),
    "lite2-gradient-0.5-long": both(GRADIENT_LONG, LITE2),
    "guided-gradient-0.8-long": GRADIENT_08_LONG,
    "guided-weight-3.2-long": WEIGHT_32_LONG,
    "lite2-gradient-0.8-long": both(GRADIENT_08_LONG, LITE2),
    "lite2-weight-3.2-long": both(WEIGHT_32_LONG, LITE2),
    "lite2-weight-4-gradient-0.8-long": both(
        GUIDED, ramped(4.0, 2.6, relative_gradient=0.8, relative_features=0.2), LONG, LITE2
    ),
    "plain-long": both(PLAIN, LONG),
    "demo-0.2-long": both(DEMO_02, LONG),
    "weight-5-edges-2-long": both(ramped(5.0, 2.0), LONG),
    "demo-before-long": LONG,
    "plain-edges-0.3": both(PLAIN, edges(0.3)),
    "plain-edges-1.5": both(PLAIN, edges(1.5)),
    "edges-0.3": edges(0.3),
    "edges-1": edges(1.0),
    "weight-1.7-edges-1": ramped(1.7, 1.0, 0.33),
    "weight-2.5-edges-1": ramped(2.5, 1.0, 0.33),
    "weight-1.7-edges-1-gradient-0.6": ramped(1.7, 1.0, 0.33, relative_gradient=0.6),
    "weight-2.5-edges-1-ramp-0.7": ramped(2.5, 1.0, 0.7),
    "weight-4-edges-2-ramp-0.7": ramped(4.0, 2.0, 0.7),
    "weight-2-edges-2": ramped(2.0, 2.0),
    "weight-2.5-edges-2": ramped(2.5, 2.0),
    "weight-3-edges-1.5": ramped(3.0, 1.5),
    "weight-5-edges-2": ramped(5.0, 2.0),
    "weight-3.5-edges-2-gradient-0.6": ramped(3.5, 2.0, relative_gradient=0.6),
    "idea-guided-upsampling-plain": both(PLAIN, GUIDED),
    "idea-guided-and-features": both(FEATURES, GUIDED),
    "idea-uneven-plain": both(PLAIN, UNEVEN),
    "idea-uneven": both(DEMO_02, UNEVEN),
    "idea-guided-uneven-plain": both(PLAIN, GUIDED, UNEVEN),
    "idea-guided-features-uneven": both(FEATURES, GUIDED, UNEVEN),
    "idea-guided-features-uneven-stills": both(FEATURES, GUIDED, UNEVEN, STILLS),
    "idea-moved-stills": both(DEMO_02, idea("moved_stills")),
    "idea-blurred-strides": both(DEMO_02, idea("blurred_strides")),
    "idea-guided-upsampling": both(DEMO_02, GUIDED),
    "idea-away-from-edges": both(DEMO_02, idea("away_from_edges")),
    "idea-features": FEATURES,
    "idea-weight-by-progress": both(DEMO_02, idea("weight_by_progress")),
    "idea-gain-of-edges": both(DEMO_02, edges(0.1), idea("gain_of_edges")),
    "idea-no-edges": both(DEMO_02, edges(0.0)),
    "idea-average-0.998": both(DEMO_02, {"optim": {"average": 0.998}}),
    "idea-no-average": both(DEMO_02, {"optim": {"average": 0.0}}),
    "idea-ramp-0.33": both(DEMO_02, {"loss": {"relative_ramp": 0.33}}),
    # Not yet run.
    "edges-1-log_l1": edges(1.0, absolute="log_l1"),
    "demo-0.2-gradient-0.4": both(DEMO_02, {"loss": {"gradient": 0.4}}),
}


def runs_of(options: argparse.Namespace) -> dict[str, tuple[str, str, int]]:
    """Kind, recipe and seed of each run by its name: the first seeds of all recipes, then the second."""
    kinds = {
        "free": FREE if options.videos and options.rgbd else {},
        "labelled": WITH_LABELS if options.train and options.test else {},
    }
    longest = max(map(len, kinds.values()))
    runs = {}
    for seed in options.seeds:
        for place in range(longest):
            for kind, recipes in kinds.items():
                name = list(recipes)[place] if place < len(recipes) else None
                if name and not (name == "before" and seed != options.seeds[0]):
                    runs[f"{kind}-{name}-{seed}"] = (kind, name, seed)
    return {name: run for name, run in runs.items() if re.search(options.only, name)}


def run_one(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train and measure one run, in this process."""
    import cv2
    import torch
    from sweep_ideas import IDEAS

    from steadydepth.config_files import resolve_config
    from steadydepth.evaluation.evaluate import evaluate
    from steadydepth.inference.predictor import load
    from steadydepth.training.loop import train

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    kind, recipe, seed = runs_of(options)[name]
    is_free = kind == "free"
    content = both(FILTERED, FREE[recipe]) if is_free else both(LABELLED, WITH_LABELS[recipe])
    idea = content.pop("idea", None)
    if idea:
        IDEAS[idea["name"]]()
    if options.steps and content["optim"]["steps"]:
        content["optim"]["steps"] = options.steps
    started, cpu_began, folder = time.monotonic(), time.process_time(), options.out / "runs" / name
    model: Any = options.model
    if content["optim"]["steps"]:
        content["data"]["root"] = str(options.videos if is_free else options.train)
        content["model"] = model_of(options) if is_free else content.get("model", {}) | {"weights": options.weights}
        content["run"] = {
            "folder": str(folder), "seed": seed, "device": options.device, "log_every": 10**6,
            "checkpoint_every": 10**6,
        }  # fmt: skip
        shared = teacher_key(options, content)
        if shared and shared.is_dir() and not folder.exists():
            shutil.copytree(shared, folder / "teacher")
        model = str(train(resolve_config(content, name)))
    trained, cpu_s = time.monotonic(), time.process_time() - cpu_began
    report = evaluate(
        load(model),
        options.rgbd if is_free else options.test,
        controls=False,
        reference=load(options.model) if is_free else None,
        jobs=1,
    )
    if content["optim"]["steps"]:
        for file in ("model.safetensors", "steadydepth.json", "config.json"):
            if (folder / file).is_file():
                (options.out / "models" / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / file, options.out / "models" / name)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "name": name, "kind": kind, "recipe": recipe, "seed": seed, "steps": content["optim"]["steps"],
        "train_s": round(trained - started, 1), "train_cpu_s": round(cpu_s, 1),
        "evaluate_s": round(time.monotonic() - trained, 1),
        **{metric: report["mean"].get(metric) for metric in METRICS},
    }  # fmt: skip


def model_of(options: argparse.Namespace) -> dict[str, str]:
    """What is declared behind the name of the starting model goes to its own key."""
    plain, _, claims = options.model.partition(",claims=")
    return {"init": plain, **({"claims": claims} if claims else {})}


def teacher_key(options: argparse.Namespace, content: dict[str, Any]) -> Path | None:
    """Where the teacher's depth of a label-free recipe is shared by its runs."""
    data = content["data"]
    if data.get("labels") != "teacher":
        return None
    strength = data.get("teacher_strength", 1.0)
    return options.out / "teachers" / f"{data['height']}x{data['width']}-{strength}"


def write_teachers(options: argparse.Namespace, names: list[str]) -> list[subprocess.Popen[bytes]]:
    """Processes that write the teacher's depth of each size and strength, once for all runs."""
    wanted = {}
    for name in names:
        kind, recipe, _ = runs_of(options)[name]
        if kind == "free" and recipe != "before":
            wanted[teacher_key(options, both(FILTERED, FREE[recipe]))] = name
    return [
        subprocess.Popen([*command_of(options), "--teacher", name])
        for key, name in wanted.items()
        if key is not None and not key.is_dir()
    ]


def is_ready(options: argparse.Namespace, name: str) -> bool:
    """Whether what a run learns from is there."""
    kind, recipe, _ = runs_of(options)[name]
    key = teacher_key(options, both(FILTERED, FREE[recipe])) if kind == "free" and recipe != "before" else None
    return key is None or key.is_dir()


def write_teacher(options: argparse.Namespace, name: str) -> None:
    import cv2
    import torch

    from steadydepth.config_files import resolve_config
    from steadydepth.models.load import load_model
    from steadydepth.training.label_free.teacher_depth import FOLDER, write_teacher_depth

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _, recipe, _ = runs_of(options)[name]
    content = both(FILTERED, FREE[recipe])
    content.pop("idea", None)
    target = teacher_key(options, content)
    assert target is not None
    folder = options.out / f"teacher-{target.name}"
    content["data"]["root"] = str(options.videos)
    content["model"] = model_of(options)
    content["run"] = {"folder": str(folder)}
    device = torch.device("cuda" if torch.cuda.is_available() and options.device == "auto" else "cpu")
    model = load_model(options.model).requires_grad_(False).to(device)
    write_teacher_depth(model, resolve_config(content, name), device)
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / FOLDER).rename(target)
    shutil.rmtree(folder)


def command_of(options: argparse.Namespace) -> list[str]:
    """This script with the same folders."""
    words = [sys.executable, __file__, "--out", str(options.out), "--model", options.model, "--device", options.device]
    words += ["--weights", options.weights, "--steps", str(options.steps), "--seeds", *map(str, options.seeds)]
    for name in ("videos", "rgbd", "train", "test"):
        if getattr(options, name):
            words += [f"--{name}", str(getattr(options, name))]
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="", help="what label-free recipes start from")
    for name in ("videos", "rgbd", "train", "test"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--weights", default="package", help="model.weights of the labelled recipes")
    parser.add_argument("--jobs", type=int, default=14)
    parser.add_argument("--minutes", type=float, default=7.0, help="nothing starts, and nothing lasts, beyond it")
    parser.add_argument("--most", type=float, default=400.0, help="seconds of one run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="a regular expression of the names of runs")
    parser.add_argument("--steps", type=int, default=0, help="in place of those of every recipe")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--teacher", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options, options.one)))
        return
    if options.teacher:
        write_teacher(options, options.teacher)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    end = time.monotonic() + 60 * options.minutes
    results = options.out / "results.jsonl"
    done = (
        {json.loads(line)["name"] for line in results.read_text(encoding="utf-8").splitlines()}
        if results.is_file()
        else set()
    )
    waiting = [name for name in runs_of(options) if name not in done]
    teachers = write_teachers(options, waiting)
    running: dict[str, tuple[subprocess.Popen[str], float]] = {}
    while (waiting and time.monotonic() < end) or running:
        n_busy = len(running) + sum(one.poll() is None for one in teachers)
        ready = [name for name in waiting if is_ready(options, name)]
        if waiting and not ready and not n_busy:
            raise SystemExit("the teacher's depth could not be written: its own message is above")
        for name in ready[: max(options.jobs - n_busy, 0) if time.monotonic() < end else 0]:
            waiting.remove(name)
            shutil.rmtree(options.out / "runs" / name, ignore_errors=True)
            log = (options.out / f"{name}.log").open("w", encoding="utf-8")
            process = subprocess.Popen(
                [*command_of(options), "--one", name], stdout=subprocess.PIPE, stderr=log, text=True
            )
            running[name] = process, time.monotonic()
        time.sleep(0.5)
        for name, (process, began) in list(running.items()):
            if process.poll() is None:
                if time.monotonic() - began > options.most or time.monotonic() > end:
                    process.kill()
                continue
            del running[name]
            lines = process.stdout.read().splitlines() if process.stdout else []
            if process.returncode == 0 and lines:
                with results.open("a", encoding="utf-8") as file:
                    file.write(lines[-1] + "\n")
                (options.out / f"{name}.log").unlink()
            print(name, "done" if process.returncode == 0 else f"failed ({process.returncode})", flush=True)
    for teacher in teachers:
        teacher.kill()


if __name__ == "__main__":
    main()
