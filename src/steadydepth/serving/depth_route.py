"""`POST /v1/depth`: one image in, its depth out."""

import asyncio
import time
from contextlib import closing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response

from steadydepth.errors import InputError
from steadydepth.serving.access import requires
from steadydepth.serving.encoding import KINDS, decode_image, encode_depth, encode_exr, encode_npz
from steadydepth.serving.figures import Figures
from steadydepth.serving.settings import Settings
from steadydepth.serving.terminals import Answer, Terminal

router = APIRouter()
Format = Literal["png16", "npz", "exr"]
_MEDIA = {"png16": "image/png", "npz": "application/octet-stream", "exr": "image/x-exr"}
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_REFUSED = {
    "content": {"application/json": {"example": {"detail": "the image is none of JPEG, PNG, WEBP, or damaged"}}}
}


@router.post(
    "/v1/depth",
    dependencies=[requires("predict")],
    response_class=Response,
    summary="Depth of one image",
    responses={
        200: {
            "description": "Depth of the size of the image. `png16`: value = code * X-Depth-Scale + X-Depth-Offset, "
            "the code 0 is no value. `npz`: `depth` (1, h, w) float32 and `claims`. `exr`: float32 in the channel Z.",
            "content": dict.fromkeys(_MEDIA.values(), _BINARY),
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in {
                    "X-Depth-Claims": "metric (metres), scale, affine or disparity",
                    "X-Depth-Scale": "of png16",
                    "X-Depth-Offset": "of png16",
                    "X-Model": "name and version of the model",
                }.items()
            },
        },
        **{code: {"description": text, **_REFUSED} for code, text in {
            401: "No token, or a wrong one",
            403: "The token may not predict, or the request is of another site",
            408: "The body did not come in time",
            413: "Too many bytes",
            415: "No JPEG, PNG or WebP by its Content-Type",
            429: "Too many requests: try again after Retry-After seconds",
        }.items()},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The image itself: curl --data-binary @room.jpg -H 'Content-Type: image/jpeg'",
            "content": dict.fromkeys(KINDS, _BINARY),
        }
    },
)  # fmt: skip
async def depth(
    request: Request, format: Annotated[Format, Query(description="Of the answer", examples=["png16"])] = "png16"
) -> Response:
    """Depth of a JPEG, PNG or WebP by itself: a stream's state is not touched, and no filter is applied."""
    state = request.app.state
    figures: Figures = state.figures
    settings: Settings = state.settings
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in KINDS:
        raise HTTPException(415, f"Content-Type is one of {', '.join(KINDS)}")
    if figures.n_running >= settings.limits.requests:
        raise HTTPException(429, "too many requests at the same time", {"Retry-After": "1"})
    begun = time.monotonic()
    figures.n_running += 1
    try:
        data = await request.body()
        loop = asyncio.get_running_loop()
        answer, body, headers = await loop.run_in_executor(state.pool, _answer, state, data, format)
    finally:
        figures.n_running -= 1
    figures.n_images += 1
    figures.answered(time.monotonic() - begun)
    headers["X-Depth-Claims"] = answer.result.claims
    headers["X-Model"] = f"{answer.by.name} {answer.by.version}"
    return Response(body, media_type=_MEDIA[format], headers=headers)


def _answer(state: Any, data: bytes, format: Format) -> tuple[Answer, bytes, dict[str, str]]:
    """In a thread: the network, and what is before and after it."""
    settings: Settings = state.settings
    image = decode_image(data, settings.limits.pixels)
    with closing(Terminal(state.models)) as terminal:
        answer = terminal.step(image)
    try:
        if format == "png16":
            header, body = encode_depth(answer.result, "png16")
            return answer, body, {"X-Depth-Scale": repr(header["scale"]), "X-Depth-Offset": repr(header["offset"])}
        return answer, encode_npz(answer.result) if format == "npz" else encode_exr(answer.result), {}
    except InputError:
        raise HTTPException(422, f"this server cannot write {format}: take png16 or npz") from None
