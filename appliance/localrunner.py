"""A launcher for one verb, without a server: `run FILE`, `doctor` and `selftest`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from appliance import options
from appliance.calls import Request, job_of
from appliance.entities import Code, new_id
from appliance.errors import CannotStart
from appliance.runner.execution import OnLog
from appliance.runner.launcher import Launcher, LauncherGone, connect
from appliance.runner.outcome import Outcome
from appliance.runner.pool import Runner
from appliance.settings import Settings
from appliance.startup import Begun


@asynccontextmanager
async def open_launcher(begun: Begun) -> AsyncIterator[Launcher]:
    """One that is listened to, on whatever host. Raises `CannotStart` when it never says hello."""
    async with connect(begun.launcher) as launcher, trio.open_nursery() as nursery:
        nursery.start_soon(_listen, launcher, name="launcher")
        yield launcher
        nursery.cancel_scope.cancel()


def refuse_floor(launcher: Launcher) -> None:
    """Raises `CannotStart` where no run can start."""
    if launcher.floor:
        raise CannotStart(f"no run can start on this host: {launcher.floor}")


def runner_of(launcher: Launcher, settings: Settings) -> Runner:
    return Runner(launcher, options.pool_options(settings), options.bounds(settings))


async def run_once(launcher: Launcher, settings: Settings, code: Code, request: Request, on_log: OnLog) -> Outcome:
    """As a call would, but that nothing is kept."""
    limits = options.call_options(settings, instance="").limits_of(code)
    with runner_of(launcher, settings).admit(code.project_uuid) as ticket:
        return await ticket.run(job_of(new_id(), code, request, limits), on_log)


async def _listen(launcher: Launcher) -> None:
    with suppress(LauncherGone):  # the run's outcome says so
        await launcher.listen()
