"""What a person wants to see of runs, finished or under way, collected into one page."""

import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from steadydepth.errors import InputError
from steadydepth.evaluation.stored_report import read_report
from steadydepth.evaluation.summary import table_rows
from steadydepth.files.atomic_writes import check_file, write_text
from steadydepth.files.damage import reading
from steadydepth.models.load import is_at_hand, load_model
from steadydepth.reports.clips import Shown, choose_clips, view_sequence
from steadydepth.reports.page import Section, Table, draw_curves, render_page
from steadydepth.reports.run_charts import draw_planes
from steadydepth.training.log import LOG, read_log

logger = logging.getLogger(__name__)

Reports = dict[str, dict[str, Any]]

MOVING_IMAGE = "flicker.webp"
PARTS = {"All clips": "mean", "Fixed camera": "mean_fixed", "Moving camera": "mean_moving"}


def _find(folders: list[Path], file: str) -> dict[str, Path]:
    """The file in each folder, or in the folders directly inside it, oldest first, by the name of its folder.

    Folders of one name in different places are distinguished by the folders above them.
    """
    found = {path for folder in folders for path in (*folder.glob(file), *folder.glob(f"*/{file}"))}
    # Absolute, as `.` has no name; links keep theirs.
    paths = sorted({path.absolute() for path in found}, key=lambda path: (path.stat().st_mtime, path))

    def named(path: Path) -> str:
        longer = ("/".join(path.parent.parts[-n:]) for n in range(1, len(path.parts)))
        others = [other.parent for other in paths if other != path]
        return next(name for name in longer if not any(f"/{other.as_posix()}".endswith(f"/{name}") for other in others))

    return {named(path): path for path in paths}


def write_report(runs: list[Path], out: Path | None = None, *, title: str | None = None) -> Path:
    """One page of runs and evaluations at `out`, or as report.html in the first folder; returns its path.

    Folders are taken with those directly inside them; of a run under way there are the curves so far. Evaluations on
    the same data stand in one section; what `verify --out verify.json` found stands in the last. Beside the page,
    flicker.webp shows the first labelled clip.

    Args:
        runs: folders of runs and of evaluations.
        out: the page.
        title: of the page; None for the name of the first folder.

    Raises:
        InputError: a folder is missing, or holds neither a run nor an evaluation, or `out` cannot be a file.
    """
    missing = [str(folder) for folder in runs if not folder.is_dir()]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: no such folder; give run folders, or a folder of them such as runs/demo"
        )
    reports = {name: read_report(path) for name, path in _find(runs, "metrics.json").items()}
    logs = {name: read_log(path) for name, path in _find(runs, LOG).items()}
    if not reports and not logs:
        raise InputError(f"{runs[0]}: holds no metrics.json and no metrics.jsonl; train or evaluate into it first")
    page = out or runs[0] / "report.html"
    check_file(page)
    page.parent.mkdir(parents=True, exist_ok=True)
    (page.parent / MOVING_IMAGE).unlink(missing_ok=True)
    groups: dict[str, Reports] = {}
    for name, report in reports.items():
        groups.setdefault(report["header"]["data"], {})[name] = report
    proofs = list(_find(runs, "verify.json").values())
    sections = [_section(data, group, page.parent) for data, group in groups.items()]
    sections += [_cost_section(proofs)] if proofs else []
    write_text(page, render_page(f"steadydepth: {title or runs[0].resolve().name}", sections, curves=draw_curves(logs)))
    return page


def _section(data: str, group: Reports, folder: Path) -> Section:
    tables = [_table(title, group, part) for title, part in PARTS.items()]
    clips = []
    scored = {name for report in group.values() for name in report["clips"]}
    if (shown := _open_sources(group)) and Path(data).exists():
        try:
            chosen = choose_clips(Path(data), scored)
            clips = [view for one in chosen for view in view_sequence(one, shown, folder / MOVING_IMAGE)]
        except InputError as error:
            logger.warning("no images of %s: %s", data, error)
    tables = [table for table in [*tables, _table_of_lengths(group)] if table.rows]
    return Section(data, _facts(group), tables, clips, draw_planes(group))


