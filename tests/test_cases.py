"""Every case in every language, over HTTP, through a running appliance in its cage."""

from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest

from engines.table import Language
from tests.appliance import Appliance, Response
from tests.cases import Case, check_body, check_headers, check_logs, is_text, load_cases, served_content_type
from tests.golang import has_go, with_every_language

CASES = [(language, case) for language in Language for case in load_cases(language)]
WITHOUT_BODY = (204, 205, 304)
MIB = 1 << 20


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with with_every_language(tmp_path_factory.mktemp("cases") / "state", worker_pool_size=2) as appliance:
        build_ahead(appliance)
        yield appliance
        assert appliance.process.poll() is None, f"it ended by itself: {appliance.lines[-10:]}"


def build_ahead(appliance: Appliance) -> None:
    """What is compiled is so beside the first of the tests: a save builds in the background, and two codes share a build."""
    for case in load_cases(Language.GO) if has_go() else ():
        create(appliance, Language.GO, case)


def create(appliance: Appliance, language: Language, case: Case) -> str:
    """Skips where this host lacks the language."""
    query: dict[str, str | int] = {"name": case.name, "project_uuid": "cases", "language": language, "type": "endpoint"}
    if case.limits.memory_bytes is not None:
        query["memory"] = f"{case.limits.memory_bytes // MIB}M"
    if case.limits.tasks is not None:
        query["tasks"] = case.limits.tasks
    answer = appliance.manage("POST", f"/code?{urlencode(query)}", case.source.encode("utf-8", "surrogatepass"))
    if answer.status == 409:
        pytest.skip(f"NOT TESTED: {language}: {answer.json()['message']}")
    assert answer.status == 201, answer
    return str(answer.json()["id"])


def call(appliance: Appliance, code_id: str, case: Case) -> tuple[Response, list[tuple[str, str]]]:
    """The answer, and its headers as they were sent."""
    request = case.request
    query = f"?{urlencode(request.params, quote_via=quote)}" if request.params else ""
    connection = appliance.connect()
    try:
        connection.putrequest(request.method, f"/action/endpoint/{code_id}{query}")
        for name, value in request.headers:
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(request.body_bytes)))
        connection.endheaders(request.body_bytes)
        answer = connection.getresponse()
        pairs = answer.getheaders()
        return Response(answer.status, {name.lower(): value for name, value in pairs}, answer.read()), pairs
    finally:
        connection.close()


def logs_of(appliance: Appliance, answer: Response) -> list[tuple[str, str]]:
    """All of them, oldest first."""
    run_id, found, page = answer.headers["x-run-id"], [], 1
    while True:
        listed = appliance.manage("GET", f"/codelog?run_id={run_id}&page={page}").json()
        found += [(entry["type"], entry["content"]) for entry in listed["data"]]
        page += 1
        if page > listed["last_page"]:
            return found[::-1]


def check(appliance: Appliance, language: Language, case: Case) -> None:
    answer, headers = call(appliance, create(appliance, language, case), case)
    outcome = appliance.run_of(answer)["extra"]["outcome"]
    assert outcome == case.expect.outcome, answer
    check_logs(case.expect, logs_of(appliance, answer))
    if outcome != "completed":
        assert answer.status == 500
        assert case.expect.message is None or is_text(answer.json()["message"], case.expect.message), answer.body
        return
    assert answer.status == case.expect.status
    check_headers(case.expect, headers)
    if answer.status in WITHOUT_BODY:
        assert answer.body == b""
        return
    if case.expect.content_type is not None:
        assert answer.headers["content-type"] == served_content_type(case.expect.content_type)
    check_body(case.expect, answer.body)


@pytest.mark.parametrize(("language", "case"), CASES, ids=[f"{language}: {case.name}" for language, case in CASES])
def test_it_behaves_as_the_case_says(appliance: Appliance, language: Language, case: Case) -> None:
    check(appliance, language, case)
