"""Imports point down: each room may import from the floors below it, and inside itself."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "steadydepth"
FLOORS = {
    "errors": 0,
    "types": 0,
    "config": 0,
    "config_files": 0,
    "files": 1,
    "ops": 1,
    "data": 2,
    "models": 2,
    "method": 2,
    "output": 2,
    "metrics": 2,
    "metrics.sources": 3,
    "metrics.evaluate": 3,
    "inference": 3,
    "inference.int8": 4,
    "training.checkpoint": 3,
    "training": 4,
    "cli": 6,
    "doctor": 6,
    "": 6,
}
MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def room(name: str) -> str:
    return name if name in FLOORS else name.partition(".")[0]


def imported(path: Path) -> list[str]:
    """Our own modules that a file imports, at its top or inside a function."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative import; write it in full")
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "steadydepth":
            names.append(node.module)
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.partition(".")[0] == "steadydepth"]
    return [name.partition(".")[2] for name in names]


def breaks(importer: str, importee: str) -> bool:
    ours, theirs = room(importer), room(importee)
    if FLOORS[ours] == 6:
        return False
    same_room = ours.partition(".")[0] == theirs.partition(".")[0]
    return FLOORS[theirs] > FLOORS[ours] or (FLOORS[theirs] == FLOORS[ours] > 0 and not same_room)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    assert room(name_of(path)) in FLOORS, f"{path}: give its room a floor"
    wrong = [name for name in imported(path) if breaks(name_of(path), name)]
    assert wrong == []


def test_the_rule_has_teeth():
    assert breaks("ops.warp", "data.clips")
    assert breaks("method.losses", "data.loader")
    assert breaks("metrics.accuracy", "metrics.evaluate")
    assert breaks("inference.predict", "training.run")
    assert not breaks("data.loader", "data.clips")
    assert not breaks("training.run", "training.checkpoint")
    assert len(MODULES) > 30
    assert "data.sequence_folder" in imported(SOURCE / "data" / "loader.py")
