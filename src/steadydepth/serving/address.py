"""The address that a server listens on: checked before a model is loaded, and explained where it cannot be had."""

import errno
import os
import socket

from steadydepth.errors import InputError

_WHY = {
    errno.EADDRINUSE: "is in use by another program: choose another --port, or end that program",
    errno.EACCES: "may not be listened on by this user: choose another --port, 1024 or above",
    errno.EADDRNOTAVAIL: "is no address of this machine: choose another --host",
}


def shown_address(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port(port: int) -> None:
    """Check that a number is that of a port.

    Raises:
        InputError: it is not.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: must be from 1 to 65535, or 0 for any free one")


def check_address(host: str, port: int) -> int:
    """Check that an address can be listened on.

    A host whose name is not known is left to what listens: it may know it as one of IPv6.

    Returns: the port; for 0, one that is free.

    Raises:
        InputError: it is in use, not allowed or of another machine, or there is no such port.
    """
    check_port(port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as listening:
            return int(listening.getsockname()[1])
    except OSError as error:
        if error.errno in _WHY:
            raise refused_address(host, port, error) from error
        return port


def refused_address(host: str, port: int, error: BaseException | None) -> InputError:
    """The message about an address that cannot be listened on.

    Args:
        host: of the address.
        port: of the address.
        error: why; its own words may name the address once more, and are left out.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, socket.gaierror):
        why = f"is no known host ({error.strerror}): choose another --host"
    elif number in _WHY:
        why = _WHY[number]
    else:
        reason = f" ({os.strerror(number)})" if number else ""
        why = f"cannot be listened on{reason}: choose another --port or --host"
    return InputError(f"{shown_address(host, port)} {why}")
