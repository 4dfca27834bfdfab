"""The steps, in their order: each returns what was seen, in words, and fails by an assertion.

What they need of a host is one file, /root/codeactions, a way to run a command as root, and one to its port.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol
from urllib.parse import urlencode

from tests.appliance import ADMIN, HANG_GUARD, PATIENCE, Appliance, Response, eventually

PROGRAM = "/root/codeactions"
PORT = 8050
LAUNCHER_DROP_IN = "/etc/systemd/system/codeactions-launcher.service.d"
UNITS = ("codeactions.service", "codeactions-launcher.service", "codeactions.socket", "codeactions-launcher.socket")
MIB = 1 << 20
_COMPILED_SECONDS = 300.0  # twenty on two quiet processors
WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(600)\n"
HOARDS = "def Run(engine):\n    held = bytearray(b'x') * (512 << 20)\n"
LIVES_ON = (
    "import os, time\ndef Run(engine):\n    for _ in range(5):\n        if os.fork() == 0:\n            os.setsid()\n"
    "            break\n    engine.log.info('up')\n    time.sleep(600)\n"
)
SAMPLES = {
    "python": "def Run(engine):\n    engine.result.set('from python')\n",
    "javascript": "function Run(engine) { engine.result.set('from javascript') }\n",
    "go": 'package actions\n\nfunc Run(engine *Engine) { engine.Result.Set("from go") }\n',
}
# What a host changes by itself while it runs, and what its account tools leave beside the files that they change.
_ACCOUNTS = ["/etc/.pwd", "/etc/group", "/etc/gshadow", "/etc/passwd", "/etc/shadow"]
_SYSTEMD_S = ["/etc/machine-id", "/var/lib/systemd", "/run/systemd", "/run/log", "/run/udev", "/run/user"]
_OTHERS = ["/root/codeactions", "/run/box", "/var/cache", "/var/lib/vm-box", "/var/log", "/var/tmp"]
UNRELATED = (*_ACCOUNTS, *_SYSTEMD_S, *_OTHERS)
FOLDERS = ["/etc", "/usr/local", "/var", "/opt", "/root", "/srv", "/run"]
# What lies in a hidden folder, and in a toolchain: a quarter of a million files where people develop. The folders are listed.
_UNLISTED = ["(", "-path", "*/.*/*", "-o", "-path", "*/go/*", ")"]


class Host(Protocol):
    def run(self, *command: str) -> str:
        """Its standard output; fails the test when the command fails."""

    def status(self, *command: str) -> tuple[int, str]:
        """Exit status, and both outputs together."""


class Installed(Appliance):
    """An appliance that was installed on a host of its own."""

    host: Host

    def scope_of(self, run_id: str) -> str:
        """The name of the scope that a run is in."""
        listed = self.host.run("systemctl", "list-units", "--plain", "--no-legend", "codeactions-run-*.scope")
        return next(line.split()[0] for line in listed.splitlines() if line.endswith(f"run {run_id}"))

    def scopes(self) -> set[str]:
        listed = self.host.run("systemctl", "list-units", "--plain", "--no-legend", "codeactions-run-*.scope")
        return {line.split()[0] for line in listed.splitlines()}

    def main_pid(self, unit: str) -> str:
        return self.host.run("systemctl", "show", "--property=MainPID", "--value", unit).strip()

    def waiting(self, source: str = WAITS, **query: str | int) -> "Waiting":
        """A call that is executing now."""
        code_id = self.create(source, timeout=300, **query)
        answer = self.threads.submit(self.call, code_id)
        self.until_logged(code_id)
        [run] = self.runs_of(code_id)
        return Waiting(answer.result, self.scope_of(run["id"]), run["id"])


class Waiting:
    """A call in the middle: its answer, once it has one; its scope and its run."""

    def __init__(self, answer: Callable[[float], Response], scope: str, run_id: str) -> None:
        self.answer = answer
        self.scope = scope
        self.run_id = run_id


def give_token(host: Host) -> None:
    """Before the installation, as root would: a credential."""
    folder = "/etc/codeactions/credentials"
    host.run("sh", "-c", f"mkdir -p -m 700 {folder}; echo {ADMIN} >{folder}/admin_token; chmod 600 {folder}/admin_token")


def listing(host: Host) -> set[str]:
    """Every path where an installation might leave something."""
    found = host.run("find", *FOLDERS, "-xdev", *_UNLISTED, "-prune", "-o", "-print").splitlines()
    return {path for path in found if not path.startswith(UNRELATED)}


def install(host: Host) -> str:
    told = host.run(PROGRAM, "install")
    assert "Flows Code Actions is ready at http://" in told, told
    return next(line for line in told.splitlines() if "is ready at" in line)


def refused(host: Host, *command: str) -> str:
    """What a command says that fails as one that was refused."""
    status, told = host.status(*command)
    assert status == 1, told
    return told


def examined(host: Host, *environment: str) -> dict[str, dict[str, str]]:
    """The doctor's findings about the host, and that it failed exactly where one of them did."""
    status, told = host.status("env", *environment, "codeactions", "doctor", "--json")
    report = json.loads(told)
    assert status == (0 if report["passed"] else 1)
    return {one["name"]: one for one in report["host"]}


