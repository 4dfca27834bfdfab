"""What the host gives the appliance: units, port, disk, clock, the way out for packets; a run's limits, as the kernel has them.

Examined before root is given up, but for the limits, which are read while a run goes on.
"""

import ctypes
import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import trio

from appliance.disk import free_bytes
from appliance.doctor.checks import Cage
from appliance.doctor.report import Finding, Verdict
from appliance.entities import Language, Network, new_id
from appliance.installer import layout, listening
from appliance.runner.launch import cgroups
from appliance.runner.launch.network import forwarding, path
from appliance.runner.launch.network.addresses import DEVICES, OURS_V4
from appliance.runner.launch.network.namespaces import NetworkFailed
from appliance.runner.outcome import SCOPE, Job, Limits, LogEntry
from appliance.settings import Settings

_EXPECTED_UNITS = {
    layout.SERVICE: "active, enabled",
    layout.LAUNCHER: "active, static",
    **dict.fromkeys(layout.SOCKETS, "active, enabled"),
    layout.SLICES[0]: "active, static",
}
_TIME_ERROR = 5  # adjtimex(2): nobody keeps the clock right
_TIMEX_BYTES = 512  # struct timex has 208
_PATIENT_SECONDS = 10.0
_FUTURE_SECONDS = 60.0
_RUNS = "codeactions.slice/codeactions-runs.slice"
# Unlike anybody else's, so that the run's scope is found by them.
_MEMORY, _CPU, _TASKS = 71 << 20, 37, 23
_WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n"


async def examine(settings: Settings) -> list[Finding]:
    """Whatever can be looked at as this user."""
    found = [_controllers(), _disk(settings), _clock(settings.state_dir), _addresses(), await _way_out()]
    if (layout.UNITS / layout.SERVICE).exists():
        found = [*_units(), _port(settings), *found]
    return found


def _finding(name: str, expected: str, happened: str, verdict: Verdict, remedy: str) -> Finding:
    return Finding(
        name=name, expected=expected, happened=happened, verdict=verdict, remedy="" if verdict is Verdict.OK else remedy
    )


def _judged(name: str, expected: str, happened: str, remedy: str, *, good: bool) -> Finding:
    return _finding(name, expected, happened, Verdict.OK if good else Verdict.FAILED, remedy)


def _units() -> Iterator[Finding]:
    for unit, expected in _EXPECTED_UNITS.items():
        shown = _output("systemctl", "show", "--property=ActiveState,UnitFileState", unit)
        states = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        happened = f"{states.get('ActiveState', '?')}, {states.get('UnitFileState') or 'no unit file'}"
        remedy = f"`systemctl status {unit}` tells why; `codeactions install` writes and enables it anew"
        yield _judged(unit, expected, happened, remedy, good=happened == expected)


def _port(settings: Settings) -> Finding:
    name, expected = f"port {settings.port} of {settings.host}", "answers, and systemd holds it"
    if not listening.is_systemd_s(settings):
        remedy = "`codeactions install` writes codeactions.socket from HOST and PORT, and starts it"
        address = listening.address_of_socket() or "none"
        happened = "systemd has closed it" if address == layout.listen_address(settings) else f"systemd holds {address}"
        return _finding(name, expected, happened, Verdict.FAILED, remedy)
    status = _asked(settings)
    remedy = f"`journalctl -u {layout.SERVICE}` tells why it doesn't answer"
    return _judged(name, expected, status, remedy, good=status == expected)


