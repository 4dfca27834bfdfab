"""The doctor on a host that systemd runs: as root in a scope for each probe, and as somebody else without."""

import subprocess
import sys
from typing import Any

from tests.appliance import HANG_GUARD, eventually
from tests.doctor.test_verb import examined, verdict
from tests.systemd.box import Box


def doctor(box: Box, *options: str) -> Any:
    """As a service: what is started by hand in a box belongs to no unit, and what is left is seen below it."""
    command = box.command("systemd-run", "--quiet", "--pipe", "--wait", "--collect", *options, sys.executable, "-P", "-m")
    done = subprocess.run(
        [*command, "appliance", "doctor", "--json"], capture_output=True, text=True, timeout=HANG_GUARD, check=False
    )
    return examined(done)


def launchers(box: Box) -> set[str]:
    """What the scopes of one launcher begin with; systemd drops a scope a moment after its last process."""
    return {name.rpartition("-")[0] for name in box.scopes()}


def test_in_scopes_no_probe_gets_more_memory_by_more_processes(box: Box) -> None:
    before = launchers(box)
    report = doctor(box)
    assert "scope" not in {lack["name"] for lack in report["lacks"]}
    assert verdict(report, "use more memory in several processes") == "ok"
    assert verdict(report, "use more memory than it may") == "ok"
    assert verdict(report, "start more processes than it may") == "ok"
    try:
        eventually(lambda: launchers(box) <= before)
    except AssertionError:
        left = [name for name in box.scopes() if name.rpartition("-")[0] not in before]
        raise AssertionError(f"before: {before}; left: {box.run('systemctl', 'show', *left)}") from None
