"""The steps' host as a box, and what is copied into it."""

import http.client
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from appliance.builds import FOLDER, TOOLCHAIN
from appliance.installer import layout
from tests.appliance import HANG_GUARD
from tests.golang import has_go, toolchain_cache
from tests.installed import steps
from tests.installed.steps import Installed
from tests.systemd.box import Box, Connection, booted

STATE_DIR = "/var/lib/codeactions"
_GO = "/usr/local/go"
# What this machine may have of the appliance, and the copy not: whoever starts the binary as root has it unpacked in the last.
_OURS = ["/etc/codeactions", STATE_DIR, "/usr/local/bin/codeactions", str(layout.UNPACKED)]


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
        box.run("rm", "-rf", *_OURS)
        target = Path(f"/proc/{box.pid}/root{steps.PROGRAM}")
        target.write_bytes(binary.read_bytes())
        os.chmod(target, 0o755)
        if not go:
            box.run("sh", "-c", 'if [ -d "$0" ]; then mount -t tmpfs none "$0"; fi', _GO)
        yield BoxHost(box)


def give_toolchain_cache(host: BoxHost) -> None:
    """What a server would compile in its first minute. Before it is installed: systemd gives the folder to its user then."""
    if has_go():
        host.run("mkdir", "-p", f"{STATE_DIR}/{FOLDER}")
        host.run("cp", "-r", str(toolchain_cache()), f"{STATE_DIR}/{FOLDER}/{TOOLCHAIN}")


@contextmanager
def installed_on(host: BoxHost) -> Iterator[BoxInstalled]:
    """Spoken to like any appliance, once it is installed."""
    with subprocess.Popen(["true"]) as nothing:  # it is the box's to start and to stop
        appliance = BoxInstalled(nothing, steps.PORT, Path(STATE_DIR))
        appliance.host = host
        yield appliance
        appliance.threads.shutdown()
