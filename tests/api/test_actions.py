"""Calls of actions: what they are given, and how each end of a run is answered."""

import base64
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.runner.outcome import OutcomeKind
from tests.api.server import RUN, WAIT, Api, Setup, ends, open_api

SANDBOX = "sandbox allow-scripts allow-forms allow-popups allow-downloads"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "QUERY"]


@pytest.mark.parametrize("method", METHODS)
async def test_an_action_sees_the_request(api: Api, method: str) -> None:
    path = f"/action/endpoint/{await api.create()}"
    headers = [("custom-header", "one"), ("CUSTOM-HEADER", "two"), ("x-ümlaut".encode().decode("latin-1"), "ü")][:2]
    body = "bödy\0".encode() + b"\xff"
    answer = await api.anybody.request(method, f"{path}?a=1&b=&a=2&c=%C3%BC+%ff", content=body, headers=headers)
    seen = answer.json()
    assert answer.status_code == 200
    assert (seen["method"], seen["path"]) == (method, path)
    assert seen["params"] == [["a", "1"], ["b", ""], ["c", "ü \ufffd"]]
    assert [pair for pair in seen["headers"] if pair[0] == "Custom-Header"] == [
        ["Custom-Header", "one"],
        ["Custom-Header", "two"],
    ]
    assert "Remote-Addr" not in dict(seen["headers"])
    assert base64.b64decode(seen["body"]) == body


@pytest.mark.parametrize(("sent", "seen"), [("grün".encode(), "grün"), (b"gr\xfcn", "grün")])
async def test_a_header_that_is_not_ascii_is_read_as_utf8_or_latin1(api: Api, sent: bytes, seen: str) -> None:
    answer = await api.anybody.get(f"/action/endpoint/{await api.create()}", headers=[(b"X-Colour", sent)])
    assert dict(answer.json()["headers"])["X-Colour"] == seen


async def test_a_call_without_input_gives_none(api: Api) -> None:
    code_id = await api.create()
    answer = await api.anybody.post(f"/endpoint/{code_id}?a=1", content=b"body", headers={"X-One": "1"})
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert answer.json() == {"method": "", "path": "", "params": [], "headers": [], "body": ""}


async def test_the_result_as_text_whatever_the_action_made_of_it(api: Api) -> None:
    code_id = await api.create(ends(value=b"<b>hi</b>", status_code=404, content_type="html", headers=(("X-Own", "1"),)))
    answer = await api.anybody.get(f"/endpoint/{code_id}")
    assert (answer.status_code, answer.text) == (200, "<b>hi</b>")
    assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
    assert "x-own" not in answer.headers


@pytest.mark.parametrize(
    ("said", "content_type", "is_sandboxed"),
    [
        ("json", "application/json; charset=UTF-8", False),
        ("html", "text/html; charset=UTF-8", True),
        ("text", "text/plain; charset=UTF-8", False),
        ("", "text/plain; charset=UTF-8", False),
        ("text/csv", "text/csv", False),
        ("image/png", "image/png", False),
        ("Text/HTML; charset=utf-8", "Text/HTML; charset=utf-8", True),
        ("image/svg+xml", "image/svg+xml", True),
        ("application/xml", "application/xml", True),
        ("application/xhtml+xml", "application/xhtml+xml", True),
        ("text/plain, text/html", "text/plain, text/html", True),
    ],
)
async def test_what_a_browser_would_execute_is_sandboxed(api: Api, said: str, content_type: str, is_sandboxed: bool) -> None:
    answer = await api.anybody.get(f"/action/endpoint/{await api.create(ends(value=b'x', content_type=said))}")
    assert answer.headers["content-type"] == content_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (answer.headers.get("content-security-policy") == SANDBOX) is is_sandboxed


async def test_an_action_cannot_take_our_headers_away(api: Api) -> None:
    theirs = (("Content-Security-Policy", "default-src *"), ("X-Content-Type-Options", "off"), ("content-type", "text/html"))
    answer = await api.anybody.get(f"/action/endpoint/{await api.create(ends(value=b'x', headers=theirs))}")
    assert answer.headers.get_list("content-security-policy") == ["default-src *", SANDBOX]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("content-type") == ["text/html"]


