"""The cases that every engine must pass, on the Go engine by itself: real builds, a real parent, real pipes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.json import encode

from engines.go.build import FLAGS, go_mod, lay_out, settings_of_toolchain
from engines.go.source import attached
from tests.cases import ROOT, Case, CaseLimits, check_logs, check_result, is_text, load_cases
from tests.engines.conftest import ENVIRONMENT, HANG_GUARD, Ran, drain, frame, next_uid, read_frames, start
from tests.golang import toolchain_cache

CASES = load_cases("go")
BUILD_GUARD = 600.0  # seconds for all cases at once, the standard library among them
_CHILD = f"""
import json, os, resource, sys
sys.path.insert(0, {str(ROOT)!r})
from engines.go.run import work
from engines.spec import Place, Program
job, answers, program, uid = map(int, sys.argv[1:5])
named, limits = map(json.loads, sys.argv[5:7])
def confine(limits):
    if "memory_bytes" in named:
        resource.setrlimit(resource.RLIMIT_DATA, (limits["memory_bytes"],) * 2)
    if "tasks" in named:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["tasks"],) * 2)
if os.getuid() == 0 and "tasks" in named:
    # root is exempt from the limit; a uid of its own has only its own processes counted
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
sys.exit(work(Place(job, answers, 0, confine, lambda: Program(program, limits))))
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """All cases are built together, which is several times as quick."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no go on PATH: install golang-go")
    folder = tmp_path_factory.mktemp("go")
    places = {}
    for number, case in enumerate(CASES):
        places[case.name] = folder / "out" / f"case{number}"
        lay_out(case.source, folder / f"case{number}", f"codeactions/case{number}")
    (folder / "go.mod").write_text(go_mod(Path(go).resolve().parents[1]))
    for part in ("engine", "gate", "plain"):
        shutil.copytree(ROOT / "engines/go" / part, folder / part)
    (folder / "out").mkdir()
    shutil.copytree(toolchain_cache(), folder / "cache")
    environment = settings_of_toolchain(folder / "cache") | ENVIRONMENT | {"GOFLAGS": "-p=2"}
    command = [go, "build", *FLAGS, "-o", "out/", *(f"./case{number}" for number in range(len(CASES)))]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=BUILD_GUARD)
    for case in CASES:
        with open(places[case.name], "ab") as file:
            file.write(attached(case.source))
    return lambda case: places[case.name]


def run(program: Path, case: Case) -> Ran:
    text = case.source.encode()
    limits = {"memory_bytes": 256 << 20, "tasks": 64} | msgspec.to_builtins(case.limits)
    header: dict[str, Any] = {
        "type": "job",
        "source_bytes": len(text),
        "method": case.request.method,
        "path": case.request.path,
        "params": case.request.params,
        "headers": case.request.headers,
        "limits": limits,
        "max_log_bytes": 1 << 20,
        "max_result_bytes": 10 << 20,
    }
    return send(program, frame(header, text + case.request.body_bytes), case.limits, limits)


def send(program: Path, job: bytes, named: CaseLimits, limits: dict[str, Any]) -> Ran:
    (job_in, job_out), (out_in, out_out) = os.pipe(), os.pipe()
    binary = os.open(program, os.O_RDONLY)
    given = (job_in, out_out, binary)
    child = subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD, *map(str, (*given, next_uid())), *(encode(one).decode() for one in (named, limits))],
        env=ENVIRONMENT,
        pass_fds=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    for fd in given:
        os.close(fd)
    assert child.stdout is not None
    assert child.stderr is not None
    frames: list[tuple[dict[str, Any], bytes]] = []
    outputs = (bytearray(), bytearray())
    readers = [
        start(lambda: read_frames(out_in, frames)),
        start(drain(child.stdout.fileno(), outputs[0])),
        start(drain(child.stderr.fileno(), outputs[1])),
    ]
    with open(job_out, "wb") as pipe:
        pipe.write(job)
    status = child.wait(HANG_GUARD)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # in the appliance the run's pid namespace does this
    for reader in readers:
        reader.join(HANG_GUARD)
        assert not reader.is_alive()
    os.close(out_in)
    child.stdout.close()
    child.stderr.close()
    return Ran(frames, bytes(outputs[0]), bytes(outputs[1]), status)


def logs_of(ran: Ran) -> list[tuple[str, str]]:
    """What comes by standard error the server logs."""
    return ran.logs + [("error", line) for line in ran.stderr.decode().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_behaves_as_the_case_says(case: Case, programs: Callable[[Case], Path]) -> None:
    ran = run(programs(case), case)
    assert ran.outcome == case.expect.outcome, ran
    check_logs(case.expect, logs_of(ran))
    if case.expect.message is not None and "message" in ran.last:  # without a last word the server has its own
        assert is_text(ran.last["message"], case.expect.message), ran.last
    if case.expect.outcome == "completed":
        check_result(case.expect, *ran.result)
