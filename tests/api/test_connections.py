"""A client's connection: what comes in one piece, how long it is held, and when it ends."""

import pytest
import trio
from hypercorn.config import Config

from tests.api.server import WAIT, Api

GUARD = 20.0


async def test_an_answer_comes_in_one_piece(api: Api) -> None:
    code_id = await api.create()
    for method, ending in (("POST", b"}"), ("HEAD", b"\r\n\r\n")):
        async with await opened(api) as stream:
            await stream.send_all(request(f"/action/endpoint/{code_id}", method))
            with trio.fail_after(GUARD):
                piece = await stream.receive_some()
            assert piece.startswith(b"HTTP/1.1 200")
            assert piece.endswith(ending)


async def test_a_connection_is_closed_after_a_pause_but_not_while_a_call_runs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "keep_alive_timeout", 0.3)
    code_id = await api.create(WAIT)
    async with await opened(api) as calling, await opened(api) as asking, await opened(api) as silent:
        await calling.send_all(request(f"/action/endpoint/{code_id}"))
        await asking.send_all(request("/healthz"))
        with trio.fail_after(GUARD):
            assert (await asking.receive_some()).startswith(b"HTTP/1.1 200")
            assert await silent.receive_some() == b""
            assert await asking.receive_some() == b""
            await cancel_run_of(api, code_id)
            assert (await calling.receive_some()).startswith(b"HTTP/1.1 500")
            assert await calling.receive_some() == b""  # now it has paused as well


async def test_a_connection_whose_client_has_said_its_last_ends_with_the_answer(api: Api) -> None:
    code_id = await api.create(WAIT)
    async with await opened(api) as silent, await opened(api) as ended, await opened(api) as calling:
        await calling.send_all(request(f"/action/endpoint/{code_id}"))
        with trio.fail_after(GUARD):
            while not await runs_of(api, code_id):
                pass
            held = connections()
            await ended.send_eof()
            assert await ended.receive_some() == b""
            await calling.aclose()  # its run goes on
            while connections() > held - 2:
                await trio.lowlevel.checkpoint()
            assert connections() == held - 2, "the silent one is still held"
        await cancel_run_of(api, code_id)
        await silent.aclose()


async def opened(api: Api) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(api.url.rpartition(":")[2]))


def request(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def runs_of(api: Api, code_id: str) -> list[str]:
    return [run["id"] for run in (await api.admin.get("/coderun", params={"code_id": code_id})).json()]


async def cancel_run_of(api: Api, code_id: str) -> None:
    [run_id] = await runs_of(api, code_id)
    assert (await api.admin.post(f"/coderun/{run_id}/cancel")).status_code == 202


def connections() -> int:
    """That the server holds: Trio makes a task for each."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    found, waiting = 0, [root]
    while waiting:
        task = waiting.pop()
        found += task.name.endswith("_run_handler")
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found
