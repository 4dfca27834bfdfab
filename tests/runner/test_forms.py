"""Calls of systemd that are serialised once: filled in, they are what the library would have made."""

from collections.abc import Sequence

import pytest
from jeepney import DBusAddress, Message, new_method_call

from appliance.runner.launch.limits import Limits, unit_properties
from appliance.runner.launch.manager import Form

MANAGER = DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")
LIMITS = Limits(memory_bytes=64 << 20, cpu_percent=50, tasks=20, memory_reservation=1 << 20, cpu_weight=200)


def start(texts: Sequence[str], pid: int) -> Message:
    name, description = texts
    pairs = [("Description", ("s", description)), *unit_properties(LIMITS, "launcher.service"), ("PIDs", ("au", [pid]))]
    return new_method_call(MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "fail", pairs, []))


@pytest.mark.parametrize("name", ["codeactions-run-1-9.scope", "codeactions-run-1-10.scope", "codeactions-run-1-11.scope"])
def test_a_form_filled_in_is_the_message(name: str) -> None:
    form = Form(start)
    for serial, pid, description in ((1, 2, "short"), (70_000, 4_194_304, "short"), (2**32 - 1, 1, "a longer one")):
        assert form.message(serial, (name, description), pid) == start((name, description), pid).serialise(serial)


def test_what_is_not_ascii_is_refused() -> None:
    """Its length in bytes would be another."""
    with pytest.raises(UnicodeEncodeError):
        Form(start).message(1, ("codeactions-run-1-9.scope", "ä"), 2)
