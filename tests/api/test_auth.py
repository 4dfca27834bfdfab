"""Who may use what."""

from pathlib import Path

import pytest

from tests.api.server import RUN, Api, Setup, open_api

SOME_ID = "6b1f7a0c-52de-4a9e-9d4e-3c1f0f7f2a11"
MANAGEMENT = [
    ("POST", "/code?name=a&language=python&type=flow&project_uuid=p"),
    ("POST", "/admin/code?name=a&language=python&type=flow&project_uuid=p"),
    ("GET", "/code?project_uuid=p"),
    ("GET", f"/code/{SOME_ID}"),
    ("PATCH", f"/code/{SOME_ID}"),
    ("PATCH", f"/admin/code/{SOME_ID}"),
    ("DELETE", f"/code/{SOME_ID}"),
    ("GET", f"/coderun/{SOME_ID}"),
    ("GET", f"/coderun?code_id={SOME_ID}"),
    ("GET", f"/codelog/{SOME_ID}"),
    ("GET", f"/codelog?run_id={SOME_ID}"),
    ("POST", f"/coderun/{SOME_ID}/cancel"),
]
WRONG = ["", "Token", "Token x", "Bearer wrong", "admin-token", "Basic admin-token", "Token admin-tokenx"]


@pytest.mark.parametrize(("method", "path"), MANAGEMENT)
async def test_the_management_wants_the_admin_token(api: Api, method: str, path: str) -> None:
    refused = await api.anybody.request(method, path)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Token")
    assert "token" in refused.json()["message"]
    assert (await api.admin.request(method, path)).status_code in (200, 201, 404)


@pytest.mark.parametrize("authorization", WRONG)
async def test_another_token_is_none(api: Api, authorization: str) -> None:
    for method, path in (("GET", "/code?project_uuid=p"), ("POST", f"/run/{SOME_ID}")):
        answer = await api.anybody.request(method, path, headers=[(b"Authorization", authorization.encode())])
        assert answer.status_code == 401


@pytest.mark.parametrize("scheme", ["Token", "token", "Bearer", "BEARER"])
async def test_the_admin_token_comes_as_token_or_bearer(api: Api, scheme: str) -> None:
    headers = [(b"Authorization", f"{scheme} admin-token".encode())]
    assert (await api.anybody.get("/code?project_uuid=p", headers=headers)).status_code == 200


async def test_a_caller_without_a_token_learns_nothing_of_the_query(api: Api) -> None:
    assert (await api.anybody.post("/code")).status_code == 401
    assert (await api.anybody.get("/code/no-id")).status_code == 401


async def test_run_opens_with_its_token_and_the_admins_and_with_nothing_else(api: Api) -> None:
    path = f"/run/{await api.create()}"
    assert (await api.anybody.post(path)).status_code == 401
    assert (await api.anybody.post(path, headers=RUN)).status_code == 200
    assert (await api.admin.post(path)).status_code == 200


async def test_the_token_of_run_opens_nothing_else(api: Api) -> None:
    assert (await api.anybody.get("/code?project_uuid=p", headers=RUN)).status_code == 401


async def test_without_a_token_of_its_own_only_the_admins_opens_run(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(auth_token="")) as api:
        path = f"/run/{await api.create()}"
        for authorization in (b"", b"Token"):
            assert (await api.anybody.post(path, headers=[(b"Authorization", authorization)])).status_code == 401
        assert (await api.admin.post(path)).status_code == 200


async def test_auth_none_opens_the_management_but_not_run(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(open_to_all=True)) as api:
        code_id = await api.create()
        assert (await api.anybody.get(f"/code/{code_id}")).status_code == 200
        assert (await api.anybody.post(f"/run/{code_id}")).status_code == 401


@pytest.mark.parametrize("path", ["/", "/healthz", "/health", "/metrics", "/openapi.json"])
async def test_what_machines_watch_is_open(api: Api, path: str) -> None:
    assert (await api.anybody.get(path)).status_code == 200
