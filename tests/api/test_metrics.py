"""The figures that Prometheus reads."""

import re
from hashlib import sha256
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.runner.outcome import OutcomeKind
from tests.api.server import METRICS, Api, Setup, ends, open_api


def series(text: str) -> dict[tuple[str, str], float]:
    """By name and code, as written: the library's parser, which must be able to read it, renames counters."""
    assert list(text_string_to_metric_families(text))
    lines = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
    return {(name, _code_of(labels)): float(value) for name, labels, value in lines}


def _code_of(labels: str) -> str:
    found = re.search(r'code_id="(.*?)"', labels)
    return found[1] if found else ""


def hashed(code_id: str) -> str:
    return sha256(code_id.encode()).hexdigest()[:12]


async def test_runs_and_changes_of_a_code_are_counted(api: Api) -> None:
    code_id = await api.create(project_uuid='a "project"\n')
    await api.admin.patch(f"/code/{code_id}", params={"name": "new"})
    for _ in range(3):
        await api.anybody.get(f"/action/endpoint/{code_id}")
    answer = await api.admin.get("/metrics")
    found = series(answer.text)
    assert answer.headers["content-type"].startswith("text/plain")
    assert found["ca_run_count", code_id] == 3
    assert found["ca_code_created_count", code_id] == 1
    assert found["ca_code_updated_count", code_id] == 1
    assert found["ca_run_elapsed_count", code_id] == 3
    assert "# TYPE ca_run_count counter" in answer.text
    assert "# TYPE ca_run_elapsed histogram" in answer.text


@pytest.mark.parametrize(
    "name",
    [
        "workerpool_workers_total",
        "workerpool_workers_busy",
        "workerpool_queue_size",
        "workerpool_queue_capacity",
        "workerpool_tasks_submitted_total",
        "workerpool_tasks_completed_total",
        "workerpool_tasks_failed_total",
        "workerpool_tasks_rejected_total",
        "workerpool_tasks_timeout_total",
        "workerpool_queue_wait_seconds_count",
        "workerpool_task_duration_seconds_count",
    ],
)
async def test_the_pool_has_the_names_that_dashboards_know(api: Api, name: str) -> None:
    assert (name, "") in series((await api.anybody.get("/metrics")).text)


async def test_an_id_is_hashed_for_those_without_a_token(api: Api) -> None:
    code_id = await api.create()
    hidden = (await api.anybody.get("/metrics")).text
    assert code_id not in hidden
    assert series(hidden)["ca_code_created_count", hashed(code_id)] == 1
    assert code_id in (await api.anybody.get("/metrics", headers=METRICS)).text
    assert code_id in (await api.admin.get("/metrics")).text


async def test_codes_beyond_the_bound_are_counted_together(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(metrics_codes=2)) as api:
        codes = [await api.create() for _ in range(4)]
        await api.anybody.get(f"/action/endpoint/{codes[3]}")
        found = series((await api.admin.get("/metrics")).text)
        assert [found["ca_code_created_count", code_id] for code_id in (codes[0], codes[1], "other")] == [1, 1, 2]
        assert found["ca_run_count", "other"] == 1


async def test_requests_are_counted_by_route_and_never_by_id(api: Api) -> None:
    code_id = await api.create(ends(OutcomeKind.ERROR, "no"))
    await api.anybody.request("BREW", f"/action/endpoint/{code_id}")
    text = (await api.anybody.get("/metrics")).text
    assert 'codeactions_http_requests_total{method="other",route="/action/endpoint/{code_id}",status="500"} 1.0' in text
    assert code_id not in text
