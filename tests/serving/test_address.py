"""What is said of an address that cannot be listened on: the address once, why, and the way out."""

import errno
import socket

import pytest

from steadydepth.errors import InputError
from steadydepth.serving.address import check_address, refused_address


@pytest.mark.parametrize(
    ("host", "error", "message"),
    [
        (
            "::1",
            # In the words of asyncio, which name the address.
            OSError(errno.EADDRINUSE, "error while attempting to bind on address ('::1', 80, 0, 0): in use"),
            "[::1]:80 is in use by another program: choose another --port, or end that program",
        ),
        (
            "127.0.0.1",
            PermissionError(errno.EACCES, "Permission denied"),
            "127.0.0.1:80 may not be listened on by this user: choose another --port, 1024 or above",
        ),
        (
            "203.0.113.7",
            OSError(errno.EADDRNOTAVAIL, "error while attempting to bind on address ('203.0.113.7', 80)"),
            "203.0.113.7:80 is no address of this machine: choose another --host",
        ),
        (
            "nowhere",
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "nowhere:80 is no known host (Name or service not known): choose another --host",
        ),
        ("127.0.0.1", None, "127.0.0.1:80 cannot be listened on: choose another --port or --host"),
    ],
)
def test_the_message_names_the_address_once(host, error, message):
    assert str(refused_address(host, 80, error)) == message


def test_an_address_is_refused_while_somebody_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} is in use by another program"):
            check_address("127.0.0.1", port)
    assert check_address("127.0.0.1", port) == port
    assert check_address("127.0.0.1", 0) > 0


def test_an_address_of_another_machine_is_refused_at_once():
    with pytest.raises(InputError, match=r"^192\.0\.2\.1:0 is no address of this machine: choose another --host$"):
        check_address("192.0.2.1", 0)  # of documentation: RFC 5737


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(InputError, match=f"port {port}: must be from 1 to 65535, or 0 for any free one"):
        check_address("127.0.0.1", port)
