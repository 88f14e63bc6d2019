"""What the commands have in common: a table, a pair of numbers."""

from typing import Annotated

import typer

from steadydepth.errors import InputError

ModelName = Annotated[
    str, typer.Option("--model", help="A folder, hub name, package.module:factory, or exported file.")
]
Strength = Annotated[
    float | None, typer.Option(min=0, max=1, help="Strength of the learned filter: from 0 (no filter) to 1.")
]

DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Device of the model: cpu, cuda, cuda:1, mps, ...; default: an accelerator if there is one. Exported "
        "files run on the CPU.",
    ),
]

ModelOrServer = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A folder, hub name, package.module:factory, or exported file; default: the package's steadydepth-small.",
    ),
]
ServerUrl = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Server in place of --model; its token is in STEADYDEPTH_TOKEN."),
]


def pair(words: str, between: str, option: str, example: str) -> tuple[int, int]:
    """Two positive integers with a sign between them.

    Args:
        words: what was typed.
        between: the sign.
        option: that it was typed for, for the error.
        example: of what to type, for the error.

    Raises:
        InputError: they are not two such numbers.
    """
    first, _, second = words.partition(between)
    if not (first.isdecimal() and second.isdecimal() and int(first) and int(second)):
        raise InputError(f"{option} {words}: give two numbers, such as {example}")
    return int(first), int(second)


def cell(value: float | str | None) -> str:
    """A value as a table shows it; nothing for None."""
    return f"{value:.4g}" if isinstance(value, float | int) else value or ""


def before_and_after(before: dict[str, float | None], after: dict[str, float | None]) -> list[list[str]]:
    """A row for each metric of a table of evaluate that both have, or that compares the two."""
    from steadydepth.evaluation.summary import table_rows

    rows = table_rows({"before": {"mean": before}, "after": {"mean": after}})
    found = []
    for row in rows:
        one, other = (scores.get(row["metric"]) for scores in (before, after))
        ratio = f"{other / one:.2f}" if one and other is not None else ""
        found.append([row["metric"], cell(one), cell(other), ratio])
    return found


def print_columns(names: list[str], rows: list[list[str]], title: str) -> None:
    """A table as wide as the terminal.

    Args:
        names: of the columns.
        rows: texts, one for each column.
        title: above it.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*names, title=escape(title))
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    # A file or a pipe has no width of its own; a table cut at 80 columns would lose numbers.
    Console(width=None if console.is_terminal else 200).print(table)
