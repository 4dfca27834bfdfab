"""The proofs of `make prove` with a tenth of its counts."""

from appliance.runner.execution import TIMEOUT_MESSAGE
from tests.prove import scoped
from tests.systemd.box import Box


def test_no_process_was_ever_outside_its_scope(box: Box) -> None:
    found = scoped.forks(box, 1000)
    assert found.statuses == {200: 1000}
    assert found.tasks == {2: 1000}
    assert found.strays == 0
    assert found.looks > 100


def test_each_call_of_each_language_gets_its_own_answer(box: Box) -> None:
    found = scoped.mixed(box, 99)
    assert found.is_right(99), found


def test_nothing_is_left_after_many_calls(box: Box) -> None:
    found = scoped.nothing_left(box, 300)
    assert found.statuses == {200: 300}
    assert found.is_nothing, found


def test_runs_that_ran_out_of_time_leave_nothing(box: Box) -> None:
    found = scoped.ends(box, 50)
    assert found.messages == {TIMEOUT_MESSAGE: 50}
    assert len(found.late_ms) == 50
    assert found.strays == 0