def _asked(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=_PATIENT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        return "answers, and systemd holds it" if status == http.HTTPStatus.OK else f"answers {status}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    finally:
        connection.close()


def _controllers() -> Finding:
    mounts = cgroups.hierarchies().mounts
    unified = mounts.get(cgroups.UNIFIED)
    of_v2 = (unified.point / "cgroup.controllers").read_text().split() if unified else []
    missing = [name for name in cgroups.CONTROLLERS if name not in mounts and name not in of_v2]
    version = "version 1" if "memory" in mounts else "version 2"
    happened = f"no {', '.join(missing)}" if missing else f"{version}"
    # Where nothing makes scopes either, runs say so themselves: SCOPE.
    verdict = Verdict.REDUCED if missing else Verdict.OK
    remedy = "boot with systemd and without cgroup_disable=: these limits can't be set"
    return _finding("cgroup controllers", ", ".join(cgroups.CONTROLLERS), happened, verdict, remedy)


def _disk(settings: Settings) -> Finding:
    name = f"disk of {settings.state_dir}"
    expected = f"{settings.min_free_disk >> 20} MiB free"
    try:
        free = free_bytes(settings.state_dir)
    except OSError as error:
        return _finding(name, expected, str(error.strerror), Verdict.SKIPPED, "")
    remedy = "make room, or shorten CLEANER_RETENTION_PERIOD: stored bodies and results are cut meanwhile"
    return _judged(name, expected, f"{free >> 20} MiB free", remedy, good=free >= settings.min_free_disk)


def _clock(state_dir: Path) -> Finding:
    """Retention, rate limits and the order of runs go by it."""
    ahead = max((entry.stat().st_mtime for entry in _entries(state_dir)), default=0.0) - time.time()
    if ahead > _FUTURE_SECONDS:
        happened = f"{ahead:.0f} s behind what {state_dir} holds"
        return _finding("clock", "right", happened, Verdict.FAILED, "set it: `timedatectl set-time`, or let a time service do it")
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        remedy = "let a time service keep it: `timedatectl set-ntp true`, or chrony"
        return _finding("clock", "right", "nobody keeps it right", Verdict.REDUCED, remedy)
    return _finding("clock", "right", "kept right", Verdict.OK, "")


def _entries(folder: Path) -> Sequence[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _addresses() -> Finding:
    """A route of ours would hide them."""
    taken = [str(network) for device, network in _networks() if network.overlaps(OURS_V4) and not device.startswith(DEVICES)]
    happened = f"the host uses {', '.join(taken)}" if taken else "free"
    remedy = "give the host other addresses, or set NETWORK=none: runs have theirs from there"
    return _judged(f"addresses of {OURS_V4}", "free", happened, remedy, good=not taken)


def _networks() -> Iterator[tuple[str, IPv4Network]]:
    """What the host has as its own, and what it reaches by a route that isn't the default one."""
    for link in json.loads(_output("ip", "-4", "-json", "address") or "[]"):
        for one in link.get("addr_info", []):
            if "local" in one:
                yield link["ifname"], IPv4Network(one["local"])
    for route in json.loads(_output("ip", "-4", "-json", "route") or "[]"):
        if route["dst"] != "default" and isinstance(network := ip_network(route["dst"]), IPv4Network):
            yield route.get("dev", ""), network


async def _way_out() -> Finding:
    name, expected = "a run's packet to the internet", "the host lets it out"
    if os.geteuid() != 0:
        return _finding(name, expected, "only root can try", Verdict.SKIPPED, "")
    if not forwarding.uplinks():
        return _finding(name, expected, "this host has no way there itself", Verdict.SKIPPED, "")
    try:
        dropped = await path.probe_path()
    except NetworkFailed as failed:  # then runs have the network of the host, which is said elsewhere
        return _finding(name, expected, str(failed), Verdict.SKIPPED, "")
    remedy = "another program's rule (Docker's, firewalld's): let forwarded packets from codeactions0 pass there"
    return _judged(name, expected, f"dropped by {dropped}" if dropped else expected, remedy, good=dropped is None)


async def limits(cage: Cage) -> list[Finding]:
    """Of a real run, from the files of its cgroup."""
    if SCOPE in cage.runner.isolation.missing:
        happened = "no run has a scope here"
        return [
            Finding(name="a run's limits", expected="in its cgroup", happened=happened, verdict=Verdict.SKIPPED, because=(SCOPE,))
        ]
    job = Job(
        run_id=new_id(),
        language=Language.PYTHON,
        source=_WAITS,
        limits=Limits(timeout_s=60, memory_bytes=_MEMORY, cpu_percent=_CPU, tasks=_TASKS, network=Network.NONE),
        params=(),
    )
    found: list[Finding] = []
    with cage.runner.admit("doctor") as ticket, trio.CancelScope() as scope:

        async def look(_: LogEntry) -> None:
            found.extend(_limits_in_force())
            scope.cancel()

        await ticket.run(job, look)
    return found or [_judged("a run's limits", "in its cgroup", "the run didn't start", "`codeactions selftest`", good=False)]


def _limits_in_force() -> Iterator[Finding]:
    mounts = cgroups.hierarchies().mounts
    files = {
        "memory": ("memory.limit_in_bytes", "memory.max", str(_MEMORY)),
        "pids": ("pids.max", "pids.max", str(_TASKS + 1)),  # the guard is one
        "cpu": ("cpu.cfs_quota_us", "cpu.max", str(_CPU * cgroups.PERIOD_US // 100)),
    }
    remedy = "run `codeactions doctor` again; if it comes again, report it with `systemctl --version`"
    for controller, (v1, v2, expected) in files.items():
        mount = mounts.get(controller, mounts.get(cgroups.UNIFIED))
        file = v1 if controller in mounts else v2
        values = {_first_word(scope / file) for scope in (mount.point / _RUNS).glob("*.scope")} if mount else set()
        name = f"{file} of a run"
        yield _judged(name, expected, expected if expected in values else "no scope has it", remedy, good=expected in values)


def _first_word(file: Path) -> str:
    try:
        return file.read_text().split()[0]
    except (OSError, IndexError):  # a scope that has just ended
        return ""


def _output(*command: str) -> str:
    """Empty where there is no such program."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
