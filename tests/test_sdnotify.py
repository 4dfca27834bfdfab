import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import sdnotify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket and how $NOTIFY_SOCKET spells it."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path if request.param == "path" else "\0" + path)
        sock.settimeout(10)
        yield sock, path if request.param == "path" else "@" + path


def test_the_manager_hears_that_the_service_is_ready(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    sdnotify.ready(address, "listening on http://127.0.0.1:8050")
    assert sock.recv(4096) == b"READY=1\nSTATUS=listening on http://127.0.0.1:8050"


def test_the_manager_hears_that_it_stops(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    sdnotify.stopping(address, "3 calls still run")
    assert sock.recv(4096) == b"STOPPING=1\nSTATUS=3 calls still run"


def test_a_status_is_one_line(manager: tuple[socket.socket, str]) -> None:
    sock, address = manager
    sdnotify.status(address, "a\nREADY=1")
    assert sock.recv(4096) == b"STATUS=a READY=1"


def test_without_a_manager_nothing_happens() -> None:
    sdnotify.ready("", "ready")


def test_a_manager_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sdnotify.ready(str(tmp_path / "gone"), "ready")
