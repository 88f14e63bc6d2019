"""The docs site: `make docs` builds it into runs/site, and a warning is an error."""

import re
from importlib import metadata
from typing import Any

project = "steadydepth"
author = "The steadydepth authors"
copyright = "The steadydepth authors, Apache-2.0"
release = metadata.version("steadydepth")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "steadydepth"

myst_heading_anchors = 4
# Shell sessions and trees of files are indented blocks, and plain text.
highlight_language = "none"

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
# A word in single backticks is code, as in Markdown.
default_role = "code"
# Two sections of the config have a key named `set`, which is a type as well.
suppress_warnings = ["ref.python"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# What reStructuredText would read as a substitution, emphasis, or the name of a link: |d - g|, a * b, flow_*, name_.
_CODE = re.compile(r"(`[^`]*`)")
_SPECIAL = re.compile(r"([|*])|(?<=\w)(_)(?=\W|$)")


def _as_written(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks."""
    for number, line in enumerate(lines):
        parts = _CODE.split(line)
        lines[number] = "".join(
            part if index % 2 else _SPECIAL.sub(r"\\\1\2", part) for index, part in enumerate(parts)
        )


def setup(app: Any) -> None:
    """Called by Sphinx. Before napoleon (500) turns the sections of a docstring into fields."""
    app.connect("autodoc-process-docstring", _as_written, priority=400)
