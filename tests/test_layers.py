"""Imports point down: each room may import from itself and the floors below it, and no files import in a circle."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "steadydepth"
FLOORS = (
    ("errors", "types", "video_types", "config", "config_files", "progress"),  # words
    ("ops", "files", "page"),  # sums; bytes to arrays
    ("models", "method", "metrics", "synthetic", "layouts"),  # parts
    ("data",),  # may render what it serves
    ("inference",),  # a model over a video
    ("evaluation",),
    ("training", "exporters"),
    ("reports", "filter_training"),  # reads what runs leave, and runs their models; trains what stands behind one
    ("experiments",),  # many runs
    ("jobs",),  # training for terminals, a process each
    ("serving",),  # a model over the network
    ("client",),  # the other side of it
    ("served",),  # a server as a predictor
    ("cli", "commands", "gradio_app", "diagnosis", "__main__", ""),  # doors
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
DOORS = len(FLOORS) - 1
MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


NAMES = {name_of(path) for path in MODULES}


def room(name: str) -> str:
    return name.partition(".")[0]


def imported(path: Path) -> list[str]:
    """Our own modules that a file imports, at its top or inside a function."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative import; write it in full")
        if isinstance(node, ast.ImportFrom) and room(node.module or "") == "steadydepth":
            home = node.module.partition(".")[2]
            inside = [f"{home}.{alias.name}".lstrip(".") for alias in node.names]
            names += [name if name in NAMES else home for name in inside]
        if isinstance(node, ast.Import):
            names += [alias.name.partition(".")[2] for alias in node.names if room(alias.name) == "steadydepth"]
    return names


def breaks(importer: str, importee: str) -> bool:
    ours, theirs = room(importer), room(importee)
    if FLOOR_OF[ours] == DOORS:
        return False
    return FLOOR_OF[theirs] > FLOOR_OF[ours] or (FLOOR_OF[theirs] == FLOOR_OF[ours] > 0 and ours != theirs)


def circle(arrows: dict[str, list[str]]) -> list[str]:
    """The files of one circle of imports, or none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    assert room(name_of(path)) in FLOOR_OF, f"{path}: give its room a floor"
    wrong = [name for name in imported(path) if breaks(name_of(path), name)]
    assert wrong == []


def test_no_files_import_in_a_circle():
    # The faces of packages hand names on when they are asked for, so they stand in no circle at import.
    inner = {name_of(path): path for path in MODULES if path.name != "__init__.py"}
    assert circle({name: [each for each in imported(path) if each in inner] for name, path in inner.items()}) == []


def test_no_room_holds_more_than_a_tenth_of_all_files():
    rooms = [name_of(path).partition(".")[0] for path in MODULES]
    sizes = {name: rooms.count(name) for name in rooms}
    assert {name: n for name, n in sizes.items() if n > len(rooms) / 10} == {}


def test_contributing_shows_the_same_floors():
    page = (SOURCE.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("| floor | rooms |\n| --- | --- |\n")[2].partition("\n\n")[0]
    shown = [re.findall(r"`(\w+)`", row.split("|")[2]) for row in table.splitlines()]
    assert shown == [[name or "__init__" for name in rooms] for rooms in FLOORS]


def test_the_rules_have_teeth():
    assert breaks("ops.warp", "data.clips")
    assert breaks("method.losses", "data.loader")
    assert breaks("metrics.accuracy", "evaluation.evaluate")
    assert breaks("inference.predict_files", "training.loop")
    assert breaks("training.loop", "exporters.bench")
    assert not breaks("data.loader", "data.clips")
    assert not breaks("training.loop", "training.checkpoint")
    assert circle({"a": ["b"], "b": ["c"], "c": ["a"]})
    assert len(MODULES) > 100
    assert "data.sequence_folder" in imported(SOURCE / "data" / "loader.py")
