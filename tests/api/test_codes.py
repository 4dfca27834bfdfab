"""Codes over HTTP: creating, reading, changing, deleting, and each thing that is refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from appliance.entities import Code, CodeType, Language, new_id, now
from tests.api.server import WAIT, Api

VALID = {"name": "greet", "language": "python", "type": "endpoint", "project_uuid": "project-1"}
OBJECT_ID = "0123456789abcdef01234567"
MIB = 1024 * 1024

# What is sent beside the valid, the source, and what the message must have.
REFUSED: list[tuple[dict[str, str | None], bytes, str]] = [
    ({"language": "cobol"}, b"", "language: takes python, javascript or go"),
    ({"language": None}, b"", "language: is required; takes python, javascript or go"),
    ({"type": "cron"}, b"", "type: takes endpoint or flow"),
    ({"type": None}, b"", "type: is required; takes endpoint or flow"),
    ({"name": ""}, b"", "name: takes a text of 1 to 255 characters"),
    ({"name": None}, b"", "name: is required; takes a text of 1 to 255 characters"),
    ({"name": "n" * 256}, b"", "name: takes a text of 1 to 255 characters"),
    ({"name": "a\0b"}, b"", "name: takes no U+0000"),
    ({"project_uuid": None}, b"", "project_uuid: is required"),
    ({"project_uuid": ""}, b"", "project_uuid: takes"),
    ({"project_uuid": "p" * 256}, b"", "project_uuid: takes"),
    ({"url": "u" * 513}, b"", "url: takes a text of at most 512 characters"),
    ({"timeout": "4"}, b"", "timeout: takes a whole number of seconds from 5 to 300"),
    ({"timeout": "301"}, b"", "timeout: takes a whole number of seconds from 5 to 300"),
    ({"timeout": "soon"}, b"", "timeout: takes a whole number of seconds from 5 to 300"),
    ({"memory": "64"}, b"", "memory: takes a number of MiB such as 64M"),
    ({"memory": "31M"}, b"", "memory: takes at least 32M for python"),
    ({"memory": "1025M"}, b"", "memory: takes at most 1024M"),
    ({"memory": f"{'9' * 5000}M"}, b"", "memory: takes a number of MiB such as 64M"),
    ({"memory": "99999999999M"}, b"", "memory: takes at most 1024M"),
    ({"cpu": "4%"}, b"", "cpu: takes at least 5%"),
    ({"cpu": "201%"}, b"", "cpu: takes at most 200%"),
    ({"cpu": "99999999999%"}, b"", "cpu: takes at most 200%"),
    ({"tasks": "3"}, b"", "tasks: takes at least 4"),
    ({"tasks": "513"}, b"", "tasks: takes at most 512"),
    ({"tasks": "99999999999"}, b"", "tasks: takes at most 512"),
    ({"network": "lan"}, b"", "network: takes internet, none or default"),
    ({}, b"x" * MIB, "source code is too big"),
    ({}, b"x" * (12 * MIB), "source code is too big"),
    ({}, b"import os; os.system('x')", "source code contains blacklisted term"),
    ({}, "print('évil')".encode(), "source code contains blacklisted term"),
    ({}, b"abc\xff", "source: takes UTF-8 text; byte 3 isn't"),
    ({}, b"a\0b", "source: takes no U+0000"),
]


def _query(changes: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**VALID, **changes}.items() if value is not None}


@pytest.mark.parametrize(("changes", "source", "message"), REFUSED)
@pytest.mark.parametrize("path", ["/code", "/admin/code"])
async def test_a_creation_that_cannot_be_taken_names_what_is_wrong(
    api: Api, path: str, changes: dict[str, str | None], source: bytes, message: str
) -> None:
    answer = await api.admin.post(path, params=_query(changes), content=source)
    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert (await api.admin.get("/code", params={"project_uuid": "project-1"})).json() == []


async def test_a_query_that_is_not_utf8_is_refused_by_name(api: Api) -> None:
    answer = await api.admin.post("/code?name=%ff&language=python&type=flow&project_uuid=p")
    assert (answer.status_code, answer.json()["message"]) == (400, "name: takes UTF-8 text")


async def test_size_is_checked_before_type_and_type_before_language_and_that_before_the_blacklist(api: Api) -> None:
    wrong = VALID | {"type": "cron", "language": "cobol"}
    messages = [
        (await api.admin.post("/code", params=wrong, content=b"os.system" * MIB)).json()["message"],
        (await api.admin.post("/code", params=wrong, content=b"os.system")).json()["message"],
        (await api.admin.post("/code", params=wrong | {"type": "flow"}, content=b"os.system")).json()["message"],
    ]
    assert [message.partition(" ")[0] for message in messages] == ["source", "type:", "language:"]


@pytest.mark.parametrize("language", ["javascript", "go"])
async def test_a_language_that_cannot_be_run_is_a_conflict_that_says_why(api: Api, language: str) -> None:
    answer = await api.admin.post("/code", params=_query({"language": language}))
    assert answer.status_code == 409
    assert answer.json()["message"] == f"language: {language} can't be run on this host: it isn't on PATH: install it"


async def test_a_created_code_is_shown_whole(api: Api) -> None:
    limits = {"memory": "64M", "cpu": "50%", "tasks": "8", "network": "none"}
    query = _query({"timeout": "7", "url": "https://example.org/"} | limits)
    created = await api.admin.post("/code", params=query, content="print('ü')".encode())
    code = created.json()
    assert created.status_code == 201
    assert created.headers["content-type"] == "application/json; charset=UTF-8"
    assert {name: code[name] for name in ("name", "language", "type", "project_uuid", "source", "timeout", "url")} == {
        **VALID,
        "source": "print('ü')",
        "timeout": 7,
        "url": "https://example.org/",
    }
    assert code["limits"] == {"memory_bytes": 64 * MIB, "cpu_percent": 50, "tasks": 8, "network": "none"}
    assert code["created_at"].endswith("Z")
    assert (await api.admin.get(f"/code/{code['id']}")).json() == code


async def test_what_is_empty_is_left_out_and_what_is_not_said_is_the_default(api: Api) -> None:
    code = (await api.admin.get(f"/code/{await api.create('')}")).json()
    assert "url" not in code
    assert "mongo_object_id" not in code
    assert (code["timeout"], code["limits"], code["source"]) == (60, {}, "")


async def test_the_longest_source_is_one_byte_under_a_mebibyte(api: Api) -> None:
    code_id = await api.create("x" * (MIB - 1))
    assert len((await api.admin.get(f"/code/{code_id}")).json()["source"]) == MIB - 1


async def test_codes_of_a_project_are_listed_by_type(api: Api) -> None:
    endpoint, flow = await api.create(type="endpoint"), await api.create(type="flow")
    await api.create(project_uuid="project-2")

    async def listed(**query: str) -> list[str]:
        answer = await api.admin.get("/code", params={"project_uuid": "project-1"} | query)
        return [code["id"] for code in answer.json()]

    assert await listed() == [endpoint, flow]
    assert await listed(code_type="flow") == [flow]
    assert await listed(project_uuid="project-3") == []


@pytest.mark.parametrize(
    ("query", "message"),
    [({}, "project_uuid: is required"), ({"project_uuid": "p", "code_type": "cron"}, "code_type: takes endpoint or flow")],
)
async def test_a_list_without_a_project_or_of_an_unknown_type_is_refused(api: Api, query: dict[str, str], message: str) -> None:
    answer = await api.admin.get("/code", params=query)
    assert answer.status_code == 400
    assert message in answer.json()["message"]


@pytest.mark.parametrize("path", ["/code", "/admin/code"])
async def test_a_change_applies_what_is_sent_and_leaves_the_rest(api: Api, path: str) -> None:
    code_id = await api.create("one", url="https://example.org/", memory="64M", timeout="9")
    before = (await api.admin.get(f"/code/{code_id}")).json()
    changed = (await api.admin.patch(f"{path}/{code_id}", params={"type": "flow", "cpu": "20%"})).json()
    assert changed["updated_at"] > before["updated_at"]
    assert changed | {"updated_at": ""} == before | {
        "updated_at": "",
        "type": "flow",
        "limits": {"memory_bytes": 64 * MIB, "cpu_percent": 20},
    }
    assert (await api.admin.get(f"/code/{code_id}")).json() == changed


async def test_a_change_with_a_body_replaces_the_source(api: Api) -> None:
    code_id = await api.create("one")
    query = {"name": "new", "timeout": "300", "language": "python"}
    changed = (await api.admin.patch(f"/code/{code_id}", params=query, content=b"two")).json()
    assert (changed["source"], changed["name"], changed["timeout"]) == ("two", "new", 300)


async def test_a_url_and_a_limit_can_be_taken_back(api: Api) -> None:
    code_id = await api.create(url="https://example.org/", memory="64M", network="none")
    query = {"url": "", "memory": "default", "network": "default"}
    changed = (await api.admin.patch(f"/code/{code_id}", params=query)).json()
    assert "url" not in changed
    assert changed["limits"] == {}


@pytest.mark.parametrize(
    ("query", "source", "status", "message"),
    [
        ({"name": ""}, b"", 400, "name: takes"),
        ({"type": "cron"}, b"", 400, "type: takes"),
        ({"language": "cobol"}, b"", 400, "language: takes"),
        ({"language": "javascript"}, b"", 409, "language: javascript can't be run on this host"),
        ({"timeout": "301"}, b"", 400, "timeout: takes"),
        ({"memory": "1M"}, b"", 400, "memory: takes at least"),
        ({}, b"x" * MIB, 400, "source code is too big"),
        ({}, b"os.system", 400, "source code contains blacklisted term"),
    ],
)
async def test_a_change_that_cannot_be_taken_changes_nothing(
    api: Api, query: dict[str, str], source: bytes, status: int, message: str
) -> None:
    code_id = await api.create("one")
    answer = await api.admin.patch(f"/code/{code_id}", params={"name": "new"} | query, content=source)
    assert answer.status_code == status
    assert message in answer.json()["message"]
    after = (await api.admin.get(f"/code/{code_id}")).json()
    assert (after["name"], after["source"]) == ("greet", "one")


async def test_a_deleted_code_is_gone_and_its_runs_in_flight_are_cancelled(api: Api, nursery: Any) -> None:
    code_id = await api.create(WAIT)
    answers: list[Any] = []

    async def call() -> None:
        answers.append(await api.anybody.get(f"/action/endpoint/{code_id}"))

    nursery.start_soon(call)
    while not (await api.admin.get("/coderun", params={"code_id": code_id})).json():
        pass
    deleted = await api.admin.delete(f"/code/{code_id}")
    assert (deleted.status_code, deleted.content) == (200, b"")
    assert (await api.admin.get(f"/code/{code_id}")).status_code == 404
    [run] = (await api.admin.get("/coderun", params={"code_id": code_id})).json()
    while run["status"] == "started":
        run = (await api.admin.get(f"/coderun/{run['id']}")).json()
    assert (run["status"], run["extra"]["outcome"]) == ("failed", "cancelled")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_an_id_that_is_malformed_or_unknown(api: Api, method: str) -> None:
    malformed = await api.admin.request(method, "/code/no-id")
    unknown = await api.admin.request(method, f"/code/{new_id()}")
    assert (malformed.status_code, unknown.status_code) == (400, 404)
    assert malformed.json()["message"].startswith("id: takes a UUID")


async def test_an_object_id_is_accepted_wherever_an_id_is(api: Api) -> None:
    at = now()
    code = Code(
        id=new_id(),
        mongo_object_id=OBJECT_ID,
        name="old",
        type=CodeType.FLOW,
        source="",
        language=Language.PYTHON,
        project_uuid="project-1",
        created_at=at,
        updated_at=at,
    )
    await api.storage.codes.create(code)
    called = await api.anybody.get(f"/action/endpoint/{OBJECT_ID}")
    listed = (await api.admin.get("/coderun", params={"code_id": OBJECT_ID.upper()})).json()
    assert called.status_code == 200
    assert [run["code_id"] for run in listed] == [code.id]
    assert (await api.admin.get(f"/code/{OBJECT_ID}")).json()["mongo_object_id"] == OBJECT_ID
    assert (await api.admin.get("/codelog", params={"code_id": OBJECT_ID})).json()["total"] == 1
