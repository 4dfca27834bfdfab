"""The composition root: opens what the appliance needs, starts its services, drains, and ends.

THEORY OF OPERATION

Shutdown order is nesting order: resources ⊃ running jobs ⊃ intake. A signal, or a service that fails, sets `fate.stop`. The HTTP
server then refuses new connections and lets requests in flight finish; their runs live in the jobs nursery, which has
DRAIN_TIMEOUT to empty. Only then are the remaining services cancelled and the resources closed. A failure is held until
that is done, and raised at last.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import time, timedelta
from functools import partial
from pathlib import Path

import structlog
import trio
from hypercorn.trio import serve as serve_http

from appliance import admintoken, cleaning, logsetup, options, sdnotify, startup
from appliance.api.app import make_app
from appliance.assembly import Opened, assemble
from appliance.coordination import open_coordination
from appliance.ends import open_ends
from appliance.entities import new_id
from appliance.errors import StoreFailed
from appliance.instances import close_abandoned, keep_alive
from appliance.runner.launcher import Launcher, connect
from appliance.settings import Loaded, Settings
from appliance.storage import open_storage
from appliance.supervisor import Fate, Jobs, Service, watch_signals

log = structlog.get_logger()


def main(loaded: Loaded, launcher: Path | None) -> int:
    """`launcher`: the socket of the installed one; without it `serve` starts its own."""
    begun = startup.begin(loaded, loaded.settings.log_level, listen=True, launcher_path=launcher)
    trio.run(_serve, loaded, begun, instruments=[logsetup.Idle()])
    log.info("stopped")
    return 0


async def _serve(loaded: Loaded, begun: startup.Begun) -> None:
    fate, instance = Fate(), new_id()
    async with trio.open_nursery() as watchers:
        await watchers.start(watch_signals, fate, name="signals")
        async with _open(loaded.settings, begun) as opened:
            startup.check_isolation(loaded.settings, opened.launcher)
            watchers.start_soon(_listen, opened.launcher, fate, name="launcher")
            await close_abandoned(opened.storage, instance)
            await _run_jobs(loaded, begun, opened, fate, instance)
            with suppress(StoreFailed):  # then it is one that has stopped beating
                await opened.storage.instances.forget(instance)
            watchers.cancel_scope.cancel()
    fate.raise_failure()


@asynccontextmanager
async def _open(settings: Settings, begun: startup.Begun) -> AsyncIterator[Opened]:
    limits = open_coordination(settings.code_limiter_max_requests, settings.code_limiter_window)
    async with (
        connect(begun.launcher, begun.launcher_path) as launcher,
        open_storage(settings.db_type, settings.state_dir) as storage,
        limits as coordination,
        open_ends(storage.runs, storage.logs, settings.state_dir / "spool") as ends,
    ):
        yield Opened(storage, coordination, ends, launcher)


async def _listen(launcher: Launcher, fate: Fate) -> None:
    try:
        await launcher.keep_connected()
    except Exception as error:  # noqa: BLE001 - whatever it is, the runs that go on are waited for
        fate.fail(error)


async def _run_jobs(loaded: Loaded, begun: startup.Begun, opened: Opened, fate: Fate, instance: str) -> None:
    settings = loaded.settings
    token = admintoken.ensure(settings.state_dir, settings.admin_token)
    async with trio.open_nursery() as jobs:
        services, runner = assemble(settings, opened, Jobs(jobs, fate), instance, token)
        jobs.start_soon(services.builds.warm, name="toolchain cache")
        app = make_app(services, options.api_options(settings, runner))
        try:
            async with trio.open_nursery() as intake:
                await _start_services(intake, fate, settings, opened, instance)
                async with trio.open_nursery() as http:
                    url, config = begun.url, begun.http_config(settings)
                    await http.start(partial(serve_http, app, config, shutdown_trigger=fate.stop.wait), name="http")
                    startup.announce(loaded, url, token)
                    await fate.stop.wait()
                    sdnotify.stopping(loaded.host.notify_socket, "waiting for running calls")
                    await services.calls.drain(settings.drain_timeout)
                intake.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - raised by `raise_failure`, when all is drained
            fate.fail(error)
        await services.calls.drain(settings.drain_timeout)


async def _start_services(intake: trio.Nursery, fate: Fate, settings: Settings, opened: Opened, instance: str) -> None:
    storage, locks = opened.storage, opened.coordination.locks
    retention = timedelta(days=settings.cleaner_retention_period)
    at = time.fromisoformat(settings.cleaner_schedule_time)
    services: dict[str, Service] = {
        "ends": opened.ends.retry,
        "heartbeat": partial(keep_alive, storage, instance),
        **{
            f"cleaner of {kind.what}": partial(cleaning.clean_daily, kind, locks, at, retention)
            for kind in cleaning.cleanings(storage)
        },
    }
    for name, service in services.items():
        await intake.start(fate.supervise, service, name=name)
