"""The cases that every engine must pass, on each engine by itself."""

import pytest

from tests.cases import Case, check_logs, check_result, is_text, load_cases
from tests.engines.conftest import Worker


def check(case: Case, worker: Worker) -> None:
    ran = worker.run(case.source, case.request, case.limits)
    assert ran.outcome == case.expect.outcome, ran
    check_logs(case.expect, ran.logs)
    if case.expect.message is not None and ran.frames and "message" in ran.last:  # without a last word the server has its own
        assert is_text(ran.last["message"], case.expect.message), ran.last
    if case.expect.outcome == "completed":
        check_result(case.expect, *ran.result)


@pytest.mark.parametrize("case", load_cases("python"), ids=lambda case: case.name)
def test_python(case: Case, worker: Worker) -> None:
    check(case, worker)


@pytest.mark.parametrize("case", load_cases("javascript"), ids=lambda case: case.name)
def test_javascript(case: Case, javascript: Worker) -> None:
    check(case, javascript)
