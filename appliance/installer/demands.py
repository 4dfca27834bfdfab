"""What must be so before anything is changed; each raises `StepFailed` with what to do."""

import ipaddress
import os
import shutil
import socket
from pathlib import Path

from appliance import settings
from appliance.installer import layout, services
from appliance.installer.changes import StepFailed

_TOOLS = ("systemctl", "systemd-sysusers", "systemd-tmpfiles", "userdel")


def root() -> None:
    if os.geteuid() != 0:
        raise StepFailed("install and uninstall change the host: run them as root")


def systemd(*, is_booted: bool) -> None:
    if is_booted and not Path("/run/systemd/system").is_dir():
        raise StepFailed("systemd doesn't run this host: `codeactions serve` works without, --no-start prepares an image")
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise StepFailed(f"{', '.join(missing)} isn't on this host: install the packages systemd and passwd")


def address(wanted: settings.Settings) -> None:
    try:
        ipaddress.ip_address("127.0.0.1" if wanted.host == "localhost" else wanted.host)
    except ValueError:
        raise StepFailed(f"HOST {wanted.host}: systemd listens on addresses, not on names: write the address") from None
    if wanted.port == 0:
        raise StepFailed("PORT 0 is a port that nobody knows: write one into /etc/codeactions/config.toml")


def port(wanted: settings.Settings) -> None:
    if services.is_active(layout.SOCKETS[0]):
        return
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    try:
        socket.create_server((wanted.host, wanted.port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise StepFailed(
            f"HOST {wanted.host}, PORT {wanted.port}: can't listen there: {reason}; write another into "
            f"{layout.ETC / 'config.toml'} (`port = 9000`), and install again"
        ) from None
