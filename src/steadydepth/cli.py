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
ModelName = Annotated[str, typer.Option("--model", help="A folder, hub name, package.module:factory, exported file.")]


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
    align: Annotated[str, typer.Option(help="auto, none, scale, affine or disparity; once for a clip.")] = "auto",
    max_depth: Annotated[float | None, typer.Option(help="Labels beyond this are left out, metres.")] = None,
    controls: Annotated[bool, typer.Option(help="Also score a constant, EMA, median and flow-guided EMA.")] = True,
    reference: Annotated[str | None, typer.Option(help="A model to keep the picture of: gives `structure`.")] = None,
    protocol: Annotated[
        str, typer.Option(help="What counts, as a benchmark has it: plain, kitti, nyu, sintel, bonn, scannet, vda_...")
    ] = "plain",
    lengths: Annotated[str | None, typer.Option(help="Also over windows of so many frames, such as 8,32,all.")] = None,
    opw: Annotated[str, typer.Option(help="khan, or nvds for that script's warping error as well.")] = "khan",
    strict: Annotated[bool, typer.Option(help="Stop at a value that is not finite, or a clip that fails.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that score clips side by side; without it as many as pay for their start."),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples of clips for 95 % intervals of the means, such as 2000; 0 for none.")
    ] = 0,
    versus: Annotated[
        Path | None, typer.Option(help="A metrics.json of the same clips: say what is better, clip by clip.")
    ] = None,
) -> None:
    """Measure accuracy and steadiness of a model or of stored predictions; writes metrics.json.

    Example: steadydepth evaluate --model runs/demo/steady --data runs/demo/data/test --out runs/demo/steady
    """
    if (model is None) == (predictions is None):
        raise InputError("give either --model or --predictions")
    from steadydepth.inference.predict import load
    from steadydepth.metrics.evaluate import evaluate as evaluate_all
    from steadydepth.metrics.evaluate import write_report as write_metrics
    from steadydepth.metrics.intervals import add_intervals, read_report

    other = read_report(versus) if versus is not None else None

    judged: Any = load(model) if model is not None else predictions
    with _progress() as tell:
        scores = evaluate_all(
            judged,
            data,
            out=out,
            align=align,
            max_depth=max_depth,
            controls=controls,
            protocol=protocol,
            lengths=_lengths(lengths),
            opw=opw,
            strict=strict,
            jobs=jobs,
            model_name=model,
            reference=load(reference) if reference is not None else None,
            progress=tell,
        )
    if bootstrap:
        scores = add_intervals(scores, n_resamples=bootstrap)
        write_metrics(scores, out / "metrics.json")
    _print_table(scores)
    _print_lengths(scores)
    print(f"{out / 'metrics.json'} written")
    if other is not None:
        _print_comparison(scores, other, str(versus))


@app.command()
def compare(
    config: ConfigFile,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[SECTION.]KEY=VALUE]...", help="Keys of the comparison, or of what all methods share."
        ),
    ] = None,
    align: Annotated[str | None, typer.Option(help="auto, none, scale or disparity; the file's without it.")] = None,
    protocol: Annotated[str | None, typer.Option(help="What counts, as in evaluate; the file's without it.")] = None,
) -> None:
    """Train and evaluate several methods over seeds and print one table; the same command again goes on.

    Example: steadydepth compare -c configs/compare.yaml seeds=[0] optim.steps=200 out=runs/quick
    """
    from steadydepth.config import load_compare_config
    from steadydepth.training.compare import compare as compare_all
    from steadydepth.training.compare_table import markdown_table

    scoring = {"align": align, "protocol": protocol}
    chosen = [f"{key}={value}" for key, value in scoring.items() if value is not None]
    resolved = load_compare_config(config, [*(overrides or []), *chosen])
    result = compare_all(resolved)
    if result["rows"]:
        print(markdown_table(result), end="\n\n")
    print(f"{resolved.out / 'compare.json'} and {resolved.out / 'compare.html'} written")
    for name, why in result["failed"].items():
        print(f"steadydepth: {name} failed: {why}", file=sys.stderr)
    raise typer.Exit(1 if result["failed"] else 0)


