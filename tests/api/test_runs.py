"""Runs over HTTP: one, the pages of a code's, and their cancelling."""

from datetime import timedelta
from typing import Any

import pytest

from appliance.entities import CodeRun, RunStatus, new_id, now
from tests.api.server import WAIT, Api

NOON = now().replace(year=2024, month=12, day=10, hour=12, minute=0, second=0, microsecond=0)


async def keep_runs(api: Api, code_id: str, count: int) -> list[str]:
    """Runs a minute apart from noon on; the ids of the newest first."""
    ids = [new_id() for _ in range(count)]
    for minute, run_id in enumerate(ids):
        at = NOON + timedelta(minutes=minute)
        extra = {"project_uuid": "project-1"}
        run = CodeRun(id=run_id, code_id=code_id, status=RunStatus.COMPLETED, extra=extra, created_at=at, updated_at=at)
        await api.storage.runs.create(run)
    return ids[::-1]


async def listed(api: Api, code_id: str, **query: str) -> list[str]:
    answer = await api.admin.get("/coderun", params={"code_id": code_id} | query)
    assert answer.status_code == 200, answer.text
    return [run["id"] for run in answer.json()]


async def test_a_run_is_shown_with_what_it_was_given(api: Api) -> None:
    code_id = await api.create()
    headers = {"Custom-Header": "one", "Authorization": "secret"}
    called = await api.anybody.post(f"/action/endpoint/{code_id}?a=1&a=2", content=b"body", headers=headers)
    run = (await api.admin.get(f"/coderun/{called.headers['x-run-id']}")).json()
    assert (run["code_id"], run["status"], run["params"], run["body"]) == (code_id, "completed", {"a": "1"}, "body")
    assert run["headers"]["Custom-Header"] == ["one"]
    assert run["headers"]["Authorization"] == ["[redacted]"]
    assert (run["extra"]["outcome"], run["extra"]["status_code"]) == ("completed", 200)
    assert run["created_at"].endswith("Z")
    assert "mongo_object_id" not in run


async def test_objects_of_a_run_are_empty_rather_than_null(api: Api) -> None:
    called = await api.anybody.get(f"/endpoint/{await api.create()}")
    run = (await api.admin.get(f"/coderun/{called.headers['x-run-id']}")).json()
    assert (run["params"], run["headers"]) == ({}, {})


async def test_runs_of_a_code_are_listed_newest_first(api: Api) -> None:
    code_id = await api.create()
    assert await listed(api, code_id) == []
    newest_first = await keep_runs(api, code_id, 3)
    await keep_runs(api, await api.create(), 1)
    assert await listed(api, code_id) == newest_first


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"after": "2024-12-10T12:01:00"}, [0, 1]),
        ({"before": "2024-12-10T12:01:00"}, [1, 2]),
        ({"after": "2024-12-10T12:01:00Z", "before": "2024-12-10T12:01:30"}, [1]),
        ({"after": "2024-12-10T15:02:00+03:00"}, [0]),
        ({"after": "2024-12-10"}, [0, 1, 2]),
        ({"before": "2024-12-10"}, []),
        ({"after": "", "before": ""}, [0, 1, 2]),
    ],
)
async def test_runs_are_listed_between_two_times(api: Api, query: dict[str, str], shown: list[int]) -> None:
    code_id = await api.create()
    runs = await keep_runs(api, code_id, 3)
    assert await listed(api, code_id, **query) == [runs[place] for place in shown]


async def test_a_zone_whose_plus_came_as_a_space_is_understood(api: Api) -> None:
    code_id = await api.create()
    runs = await keep_runs(api, code_id, 3)
    answer = await api.admin.get(f"/coderun?code_id={code_id}&after=2024-12-10T15:02:00+03:00")
    assert [run["id"] for run in answer.json()] == runs[:1]


async def test_pages_lead_from_one_to_the_next_and_keep_the_query(api: Api) -> None:
    code_id = await api.create()
    runs = await keep_runs(api, code_id, 5)
    seen: list[list[str]] = []
    path: str | None = f"/coderun?code_id={code_id}&limit=2&after=2024-12-10T12:00:00%2B00:00"
    while path:
        page = await api.admin.get(path)
        seen.append([run["id"] for run in page.json()])
        path = page.links.get("next", {}).get("url")
    assert seen == [runs[:2], runs[2:4], runs[4:]]


async def test_a_last_page_that_is_full_has_no_next(api: Api) -> None:
    code_id = await api.create()
    await keep_runs(api, code_id, 2)
    page = await api.admin.get("/coderun", params={"code_id": code_id, "limit": "2"})
    assert "link" not in page.headers


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "code_id: is required; takes a UUID, or an ObjectID"),
        ({"code_id": "x"}, "code_id: takes a UUID"),
        ({"code_id": "0" * 24, "after": "yesterday"}, "after: takes a date, or a time such as 2024-12-10T00:00:00"),
        ({"code_id": "0" * 24, "before": "2024-13-01"}, "before: takes a date"),
        ({"code_id": "0" * 24, "after": "0001-01-01T00:00:00+14:00"}, "after: takes a date"),
        ({"code_id": "0" * 24, "limit": "0"}, "limit: takes a whole number from 1 to 1000"),
        ({"code_id": "0" * 24, "limit": "1001"}, "limit: takes a whole number from 1 to 1000"),
        ({"code_id": "0" * 24, "older_than": "x"}, "older_than: takes what a page's Link"),
    ],
)
async def test_a_list_that_cannot_be_asked_for_names_what_is_wrong(api: Api, query: dict[str, str], message: str) -> None:
    answer = await api.admin.get("/coderun", params=query)
    assert answer.status_code == 400
    assert message in answer.json()["message"]


async def test_a_run_that_is_malformed_or_unknown(api: Api) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel")):
        malformed = await api.admin.request(method, f"/coderun/x{path}")
        unknown = await api.admin.request(method, f"/coderun/{new_id()}{path}")
        assert (malformed.status_code, unknown.status_code) == (400, 404)


async def test_a_cancelled_run_ends_so_and_its_caller_is_told(api: Api, nursery: Any) -> None:
    code_id = await api.create(WAIT)
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await api.anybody.get(f"/action/endpoint/{code_id}"))
        again = await api.admin.post(f"/coderun/{run_id}/cancel")
        assert (again.status_code, again.json()) == (409, {"message": "the run has ended"})
        nursery.cancel_scope.cancel()

    nursery.start_soon(call)
    while not (ids := await listed(api, code_id)):
        pass
    run_id = ids[0]
    cancelled = await api.admin.post(f"/coderun/{run_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["id"]) == (202, run_id)
    while not answers:
        await api.anybody.get("/healthz")
    assert (answers[0].status_code, answers[0].json()) == (500, {"message": "the run was cancelled"})
    assert answers[0].headers["x-run-id"] == run_id


async def test_runs_and_logs_of_a_deleted_code_stay_readable(api: Api) -> None:
    code_id = await api.create()
    run_id = (await api.anybody.get(f"/action/endpoint/{code_id}")).headers["x-run-id"]
    await api.admin.delete(f"/code/{code_id}")
    assert (await api.admin.get(f"/coderun/{run_id}")).status_code == 200
    assert await listed(api, code_id) == [run_id]
    assert (await api.admin.get("/codelog", params={"code_id": code_id})).json()["total"] == 1
