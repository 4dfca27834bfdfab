"""What holds for every route: errors as JSON, methods, CORS, connections that stay usable."""

from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import pytest
import trio

from appliance.entities import Code, new_id
from appliance.errors import StoreFailed
from tests.api.server import Api, Setup, open_api

ORIGIN = "https://app.example.org"


@pytest.mark.parametrize(
    "path", ["/nothing", "/code/", "/code//x", "/action/endpoint", "/code/a/b", "/%2e%2e/etc/passwd", "/%00"]
)
async def test_a_path_that_is_not_there_is_404_as_json(api: Api, path: str) -> None:
    answer = await api.admin.get(f"{api.url}{path}")
    assert (answer.status_code, answer.json()) == (404, {"message": "no such path"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/code", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/coderun", "GET, HEAD, OPTIONS"),
        ("HEAD", "/run/x", "OPTIONS, POST"),
        ("PROPFIND", "/", "GET, HEAD, OPTIONS"),
        ("TRACE", "/action/endpoint/x", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ],
)
async def test_a_method_that_is_not_there_is_405_and_says_which_are(api: Api, method: str, path: str, allowed: str) -> None:
    answer = await api.admin.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert allowed in answer.json()["message"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/health", "/metrics", "/openapi.json", "/code?project_uuid=p"])
async def test_head_is_get_without_a_body(api: Api, path: str) -> None:
    head, get = await api.admin.head(path), await api.admin.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_options_needs_no_token_and_is_204(api: Api) -> None:
    answer = await api.anybody.options("/code")
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (204, b"", "GET, HEAD, OPTIONS, POST")


async def test_without_origins_no_page_is_let_in(api: Api) -> None:
    answer = await api.admin.get("/code?project_uuid=p", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_pages_of_an_allowed_origin_may_read_and_others_may_not(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(cors_origins=(ORIGIN,))) as api:
        allowed = await api.anybody.get("/code", headers={"Origin": ORIGIN})
        other = await api.anybody.get("/code", headers={"Origin": "https://app.example.org.evil.example"})
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-origin" not in other.headers
        assert allowed.headers["vary"] == other.headers["vary"] == "Origin"


async def test_a_preflight_is_answered_with_the_methods(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(cors_origins=("*",))) as api:
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization"}
        answer = await api.anybody.options(f"/code/{new_id()}", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "GET, POST, PUT, PATCH, DELETE"
        assert answer.headers["access-control-allow-headers"] == "authorization"


async def test_a_defect_of_ours_is_a_500_without_its_traceback(api: Api, monkeypatch: Any) -> None:
    async def broken(*_: object) -> Code:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(api.storage.codes, "get", broken)
    answer = await api.admin.get(f"/code/{new_id()}")
    assert answer.status_code == 500
    assert answer.json() == {"message": "internal error; the appliance's log says more"}


async def test_several_defects_at_once_are_one_500(api: Api, monkeypatch: Any) -> None:
    async def broken(*_: object) -> Code:
        raise ExceptionGroup("two", [RuntimeError("one"), ValueError("two")])

    monkeypatch.setattr(api.storage.codes, "get", broken)
    assert (await api.admin.get(f"/code/{new_id()}")).status_code == 500


async def test_a_store_that_fails_is_503_with_its_reason(api: Api, monkeypatch: Any) -> None:
    async def fails(*_: object) -> Code:
        raise StoreFailed("the disk is full")

    monkeypatch.setattr(api.storage.codes, "get", fails)
    answer = await api.anybody.get(f"/action/endpoint/{new_id()}")
    assert (answer.status_code, answer.json()) == (503, {"message": "the disk is full"})
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", [b"/action/endpoint/no-id", b"/code", b"/nothing"])
async def test_a_connection_stays_usable_when_the_answer_came_before_the_body(api: Api, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    stream = await trio.open_tcp_stream("127.0.0.1", int(api.url.rpartition(":")[2]))
    async with stream:
        for _ in range(3):
            await stream.send_all(head)
            answer = b""
            with trio.fail_after(20):
                while not answer.endswith(b"}"):
                    answer += await stream.receive_some()  # the request's body is still to come
            assert answer.startswith(b"HTTP/1.1 4")
            await stream.send_all(b"hello")


async def test_a_request_that_breaks_the_server_library_ends_its_own_connection_only(api: Api) -> None:
    protocol = h2.connection.H2Connection(
        h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    )
    protocol.initiate_connection()
    headers = [(b":method", b"GET"), (b":path", b"/\xff"), (b":scheme", b"http"), (b":authority", b"x")]
    protocol.send_headers(1, headers, end_stream=True)
    stream = await trio.open_tcp_stream("127.0.0.1", int(api.url.rpartition(":")[2]))
    async with stream:
        await stream.send_all(protocol.data_to_send())
        with trio.fail_after(20):
            while await stream.receive_some():
                pass
    assert (await api.anybody.get("/healthz")).status_code == 200
