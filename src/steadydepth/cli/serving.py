"""The command that serves a model."""

from pathlib import Path
from typing import Annotated

import typer

from steadydepth.cli.ending import end_as_usual
from steadydepth.cli.printing import DeviceName, ModelName
from steadydepth.errors import InputError


def serve(
    model: ModelName = "steadydepth-small",
    device: DeviceName = None,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine only with --tokens.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 8000,
    filter: Annotated[
        str | None,
        typer.Option(help="For streams that name none: none, learned, ema, ema_0.8, median or flow_ema."),
    ] = None,
    tokens: Annotated[Path | None, typer.Option(help="File of tokens; clients then need one of them.")] = None,
    new_token: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add a token to --tokens, print it and exit.")
    ] = None,
    scopes: Annotated[str, typer.Option(help="Scopes of --new-token: some of predict,train,admin.")] = "predict",
    name: Annotated[
        list[str] | None, typer.Option(help="Another name of this server that clients use; may be repeated.")
    ] = None,
    proxy: Annotated[
        str | None, typer.Option(help="Address of a reverse proxy whose X-Forwarded headers are trusted.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of the certificate, for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    audit: Annotated[
        Path | None, typer.Option(help="File for the audit log; default: with the other messages.")
    ] = None,
    webrtc: Annotated[bool, typer.Option("--webrtc", help="Accept WebRTC cameras (extra webrtc).")] = (False),
    data: Annotated[
        Path | None, typer.Option(help="Folder for uploads and training jobs; without it the server trains nothing.")
    ] = None,
) -> None:
    """Serve a model over HTTP and WebSocket until Ctrl-C: clients send images or streams of frames and get depth.

    Example: steadydepth serve --filter learned
    """
    if new_token is not None:
        if tokens is None:
            raise InputError("--new-token needs --tokens FILE, the file that it is added to")
        from steadydepth.serving.tokens import new_token as make_token

        print(make_token(tokens, new_token, tuple(scopes.split(","))))
        return
    from steadydepth.commands import serve as serve_model

    end_as_usual()

    serve_model(
        model,
        device=device,
        host=host,
        port=port,
        filter=filter,
        tokens=tokens,
        names=tuple(name or ()),
        proxy=proxy,
        certificate=certificate,
        key=key,
        audit=audit,
        webrtc=webrtc,
        data=data,
    )
