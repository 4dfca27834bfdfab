"""Whether the appliance is there, and whether it can do its work."""

from pathlib import Path

import pytest

from appliance.entities import Language, now
from appliance.errors import StoreFailed
from appliance.health import Health, standalone_probes
from appliance.runner.outcome import Isolation
from appliance.storage.memory import MemoryStorage
from tests.api.server import Api, Setup, open_api

SERVICES = {"database", "redis", "rabbitmq", "s3", "systemd", "engine_python", "engine_javascript", "engine_go"}


@pytest.mark.parametrize("path", ["/", "/healthz"])
async def test_the_appliance_says_that_it_is_there(api: Api, path: str) -> None:
    answer = await api.anybody.get(path)
    said = answer.json()
    assert answer.status_code == 200
    assert (said["status"], said["version"]) == ("ok", "1.2.3")
    assert said["uptime"] >= 0
    assert said["timestamp"][:4] == str(now().year)


async def test_a_browser_is_sent_to_the_pages_and_a_program_is_not(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(ui_path="/ui")) as api:
        browser = await api.anybody.get("/", headers={"Accept": "text/html,application/xhtml+xml"})
        assert (browser.status_code, browser.headers["location"]) == (302, "/ui")
        assert (await api.anybody.get("/")).json()["status"] == "ok"


async def test_without_pages_a_browser_gets_what_a_program_does(api: Api) -> None:
    assert (await api.anybody.get("/", headers={"Accept": "text/html"})).json()["status"] == "ok"


async def test_health_says_each_service_and_the_degree_of_isolation(api: Api) -> None:
    answer = await api.anybody.get("/health")
    report = answer.json()
    assert (answer.status_code, report["status"], report["version"]) == (200, "healthy", "1.2.3")
    assert set(report["services"]) == SERVICES
    assert all(set(one) == {"status", "message", "latency", "timestamp"} for one in report["services"].values())
    assert report["services"]["redis"]["message"].startswith("not configured")
    assert report["system"]["isolation"] == {
        "level": "reduced",
        "missing": ["scope"],
        "absent": ["landlock"],
        "reasons": {"scope": "systemd doesn't run this host"},
    }
    assert report["system"]["warnings"] == []


async def test_health_is_asked_once_and_kept_for_a_moment(api: Api) -> None:
    first, second = (await api.anybody.get("/health")).json(), (await api.anybody.get("/health")).json()
    assert first["timestamp"] == second["timestamp"]


async def test_health_says_that_the_disk_is_nearly_full(tmp_path: Path) -> None:
    async with open_api(tmp_path, Setup(min_free_disk=1 << 60)) as api:
        answer = await api.anybody.get("/health")
        assert answer.status_code == 200
        assert answer.json()["system"]["warnings"][0].startswith("low disk")


class BrokenStorage(MemoryStorage):
    async def check(self) -> None:
        raise StoreFailed("the disk is full")


def health_of(folder: Path, storage: MemoryStorage) -> Health:
    isolation = Isolation(level="full", missing=())
    return Health(
        probes=standalone_probes(storage, {}, dict.fromkeys(Language, "it can't be found"), isolation),
        isolation=isolation,
        state_dir=folder,
        min_free_disk=0,
        cache_s=3,
        version="1",
    )


async def test_a_store_that_fails_is_unhealthy_with_its_reason(tmp_path: Path) -> None:
    report = await health_of(tmp_path, BrokenStorage()).report()
    assert not report.healthy
    assert (report.services["database"].status, report.services["database"].message) == ("unhealthy", "the disk is full")


async def test_without_a_python_engine_nothing_works(tmp_path: Path) -> None:
    report = await health_of(tmp_path, MemoryStorage()).report()
    python, go = report.services["engine_python"], report.services["engine_go"]
    assert (python.status, python.message) == ("unhealthy", "no action in it can run: it can't be found")
    assert (go.status, go.message) == ("healthy", "not configured: it can't be found")