def an_action_in(language: str) -> Callable[[Installed], str]:
    """Created and called. The first call of a language that is compiled waits for that."""

    def step(installed: Installed) -> str:
        words = urlencode({"name": "a sample", "project_uuid": "a-project", "type": "endpoint", "language": language})
        made = installed.manage("POST", f"/code?{words}", SAMPLES[language].encode())
        if made.status == 409:
            assert "can't be run on this host" in made.json()["message"]
            return "isn't on this host"
        began = time.monotonic()
        answer = _patient_call(installed, made.json()["id"])
        assert (answer.status, answer.body.decode()) == (200, f"from {language}"), answer
        return f"called {time.monotonic() - began:.1f} s after it was created"

    return step


def _patient_call(installed: Installed, code_id: str) -> Response:
    """The first Go source waits for its library to be compiled: on a loaded machine longer than a connection is waited for."""

    def answer() -> Response | None:
        with suppress(TimeoutError):
            return installed.call(code_id)
        return None

    found = eventually(answer, _COMPILED_SECONDS)
    assert found is not None
    return found


def limits(installed: Installed) -> str:
    """In the files of its cgroup, and seen by systemd-cgls, while it runs."""
    waiting = installed.waiting(memory="64M", cpu="50%", tasks=20)
    tree = installed.host.run("systemd-cgls", "--no-pager", "--full", "-u", "codeactions-runs.slice")
    assert waiting.scope in tree, tree
    shown = installed.host.run("systemctl", "show", "--property=MemoryMax,CPUQuotaPerSecUSec,Description", waiting.scope)
    assert f"MemoryMax={64 * MIB}" in shown
    assert "CPUQuotaPerSecUSec=500ms" in shown
    assert waiting.run_id in shown
    found = {name: cgroup_file(installed.host, waiting.scope, controller, files) for name, (controller, files) in FILES.items()}
    assert found["memory"] == str(64 * MIB), found
    assert found["cpu"].split()[0] == "50000", found
    assert int(found["tasks"]) >= 20, found
    gives_way = cgroup_file(installed.host, "", "cpu", ("cpu.idle",))  # all runs, to the server and the launcher
    assert gives_way == ("1" if int(installed.host.run("nproc")) > 1 else "0")
    stop(installed, waiting)
    return ", ".join(f"{name} {value}" for name, value in found.items())


FILES = {
    "memory": ("memory", ("memory.max", "memory.limit_in_bytes")),
    "cpu": ("cpu", ("cpu.max", "cpu.cfs_quota_us")),
    "tasks": ("pids", ("pids.max",)),
}


def cgroup_file(host: Host, scope: str, controller: str, names: tuple[str, ...]) -> str:
    path = f"codeactions.slice/codeactions-runs.slice/{scope}"
    places = [f"/sys/fs/cgroup{mount}/{path}/{name}" for mount in ("", f"/{controller}") for name in names]
    return host.run("sh", "-c", f"cat {' '.join(places)} 2>/dev/null || true").strip()


def stop(installed: Installed, waiting: Waiting) -> None:
    assert installed.manage("POST", f"/coderun/{waiting.run_id}/cancel").status == 202
    waiting.answer(HANG_GUARD)
    eventually(lambda: waiting.scope not in installed.scopes())


def out_of_memory(installed: Installed) -> str:
    answer = installed.run(HOARDS, memory="64M")
    ended = installed.run_of(answer)["extra"]
    assert (answer.status, ended["outcome"]) == (500, "out_of_memory"), (answer, ended)
    return str(ended["message"])


def timeout(installed: Installed) -> str:
    """With processes that left its session; nothing of them is there afterwards."""
    code_id = installed.create(LIVES_ON, timeout=4 + int(PATIENCE))
    answer = installed.threads.submit(installed.call, code_id)
    installed.until_logged(code_id)
    scope = installed.scope_of(installed.runs_of(code_id)[0]["id"])
    pids = cgroup_file(installed.host, scope, "systemd", ("cgroup.procs",)).split()
    assert len(pids) > 5, pids
    assert answer.result(HANG_GUARD).status == 408
    eventually(lambda: scope not in installed.scopes())
    alive = [pid for pid in pids if installed.host.status("kill", "-0", pid)[0] == 0]
    assert alive == [], alive
    return f"408; of {len(pids)} processes none is left, nor the scope"