@app.command()
def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures, folders or videos.")],
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Folder that gets the depth.")],
    format: Annotated[str, typer.Option(help="npz, png16, exr, mp4 or mkv.")] = "npz",
    max_side: Annotated[int | None, typer.Option(help="Shrink inputs to this side for the network.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace outputs that exist.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out inputs whose outputs are all there.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Every N-th input from the I-th on, for N machines.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help="Smooth over time as well: ema, ema_0.8, median or flow_ema.")
    ] = None,
) -> None:
    """Depth of pictures, folders and videos; one colour range for a whole video.

    Example: steadydepth predict clip.mp4 --model runs/demo/steady --out out --format mp4
    """
    from steadydepth.inference.predict import load, predict_files

    written = predict_files(
        load(model),
        inputs,
        out,
        format=format,
        max_side=max_side,
        overwrite=overwrite,
        resume=resume,
        shard=_pair(shard, "/", "--shard", "1/4") if shard is not None else None,
        filter=filter,
    )
    for path in written:
        print(path)


@app.command()
def stream(
    source: Annotated[str, typer.Argument(help="A camera's index, a URL, a video or a folder of pictures.")],
    model: ModelName,
    seconds: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
) -> None:
    """Depth of live frames, always the newest: those that came while the model worked are left out.

    Example: steadydepth stream 0 --model runs/demo/steady
    """
    from steadydepth.inference.predict import load
    from steadydepth.inference.stream import stream_newest

    for frame in stream_newest(load(model), int(source) if source.isdecimal() else source, seconds=seconds):
        depth = frame.result.depth
        print(
            f"frame {frame.number}: {frame.latency_s * 1e3:.0f} ms, {frame.n_skipped} skipped, "
            f"{depth.min():.3g} to {depth.max():.3g}"
        )


@app.command()
def export(
    model: ModelName,
    to: Annotated[str, typer.Option(help="onnx or openvino.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the network's pictures, as 192x256.")],
    out: Annotated[Path, typer.Option(help="The file: .onnx, or .xml with its .bin for openvino.")],
    data: Annotated[
        Path | None, typer.Option(help="Sequence folders or videos to check with, and to calibrate int8 on.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit integers; measured before and after on --data.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the weights, noted in the file.")] = "not stated",
) -> None:
    """Write a model as a file that ONNX Runtime or OpenVINO runs without torch, checked against the model.

    Example: steadydepth export --model runs/demo/steady --to onnx --size 192x256 --out steady.onnx
    """
    height, width = _pair(size, "x", "--size", "192x256")
    if int8 and data is None:
        raise InputError("--int8 needs --data: clips like those it will see, to calibrate on and to measure")
    from steadydepth.inference.export import export_model
    from steadydepth.inference.int8 import calibration_frames, export_int8, report_path
    from steadydepth.inference.predict import load

    network = load(model, device="cpu").model
    if int8 and data is not None:
        found = export_int8(network, out, to=to, height=height, width=width, data=data, licence=licence)
        names = [name for name, value in found["before"].items() if value is not None]
        rows = [[name, f"{found['before'][name]:.4g}", f"{found['after'][name]:.4g}"] for name in names]
        _print_columns(["metric", "float32", "int8"], rows, f"on {data}")
        print(f"{out} and {report_path(out)} written")
        return
    frames = calibration_frames(data) if data is not None else None
    difference = export_model(network, out, to=to, height=height, width=width, frames=frames, licence=licence)
    print(f"{out}: differs from the model by at most {difference:.1e} of the depth")


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders and exported files.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Rows and columns of the pictures.")] = "192x256",
    threads: Annotated[int, typer.Option(min=1, help="Of the processor, for each model.")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="For all together.")] = 10.0,
    out: Annotated[Path | None, typer.Option(help="A json file for the numbers.")] = None,
) -> None:
    """Latency, frames a second and memory of models side by side, and their share of the machine's peak.

    Example: steadydepth bench runs/demo/steady steady.onnx steady.xml --size 192x256
    """
    from steadydepth.inference.bench import bench as bench_all

    height, width = _pair(size, "x", "--size", "192x256")
    found = bench_all(models, height=height, width=width, threads=threads, seconds=seconds, out=out)
    names = list(next(iter(found["models"].values())))
    rows = [[name, *(f"{values[key]:.4g}" for key in names)] for name, values in found["models"].items()]
    title = f"{size}, {threads} threads; 3x3 convolution: {found['peak_gflops']:.0f} GFLOP/s"
    _print_columns(["model", *names], rows, title)


