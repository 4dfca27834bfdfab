"""The document says what the server does: schemathesis sends what it allows, and what it doesn't, and compares."""

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.api.server import Api

# An action takes any method, and a deleted one isn't one that was called by DELETE.
ACTIONS = "^(/action)?/endpoint/"
# What the document can't say: memory, cpu and tasks have bounds by language and by the operator; /codelog wants one of two.
CONDITIONAL = "^(/codelog|(/admin)?/code(/.*)?)$"


async def schemathesis(api: Api, folder: Path, *arguments: str) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "run", f"{api.url}/openapi.json", "-n", "20", "--seed", "1", *arguments]
    command += ["-H", "Authorization: Token admin-token", "--no-color"]
    done = await trio.run_process(
        command, cwd=folder, check=False, capture_stdout=True, stderr=subprocess.STDOUT, env=_environment(folder)
    )
    assert done.returncode == 0, done.stdout.decode()


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": str(Path(sys.executable).parent), "HOME": str(folder), "LANG": "C.UTF-8"}


async def test_the_server_does_what_its_document_says(api: Api, tmp_path: Path) -> None:
    await schemathesis(api, tmp_path, "--exclude-path-regex", ACTIONS, "--exclude-checks", "positive_data_acceptance")


async def test_actions_do_what_the_document_says(api: Api, tmp_path: Path) -> None:
    await schemathesis(api, tmp_path, "--include-path-regex", ACTIONS, "--exclude-checks", "unsupported_method,use_after_free")


async def test_what_the_document_allows_is_accepted(api: Api, tmp_path: Path) -> None:
    await schemathesis(api, tmp_path, "--exclude-path-regex", CONDITIONAL, "--checks", "positive_data_acceptance")


@pytest.mark.parametrize("path", ["/action/endpoint/{code_id}", "/endpoint/{code_id}"])
async def test_actions_are_documented_for_each_common_method(api: Api, path: str) -> None:
    document = (await api.anybody.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"][path]) == {"get", "put", "post", "delete", "patch"}


async def test_a_parameter_is_documented_by_the_type_that_checks_it(api: Api) -> None:
    document = (await api.anybody.get("/openapi.json")).json()
    parameters = {one["name"]: one for one in document["paths"]["/code"]["post"]["parameters"]}
    assert parameters["timeout"]["schema"]["minimum"] == 5
    assert parameters["timeout"]["schema"]["maximum"] == 300
    assert parameters["language"]["schema"]["enum"] == ["python", "javascript", "go"]
    assert parameters["project_uuid"]["required"]
    assert not parameters["url"]["required"]


@pytest.mark.parametrize(
    ("path", "method"), [("/action/endpoint/{code_id}", "get"), ("/endpoint/{code_id}", "post"), ("/run/{code_id}", "post")]
)
async def test_what_is_said_about_a_run_is_documented(api: Api, path: str, method: str) -> None:
    responses = (await api.anybody.get("/openapi.json")).json()["paths"][path][method]["responses"]
    assert all(responses[status]["headers"].keys() == {"X-Run-Id", "Server-Timing"} for status in ("200", "408", "500", "503"))
