"""Who holds the port. systemd calls a socket active, at its new address, that it has closed because its file was changed while it
ran; the server then listens by itself, and who connects while it restarts is refused."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from appliance.installer import layout
from appliance.settings_table import Settings

_LISTENS = "0A"  # TCP_LISTEN of the kernel's tcp_states.h


def address_of_socket() -> str:
    """What its unit says; "" without one."""
    command = ["systemctl", "show", "--property=Listen", "--value", layout.SOCKETS[0]]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition(" ")[0].strip()


def is_systemd_s(wanted: Settings) -> bool:
    """Both by its unit and, where root asks, by pid 1's own descriptors."""
    if address_of_socket() != layout.listen_address(wanted):
        return False
    try:
        held = set(_descriptors())
    except PermissionError:
        return True
    return any(f"socket:[{inode}]" in held for inode in _listening(wanted.port))


def _descriptors() -> Iterator[str]:
    for path in Path("/proc/1/fd").iterdir():
        with suppress(FileNotFoundError):
            yield os.readlink(path)


def _listening(port: int) -> Iterator[str]:
    """Inodes, by proc(5)."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
