"""The steps' host as a box, and what is copied into it."""

import http.client
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.appliance import HANG_GUARD
from tests.installed import steps
from tests.installed.steps import Installed
from tests.systemd.box import Box, Connection, booted

_GO = "/usr/local/go"


class BoxHost(NamedTuple):
    box: Box

    def run(self, *command: str) -> str:
        return self.box.run(*command)

    def status(self, *command: str) -> tuple[int, str]:
        done = subprocess.run(
            self.box.command(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=HANG_GUARD
        )
        return done.returncode, done.stdout + done.stderr


class BoxInstalled(Installed):
    host: BoxHost

    def connect(self) -> http.client.HTTPConnection:
        return Connection(self.host.box, self.port)


@contextmanager
def host_with(binary: Path, *, go: bool = False) -> Iterator[BoxHost]:
    """A fresh one, with a network and the one file. Without Go unless asked for: each would compile its whole library."""
    with booted("--network") as box:
        target = Path(f"/proc/{box.pid}/root{steps.PROGRAM}")
        target.write_bytes(binary.read_bytes())
        os.chmod(target, 0o755)
        if not go:
            box.run("sh", "-c", 'if [ -d "$0" ]; then mount -t tmpfs none "$0"; fi', _GO)
        yield BoxHost(box)


@contextmanager
def installed_on(host: BoxHost) -> Iterator[BoxInstalled]:
    """Spoken to like any appliance, once it is installed."""
    with subprocess.Popen(["true"]) as nothing:  # it is the box's to start and to stop
        appliance = BoxInstalled(nothing, steps.PORT, Path("/var/lib/codeactions"))
        appliance.host = host
        yield appliance
        appliance.threads.shutdown()
