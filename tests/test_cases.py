"""Every case in every language, over HTTP, through a running appliance in its cage."""

from collections.abc import Iterator

import pytest

from engines.table import Language
from tests.appliance import Appliance, running
from tests.cases import Case, check_body, check_headers, check_logs, is_text, load_cases, served_content_type

STATUSES = {"completed": None, "timeout": 408, "could_not_start": 503}  # of the outcomes; of the others 500
CASES = [(language, case) for language in Language for case in load_cases(language)]
PAGE = 20  # log entries; a case with more isn't asked for them
BODILESS = (204, 205, 304)


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with running(tmp_path_factory.mktemp("cases"), worker_pool_size=2) as appliance:
        yield appliance


@pytest.fixture(scope="module")
def services(appliance: Appliance) -> dict[str, dict[str, str]]:
    return dict(appliance.request("GET", "/health").json()["services"])


@pytest.mark.parametrize(("language", "case"), CASES, ids=[f"{language}: {case.name}" for language, case in CASES])
def test_it_behaves_as_the_case_says(
    appliance: Appliance, services: dict[str, dict[str, str]], language: Language, case: Case
) -> None:
    health = services[f"engine_{language}"]
    if health["status"] != "healthy" or appliance.lacks(language):
        pytest.skip(f"this host can't run {language}: {health['message']}")
    answer = appliance.call_case(case, language)
    outcome = appliance.run_of(answer)["extra"]["outcome"]
    assert outcome == case.expect.outcome, answer
    check_logs(case.expect, appliance.logs_of(answer))
    if outcome != "completed":
        assert answer.status == STATUSES.get(outcome, 500)
        assert case.expect.message is None or is_text(answer.json()["message"], case.expect.message), answer.body
        return
    assert answer.status == case.expect.status
    check_headers(case.expect, answer.pairs)
    if answer.status in BODILESS:
        assert answer.body == b""
        return
    if case.expect.content_type is not None:
        assert answer.headers["content-type"] == served_content_type(case.expect.content_type)
    check_body(case.expect, answer.body)
