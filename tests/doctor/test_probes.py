"""Each probe of the doctor gets through where there is no cage: so it is the cage that holds it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.doctor.checks import judge
from appliance.doctor.probes import PROBES, Probe
from appliance.doctor.report import Verdict
from appliance.runner.outcome import Outcome, OutcomeKind, Result
from appliance.runner.sandbox.seccomp import MACHINES
from tests.appliance import HANG_GUARD

BY_NAME = {probe.name: probe for probe in PROBES}
NUMBERS = MACHINES[os.uname().machine].numbers
TRY = "import json, sys\nprint(json.dumps({'got': attempt(json.loads(sys.argv[1]))}))\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: what only root can do shows nothing for others")
# Root of namespaces that are made for it: nothing of this host is touched, mounted or reached.
NAMESPACES = ("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child")
PREPARED = """
import subprocess
for command in ("ip link set lo up", "ip addr add 169.254.169.254/32 dev lo", "ip addr add 192.0.2.1/32 dev lo"):
    subprocess.run(command.split(), check=True)
import socket
PLACES = (("127.0.0.1", 8001), ("192.0.2.1", 8002), ("169.254.169.254", 80))
LISTENERS = [socket.create_server(place) for place in PLACES]
"""


def params(folder: Path) -> dict[str, str]:
    return {
        "host_file": str(folder / "file"),
        "host_name": os.uname().nodename,
        "folders": str(folder),
        "identities": "/proc/sys/kernel/random/boot_id",
        "loopback": "127.0.0.1|8001",
        "addresses": "192.0.2.1|8002",
        "metadata": "169.254.169.254|80",
        "everything": "127.0.0.1|8001 192.0.2.1|8002",
        **{name: str(NUMBERS[name]) for name in ("io_uring_setup", "bpf", "keyctl")},
    }


@needs_root
@pytest.mark.parametrize("name", BY_NAME)
def test_outside_the_cage_it_gets_through_to(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host")
    program = f"{PREPARED if BY_NAME[name].targets else ''}{BY_NAME[name].source}{TRY}"
    # Its own parent stands for the guard: a shell that waits for it.
    command = [*NAMESPACES, "sh", "-c", '"$0" "$@"; exit $?', sys.executable, "-c", program, json.dumps(params(tmp_path))]
    environment = {"PATH": os.environ["PATH"], "A_SECRET": "of the server", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_GUARD, check=False)
    if name == "use io_uring" and "PermissionError" in done.stderr:
        pytest.skip("NOT TESTED: this kernel has io_uring switched off")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["got"], done.stdout


def completed(text: str) -> Outcome:
    return Outcome(kind=OutcomeKind.COMPLETED, result=Result(value=text.encode(), content_type="json"))


REACH = BY_NAME["reach the host's loopback"]
ROOT = BY_NAME["become root"]
MEMORY = BY_NAME["use more memory than it may"]
LACKING = ("network_filter", "own_uid")


@pytest.mark.parametrize(
    ("probe", "outcome", "verdict"),
    [
        (ROOT, completed('{"refused": "Operation not permitted"}'), Verdict.OK),
        (ROOT, completed('{"got": null}'), Verdict.OK),
        (ROOT, completed('{"got": "uid 0"}'), Verdict.FAILED),
        (REACH, completed('{"got": "reached 127.0.0.1"}'), Verdict.FAILED),
        (REACH, completed('{"refused": "Connection refused"}'), Verdict.REDUCED),
        (MEMORY, Outcome(kind=OutcomeKind.OUT_OF_MEMORY, message="out of memory"), Verdict.OK),
        (ROOT, Outcome(kind=OutcomeKind.OUT_OF_MEMORY, message="out of memory"), Verdict.FAILED),
        (ROOT, Outcome(kind=OutcomeKind.COULD_NOT_START, message="no sandbox"), Verdict.FAILED),
    ],
)
def test_the_verdict_is_what_happened(probe: Probe, outcome: Outcome, verdict: Verdict) -> None:
    """What could not be tried has not been held, and what holds by luck isn't held by the cage."""
    finding = judge(probe, outcome, LACKING)
    assert finding.verdict is verdict
    assert finding.because == (("network_filter",) if probe is REACH else ())
