"""A machine of its own for tests: systemd as pid 1 of fresh namespaces, over a throw-away copy of this machine's files.

`systemd-box` beside this file makes it, and says how. Tests stay outside: they see the box's processes with their own pids, its
files below /proc/<its pid 1>/root, and reach its network by sockets that a thread makes inside its namespace.
"""

import http.client
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from appliance.builds import FOLDER, TOOLCHAIN
from appliance.runner.sandbox import syscalls, zygote
from tests.appliance import HANG_GUARD, ROOT, SERVE, Appliance, cmdline, environment_of, eventually, running, usable_settings
from tests.golang import go_program, has_go, toolchain_cache

TOOL = Path(__file__).parent / "systemd-box"
PARENT_SLICE = "codeactions.slice"
SLICE = f"{PARENT_SLICE}/codeactions-runs.slice"
_SYSTEMD = "/usr/lib/systemd/systemd"
_NAMESPACES = ["--cgroup", "--mount", "--pid", "--uts", "--ipc", "--net", "--fork"]


class Box(NamedTuple):
    """A running one; `pid` is its systemd's, as this machine sees it. Without a folder it is this machine itself."""

    folder: str
    pid: int

    def command(self, *command: str) -> list[str]:
        return [str(TOOL), "--enter", self.folder, "--", *command] if self.folder else list(command)

    def run(self, *command: str) -> str:
        """Its standard output; fails the test when the command fails."""
        done = subprocess.run(
            self.command(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=HANG_GUARD
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def cgroup(self, controller: str, path: str) -> Path:
        """The folder of a cgroup, by its path inside; `systemd` is the hierarchy that systemd itself works with."""
        mounted = Path(f"/proc/{self.pid}/root/sys/fs/cgroup")
        return (mounted / controller if (mounted / controller).is_dir() else mounted) / path

    def scopes(self, controller: str = "systemd") -> set[str]:
        folder = self.cgroup(controller, SLICE)
        return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()

    def socket_to(self, port: int) -> socket.socket:
        """A connection that begins inside the box: a socket belongs to the network namespace of the thread that made it."""
        made: list[socket.socket] = []

        def connect() -> None:
            namespace = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            finally:
                os.close(namespace)
            made.append(socket.create_connection(("127.0.0.1", port), HANG_GUARD))

        thread = threading.Thread(target=connect)
        thread.start()
        thread.join()
        if not made:
            raise ConnectionRefusedError(port)
        return made[0]


class Connection(http.client.HTTPConnection):
    def __init__(self, box: Box, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=HANG_GUARD)
        self._box = box
        self._port = port

    def connect(self) -> None:
        self.sock = self._box.socket_to(self._port)


@dataclass
class BoxedAppliance(Appliance):
    """An appliance that is a service of the box."""

    box: Box = field(kw_only=True)
    unit: str = field(kw_only=True)

    def connect(self) -> http.client.HTTPConnection:
        return Connection(self.box, self.port)

    @property
    def processes(self) -> list[int]:
        """The service's own: server, launcher, zygote."""
        text = (self.box.cgroup("systemd", f"{PARENT_SLICE}/{self.unit}") / "cgroup.procs").read_text()
        return [int(pid) for pid in text.split()]

    @property
    def launcher(self) -> int:
        return next(pid for pid in self.processes if b"\0launch\0" in cmdline(pid))

    def scopes(self, controller: str = "systemd") -> set[str]:
        """Its own: other services of the box have theirs."""
        return {name for name in self.box.scopes(controller) if name.startswith(f"codeactions-run-{self.mark}-")}

    @property
    def mark(self) -> str:
        """Its launcher's, which the box knows by another pid than we do: from a zygote's arguments, of which it is the last."""
        zygotes = [cmdline(pid).split(b"\0") for pid in self.processes if zygote.BOOT.encode() in cmdline(pid)]
        return zygotes[0][-2].decode()

    def scope_of(self, run_id: str) -> str:
        """The name of the scope that a run is in."""
        listed = self.box.run("systemctl", "list-units", "--plain", "--no-legend", "codeactions-run-*.scope")
        return next(line.split()[0] for line in listed.splitlines() if line.endswith(f"run {run_id}"))

    def limit(self, scope: str, controller: str, v1: str, v2: str) -> str:
        """What one of a scope's cgroup files holds, by its name in the version that the controller has here."""
        folder = self.box.cgroup(controller, f"{SLICE}/{scope}")
        return (folder / (v1 if (folder / v1).exists() else v2)).read_text().strip()


THIS_MACHINE = Box("", 1)  # for a virtual machine that is thrown away itself: tests/vm


def why_no_box() -> str:
    """What keeps this machine from having a box; empty when nothing does."""
    if os.geteuid() != 0:
        return "a systemd can only be booted by root"
    tools = [_SYSTEMD, "unshare", "nsenter", "setpriv", "setsid", "flock", "pivot_root", "ip", "systemctl", "systemd-run"]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not any(map(shutil.which, ("dbus-daemon", "dbus-broker"))):
        missing.append("dbus-daemon")
    if missing:
        return f"no systemd can be booted here without {', '.join(missing)}"
    tried = subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"this machine allows no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


@contextmanager
def booted(*options: str) -> Iterator[Box]:
    command = [str(TOOL), "--bind", f"{ROOT}:{ROOT}:ro", *options, "--keep"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = done.stdout.strip().removeprefix("box=")
    # It ends with us, however we end: the stop waits for the end of a pipe that only we hold.
    stop = subprocess.Popen(
        ["sh", "-c", 'read -r _; exec "$0" --stop "$1"', str(TOOL), folder], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield Box(folder, int((Path(folder) / "pid").read_text()))
    finally:
        stop.communicate()
        assert stop.returncode == 0


@contextmanager
def service_with_every_language(box: Box, name: str, **settings: str | int) -> Iterator[BoxedAppliance]:
    """That the box has, which is what this machine has."""
    if not has_go():
        with service(box, name, **settings) as appliance:
            yield appliance
        return
    folder = f"/var/lib/{name}/{FOLDER}"
    box.run("mkdir", "-p", folder)
    box.run("cp", "-r", str(toolchain_cache()), f"{folder}/{TOOLCHAIN}")
    with service(box, name, go=go_program(), **settings) as appliance:
        yield appliance


@contextmanager
def service(box: Box, name: str, **settings: str | int) -> Iterator[BoxedAppliance]:
    """An appliance as a service of the box, in the slice where an installed one is; stopped at the end, if it still runs."""
    unit, state_dir = f"{name}.service", Path(f"/var/lib/{name}")
    environment = environment_of(usable_settings(state_dir, settings))
    # Mixed: a stop is for the server to hear, which lets its runs end; the launcher ends with it.
    options = ["--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}", "--property=KillMode=mixed"]
    options += [f"--slice={PARENT_SLICE}", "--property=CPUWeight=300"]
    options += [f"--setenv={name}={value}" for name, value in environment.items()]
    command = box.command("systemd-run", *options, *SERVE)
    make = partial(BoxedAppliance, box=box, unit=unit)
    with running(state_dir, command=command, make=make) as appliance:
        assert isinstance(appliance, BoxedAppliance)
        try:
            yield appliance
        finally:
            subprocess.run(box.command("systemctl", "stop", unit), capture_output=True, check=False)  # it may have ended
            appliance.process.wait(HANG_GUARD)
            eventually(lambda: not box.cgroup("systemd", f"{PARENT_SLICE}/{unit}").exists())
