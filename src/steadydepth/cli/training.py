"""The commands that change weights, and those that look at what came of it."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from steadydepth.cli.printing import ModelName, before_and_after, pair, print_columns

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config", "-c", help="A YAML file, or the name of one that comes with the package: demo, compare, ..."
    ),
]

STOPPED = "stopped as asked; the same command resumes from there"


def _print_keys(asked: bool) -> bool:
    if asked:
        from steadydepth.config_files import describe_config

        print(describe_config(), end="")
        raise typer.Exit
    return asked


def train(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values in place of the file's.")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Add the shares of time to every line of the log.")
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", is_eager=True, callback=_print_keys, help="Print every key of a config and stop.")
    ] = False,
) -> None:
    """Train or fine-tune a model; run the same command again to resume.

    Ctrl-C or SIGTERM ends it after the current step, with a checkpoint. Several processes: docs/scale.md.

    Example: steadydepth train -c configs/demo.yaml loss.relative_weight=0 run.folder=runs/plain
    """
    from steadydepth.config_files import load_config
    from steadydepth.training.checkpoint import CARD
    from steadydepth.training.log import LOG
    from steadydepth.training.loop import outcome
    from steadydepth.training.loop import train as train_model

    resolved = load_config(config, overrides)
    folder = train_model(resolved, profile=profile)
    # One of several processes speaks, and only of a run that was not asked to stop.
    if os.environ.get("RANK", "0") != "0" or not (folder / CARD).is_file():
        return
    steps, is_kept = outcome(folder)
    print(f"{folder}: trained {steps} of {resolved.optim.steps} steps")
    if not is_kept:
        print(f"steadydepth: {folder}: stopped by its guard: see {folder / LOG}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"next: steadydepth evaluate --model {folder} --data DATA --out {folder}")


def stabilise(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Videos, sequence folders, folders of them.")],
    model: Annotated[str, typer.Option("--model", help="A folder, hub name, or package.module:factory.")],
    out: Annotated[Path, typer.Option(help="Folder that gets the model, its log and a page.")],
    minutes: Annotated[float | None, typer.Option(help="Approximate time; without it 600 steps.")] = None,
    strength: Annotated[
        float | None, typer.Option(min=0, max=1, help="Strength of the learned filter that teaches, 0 to 1.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps, in place of --minutes.")] = None,
    max_side: Annotated[int, typer.Option(min=32, help="Longer side of the frames to train on, pixels.")] = 320,
    layers: Annotated[
        str,
        typer.Option(help="all, or coarse: less steady, but a few videos do less harm to other scenes."),
    ] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Random seed; another one gives another run.")] = 0,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), or cpu.")] = "auto",
) -> None:
    """Train a model to be steady on your own videos, without labels; it then runs as fast as before.

    Exit status 1 if the model did not become steadier, or lost its edges. Run the same command again to resume.

    Example: steadydepth stabilise holiday.mp4 --model runs/mine --out runs/calm --minutes 20
    """
    from steadydepth.commands import stabilise as stabilise_model

    found = stabilise_model(
        videos,
        model=model,
        out=out,
        minutes=minutes,
        strength=strength,
        steps=steps,
        max_side=max_side,
        layers=layers,
        seed=seed,
        device=device,
    )
    if found is None:
        print(f"{out}: {STOPPED}")
        return
    print(f"{out}: {found.steps} steps at a learning rate of {found.learning_rate:g}")
    print_columns(
        ["metric", "before", "after", "after / before"], before_and_after(found.before, found.after), str(out)
    )
    print(found.verdict)
    print(f"{out / 'report.html'} written; next: steadydepth predict VIDEO --model {out} --out depth --format mp4")
    raise typer.Exit(0 if found.has_worked else 1)


def compare(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[SECTION.]KEY=VALUE]...", help="Keys of the comparison, or of what all methods share."
        ),
    ] = None,
) -> None:
    """Train and evaluate several methods over seeds and print one table; run it again to resume.

    Example: steadydepth compare -c configs/compare.yaml seeds=[0] optim.steps=200 out=runs/quick
    """
    from steadydepth.config_files import load_compare_config
    from steadydepth.experiments.compare import compare as compare_all
    from steadydepth.experiments.compare_table import markdown_table

    resolved = load_compare_config(config, overrides)
    result = compare_all(resolved)
    if result["rows"]:
        print(markdown_table(result), end="\n\n")
    print(f"{resolved.out / 'compare.json'} and {resolved.out / 'compare.html'} written")
    for name, why in result["failed"].items():
        print(f"steadydepth: {name} failed: {why}", file=sys.stderr)
    raise typer.Exit(1 if result["failed"] else 0)


def search(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[[SECTION.]KEY=VALUE]...", help="Keys of the search, or of what all runs share."),
    ] = None,
) -> None:
    """Search numeric keys for the best metric and print one table; run it again to resume.

    Example: steadydepth search -c configs/search.yaml trials=8 keep.abs_rel=0.01 out=runs/quick
    """
    from steadydepth.config_files import load_search_config
    from steadydepth.experiments.search import BEST, FILE, markdown_table
    from steadydepth.experiments.search import search as search_all

    resolved = load_search_config(config, overrides)
    result = search_all(resolved)
    print(markdown_table(result), end="\n\n")
    if result["best"] is None:
        print("no trial keeps what it must: allow more under `keep`, or search other ranges")
    else:
        print(f"best: {resolved.out / result['best']}; {resolved.out / BEST} trains it again")
    print(f"{resolved.out / FILE} written")
    for name, why in result["failed"].items():
        print(f"steadydepth: {name} failed: {why}", file=sys.stderr)
    raise typer.Exit(1 if result["failed"] else 0)


def train_filter(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the config, such as sequences=400.")
    ] = None,
) -> None:
    """Train the learned filter on the synthetic world and write its weights.

    Example: steadydepth train-filter -c configs/temporal_filter.yaml device=cuda workers=16
    """
    from steadydepth.config_files import load_filter_config
    from steadydepth.filter_training.train import train_filter as train_weights

    print(train_weights(load_filter_config(config, overrides)) or f"{config}: {STOPPED}")


def tune_filter(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Videos, sequence folders, or folders of them.")
    ],
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder that gets the filter; --filter takes it.")],
    batches: Annotated[int, typer.Option(min=1, help="Batches of sequences to learn from.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Tune the learned filter to a model and to videos, labelled or not.

    Example: steadydepth tune-filter street.mp4 --model runs/mine --out runs/filter
    """
    from steadydepth.filter_training.tune import tune_filter as tune

    found = tune(videos, model=model, out=out, batches=batches, seed=seed)
    if found is None:
        print(f"{out}: {STOPPED}")
        return
    for name, (before, after) in found.scores.items():
        print(f"{name}: {before:.3f} before, {after:.3f} after")
    print(f"{found.folder} written" + ("" if found.is_better else ": the untuned filter is better, and is in it"))


