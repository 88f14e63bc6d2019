"""What a server is started with: where it listens, who may use it, and how much of it."""

import sys
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from steadydepth.errors import InputError
from steadydepth.jobs.limits import JobLimits
from steadydepth.serving.address import check_port


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one client, and all together, may ask of a server."""

    body_bytes: int = 16 << 20  # of a request, unless its route says another number
    frame_bytes: int = 8 << 20  # of a message of a stream
    pixels: int = 8_300_000  # of an image: 3840 x 2160 and a little more
    sessions: int = 64  # streams that are open at the same time
    sessions_a_client: int = 16  # of them by one token, or by one address where there are no tokens
    requests: int = 32  # that are computed or wait at the same time
    connections: int = 512  # at the same time, of whatever kind
    requests_s: float = 50.0  # of one client, on average; twice as many at once
    messages_s: float = 1000.0  # of one stream, on average; twice as many at once
    failures_s: float = 1.0  # wrong tokens of one address, on average; ten at once
    header_s: float = 10.0  # until a connection has sent its request
    body_s: float = 30.0  # until a request's body is there
    send_s: float = 10.0  # until a client has taken an answer
    idle_s: float = 120.0  # of a stream without a frame
    session_s: float = 24 * 3600.0  # of a stream


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve.

    Raises:
        InputError: the settings are unsafe, or do not fit together.
    """

    model: Any  # a name that `load` takes, or a Predictor
    device: str | None = None  # of models that are named; None takes an accelerator where there is one
    filter: str | None = None  # of streams that name none; None takes the Predictor's own
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: Path | None = None  # the file of tokens (`tokens.new_token`); None lets everyone on this machine do all
    names: tuple[str, ...] = ()  # further names under which clients reach the server, such as that of a proxy
    proxy: str | None = None  # address of a reverse proxy whose X-Forwarded-* headers are believed
    certificate: Path | None = None  # PEM, for TLS
    key: Path | None = None  # PEM, of the certificate
    audit: Path | None = None  # a file of JSON lines: who asked for what; None: the log
    webrtc: bool = False  # cameras over WebRTC as well, which answers packets to addresses that the client names
    data: Path | None = None  # where uploads and jobs are kept; None: no training
    limits: Limits = field(default_factory=Limits)
    job_limits: JobLimits = field(default_factory=JobLimits)

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach the server."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False

    def __post_init__(self) -> None:
        """See that the settings are safe, and can work."""
        if not self.is_local and self.tokens is None:
            raise InputError(
                f"host {self.host} is reached from other machines, and nobody would be asked who they are: make a "
                "token (steadydepth serve --new-token NAME --tokens FILE) and serve with --tokens FILE, or stay on "
                "127.0.0.1"
            )
        if (self.certificate is None) != (self.key is None):
            raise InputError("TLS needs both --certificate and --key: give the other one, or neither")
        for path in (self.certificate, self.key):
            if path is not None and not path.is_file():
                raise InputError(f"{path} does not exist; it is a PEM file for TLS: check the path")
        check_port(self.port)
        if self.data is not None and sys.platform == "win32":
            raise InputError(
                f"{self.data}: uploads and jobs need Linux or macOS, whose limits keep them from the rest of the "
                "machine: leave --data out, and everything else is served; or train here with train and stabilise"
            )
