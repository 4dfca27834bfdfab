"""What an installation consists of: paths and the texts of its files. Pure, but for reading our own sources."""

import hashlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import appliance
from appliance import __version__
from appliance import program as this_program
from appliance.settings_table import Settings

UNITS = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/codeactions.conf")
TMPFILES = Path("/etc/tmpfiles.d/codeactions.conf")
ETC = Path("/etc/codeactions")
CREDENTIALS = ETC / "credentials"
STATE = Path("/var/lib/codeactions")
RUN = Path("/run/codeactions")
UID_LOCKS = Path("/run/codeactions-uids.lock")
UNPACKED = Path("/usr/local/lib/codeactions")  # where the binary unpacks itself for root, whatever --prefix is
USER = "codeactions"

SERVICE = "codeactions.service"
SOCKETS = ("codeactions.socket", "codeactions-launcher.socket")
LAUNCHER = "codeactions-launcher.service"
OF_A_CHECKOUT = [UNITS / f"{name}.d/checkout.conf" for name in (SERVICE, LAUNCHER)]
SLICES = ("codeactions-runs.slice", "codeactions.slice")
_SOURCES = Path(appliance.__file__).parent.parent


class Program(NamedTuple):
    """`home` holds one folder a version and the link `current`; `tree` is the folder that the binary runs from, None for a
    checkout, for which a script stands in that starts it where it is."""

    home: Path
    version: str
    tree: Path | None
    link: Path

    @property
    def folder(self) -> Path:
        return self.home / self.version

    @property
    def current(self) -> Path:
        return self.home / "current"

    @property
    def command(self) -> Path:
        return self.current / "codeactions"


def program(prefix: Path) -> Program:
    tree = this_program.tree()
    version = tree.name if tree else f"{__version__}-{_digest_of_sources()}"
    return Program(prefix / "lib/codeactions", version, tree, prefix / "bin/codeactions")


def _digest_of_sources() -> str:
    digest = hashlib.sha256(sys.executable.encode())
    for package in ("appliance", "engines", "ui", "systemd"):
        for path in sorted((_SOURCES / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(_SOURCES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def script() -> str:
    return f'#!/bin/sh\nexec {shlex.join(this_program.command())} "$@"\n'


def units(settings: Settings, program: Program) -> Iterator[tuple[Path, str]]:
    """Path and text of each."""
    words = {"@PROGRAM@": str(program.command), "@LISTEN@": listen_address(settings)}
    for name in (SERVICE, LAUNCHER, *SOCKETS, SLICES[0]):
        text = source(name)
        for word, value in words.items():
            text = text.replace(word, value)
        yield UNITS / name, text
    if program.tree is None:
        # A checkout may lie where the units see nothing, /tmp or a home.
        folders = sorted({str(_SOURCES), sys.prefix, sys.base_prefix})
        shown = "[Service]\nProtectHome=tmpfs\n" + "".join(f"BindReadOnlyPaths={folder}\n" for folder in folders)
        yield from ((path, shown) for path in OF_A_CHECKOUT)


def source(name: str) -> str:
    return (_SOURCES / "systemd" / name).read_text("utf-8")


def listen_address(settings: Settings) -> str:
    """As ListenStream= takes it; a name is resolved by systemd's rules, which take addresses only."""
    host = {"localhost": "127.0.0.1"}.get(settings.host, settings.host)
    return f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"
