"""The proof of the installation in a machine of its own, from outside: `make test-vm`.

The machine is emulated, some fifteen times slower than this one. What is copied in is the binary, and an agent of thirty lines
that runs commands as root, for want of ssh. Calls come from this machine, by a forwarded port. Prints a table.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

os.environ.setdefault("CODEACTIONS_TEST_PATIENCE", "20")  # before it is read
from tests.appliance import HANG_GUARD, ROOT, eventually
from tests.installed import steps
from tests.installed.steps import Installed

TOOL = Path(__file__).parent / "vm-box"
AGENT = Path(__file__).parent / "agent.py"
AGENT_PORT = 9000
SECONDS = 3000
_ASK_SECONDS = 10.0
_BOOTED = "/proc/sys/kernel/random/boot_id"


class Machine:
    """The emulated one; `port` is the agent's, here."""

    def __init__(self, port: int) -> None:
        self._port = port

    def run(self, *command: str) -> str:
        status, out, err = self._ask(command)
        assert status == 0, (command, out, err)
        return out

    def status(self, *command: str) -> tuple[int, str]:
        status, out, err = self._ask(command)
        return status, out + err

    def _ask(self, command: tuple[str, ...], seconds: float = HANG_GUARD) -> tuple[int, str, str]:
        with socket.create_connection(("127.0.0.1", self._port), seconds) as sock:
            sock.sendall(json.dumps(command).encode() + b"\n")
            answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        if not answer:
            raise ConnectionError("the agent isn't there")
        status, out, err = json.loads(answer)
        return int(status), str(out), str(err)

    def boot(self) -> str:
        """Different after each boot; empty while there is nobody to ask: qemu accepts connections that the guest never sees."""
        with suppress(OSError):
            return self._ask(("cat", _BOOTED), _ASK_SECONDS)[1].strip()
        return ""


class Table:
    """Of rows, and what the machine's journal said before one that failed."""

    def __init__(self, machine: Machine) -> None:
        self.failed = False
        self._machine = machine

    def row(self, name: str, step: Callable[[], str]) -> None:
        began = time.monotonic()
        try:
            mark, told = "ok", step()
        except Exception as error:  # noqa: BLE001 - a table of all, whatever fails
            mark, told = "FAILED", f"{type(error).__name__}: {error}"
            self.failed = True
            with suppress(OSError):
                traceback.print_exc()
                print(self._machine.status("journalctl", "--no-pager", "--lines=40", "-u", "codeactions*")[1], file=sys.stderr)
        print(f"{mark:7} {time.monotonic() - began:6.1f} s  {name:36} {told}", flush=True)


@contextmanager
def booted(options: list[str], ports: dict[int, int]) -> Iterator[subprocess.Popen[bytes]]:
    forwards = [word for here, there in ports.items() for word in ("--forward", f"{here}:{there}")]
    copies = ["--copy-in", f"{ROOT}/dist/codeactions:{steps.PROGRAM}", "--copy-in", f"{AGENT}:/var/lib/vm-box/agent.py"]
    limits = ["--timeout", str(SECONDS), "--memory", "2048"]
    command = [str(TOOL), *options, *forwards, *copies, *limits, "--", "python3", "/var/lib/vm-box/agent.py"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def prove(options: list[str]) -> bool:
    agent, port = free_port(), free_port()
    with booted(options, {agent: AGENT_PORT, port: steps.PORT}) as process:
        machine = Machine(agent)
        table = Table(machine)
        installed = Installed(process, port, Path("/var/lib/codeactions"))
        installed.host = machine
        table.row("boot", lambda: eventually(machine.boot) and machine.run("stat", "-fc", "cgroup: %T", "/sys/fs/cgroup").strip())
        before = steps.listing(machine)
        steps.give_token(machine)
        machine.run("sh", "-c", "echo 'host = \"0.0.0.0\"' >/etc/codeactions/config.toml")  # the forwarded port isn't loopback
        table.row("install", lambda: steps.install(machine))
        for name, step in steps.STEPS:
            table.row(name, lambda step=step: step(installed))  # type: ignore[misc]
        table.row("reboot", lambda: reboot(machine, installed))
        table.row("uninstall --purge", lambda: steps.uninstall(machine, before))
        installed.threads.shutdown()
        with suppress(OSError):
            machine.status()
        return not table.failed


def reboot(machine: Machine, installed: Installed) -> str:
    code_id = installed.create("print('still here')")
    boot = machine.boot()
    with suppress(OSError):
        machine.status("systemctl", "reboot")
    eventually(lambda: machine.boot() not in ("", boot))
    # The port is systemd's from early in the boot on: the call waits for the server.
    assert installed.call(code_id).body == b"still here\n"
    return "an action from before is called; nothing was started by hand"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.proof", description=__doc__)
    parser.add_argument("--cgroup-v1", action="store_true", help="version 1 and an empty version 2 beside it, instead of 2 alone")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with the machine
    print(f"cgroup version {1 if arguments.cgroup_v1 else 2}", flush=True)
    return 0 if prove(["--node", *(["--cgroup-v1"] if arguments.cgroup_v1 else [])]) else 1


if __name__ == "__main__":
    sys.exit(main())
