"""The table of docs/data.md that says what input may look like names tests that are there."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
DOCS = TESTS.parent / "docs" / "data.md"


def named() -> list[str]:
    section = DOCS.read_text(encoding="utf-8").split("## What input may look like")[1].split("\n## ")[0]
    return re.findall(r"`(test_\w+)`", section)


def test_every_test_that_the_table_names_is_one():
    defined = {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert [name for name in named() if name not in defined] == []
    assert len(named()) > 30


def test_every_line_of_the_table_names_one():
    section = DOCS.read_text(encoding="utf-8").split("## What input may look like")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert [line for line in lines if "`test_" not in line.rpartition(" | ")[2]] == []