def verify(
    before: Annotated[str, typer.Argument(help="The model before training.")],
    after: Annotated[str, typer.Argument(help="The model after training.")],
    size: Annotated[str, typer.Option(help="Rows x columns of the frame for the comparison.")] = "96x128",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of timing; each runs both models in turns.")] = 15,
    out: Annotated[Path | None, typer.Option(help="A JSON file to write the comparison to.")] = None,
) -> None:
    """Check that training added no cost: same parameters, graph and latency; exit status 1 if not.

    Example: steadydepth verify runs/demo/plain runs/demo/stabilised --out verify.json
    """
    from steadydepth.exporters.verify import verify as verify_models

    height, width = pair(size, "x", "--size", "96x128")
    found = verify_models(before, after, height=height, width=width, rounds=rounds, out=out)
    for what, count in (("parameters", "tensors"), ("graph", "operators")):
        print(f"{what}: {'different' if found[what]['different'] else 'same'} ({found[what][count]} {count})")
        for line in found[what]["different"][:10]:
            print(f"  {line}")
    latency = found["latency"]
    print(f"latency: after / before {latency['ratio']:.3f}, the clock's noise {latency['noise']:.3f}")
    print("same model" if found["same"] else "not the same model")
    raise typer.Exit(0 if found["same"] else 1)


def push(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Its name on the hub.")],
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, such as apache-2.0.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make it visible to its owner only.")] = False,
) -> None:
    """Upload a trained model to the hub, with a model card of its data, claims and scores.

    Example: steadydepth push runs/mine me/steady-depth --licence apache-2.0 --private
    """
    from steadydepth.training.model_card import push as push_to_hub

    print(push_to_hub(run, name, licence=licence, private=private))


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or a folder of them such as runs/demo.")],
    out: Annotated[Path | None, typer.Option(help="The page; default: report.html in the first folder.")] = None,
) -> None:
    """Write one self-contained page: tables, loss curves, images and video.

    Example: steadydepth report runs/demo
    """
    from steadydepth.commands import report as write_report

    print(write_report(runs, out))
