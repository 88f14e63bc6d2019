"""The page of the server, `/`: its files as they are, no token asked; what it asks for then, is."""

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

FOLDER = Path(__file__).parent
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
page_router = APIRouter(include_in_schema=False)


def page_files() -> dict[str, Path]:
    """The files of the page by name."""
    return {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}


@page_router.get("/")
def show_page() -> FileResponse:
    """The page itself."""
    return _file("index.html")


@page_router.get("/{name}.{suffix}")
def show_part(name: str, suffix: str) -> FileResponse:
    """A script, a style sheet or an image of it."""
    return _file(f"{name}.{suffix}")


def _file(name: str) -> FileResponse:
    path = page_files().get(name)
    if path is None:
        raise HTTPException(404)
    # Asked for again each time, and answered with 304: a page never meets scripts of another version.
    return FileResponse(path, media_type=KINDS[path.suffix], headers={"Cache-Control": "no-cache"})