async def test_the_operator_may_take_the_sandbox_of_html_away(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(html_sandbox=False)) as api:
        answer = await api.anybody.get(f"/action/endpoint/{await api.create(ends(value=b'x', content_type='html'))}")
        assert "content-security-policy" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_headers_of_an_action_keep_their_order_and_repetitions(api: Api) -> None:
    theirs = (("X-A", "1"), ("Set-Cookie", "a=1"), ("X-A", "2"), ("Set-Cookie", "b=2"))
    answer = await api.anybody.get(f"/action/endpoint/{await api.create(ends(value=b'x', headers=theirs))}")
    assert answer.headers.get_list("x-a") == ["1", "2"]
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize("status", [201, 204, 205, 299, 302, 304, 404, 500, 599])
async def test_the_status_of_an_action_is_the_answers(api: Api, status: int) -> None:
    answer = await api.anybody.get(f"/action/endpoint/{await api.create(ends(value=b'text', status_code=status))}")
    assert answer.status_code == status
    assert answer.content == (b"" if status in (204, 205, 304) else b"text")
    assert answer.headers["x-run-id"]


@pytest.mark.parametrize("route", ["/action/endpoint", "/endpoint"])
async def test_an_answer_says_where_its_time_went(api: Api, route: str) -> None:
    for outcome, status in ((OutcomeKind.COMPLETED, 200), (OutcomeKind.ERROR, 500), (OutcomeKind.TIMEOUT, 408)):
        answer = await api.anybody.get(f"{route}/{await api.create(ends(outcome, 'why'))}")
        assert answer.status_code == status
        assert answer.headers["server-timing"] == "run;dur=3.000"  # this double knows nothing else


async def test_a_refused_call_has_no_times(api: Api) -> None:
    assert "server-timing" not in (await api.anybody.get(f"/action/endpoint/{'0' * 24}")).headers


async def test_head_is_get_without_a_body(api: Api) -> None:
    path = f"/action/endpoint/{await api.create(ends(value=b'text'))}"
    head, get = await api.anybody.head(path), await api.anybody.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == "4"
    assert head.headers["x-run-id"] != get.headers["x-run-id"]


