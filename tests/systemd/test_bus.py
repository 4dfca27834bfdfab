"""Systemd's manager, spoken to by the launcher's own client."""

import sys

import pytest

from tests.appliance import eventually, swept
from tests.systemd.box import Box, BoxedAppliance, booted, service


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


def test_a_bus_that_restarts_is_found_again(box: Box) -> None:
    """In a box of its own: who started a service by systemd-run hears no more of it after that."""
    with booted() as own, service(own, "codeactions-rebussed") as appliance:
        code_id = appliance.create("print('it ran')")
        own.run("systemctl", "restart", "dbus.service")
        eventually(lambda: _reconnected(appliance))
        for _ in range(5):
            assert appliance.call(code_id).body == b"it ran\n"
        extra = appliance.run_of(appliance.call(code_id))["extra"]
        assert "scope" not in extra["isolation_missing"]


def test_without_a_bus_a_call_is_told_and_the_launcher_goes_on(box: Box) -> None:
    with booted() as own, service(own, "codeactions-busless") as appliance:
        code_id, launcher = appliance.create("print('it ran')"), appliance.launcher
        own.run("systemctl", "stop", "dbus.socket", "dbus.service")
        eventually(lambda: any(line.get("event") == "the system bus is gone" for line in appliance.lines))
        answer = appliance.call(code_id)
        assert answer.status == 503
        assert "the connection to the system bus was lost" in answer.json()["message"]
        own.run("systemctl", "start", "dbus.socket")
        eventually(lambda: appliance.call(code_id).body == b"it ran\n")
        assert appliance.launcher == launcher


def _reconnected(appliance: BoxedAppliance) -> bool:
    return any(line.get("event") == "the system bus is back" for line in appliance.lines)
