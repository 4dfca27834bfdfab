"""What systemd and a service say to each other: how it stands (sd_notify(3)), and the socket it was started for.

`address` is $NOTIFY_SOCKET; "" where no service manager asked.
"""

import os
import socket

FIRST_FD = 3  # SD_LISTEN_FDS_START


def inherited_socket(listen_fds: str, listen_pid: str) -> socket.socket | None:
    """The first that systemd passed ($LISTEN_FDS and $LISTEN_PID of sd_listen_fds(3)); None when none was meant for us."""
    if not listen_fds.isdigit() or int(listen_fds) < 1 or listen_pid != str(os.getpid()):
        return None
    os.set_inheritable(FIRST_FD, False)
    return socket.socket(fileno=FIRST_FD)


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
