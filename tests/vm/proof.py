"""The proof of the installation in a machine of its own, from outside: `make test-vm`.

The machine is emulated, some fifteen times slower than this one. What is copied in is the binary, and an agent of thirty lines
that runs commands as root, for want of ssh. Calls come from this machine, by a forwarded port. Prints a table.
"""

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

os.environ.setdefault("CODEACTIONS_TEST_PATIENCE", "20")  # before it is read
from tests.appliance import HANG_GUARD, ROOT, eventually
from tests.installed import steps
from tests.installed.steps import Installed
from tests.vm.table import STEP_SECONDS, Table, TookTooLong, at_most

TOOL = Path(__file__).parent / "vm-box"
AGENT = Path(__file__).parent / "agent.py"
AGENT_PORT = 9000
SECONDS = 3000
_ASK_SECONDS = 10.0
_INSTALL_SECONDS = 1200
_GO = "an action in Go"
_SECONDS = {_GO: 1200}  # where it isn't STEP_SECONDS
# The forwarded port isn't loopback. A compilation that takes seconds elsewhere takes minutes.
_CONFIG = ('host = "0.0.0.0"', 'build_timeout = "900s"')
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

    def describe(self) -> str:
        """Its jobs, units and last words."""
        journal = "journalctl --no-pager --lines=60 -u 'codeactions*'"
        return self.status("sh", "-c", f"uptime; systemctl list-jobs; systemctl list-units --all 'codeactions*'; {journal}")[1]


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
        table = Table(lambda: machine.boot() != "", machine.describe)
        installed = Installed(process, port, Path("/var/lib/codeactions"))
        installed.host = machine
        table.row("boot", lambda: eventually(machine.boot) and machine.run("stat", "-fc", "cgroup: %T", "/sys/fs/cgroup").strip())
        before = steps.listing(machine)
        steps.give_token(machine)
        table.row("settings before", lambda: configure(machine))
        table.row("install", lambda: steps.install(machine), _INSTALL_SECONDS)
        for name, step in steps.STEPS:
            table.row(name, lambda step=step: step(installed), _SECONDS.get(name, STEP_SECONDS))  # type: ignore[misc]
            if name == _GO:
                table.row("Go's library by then", lambda: compiled(machine))
        table.row("reboot", lambda: reboot(machine, installed))
        table.row("uninstall --purge", lambda: steps.uninstall(machine, before))
        with suppress(OSError, TookTooLong), at_most(_ASK_SECONDS):
            machine.status()
    installed.threads.shutdown()  # what a step left waiting there ends with the machine
    return not table.failed


def configure(machine: Machine) -> str:
    """As an operator of a slow host would."""
    machine.run("sh", "-c", f"printf '%s\\n' {shlex.join(_CONFIG)} >/etc/codeactions/config.toml")
    return f"config.toml: {', '.join(_CONFIG)}"


def compiled(machine: Machine) -> str:
    """How long each portion of it took: the first is what the first call has waited for, at most BUILD_TIMEOUT."""
    told = machine.run("journalctl", "--output=cat", "--unit=codeactions.service", "--grep=toolchain cache")
    portions = [float(found) / 1000 for found in re.findall(r"grows .*wall_ms=([\d.]+)", told)]
    assert portions, told
    return f"compiled in portions of {', '.join(f'{seconds:.0f}' for seconds in portions)} s"


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
    return 0 if prove(["--node", "--go", *(["--cgroup-v1"] if arguments.cgroup_v1 else [])]) else 1


if __name__ == "__main__":
    sys.exit(main())