def restart_under_load(installed: Installed) -> str:
    code_id = installed.create("print('works')")
    before = installed.main_pid("codeactions.service")

    def client() -> list[int]:
        return [installed.call(code_id).status for _ in range(25)]

    clients = [installed.threads.submit(client) for _ in range(4)]
    installed.host.run("systemctl", "restart", "codeactions.service")
    statuses = [status for one in clients for status in one.result(HANG_GUARD)]
    assert set(statuses) == {200}, statuses
    assert installed.main_pid("codeactions.service") != before
    return f"{len(statuses)} calls on new connections across a restart: all 200"


def killed_launcher(installed: Installed) -> str:
    """Its runs end with it and say so; the server goes on, with the next launcher."""
    waiting = installed.waiting()
    server = installed.main_pid("codeactions.service")
    ours = installed.scopes()
    installed.host.run("kill", "-KILL", installed.main_pid("codeactions-launcher.service"))
    answer = waiting.answer(HANG_GUARD)
    outcome = installed.run_of(answer)["extra"]["outcome"]
    assert (answer.status, outcome) == (503, "interrupted"), (answer, outcome)
    _until_gone(installed, ours)
    eventually(lambda: installed.run("print('works')").body == b"works\n")  # a launcher that needs 10 s on a slow host is a 503
    assert installed.main_pid("codeactions.service") == server
    return "503, interrupted; no scope is left; the same server answers the next call"


def killed_server(installed: Installed) -> str:
    """The scopes of its runs end, and the next call is answered by the next server."""
    waiting = installed.waiting()
    ours = installed.scopes()
    installed.host.run("kill", "-KILL", installed.main_pid("codeactions.service"))
    with _connection_lost():
        waiting.answer(HANG_GUARD)
    _until_gone(installed, ours)
    eventually(lambda: installed.run("print('works')").body == b"works\n")  # a launcher that needs 10 s on a slow host is a 503
    return "no scope is left; the next connection is answered"


def _until_gone(installed: Installed, scopes: set[str]) -> None:
    """Says what keeps one that stays."""
    try:
        eventually(lambda: not scopes & installed.scopes())
    except AssertionError as error:
        left = sorted(scopes & installed.scopes())
        raise AssertionError(installed.host.run("systemctl", "show", *left)) from error


@contextmanager
def _connection_lost() -> Iterator[None]:
    try:
        yield
    except OSError:
        return
    raise AssertionError("the killed server has answered")


def doctor(installed: Installed) -> str:
    status, told = installed.host.status("codeactions", "doctor")
    assert status == 0, told
    return told.strip().splitlines()[-1]


def exposure(installed: Installed) -> str:
    """systemd's own score, from 0 to 10."""
    found = []
    for unit, most in (("codeactions.service", 1.5), ("codeactions-launcher.service", 5.2)):
        last = installed.host.run("systemd-analyze", "security", "--no-pager", unit).strip().splitlines()[-1]
        score = float(re.findall(r": ([\d.]+) ", last)[0])
        assert score <= most, last
        found.append(f"{unit} {score}")
    assert installed.host.status("systemd-analyze", "verify", *UNITS, "codeactions-runs.slice") == (0, "")
    return ", ".join(found) + "; systemd-analyze verify is clean"


def uninstall(host: Host, before: set[str]) -> str:
    """`before`: the listing of the host without it."""
    host.run(PROGRAM, "uninstall", "--purge")
    assert sorted(listing(host) - before) == []
    assert host.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "codeactions*") == ""
    assert "codeactions" not in host.run("getent", "passwd")
    assert "codeactions" not in host.run("sh", "-c", "ip link 2>/dev/null; nft list tables 2>/dev/null; true")
    return "left: nothing (files, units, user, devices, tables)"


STEPS: tuple[tuple[str, Callable[[Installed], str]], ...] = (
    ("doctor is content", doctor),
    ("an action in Python", an_action_in("python")),
    ("an action in JavaScript", an_action_in("javascript")),
    ("an action in Go", an_action_in("go")),
    ("its scope and limits during a call", limits),
    ("out of memory", out_of_memory),
    ("a timeout leaves nothing", timeout),
    ("restart under load", restart_under_load),
    ("kill -9 of the launcher in mid-run", killed_launcher),
    ("kill -9 of serve in mid-run", killed_server),
    ("exposure of the units", exposure),
)
