"""What systemd, the server and the doctor say, and what the services are told."""

import http.client
import json
import subprocess
from collections.abc import Iterable
from contextlib import suppress

from appliance import settings
from appliance.doctor.report import Verdict
from appliance.installer import layout
from appliance.installer.changes import StepFailed, failure_of

UNIT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # systemd.exec(5), Environment variables
_LOOK_SECONDS = 0.5
_RESTARTS = 2  # one may be an accident
_LAST_LINES = 3
_HEALTH_SECONDS = 30.0
_DOCTOR_SECONDS = 600.0  # six on a quiet machine, a minute and a half on an emulated one


def is_active(unit: str) -> bool:
    return not failure_of("systemctl", "is-active", "--quiet", unit)


def is_enabled(unit: str) -> bool:
    return not failure_of("systemctl", "is-enabled", "--quiet", unit)


def stop(units: Iterable[str]) -> None:
    failure_of("systemctl", "stop", *units, layout.LAUNCHER)
    failure_of("systemctl", "reset-failed", *units, layout.LAUNCHER)


def disable(units: Iterable[str]) -> None:
    failure_of("systemctl", "disable", "--quiet", *units)


def come_back(was_active: bool) -> None:
    failure_of("systemctl", "daemon-reload")
    if was_active:
        failure_of_start("systemctl", "restart", layout.SERVICE)


def failure_of_start(*command: str) -> str:
    """`failure_of` for what waits for the server, which waits for its launcher, however often that fails: not here."""
    least = _restarts()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        while True:
            with suppress(subprocess.TimeoutExpired):
                said, _ = process.communicate(timeout=_LOOK_SECONDS)
                return "" if process.returncode == 0 else " ".join(said.split()) or f"exit status {process.returncode}"
            restarts = _restarts()
            if restarts >= least + _RESTARTS:
                process.kill()
                return f"{layout.LAUNCHER} fails again and again ({restarts - least} restarts)"
            least = min(least, restarts)  # a start that isn't systemd's own counts from nothing


def _restarts() -> int:
    """How often systemd has started the launcher again because it had failed."""
    command = ["systemctl", "show", "--property=NRestarts", "--value", layout.LAUNCHER]
    return int(subprocess.run(command, capture_output=True, text=True, check=False).stdout or 0)


def last_words(since: float) -> str:
    """What each of the services has said last since then (Unix time), and where it said nothing what systemd complains of: lines
    that follow a sentence."""
    found = {unit: _words_of(unit, since) for unit in (layout.LAUNCHER, layout.SERVICE)}
    told = "".join(f"\n  {unit} said last: {words}" for unit, words in found.items() if words)
    return f"{told}\n  see `journalctl -u {layout.SERVICE} -u {layout.LAUNCHER}`"


def _words_of(unit: str, since: float) -> str:
    """The end of a traceback too, which is more than a line; what is said at each start once."""
    for which in ([f"_SYSTEMD_UNIT={unit}"], [f"--unit={unit}", "--priority=notice"]):
        command = [
            "journalctl",
            f"--since=@{since:.6f}",
            "--quiet",
            "--no-pager",
            "--output=cat",
            f"--lines={_LAST_LINES}",
            *which,
        ]
        if lines := subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
            return "\n    ".join(dict.fromkeys(lines[-_LAST_LINES:]))
    return ""


def unwell(wanted: settings.Settings) -> str:
    """What its /health says; "" when it is well."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(wanted.host, wanted.host)
    connection = http.client.HTTPConnection(host, wanted.port, timeout=_HEALTH_SECONDS)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return "" if answer.status == 200 else f"/health says {answer.status}: {text}"
    except (OSError, http.client.HTTPException) as error:
        return f"/health can't be had: {error}"
    finally:
        connection.close()


def told_by_doctor(program: layout.Program) -> list[str]:
    """What this host lacks, which REQUIRE_ISOLATION permits. Raises `StepFailed` for anything else that isn't right."""
    try:
        done = subprocess.run(
            [program.command, "doctor", "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DOCTOR_SECONDS,
            check=False,
            env={"PATH": UNIT_PATH, "LANG": "C.UTF-8"},
        )
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise StepFailed("`codeactions doctor` didn't come to its end: run it by itself") from None
    failed = [one for one in (*report["host"], *report["checks"]) if one["verdict"] == Verdict.FAILED and not one["because"]]
    if failed or report["floor"]:
        first = failed[0] if failed else {"name": "no run can start", "happened": report["floor"], "remedy": ""}
        to_do = first["remedy"] or "`codeactions doctor` tells more"
        raise StepFailed(f"`codeactions doctor` isn't content: {first['name']}: {first['happened']}; to do: {to_do}")
    return [f"no {lack['name']}: {lack['then']}; to do: {lack['remedy']}" for lack in report["lacks"] if lack["counts"]]
