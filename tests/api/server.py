"""The API over real sockets, real calls and a real store; only the sandbox is a stand-in, which ends as the source says.

A source is an `Outcome` as JSON (made by `ends`), or `WAIT`, which runs until it is cancelled; anything else answers what it saw.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import httpx
import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from appliance.access import Access
from appliance.api.app import make_app
from appliance.api.services import ApiOptions, Services
from appliance.builds import BuildOptions, Builds
from appliance.calls import CallOptions, Calls
from appliance.codes import Rules
from appliance.coordination import open_coordination
from appliance.disk import DiskWatch
from appliance.ends import open_ends
from appliance.entities import Language, LogType, Network, now
from appliance.health import Health, standalone_probes
from appliance.metrics import Metrics
from appliance.runner.execution import Bounds, Cause, OnLog, Ready, at_once
from appliance.runner.outcome import Isolation, Job, LogEntry, Outcome, OutcomeKind, Result, Usage
from appliance.runner.pool import PoolOptions, Runner, Ticket
from appliance.runner.wire import OrphanKind
from appliance.storage import open_storage
from appliance.storage.interface import Storage
from appliance.supervisor import Fate, Jobs

ADMIN = b"Token admin-token"
RUN = {"Authorization": "Token run-token"}
METRICS = {"Authorization": "Bearer metrics-token"}
WAIT = "WAIT"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a test changes of the usual installation."""

    open_to_all: bool = False
    auth_token: str = "run-token"
    blacklist: tuple[str, ...] = ("os.system", "évil")
    max_requests: int = 1000
    workers: int = 4
    queue: int = 2
    max_body_bytes: int = 100_000
    html_sandbox: bool = True
    cors_origins: tuple[str, ...] = ()
    metrics_codes: int = 1000
    min_free_disk: int = 0
    ui_path: str | None = None


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """`admin` sends the admin token, `anybody` sends none."""

    url: str
    admin: httpx.AsyncClient
    anybody: httpx.AsyncClient
    storage: Storage
    runner: "ScriptedRunner"

    async def create(self, source: str = "def Run(engine): pass", **query: str) -> str:
        """A code's id."""
        asked = {"name": "greet", "language": "python", "type": "endpoint", "project_uuid": "project-1"} | query
        answer = await self.admin.post("/code", params=asked, content=source.encode())
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


def ends(kind: OutcomeKind = OutcomeKind.COMPLETED, message: str | None = None, **result: Any) -> str:
    """A source whose run ends like that."""
    given = Result(**result) if kind is OutcomeKind.COMPLETED else None
    return msgspec.json.encode(Outcome(kind=kind, message=message, result=given, usage=Usage(wall_ms=3.0))).decode()


class ScriptedTicket(Ticket):
    cancelled: trio.Event

    def end(self, cause: Cause) -> None:
        super().end(cause)
        self.cancelled.set()

    async def run(self, job: Job, on_log: OnLog, ready: Ready = at_once) -> Outcome:
        await ready()
        await on_log(LogEntry(type=LogType.INFO, content="running", at=now()))
        if job.source == WAIT:
            await self.cancelled.wait()
            return Outcome(kind=OutcomeKind.CANCELLED, message="the run was cancelled")
        if job.source.startswith("{"):
            return msgspec.json.decode(job.source, type=Outcome)
        return Outcome(kind=OutcomeKind.COMPLETED, result=Result(value=_seen(job), content_type="json"), usage=Usage(wall_ms=3.0))


def _seen(job: Job) -> bytes:
    body = base64.b64encode(job.body).decode()
    return msgspec.json.encode(
        {"method": job.method, "path": job.path, "params": job.params, "headers": job.headers, "body": body}
    )


class ScriptedRunner(Runner):
    """The real queue and the real figures; the place that it gives is one where nothing is executed."""

    isolation = Isolation(
        level="reduced", missing=("scope",), absent=("landlock",), reasons={"scope": "systemd doesn't run this host"}
    )
    floor = ""
    orphans_swept = MappingProxyType(dict.fromkeys(OrphanKind, 0))
    languages = MappingProxyType({Language.PYTHON: "3.11.7"})
    lacking = MappingProxyType(dict.fromkeys((Language.JAVASCRIPT, Language.GO), "it isn't on PATH: install it"))

    def admit(self, project_uuid: str, *, is_prepared: bool = True) -> ScriptedTicket:
        ticket = super().admit(project_uuid)
        ticket.__class__ = ScriptedTicket
        scripted = cast(ScriptedTicket, ticket)
        scripted.cancelled = trio.Event()
        return scripted


