"""The docstrings of public functions say what the signature cannot, so that a reference can be made of them."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "steadydepth"
MANY = 3  # arguments: so many are explained one by one
# The commands: each option has its help beside it, and the docstring is what --help prints.
COMMANDS = re.compile(r"cli/(?!printing)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], within: str = "") -> list[tuple[str, Function]]:
    """The functions and methods whose names, and those of their classes, do not begin with an underscore."""
    found: list[tuple[str, Function]] = []
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            found.append((within + node.name, node))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += public_functions(node.body, f"{within}{node.name}.")
    return [(name, node) for name, node in found if not any("overload" in ast.unparse(d) for d in node.decorator_list)]


def public_classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def arguments(function: Function) -> list[str]:
    args = function.args
    stars = [star.arg for star in (args.vararg, args.kwarg) if star is not None]
    names = [each.arg for each in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return [name for name in (*names, *stars) if name not in ("self", "cls")]


def explained(docstring: str) -> list[str]:
    """The names in the section Args."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n(?= ))+)", docstring, re.MULTILINE)
    return re.findall(r"^    \*{0,2}(\w+): \S", section[1], re.MULTILINE) if section else []


def raises_input_error(function: Function) -> bool:
    """Whether it raises InputError itself, in no function inside it."""
    nodes: list[ast.AST] = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc).startswith("InputError"):
            return True
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return False


def faults(name: str, function: Function) -> list[str]:
    docstring = ast.get_docstring(function) or ""
    wanted, named = arguments(function), explained(docstring)
    found = [] if docstring else [f"{name}: no docstring"]
    if len(wanted) >= MANY and not named:
        found.append(f"{name}: {len(wanted)} arguments and no Args")
    if named and sorted(named) != sorted(wanted):
        found.append(f"{name}: explains {named}; its arguments are {wanted}")
    if raises_input_error(function) and not re.search(r"^Raises:\n    InputError: \S", docstring, re.MULTILINE):
        found.append(f"{name}: raises InputError; Raises does not say when")
    return found


def class_faults(node: ast.ClassDef) -> list[str]:
    """Of the class itself: what its constructor takes is explained by either of them."""
    docstring = ast.get_docstring(node) or ""
    found = [] if docstring else [f"{node.name}: no docstring"]
    for function in node.body:
        if isinstance(function, Function) and function.name == "__init__":
            wanted = arguments(function)
            named = explained(docstring) or explained(ast.get_docstring(function) or "")
            if (named or len(wanted) >= MANY) and sorted(named) != sorted(wanted):
                found.append(f"{node.name}: explains {named}; its arguments are {wanted}")
    return found


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if not COMMANDS.match(path.relative_to(SOURCE).as_posix())]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_arguments_and_errors_are_explained(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = public_functions(tree.body)
    assert [fault for name, function in functions for fault in faults(name, function)] == []
    assert [fault for node in public_classes(tree) for fault in class_faults(node)] == []


def test_the_rules_have_teeth():
    def of(text: str) -> list[str]:
        return [fault for name, node in public_functions(ast.parse(text).body) for fault in faults(name, node)]

    bare = 'def f(a, b, *, c):\n    """One."""\n'
    assert of(bare) == ["f: 3 arguments and no Args"]
    full = bare.replace(
        "One.", "One.\n\n    Args:\n        a: one.\n        b: two,\n            or less.\n        c: three.\n    "
    )
    assert of(full) == []
    assert of(full.replace("b: two", "d: two"))[0].startswith("f: explains ['a', 'd', 'c']")
    assert of(full.replace("c: three.", "c: three.\n\n    Returns: four.")) == []
    failing = 'def f(a):\n    """One."""\n    raise InputError("x")\n'
    assert of(failing) == ["f: raises InputError; Raises does not say when"]
    assert of(failing.replace("One.", "One.\n\n    Raises:\n        InputError: always.\n    ")) == []
    assert of(failing.replace("f(a)", "_f(a)")) == []
    assert of('class A:\n    def f(self, a, b):\n        """Two beside self."""\n') == []
    assert of("def f(): ...\n") == ["f: no docstring"]

    def of_class(text: str) -> list[str]:
        return [fault for node in public_classes(ast.parse(text)) for fault in class_faults(node)]

    empty = "class A:\n    def __init__(self, a, b, c): ...\n"
    assert of_class(empty) == ["A: no docstring", "A: explains []; its arguments are ['a', 'b', 'c']"]
    said = empty.replace(
        "A:\n", 'A:\n    """One.\n\n    Args:\n        a: one.\n        b: two.\n        c: three.\n    """\n'
    )
    assert of_class(said) == []
    assert of_class(said.replace("a, b, c", "a, b"))[0].startswith("A: explains ['a', 'b', 'c']")
