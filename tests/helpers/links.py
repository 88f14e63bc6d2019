"""Symbolic links, which Windows lets few users make."""

import tempfile
from pathlib import Path

import pytest


def _may_link() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / "link").symlink_to("nowhere")
        except OSError:
            return False
        return True


MAY_LINK = _may_link()
needs_links = pytest.mark.skipif(not MAY_LINK, reason="this user may make no symbolic links")
