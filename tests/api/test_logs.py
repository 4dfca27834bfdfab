"""Log entries over HTTP."""

from datetime import timedelta

import pytest

from appliance.entities import CodeLog, LogType, new_id, now
from tests.api.server import Api


async def run_with_logs(api: Api, count: int) -> tuple[str, str]:
    """A code's and its run's ids; the run has said `entry 0`, `entry 1`, … after its one own line."""
    code_id = await api.create()
    run_id = (await api.anybody.get(f"/action/endpoint/{code_id}")).headers["x-run-id"]
    times = [now() + timedelta(seconds=second) for second in range(count)]
    entries = [
        CodeLog(
            id=new_id(), run_id=run_id, code_id=code_id, type=LogType.INFO, content=f"entry {n}", created_at=at, updated_at=at
        )
        for n, at in enumerate(times)
    ]
    await api.storage.logs.append(entries)
    return code_id, run_id


@pytest.mark.parametrize("by", ["run_id", "code_id", "both"])
async def test_entries_are_shown_newest_first_and_twenty_a_page(api: Api, by: str) -> None:
    code_id, run_id = await run_with_logs(api, 44)
    query = {name: value for name, value in (("run_id", run_id), ("code_id", code_id)) if by in (name, "both")}
    pages = [(await api.admin.get("/codelog", params=query | {"page": page})).json() for page in ("1", "2", "3", "4")]
    assert [len(page["data"]) for page in pages] == [20, 20, 5, 0]
    assert [(page["total"], page["page"], page["last_page"]) for page in pages] == [(45, n, 3) for n in (1, 2, 3, 4)]
    assert (pages[0]["data"][0]["content"], pages[2]["data"][-1]["content"]) == ("entry 43", "running")


async def test_the_first_page_is_the_default(api: Api) -> None:
    _, run_id = await run_with_logs(api, 1)
    assert (await api.admin.get("/codelog", params={"run_id": run_id})).json()["page"] == 1


async def test_there_is_no_last_page_when_there_are_no_entries(api: Api) -> None:
    answer = await api.admin.get("/codelog", params={"code_id": await api.create()})
    assert answer.json() == {"data": [], "total": 0, "page": 1, "last_page": 0}


async def test_a_run_of_another_code_has_no_entries_of_this_one(api: Api) -> None:
    _, run_id = await run_with_logs(api, 1)
    answer = await api.admin.get("/codelog", params={"run_id": run_id, "code_id": await api.create()})
    assert answer.json()["total"] == 0


async def test_an_entry_is_shown_by_its_id(api: Api) -> None:
    code_id, run_id = await run_with_logs(api, 0)
    [entry] = (await api.admin.get("/codelog", params={"run_id": run_id})).json()["data"]
    assert (entry["run_id"], entry["code_id"], entry["type"], entry["content"]) == (run_id, code_id, "info", "running")
    assert (await api.admin.get(f"/codelog/{entry['id']}")).json() == entry


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({}, 400, "run_id: is required, or code_id"),
        ({"run_id": "x"}, 400, "run_id: takes a UUID"),
        ({"code_id": "x"}, 400, "code_id: takes a UUID"),
        ({"code_id": "0" * 24, "page": "0"}, 400, "page: takes a whole number from 1"),
        ({"code_id": "0" * 24, "page": "-1"}, 400, "page: takes a whole number from 1"),
        ({"code_id": "0" * 24, "page": "x"}, 400, "page: takes a whole number from 1"),
        ({"run_id": "0" * 24}, 404, "not found"),
    ],
)
async def test_a_list_that_cannot_be_asked_for_names_what_is_wrong(
    api: Api, query: dict[str, str], status: int, message: str
) -> None:
    answer = await api.admin.get("/codelog", params=query)
    assert answer.status_code == status
    assert message in answer.json()["message"]


async def test_an_entry_that_is_malformed_or_unknown(api: Api) -> None:
    assert (await api.admin.get("/codelog/x")).status_code == 400
    assert (await api.admin.get(f"/codelog/{new_id()}")).status_code == 404
