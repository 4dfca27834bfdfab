"""The cases that every engine must pass, on the Python engine by itself."""

import pytest

from tests.cases import Case, check_body, check_headers, check_logs, is_text, load_cases
from tests.engines.conftest import Worker


@pytest.mark.parametrize("case", load_cases("python"), ids=lambda case: case.name)
def test_it_behaves_as_the_case_says(case: Case, worker: Worker) -> None:
    ran = worker.run(case.source, case.request, case.limits)
    assert ran.outcome == case.expect.outcome, ran
    check_logs(case.expect, ran.logs)
    if case.expect.message is not None:
        assert is_text(ran.last["message"], case.expect.message), ran.last
    if case.expect.outcome == "completed":
        header, body = ran.result
        assert header["status_code"] == case.expect.status
        assert case.expect.content_type in (None, header["content_type"])
        check_headers(case.expect, header["headers"])
        check_body(case.expect, body)
