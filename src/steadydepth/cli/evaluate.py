"""The command that measures, and the tables it prints."""

from pathlib import Path
from typing import Annotated, Any

import typer

from steadydepth.cli.printing import DeviceName, Strength, cell, print_columns
from steadydepth.errors import InputError
from steadydepth.progress import show_progress


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder of sequence folders or videos.")],
    out: Annotated[Path, typer.Option(help="Folder that gets metrics.json.")],
    model: Annotated[
        str | None, typer.Option(help="A folder, hub name, package.module:factory, or exported file.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="A prediction folder, in place of a model.")] = None,
    device: DeviceName = None,
    align: Annotated[
        str, typer.Option(help="Fit each clip to its labels: auto (by the claims), none, scale, affine or disparity.")
    ] = "auto",
    max_depth: Annotated[float | None, typer.Option(help="Ignore labels beyond this, metres.")] = None,
    controls: Annotated[bool, typer.Option(help="Also score a constant, EMA, median and flow-guided EMA.")] = True,
    filter: Annotated[
        str | None,
        typer.Option(help="Filter first: none, learned, learned_offline, ema, ema_0.8, median, flow_ema, a folder."),
    ] = None,
    strength: Strength = None,
    reference: Annotated[
        str | None, typer.Option(help="A model to compare with: adds log_depth_correlation and edges_kept.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(help="What counts, as in a benchmark: plain, kitti, nyu, sintel, bonn, scannet, vda_..."),
    ] = "plain",
    lengths: Annotated[str | None, typer.Option(help="Also score windows of so many frames: 8,32,all.")] = None,
    opw: Annotated[str, typer.Option(help="Warping error: khan, or nvds to add that of NVDS's script.")] = "khan",
    strict: Annotated[bool, typer.Option(help="Stop at a value that is not finite, or a clip that fails.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that score clips; default: as many as save time."),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Resamples of clips for 95 % intervals of the means, such as 2000; 0: none.")
    ] = 0,
    versus: Annotated[
        Path | None, typer.Option(help="A metrics.json of the same clips to compare with, clip by clip.")
    ] = None,
) -> None:
    """Measure accuracy and temporal consistency of a model or of stored predictions; writes metrics.json.

    Example: steadydepth evaluate --model runs/demo/steady --data runs/demo/data/test --out runs/demo/steady
    """
    if (model is None) == (predictions is None):
        raise InputError("give either --model or --predictions")
    from steadydepth.evaluation.bootstrap import add_intervals
    from steadydepth.evaluation.evaluate import evaluate as evaluate_all
    from steadydepth.evaluation.stored_report import read_report
    from steadydepth.files.atomic_writes import write_json
    from steadydepth.inference.predictor import load

    other = read_report(versus) if versus is not None else None

    judged: Any = load(model, device=device) if model is not None else predictions
    with show_progress() as report:
        scores = evaluate_all(
            judged,
            data,
            out=out,
            align=align,
            max_depth=max_depth,
            controls=controls,
            filter=filter,
            strength=strength,
            protocol=protocol,
            lengths=_lengths(lengths),
            opw=opw,
            strict=strict,
            jobs=jobs,
            model_name=model,
            reference=load(reference, device=device) if reference is not None else None,
            progress=report,
        )
    if bootstrap:
        scores = add_intervals(scores, n_resamples=bootstrap)
        write_json(out / "metrics.json", scores)
    _print_table(scores)
    _print_lengths(scores)
    print(f"{out / 'metrics.json'} written")
    if other is not None:
        _print_comparison(scores, other, str(versus))


def _lengths(words: str | None) -> list[int | None]:
    """Windows of so many frames; None for all of them."""
    asked = words.split(",") if words is not None else []
    if wrong := [word for word in asked if word != "all" and not word.isdecimal()]:
        raise InputError(f"--lengths {words}: {', '.join(map(repr, wrong))}; give frames or all, such as 8,32,all")
    return [None if word == "all" else int(word) for word in asked]


def _print_table(scores: dict[str, Any]) -> None:
    """The headline metrics of a report beside its controls."""
    from steadydepth.evaluation.summary import table_rows

    rows = table_rows({"model": scores})
    names = [name for name in rows[0] if name not in ("best", "note")] if rows else []
    title = f"{scores['header']['data']}: {scores['header']['n_clips']} clips"
    print_columns([*names, ""], [[*(row[name] for name in names), row["note"]] for row in rows], title)


def _print_lengths(scores: dict[str, Any]) -> None:
    """The temporal metrics over windows of each length, where they were asked for."""
    if not scores.get("lengths"):
        return
    means = {length: table["mean"] for length, table in scores["lengths"].items()}
    names = [name for name in next(iter(means.values())) if any(mean[name] is not None for mean in means.values())]
    rows = [[name, *(cell(mean[name]) for mean in means.values())] for name in names]
    print_columns(["metric", *(f"{length} frames" for length in means)], rows, "over windows of a clip")


def _print_comparison(scores: dict[str, Any], other: dict[str, Any], name: str) -> None:
    """What is better and what is worse than in `other`, clip by clip."""
    from steadydepth.evaluation.bootstrap import compare_reports, comparison_rows

    found = compare_reports(scores, other)
    rows = comparison_rows(found)
    title = f"this one against {name}: {len(found.shared)} clips in both"
    print_columns(list(rows[0]) if rows else [], [list(row.values()) for row in rows], title)
    for clips, where in ((found.only_here, "this one"), (found.only_there, name)):
        if clips:
            more = ", ..." if len(clips) > 5 else ""
            print(f"{len(clips)} clips are in {where} alone and do not count here: {', '.join(clips[:5])}{more}")