async def test_options_is_no_run(api: Api) -> None:
    code_id = await api.create()
    for path in (f"/action/endpoint/{code_id}", f"/endpoint/{code_id}"):
        answer = await api.anybody.options(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "x-run-id" not in answer.headers
    assert (await api.admin.get("/coderun", params={"code_id": code_id})).json() == []


ENDS = [
    (OutcomeKind.ERROR, 500, None),
    (OutcomeKind.TIMEOUT, 408, None),
    (OutcomeKind.OUT_OF_MEMORY, 500, None),
    (OutcomeKind.TOO_MANY_PROCESSES, 500, None),
    (OutcomeKind.OUTPUT_LIMIT, 500, None),
    (OutcomeKind.KILLED, 500, None),
    (OutcomeKind.COULD_NOT_START, 503, "5"),
    (OutcomeKind.CANCELLED, 500, None),
    (OutcomeKind.INTERRUPTED, 503, None),
]


@pytest.mark.parametrize(("kind", "status", "retry_after"), ENDS)
async def test_each_way_that_a_run_fails_has_its_status_on_every_route(
    api: Api, kind: OutcomeKind, status: int, retry_after: str | None
) -> None:
    code_id = await api.create(ends(kind, f"it was {kind}"))
    for answer in (
        await api.anybody.get(f"/action/endpoint/{code_id}"),
        await api.anybody.get(f"/endpoint/{code_id}"),
        await api.anybody.post(f"/run/{code_id}", headers=RUN),
    ):
        assert (answer.status_code, answer.json()) == (status, {"message": f"it was {kind}"})
        assert answer.headers.get("retry-after") == retry_after
        run = (await api.admin.get(f"/coderun/{answer.headers['x-run-id']}")).json()
        assert (run["status"], run["extra"]["outcome"]) == ("failed", kind.value)


async def test_run_answers_with_the_run(api: Api) -> None:
    code_id = await api.create(ends(value=b"hello", status_code=201))
    answer = await api.anybody.post(f"/run/{code_id}?a=1", headers=RUN, content=b"body")
    run = answer.json()["result"]
    assert (answer.status_code, answer.json()["code_id"]) == (200, code_id)
    assert (run["id"], run["result"], run["status"]) == (answer.headers["x-run-id"], "hello", "completed")
    assert (run["params"], run["body"]) == ({}, "")


@pytest.mark.parametrize("path", ["/action/endpoint/", "/endpoint/", "/run/"])
async def test_an_id_that_is_malformed_or_unknown_makes_no_run(api: Api, path: str) -> None:
    malformed = await api.anybody.post(f"{path}no-id", headers=RUN)
    unknown = await api.anybody.post(f"{path}{'0' * 24}", headers=RUN)
    assert (malformed.status_code, unknown.status_code) == (400, 404)
    assert malformed.json()["message"].startswith("code_id: takes a UUID")
    assert "x-run-id" not in unknown.headers


async def test_calls_over_the_rate_limit_are_told_when_to_come_back(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(max_requests=2)) as api:
        code_id, other = await api.create(), await api.create()
        answers = [await api.anybody.get(f"/action/endpoint/{code_id}") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 60
        assert answers[2].json()["message"].startswith("rate limit exceeded")
        assert "x-run-id" not in answers[2].headers
        assert len((await api.admin.get("/coderun", params={"code_id": code_id})).json()) == 2
        assert (await api.anybody.get(f"/action/endpoint/{other}")).status_code == 200


async def test_malformed_ids_are_not_counted_by_the_rate_limit(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(max_requests=1)) as api:
        answers = [await api.anybody.get("/action/endpoint/no-id") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [400, 400, 400]


async def test_a_full_queue_refuses_without_a_run(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_api(tmp_path, Setup(workers=1, queue=1)) as api:
        code_id = await api.create(WAIT)
        for _ in range(2):
            nursery.start_soon(_called, api, code_id)
        while (stats := api.runner.stats()).workers_busy + stats.queue_size < 2:
            await trio.lowlevel.checkpoint()
        refused = await api.anybody.get(f"/action/endpoint/{code_id}")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "queue" in refused.json()["message"]
        assert "x-run-id" not in refused.headers
        runs = (await api.admin.get("/coderun", params={"code_id": code_id})).json()
        assert sorted(run["status"] for run in runs) == ["queued", "started"]
        nursery.cancel_scope.cancel()


async def _called(api: Api, code_id: str) -> Any:
    await api.anybody.get(f"/action/endpoint/{code_id}")


async def _in_chunks(size: int) -> Any:
    for _ in range(size // 1000):
        yield b"x" * 1000


async def test_a_body_over_the_limit_is_refused_by_its_length_and_in_chunks(api: Api) -> None:
    code_id = await api.create(ends(value=b"taken"))
    path = f"/action/endpoint/{code_id}"
    bodies = (b"x" * 100_000, b"x" * 100_001, _in_chunks(100_000), _in_chunks(1_100_000))
    answers = [await api.anybody.post(path, content=body) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 413, 200, 413]
    assert "100000 bytes" in answers[1].json()["message"]
    assert len((await api.admin.get("/coderun", params={"code_id": code_id})).json()) == 2


@pytest.mark.parametrize("path", ["/endpoint/", "/run/"])
async def test_a_body_over_the_limit_is_refused_where_it_would_not_be_used(api: Api, path: str) -> None:
    answer = await api.anybody.post(f"{path}{await api.create()}", content=b"x" * 100_001, headers=RUN)
    assert answer.status_code == 413


async def test_a_run_goes_on_when_its_caller_has_left(api: Api) -> None:
    code_id = await api.create(WAIT)
    stream = await trio.open_tcp_stream("127.0.0.1", int(api.url.rpartition(":")[2]))
    async with stream:
        await stream.send_all(f"GET /action/endpoint/{code_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while not (runs := (await api.admin.get("/coderun", params={"code_id": code_id})).json()):
            pass
    while 'status="499"' not in (await api.anybody.get("/metrics")).text:  # the server has seen that it left
        pass
    run_path = f"/coderun/{runs[0]['id']}"
    assert (await api.admin.get(run_path)).json()["status"] == "started"
    await api.admin.post(f"{run_path}/cancel")
    while (run := (await api.admin.get(run_path)).json())["status"] == "started":
        pass
    assert run["extra"]["outcome"] == "cancelled"
