"""Telling systemd how the service stands (sd_notify(3)). `address` is $NOTIFY_SOCKET; "" where no service manager asked."""

import socket


def ready(address: str, status: str) -> None:
    """The service can be used; units that are ordered after it start now."""
    _send(address, f"READY=1\nSTATUS={_line(status)}")


def stopping(address: str, status: str) -> None:
    _send(address, f"STOPPING=1\nSTATUS={_line(status)}")


def status(address: str, text: str) -> None:
    """One line that `systemctl status` shows."""
    _send(address, f"STATUS={_line(text)}")


def _line(text: str) -> str:
    return " ".join(text.splitlines())


def _send(address: str, message: str) -> None:
    """Raises OSError when the manager's socket is gone: a service of Type=notify that it can't hear would be killed anyway."""
    if not address:
        return
    # @ is how a variable spells the zero byte of an abstract name.
    name = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(message.encode(), name)
