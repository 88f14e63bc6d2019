"""The commands: parse, call, print. Everything they do can be called from Python."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from steadydepth.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train, evaluate and run per-frame depth models whose video depth does not flicker.",
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, check and convert video data.")
app.add_typer(data_app, name="data")

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="A YAML file; configs/ has some to start from.")]
ModelName = Annotated[str, typer.Option("--model", help="A model folder (config.json, model.safetensors).")]


def _print_keys(asked: bool) -> bool:
    if asked:
        from steadydepth.config import describe_config

        print(describe_config())
        raise typer.Exit
    return asked


@app.command()
def train(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Values in place of the file's.")
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", is_eager=True, callback=_print_keys, help="Print every key of a config and stop.")
    ] = False,
) -> None:
    """Train or fine-tune a model; the same command again goes on where it was cut.

    Example: steadydepth train -c configs/demo.yaml loss.relative_weight=0 run.folder=runs/plain
    """
    from steadydepth.config import load_config
    from steadydepth.training.run import train as train_model

    resolved = load_config(config, overrides)
    folder = train_model(resolved)
    print(f"{folder}: trained {resolved.optim.steps} steps")
    print(f"next: steadydepth evaluate --model {folder} --data DATA --out {folder}")


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(help="Folder of sequence folders or videos.")],
    out: Annotated[Path, typer.Option(help="Folder that gets metrics.json.")],
    model: Annotated[str | None, typer.Option(help="A model folder.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="A prediction folder, in place of a model.")] = None,
    align: Annotated[str, typer.Option(help="auto, none, scale or disparity; once for a clip.")] = "auto",
    max_depth: Annotated[float | None, typer.Option(help="Labels beyond this are left out, metres.")] = None,
    controls: Annotated[bool, typer.Option(help="Also score a constant, EMA, median and flow-guided EMA.")] = True,
    reference: Annotated[str | None, typer.Option(help="A model to keep the picture of: gives `structure`.")] = None,
) -> None:
    """Measure accuracy and steadiness of a model or of stored predictions; writes metrics.json.

    Example: steadydepth evaluate --model runs/demo/steady --data runs/demo/data/test --out runs/demo/steady
    """
    if (model is None) == (predictions is None):
        raise InputError("give either --model or --predictions")
    from steadydepth.inference.predict import load
    from steadydepth.metrics.evaluate import evaluate as evaluate_all

    judged: Any = load(model).model if model is not None else predictions
    with _progress() as tell:
        scores = evaluate_all(
            judged,
            data,
            out=out,
            align=align,
            max_depth=max_depth,
            controls=controls,
            model_name=model,
            reference=load(reference).model if reference is not None else None,
            progress=tell,
        )
    _print_table(scores)
    print(f"{out / 'metrics.json'} written")


@app.command()
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, folders or videos.")],
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder that gets the depth.")],
    format: Annotated[str, typer.Option(help="npz, png16, mp4 or mkv.")] = "npz",
    max_side: Annotated[int | None, typer.Option(help="Shrink inputs to this side for the network.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace outputs that exist.")] = False,
) -> None:
    """Depth of pictures, folders and videos; one colour range for a whole video.

    Example: steadydepth predict clip.mp4 --model runs/demo/steady --out out --format mp4
    """
    from steadydepth.inference.predict import load, predict_files

    for path in predict_files(load(model), inputs, out, format=format, max_side=max_side, overwrite=overwrite):
        print(path)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or a folder of them such as runs/demo.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the first folder without it.")] = None,
) -> None:
    """Write one self-contained page: tables, loss curves, pictures and video.

    Example: steadydepth report runs/demo
    """
    from steadydepth.training.report import write_report

    print(write_report(runs, out))


@app.command()
def doctor() -> None:
    """Say what this installation has: versions, devices, codecs, optional parts, and what to install for the rest."""
    from steadydepth.doctor import diagnose

    for line in diagnose():
        print(line)


@data_app.command("make")
def data_make(
    root: Annotated[Path, typer.Argument(help="Folder that gets the sequence folders.")],
    clips: Annotated[int, typer.Option(min=1, help="How many; every other one has a fixed camera.")] = 80,
    frames: Annotated[int, typer.Option(min=2, help="Frames in a clip.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip; the next takes the next.")] = 0,
    height: Annotated[int, typer.Option(min=32, help="Rows.")] = 96,
    width: Annotated[int, typer.Option(min=32, help="Columns.")] = 128,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Write a synthetic moving world: exact depth, flow, poses, moving objects, and light that flickers.

    Example: steadydepth data make runs/world --clips 20 --seed 7
    """
    from steadydepth.data.synthetic import make_world

    done: list[Path] = []

    def count(path: Path) -> None:
        done.append(path)
        tell(str(root), len(done), clips)

    with _progress() as tell:
        made = make_world(
            root,
            n_clips=clips,
            seed=seed,
            n_frames=frames,
            height=height,
            width=width,
            workers=workers,
            on_clip=count,
        )
    print(f"{root}: {len(made)} sequences")


@data_app.command("check")
def data_check(root: Annotated[Path, typer.Argument(help="Folder of sequence folders or videos.")]) -> None:
    """List every fault of a data folder at once; exit status 1 if there is one. Nothing is changed.

    Example: steadydepth data check runs/world
    """
    from steadydepth.data.sequence_folder import check_data

    faults = check_data(root)
    for fault in faults:
        print(fault)
    print(f"{root}: {len(faults)} faults" if faults else f"{root}: no faults")
    raise typer.Exit(1 if faults else 0)


@data_app.command("convert")
def data_convert(
    layout: Annotated[str, typer.Argument(help="What the input is: video.")],
    source: Annotated[Path, typer.Argument(help="The video file.")],
    root: Annotated[Path, typer.Argument(help="Folder that gets the sequence folder.")],
    name: Annotated[str | None, typer.Option(help="Name of the sequence; the file's without it.")] = None,
    start: Annotated[int, typer.Option(min=0, help="First frame.")] = 0,
    stop: Annotated[int | None, typer.Option(help="Frame after the last.")] = None,
    max_side: Annotated[int | None, typer.Option(help="Shrink to this side.")] = None,
) -> None:
    """Write a sequence folder, without labels, from a part of a video.

    Example: steadydepth data convert video clip.mp4 runs/mine --start 0 --stop 120 --max-side 256
    """
    from steadydepth.data.video_files import convert_video

    if layout != "video":
        raise InputError(f"{layout}: unknown layout; there is video")
    print(convert_video(source, root, name=name or source.stem, start=start, stop=stop, max_side=max_side))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal; the function that moves it takes (what, done, total)."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def _print_table(scores: dict[str, Any]) -> None:
    """The headline metrics of a report beside its controls."""
    from rich.console import Console
    from rich.table import Table

    from steadydepth.metrics.summary import table_rows

    rows = table_rows({"model": scores})
    names = [name for name in rows[0] if name not in ("best", "note")] if rows else []
    table = Table(*names, "", title=f"{scores['header']['data']}: {scores['header']['n_clips']} clips")
    for row in rows:
        table.add_row(*(row[name] for name in names), row["note"])
    console = Console()
    # A file or a pipe has no width of its own; a table cut at 80 columns would lose numbers.
    Console(width=None if console.is_terminal else 200).print(table)


def main() -> None:
    """The `steadydepth` command: 0 done, 2 the user's mistake (one message), 1 anything else."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except InputError as error:
        print(f"steadydepth: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
