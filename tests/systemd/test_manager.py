"""Systemd's manager, spoken to by the launcher's own client."""

import os
import signal
import sys

import pytest

from tests.appliance import HANG_GUARD, Response, alive, children, eventually, stopped, swept
from tests.systemd.box import Box, BoxedAppliance, booted, service

PARKED = 4  # the default WORKER_POOL_SIZE: calls beyond it get a sandbox that was made since


def inside(box: Box, program: str) -> str:
    return box.run(sys.executable, "-P", "-m", "tests.systemd.inside", program).strip()


def test_a_scope_ends_with_the_service_that_it_is_bound_to(box: Box) -> None:
    box.run("systemd-run", "--quiet", "--collect", "--unit=bound-to", "sleep", "600")
    scope = inside(box, "bound")
    assert scope in box.scopes()
    box.run("systemctl", "kill", "--signal=KILL", "bound-to.service")
    eventually(lambda: scope not in box.scopes(), 1)


def test_a_cancelled_call_harms_no_other(box: Box) -> None:
    assert inside(box, "cancelled") == "unhurt"


def test_a_process_that_is_not_in_its_scope_is_noticed(box: Box) -> None:
    assert inside(box, "elsewhere").startswith("the sandbox is not in its scope: ")


@pytest.mark.parametrize(("program", "said"), [("ended", "the sandbox is not in its scope: "), ("given_up", "given up")])
def test_of_a_sandbox_that_ends_while_its_scope_is_made_no_scope_is_left(program: str, said: str) -> None:
    with booted() as own:
        assert inside(own, program).startswith(said)
        eventually(lambda: not own.scopes())


def test_a_scope_that_is_left_without_a_process_is_swept() -> None:
    with booted() as own:
        scope = inside(own, "left")
        assert own.scopes() == {scope}
        with service(own, "codeactions-sweeping") as appliance:
            eventually(lambda: scope not in own.scopes())
            eventually(lambda: swept(appliance)["scope"] == 1)


def test_limits_that_systemd_takes_and_the_kernel_has_not_are_noticed_at_the_start(box: Box) -> None:
    assert inside(box, "tried") == "scopes"
    with booted("--unified") as other:  # version 2 alone, whose controllers version 1 holds where the machine has it
        if "memory" in (other.cgroup("", "cgroup.controllers")).read_text():
            pytest.skip("this machine has the controllers on version 2: nothing is missing")
        assert inside(other, "tried").startswith("memory.max is not there")


def test_a_cgroup_is_emptied_whatever_its_processes_do(box: Box) -> None:
    assert inside(box, "emptied").splitlines() == ["0 hidden: 0 left", "1 hidden: 0 left"]


def test_what_systemd_refuses_is_said_in_its_words(box: Box) -> None:
    assert "org.freedesktop" in inside(box, "refused")


def test_a_manager_that_is_executed_anew_is_found_again() -> None:
    """As an upgrade of systemd does it; in a box of its own."""
    with booted() as own, service(own, "codeactions-reexecuted") as appliance:
        code_id, launcher = appliance.create("print('it ran')"), appliance.launcher
        own.run("systemctl", "daemon-reexec")
        eventually(lambda: _has_said(appliance, "systemd is back"))
        for _ in range(PARKED + 2):
            assert appliance.call(code_id).body == b"it ran\n"
        extra = appliance.run_of(appliance.call(code_id))["extra"]
        assert "scope" not in extra["isolation_missing"]
        assert appliance.launcher == launcher


def test_no_message_bus_is_needed() -> None:
    with booted() as own, service(own, "codeactions-busless") as appliance:
        own.run("systemctl", "stop", "dbus.socket", "dbus.service")
        code_id = appliance.create("print('it ran')")
        answers = [appliance.call(code_id) for _ in range(PARKED + 2)]
        assert {answer.body for answer in answers} == {b"it ran\n"}
        assert "scope" not in appliance.run_of(answers[-1])["extra"]["isolation_missing"]


def test_where_systemd_does_not_answer_a_call_is_told_and_the_launcher_goes_on() -> None:
    with booted() as own, service(own, "codeactions-unanswered") as appliance:
        code_id, launcher = appliance.create("print('it ran')"), appliance.launcher
        with stopped(own.pid):
            answer = _first_refused(appliance, code_id)
            reason = "scope: systemd did not answer for 10 s"
            eventually(lambda: any(line.get("reason") == reason for line in appliance.lines), 30)
        assert answer.status == 503
        assert answer.json()["message"] == "the run could not start: no sandbox was ready within 10 s"
        eventually(lambda: appliance.call(code_id).body == b"it ran\n")
        assert appliance.launcher == launcher


def test_a_scope_that_is_being_made_when_the_launcher_ends_is_stopped() -> None:
    """One whose process dies meanwhile would be nobody's, and never go: the launcher waits for systemd's word."""
    with booted() as own, service(own, "codeactions-ended", worker_pool_size=1) as appliance:
        zygote, launcher, server = appliance.zygote, appliance.launcher, appliance.processes[0]
        code_id = appliance.create("print('it ran')")
        parked = set(children(zygote))
        with stopped(own.pid):
            assert appliance.call(code_id).body == b"it ran\n"
            eventually(lambda: set(children(zygote)) - parked)
            os.kill(server, signal.SIGTERM)
            eventually(lambda: not alive([zygote]))
            with pytest.raises(AssertionError):
                eventually(lambda: not alive([launcher]), 1)
        appliance.process.wait(HANG_GUARD)
        eventually(lambda: not own.scopes())


def test_a_systemd_of_another_pid_namespace_makes_no_scopes_for_us(box: Box) -> None:
    """It would move whoever has our numbers there."""
    program = (sys.executable, "-P", "-m", "tests.systemd.inside", "tried")
    assert box.run("unshare", "--pid", "--fork", "--kill-child", *program) == "systemd is that of another pid namespace\n"


def _first_refused(appliance: BoxedAppliance, code_id: str) -> Response:
    for _ in range(PARKED):
        if (answer := appliance.call(code_id)).status != 200:
            return answer
    return appliance.call(code_id)


def _has_said(appliance: BoxedAppliance, event: str) -> bool:
    return any(line.get("event") == event for line in appliance.lines)
