"""The page of the server, `/`: its files as they are, no token asked; what it asks for then, is."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse

from steadydepth.page import KINDS, page_files
from steadydepth.serving.access import requires
from steadydepth.serving.tokens import Identity

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
def show_page() -> FileResponse:
    """The page itself."""
    return show_part("index", "html")


@router.get("/page.json")
def show_rights(request: Request, identity: Annotated[Identity, requires("predict")]) -> dict[str, bool]:
    """What the page may offer whoever asks."""
    return {"trains": request.app.state.jobs is not None and identity.may("train")}


@router.get("/{name}.{suffix}")
def show_part(name: str, suffix: str) -> FileResponse:
    """A script, a style sheet or an image of it."""
    path = page_files().get(f"{name}.{suffix}")
    if path is None:
        raise HTTPException(404)
    # Asked for again each time, and answered with 304: a page never meets scripts of another version.
    return FileResponse(path, media_type=KINDS[path.suffix], headers={"Cache-Control": "no-cache"})
