"""`codeactions doctor` as an operator uses it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.degrees import DEGREES
from tests.appliance import HANG_GUARD, environment_of, running
from tests.golang import put_toolchain_cache
from tests.runner.test_attacks_seccomp import on_a_host_without
from tests.test_serve import NOBODY, needs_root, program_of

DOCTOR = (sys.executable, "-P", "-m", "appliance", "doctor")
# They depend on what this host lacks, or on where the test runs; all others hold everywhere.
BY_DEGREE = {
    "scope": {"use more memory in several processes"},
    "network_filter": {"reach the host's loopback", "reach the host's addresses", "reach the cloud's metadata"},
}


def doctor(
    *arguments: str, command: Sequence[str] = DOCTOR, user: int | None = None, **settings: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*command, *arguments],
        env=environment_of(settings),
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD,
        check=False,
    )


def examined(done: "subprocess.CompletedProcess[str]") -> Any:
    """The report, which must be consistent in itself."""
    report = json.loads(done.stdout)
    missing = {lack["name"] for lack in report["lacks"] if lack["counts"]}
    failed = {one["name"]: one for one in (*report["checks"], *report["host"]) if one["verdict"] == "FAILED"}
    failed |= {language["name"]: language for language in report["languages"] if language["works"] is False}
    expected = set().union(*(BY_DEGREE.get(name, set()) for name in missing))
    assert not failed.keys() - expected, [failed[name] for name in failed.keys() - expected]
    assert report["isolation"] == ("reduced" if missing else "full")
    assert done.returncode == (1 if failed else 0), done.stderr
    return report


def verdict(report: Any, name: str) -> str:
    return next(str(check["verdict"]) for check in report["checks"] if check["name"] == name)


@pytest.fixture(scope="module")
def report() -> Any:
    return examined(doctor("--json"))


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that an ordinary user can enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_nothing_gets_through_but_by_what_this_host_lacks(report: Any) -> None:
    assert len(report["checks"]) >= 25
    assert {check["verdict"] for check in report["checks"]} <= {"ok", "FAILED", "reduced", "skipped"}


def test_what_got_through_names_what_would_have_held_it(report: Any) -> None:
    missing = {lack["name"] for lack in report["lacks"]}
    for check in report["checks"]:
        if check["verdict"] in ("FAILED", "reduced"):
            assert check["because"], check
            assert set(check["because"]) <= missing


def test_what_a_missing_degree_would_hold_is_never_ok(report: Any) -> None:
    for lack in report["lacks"]:
        assert all(verdict(report, name) != "ok" for name in BY_DEGREE.get(lack["name"], ()))


def test_every_lack_says_what_to_do(report: Any) -> None:
    assert {lack["name"] for lack in report["lacks"]} <= DEGREES.keys()
    assert all(lack["remedy"] for lack in report["lacks"])


def test_the_table_says_the_same_as_the_json(report: Any) -> None:
    lines = doctor().stdout.splitlines()
    for check in report["checks"]:
        [line] = [line for line in lines if line.startswith(f"{check['name']}  ")]
        assert check["expected"] in line
        assert check["verdict"] in line
    assert lines[-1].startswith(f"isolation: {report['isolation']}; ")


def test_an_action_runs_in_each_language_that_is_there(report: Any) -> None:
    """Go is kept from being found: tests/appliance.py says why."""
    python, javascript, go = report["languages"]
    assert (python["works"], python["program"]) == (True, "")
    assert python["wall_ms"] > 0
    node = shutil.which("node")
    assert (javascript["works"], javascript["program"]) == ((True, node) if node else (None, ""))
    assert go["works"] is None
    assert "install Go 1.19 or newer (on Debian: apt install golang-go)" in go["message"]


def test_the_table_says_what_to_install_for_a_language_that_is_not_there() -> None:
    done = doctor(node="/nowhere/node")
    [line] = [line for line in done.stdout.splitlines() if line.startswith("JavaScript  ")]
    assert "not on this host: " in line
    assert "install Node.js 18 or newer" in line
    [line] = [line for line in done.stdout.splitlines() if line.startswith("Python  ")]
    assert "an action ran in" in line


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no go on PATH: install golang-go")
def test_an_action_in_go_is_compiled_and_runs(tmp_path: Path) -> None:
    """With what a server has compiled before; without it that takes half a minute more."""
    put_toolchain_cache(tmp_path / "state")
    report = examined(doctor("--json", go=str(shutil.which("go")), state_dir=str(tmp_path / "state")))
    [go] = [language for language in report["languages"] if language["name"] == "Go"]
    assert (go["works"], go["program"]) == (True, shutil.which("go"))


def test_it_leaves_nothing_and_makes_no_state_directory(tmp_path: Path) -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    examined(doctor("--json", state_dir=str(tmp_path / "state")))
    assert not list(tmp_path.iterdir())
    assert not [name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("codeactions-doctor")]


def test_it_works_beside_a_server(tmp_path: Path) -> None:
    with running(tmp_path / "state") as appliance:
        examined(doctor("--json"))
        assert appliance.run("print('unhurt')").body == b"unhurt\n"


def test_an_authors_maxima_bind_the_probes_too() -> None:
    """A probe that asks for more than a run may have would else show nothing."""
    examined(doctor("--json", max_memory="128M", memory_limit="64M", max_tasks="16", tasks_limit="8"))


@needs_root
def test_an_ordinary_user_is_shown_what_root_would_add(public: Path) -> None:
    report = examined(doctor("--json", command=[program_of(public), "-P", "-m", "appliance", "doctor"], user=NOBODY))
    assert {"own_uid", "scope"} <= {lack["name"] for lack in report["lacks"]}
    [scope] = [lack for lack in report["lacks"] if lack["name"] == "scope"]
    assert scope["reason"] == "only root can have them made"
    assert verdict(report, "use more memory in several processes") == "FAILED"
    assert verdict(report, "become root") == "ok"


@needs_root
def test_below_the_floor_nothing_is_tried_and_it_fails() -> None:
    command = on_a_host_without("seccomp", "doctor")
    done = doctor("--json", command=command)
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"], report["checks"]) == (1, False, [])
    assert "seccomp" in report["floor"]
    assert "CONFIG_SECCOMP_FILTER" in doctor(command=command).stdout


def test_wrong_usage_is_status_2() -> None:
    assert doctor("everything").returncode == 2
