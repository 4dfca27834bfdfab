"""A compiled program that was called lately is started before its next call, and executes nothing of its author's before that."""

import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.appliance import Appliance, alive, cmdline, descendants, eventually, status_of
from tests.golang import compiling

# When the author's first instruction was executed: CLOCK_MONOTONIC, as time.monotonic() has it.
BEGUN = """
var begun = clock()

func clock() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}
"""
SOURCE = (
    """package actions

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"
)

func Run(engine *Engine) {
	sandbox, _ := os.Readlink("/proc/self/ns/pid")
	engine.Result.Set(map[string]any{
		"begun": begun, "sandbox": sandbox, "memory": debug.SetMemoryLimit(-1), "processors": runtime.NumCPU(),
		"environment": strings.Join(os.Environ(), " "), "text": engine.Body + fmt.Sprint(engine.Params.Items()),
	}, ContentType("json"))
}
"""
    + BEGUN
)
PLAIN = (
    """package main

import (
	"fmt"
	"syscall"
	"unsafe"
)

func main() {
	fmt.Print(begun)
}
"""
    + BEGUN
)


@pytest.fixture(scope="module")
def appliance() -> Iterator[Appliance]:
    with tempfile.TemporaryDirectory() as folder, compiling(Path(folder) / "state") as made:
        yield made


def programs(appliance: Appliance) -> list[int]:
    """The processes of compiled programs that live now."""
    return [pid for pid in descendants(appliance.launcher) if cmdline(pid) == b"action\0"]


def called_until_started(appliance: Appliance, code_id: str) -> list[int]:
    """Calls it twice, and again where no sandbox could be spared then."""
    assert appliance.call(code_id).status == 200

    def waiting() -> list[int]:
        assert appliance.call(code_id).status == 200
        return [pid for pid in programs(appliance) if is_waiting(pid)]

    return eventually(waiting)


def is_waiting(pid: int) -> bool:
    """Not stopped, as one whose run is over."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return status_of(pid)["State"].startswith("S")
    return False


def parent_of(pid: int) -> int:
    return int(status_of(pid)["PPid"])


def test_it_waits_and_nothing_of_the_authors_runs_before_the_call(appliance: Appliance) -> None:
    code_id = appliance.create(SOURCE, language="go")
    sandboxes = [os.readlink(f"/proc/{pid}/ns/pid") for pid in called_until_started(appliance, code_id)]
    called_at = time.monotonic()
    answer = appliance.call(code_id, b"body", text="query").json()
    assert answer["sandbox"] in sandboxes
    assert answer["begun"] > called_at * 1e9
    assert answer["text"] == "bodymap[text:query]"
    assert "CODEACTIONS" not in answer["environment"]
    assert "GOMEMLIMIT" not in answer["environment"]


def test_a_plain_program_waits_too(appliance: Appliance) -> None:
    code_id = appliance.create(PLAIN, language="go")
    called_until_started(appliance, code_id)
    called_at = time.monotonic()
    assert int(appliance.call(code_id).body) > called_at * 1e9


def test_one_that_could_pass_the_gate_is_not_started_before_its_call(appliance: Appliance) -> None:
    """By the linker's way with two variables of one name: a job of the author's own is in the gate before any is there."""
    passing = "var job = []byte{0, 0, 0, 0, 0, 0, 0, 0}\n\n//go:linkname job codeactions/gate.unread\n"
    lingering = PLAIN.replace("fmt.Print(begun)", "fmt.Print(begun)\n\ttime.Sleep(time.Second)").replace(
        '"syscall"', '"syscall"\n\t"time"'
    )
    another, code_id = (appliance.create(source, language="go") for source in (SOURCE, f"{lingering}\n{passing}"))
    for _ in range(2):
        assert appliance.call(code_id).status == 200
    called_until_started(appliance, another)
    called_at = time.monotonic()
    assert int(appliance.call(code_id).body) > called_at * 1e9


def test_other_limits_are_another_programs(appliance: Appliance) -> None:
    code_id = appliance.create(SOURCE, language="go", memory="128M", cpu="100%")
    called_until_started(appliance, code_id)
    assert appliance.call(code_id).json()["memory"] == int((128 << 20) * 0.85)
    assert appliance.call(code_id).json()["processors"] == 1
    eventually(lambda: programs(appliance))
    appliance.manage("PATCH", f"/code/{code_id}?memory=64M&cpu=200%25")
    assert appliance.call(code_id).json()["memory"] == int((64 << 20) * 0.85)
    assert appliance.call(code_id).json()["processors"] == len(os.sched_getaffinity(0))


def test_one_that_has_ended_while_it_waited_is_nobodys(appliance: Appliance) -> None:
    code_id = appliance.create(SOURCE, language="go")
    waiting = called_until_started(appliance, code_id)
    guards = [parent_of(parent_of(pid)) for pid in waiting]
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(guards))
    assert appliance.call(code_id).status == 200


def test_a_launcher_that_can_open_no_program_refuses_that_run_and_lives_on(appliance: Appliance) -> None:
    code_id = appliance.create(SOURCE, language="go")
    assert appliance.call(code_id).status == 200
    launcher = appliance.launcher
    limits = resource.prlimit(launcher, resource.RLIMIT_NOFILE)
    resource.prlimit(launcher, resource.RLIMIT_NOFILE, (8, limits[1]))  # it has far more open
    try:
        answer = appliance.call(code_id)
    finally:
        resource.prlimit(launcher, resource.RLIMIT_NOFILE, limits)
    assert (answer.status, answer.json()["message"]) == (503, "the run could not start: the launcher has too many open files")
    assert appliance.call(code_id).status == 200
    assert appliance.launcher == launcher


def test_one_call_alone_starts_nothing() -> None:
    with tempfile.TemporaryDirectory() as folder, compiling(Path(folder) / "state") as appliance:
        alone, often = appliance.create(PLAIN, language="go"), appliance.create(SOURCE, language="go")
        assert appliance.call(alone).status == 200
        waiting = called_until_started(appliance, often)
        assert len({os.stat(f"/proc/{pid}/exe").st_ino for pid in waiting}) == 1