@asynccontextmanager
async def open_api(folder: Path, setup: Setup = Setup()) -> AsyncIterator[Api]:
    runner = ScriptedRunner(
        cast(Any, None),
        PoolOptions(workers=setup.workers, queue=setup.queue, project_queue=setup.queue, queue_timeout=30),
        Bounds(max_log_bytes=1 << 20, max_result_bytes=1 << 20),
    )
    async with (
        open_storage("memory", folder) as storage,
        open_coordination(setup.max_requests, 60) as coordination,
        open_ends(storage.runs, storage.logs, folder / "spool") as run_ends,
        trio.open_nursery() as jobs,
    ):
        metrics = Metrics(runner.stats, setup.metrics_codes)
        builds = Builds(
            cast(Any, runner), jobs, BuildOptions(folder=folder, timeout_s=60, memory_bytes=1 << 30, cache_bytes=1 << 30)
        )
        calls = Calls(
            jobs=Jobs(jobs, Fate()),
            limiter=coordination.limiter,
            storage=storage,
            ends=run_ends,
            runner=runner,
            builds=builds,
            metrics=metrics,
            disk=DiskWatch(folder, setup.min_free_disk),
            options=_call_options(),
        )
        access = Access(
            admin_token="admin-token",
            auth_token=setup.auth_token,
            metrics_token="metrics-token",
            open_to_all=setup.open_to_all,
            permissions=storage.permissions,
        )
        services = Services(
            storage=storage,
            calls=calls,
            builds=builds,
            access=access,
            health=_health(folder, setup, storage, runner),
            metrics=metrics,
        )
        async with trio.open_nursery() as http:
            yield await _clients(http, services, _options(setup), runner)
            http.cancel_scope.cancel()
        jobs.cancel_scope.cancel()


async def _clients(http: trio.Nursery, services: Services, options: ApiOptions, runner: ScriptedRunner) -> Api:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.include_server_header = False
    config.accesslog = config.errorlog = None
    [url] = await http.start(partial(serve, cast(Any, make_app(services, options)), config))
    admin = httpx.AsyncClient(base_url=url, headers=[(b"Authorization", ADMIN)], timeout=20)
    anybody = httpx.AsyncClient(base_url=url, timeout=20)
    http.start_soon(_held, admin)
    http.start_soon(_held, anybody)
    return Api(url=url, admin=admin, anybody=anybody, storage=services.storage, runner=runner)


async def _held(client: httpx.AsyncClient) -> None:
    """Closed with the nursery, after the test."""
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await client.aclose()


def _call_options() -> CallOptions:
    return CallOptions(
        memory_bytes=256 << 20,
        cpu_percent=100,
        tasks=64,
        network=Network.INTERNET,
        max_memory_bytes=1 << 30,
        max_cpu_percent=200,
        max_tasks=512,
        redacted_headers=frozenset({"authorization"}),
        instance="instance-1",
    )


def _options(setup: Setup) -> ApiOptions:
    return ApiOptions(
        version="1.2.3",
        rules=Rules(
            blacklist=setup.blacklist,
            max_memory_bytes=1 << 30,
            max_cpu_percent=200,
            max_tasks=512,
            lacking=ScriptedRunner.lacking,
        ),
        max_body_bytes=setup.max_body_bytes,
        html_sandbox=setup.html_sandbox,
        cors_origins=setup.cors_origins,
        trusted_proxies=(),
        ui_path=setup.ui_path,
    )


def _health(folder: Path, setup: Setup, storage: Storage, runner: ScriptedRunner) -> Health:
    return Health(
        probes=standalone_probes(storage, runner.languages, runner.lacking, runner.isolation),
        isolation=runner.isolation,
        state_dir=folder,
        min_free_disk=setup.min_free_disk,
        cache_s=3,
        version="1.2.3",
    )