@app.command()
def verify(
    before: Annotated[str, typer.Argument(help="The model as it came.")],
    after: Annotated[str, typer.Argument(help="The model as it was trained.")],
    size: Annotated[str, typer.Option(help="Rows x columns of the frame they are compared on.")] = "96x128",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the clock; each runs both, in turns.")] = 15,
    out: Annotated[Path | None, typer.Option(help="A JSON file of the comparison.")] = None,
) -> None:
    """Show that training added no cost: same parameters, same graph, same latency; exit status 1 if not.

    Example: steadydepth verify runs/demo/plain runs/demo/stabilised --out verify.json
    """
    import json

    from steadydepth.training.verify import verify as verify_models

    height, _, width = size.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise InputError(f"--size {size}: write ROWSxCOLUMNS, such as 96x128")
    found = verify_models(before, after, height=int(height), width=int(width), rounds=rounds)
    for what, count in (("parameters", "tensors"), ("graph", "operators")):
        print(f"{what}: {'different' if found[what]['different'] else 'same'} ({found[what][count]} {count})")
        for line in found[what]["different"][:10]:
            print(f"  {line}")
    latency = found["latency"]
    print(f"latency: after / before {latency['ratio']:.3f}, the clock's noise {latency['noise']:.3f}")
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n")
    print("same model" if found["same"] else "not the same model")
    raise typer.Exit(0 if found["same"] else 1)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="What it is called on the hub.")],
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, as apache-2.0; none without it.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Only its owner sees it.")] = False,
) -> None:
    """Put a trained model on the hub, with a model card of its data, claims and scores.

    Example: steadydepth push runs/mine me/steady-depth --licence apache-2.0 --private
    """
    from steadydepth.training.hub import push_to_hub

    print(push_to_hub(run, name, licence=licence, private=private))


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
    from steadydepth.metrics.summary import table_rows

    rows = table_rows({"model": scores})
    names = [name for name in rows[0] if name not in ("best", "note")] if rows else []
    title = f"{scores['header']['data']}: {scores['header']['n_clips']} clips"
    _print_columns([*names, ""], [[*(row[name] for name in names), row["note"]] for row in rows], title)


def _pair(words: str, between: str, option: str, example: str) -> tuple[int, int]:
    """Two whole numbers above 0 with a sign between them."""
    first, _, second = words.partition(between)
    if not (first.isdecimal() and second.isdecimal() and int(first) and int(second)):
        raise InputError(f"{option} {words}: give two numbers, such as {example}")
    return int(first), int(second)


def _lengths(words: str | None) -> list[int | None]:
    """Windows of so many frames; None for all of them."""
    asked = words.split(",") if words is not None else []
    if wrong := [word for word in asked if word != "all" and not word.isdecimal()]:
        raise InputError(f"--lengths {words}: {', '.join(map(repr, wrong))}; give frames or all, such as 8,32,all")
    return [None if word == "all" else int(word) for word in asked]


def _print_lengths(scores: dict[str, Any]) -> None:
    """The temporal metrics over windows of each length, where they were asked for."""
    if not scores.get("lengths"):
        return
    means = {length: table["mean"] for length, table in scores["lengths"].items()}
    names = [name for name in next(iter(means.values())) if any(mean[name] is not None for mean in means.values())]
    rows = [[name, *("" if mean[name] is None else f"{mean[name]:.4g}" for mean in means.values())] for name in names]
    _print_columns(["metric", *(f"{length} frames" for length in means)], rows, "over windows of a clip")


def _print_comparison(scores: dict[str, Any], other: dict[str, Any], name: str) -> None:
    """What is better and what is worse than in `other`, clip by clip."""
    from steadydepth.metrics.intervals import compare_reports, comparison_rows

    found = compare_reports(scores, other)
    rows = comparison_rows(found)
    title = f"this one against {name}: {len(found.shared)} clips in both"
    _print_columns(list(rows[0]) if rows else [], [list(row.values()) for row in rows], title)
    for clips, where in ((found.only_here, "this one"), (found.only_there, name)):
        if clips:
            more = ", ..." if len(clips) > 5 else ""
            print(f"{len(clips)} clips are in {where} alone and do not count here: {', '.join(clips[:5])}{more}")


def _print_columns(names: list[str], rows: list[list[str]], title: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*names, title=escape(title))
    for row in rows:
        table.add_row(*map(escape, row))
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