def _cost_section(proofs: list[Path]) -> Section:
    """What `verify` found of models before and after training, a column for each pair."""

    def count(part: dict[str, Any], counted: str) -> str:
        return f"{'different' if part['different'] else 'same'} ({part[counted]} {counted})"

    facts = {
        "parameters": lambda proof: count(proof["parameters"], "tensors"),
        "graph": lambda proof: count(proof["graph"], "operators"),
        "latency": lambda proof: f"{proof['latency']['ratio']:.2f} x, noise {proof['latency']['noise']:.2f}",
        "same model": lambda proof: "yes" if proof["same"] else "no",
    }
    columns = {}
    for path in proofs:
        with reading(path, "as what steadydepth verify wrote", "remove it, or verify again"):
            proof = json.loads(path.read_text(encoding="utf-8"))
            columns[f"{proof['after']} after {proof['before']}"] = {name: say(proof) for name, say in facts.items()}
    rows = [{"metric": name} | {column: values[name] for column, values in columns.items()} for name in facts]
    return Section("Cost to run", "found by steadydepth verify", [Table("Before and after", list(columns), rows)], [])


def _open_sources(group: Reports) -> dict[str, Shown]:
    """The models and the predictions of a group that are still where they were evaluated."""
    shown = {}
    for name, report in group.items():
        model, predictions = (report["header"].get(kind) for kind in ("model", "predictions"))
        if model is not None and (network := _load_if_there(model)) is not None:
            shown[name] = Shown(network, report)
        elif predictions is not None and Path(predictions).is_dir():
            shown[name] = Shown(Path(predictions), report)
    return shown


def _load_if_there(model: str) -> nn.Module | None:
    """The model of that name; None where it is an exported file, or is no more.

    The folder runs/mine of somewhere else reads like a name of the hub, which is not asked for what is not here.
    """
    try:
        return None if Path(model).is_file() or not is_at_hand(model) else load_model(model)
    except InputError:
        return None


def _facts(group: Reports) -> str:
    names = (
        "n_clips", "n_frames", "fps", "protocol", "align", "dmax", "split_source", "flow_source", "n_skipped", "filter",
        "strength",
    )  # fmt: skip
    facts = [fact for name in names if (fact := _fact(name, {who: one["header"] for who, one in group.items()}))]
    if any(report.get("interval") for report in group.values()):
        facts.append("in brackets: 95 % interval of the mean over clips")
    return ", ".join(facts)


def _fact(name: str, headers: dict[str, dict[str, Any]]) -> str:
    """What the headers have under a name: once where it is the same in all, else with whose it is."""
    known = {who: header[name] for who, header in headers.items() if header.get(name) is not None}
    shown = {who: f"{value:.4g}" if isinstance(value, float) else str(value) for who, value in known.items()}
    if not shown or (name == "filter" and set(shown.values()) == {"none"}):
        return ""
    if len(shown) == len(headers) and len(set(shown.values())) == 1:
        return f"{name} {next(iter(shown.values()))}"
    return f"{name} " + ", ".join(f"{value} ({who})" for who, value in shown.items())


def _table(title: str, group: Reports, part: str) -> Table:
    """The table of one of PARTS, with its own intervals."""

    def only(table: dict[str, Any]) -> dict[str, Any]:
        return {"mean": table.get(part) or {}, "interval": table.get(part.replace("mean", "interval"))}

    chosen = {
        name: only(report) | {"controls": {key: only(one) for key, one in (report.get("controls") or {}).items()}}
        for name, report in group.items()
    }
    return _as_table(title, table_rows(chosen))


def _table_of_lengths(group: Reports) -> Table:
    """The temporal metrics over windows of so many frames, a column for each report and length."""
    lengths = {
        f"{name}, {'complete clips' if length == 'all' else f'{length} frames'}": {"mean": table["mean"]}
        for name, report in group.items()
        for length, table in (report.get("lengths") or {}).items()
    }
    return _as_table("By length of video", [row | {"best": ""} for row in table_rows(lengths)])


def _as_table(title: str, rows: list[dict[str, str]]) -> Table:
    head = ("metric", "unit", "better", "best", "note")
    return Table(title, [name for name in rows[0] if name not in head] if rows else [], rows)
