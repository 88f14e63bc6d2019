"""The page that shows live depth: files for a browser; a server gives them out, `export --to web` copies."""

from pathlib import Path

# Endings, and what a server calls them.
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def page_files() -> dict[str, Path]:
    """The files of the page by name."""
    return {path.name: path for path in sorted(Path(__file__).parent.iterdir()) if path.suffix in KINDS}
