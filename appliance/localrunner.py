"""A runner for one verb, without a server: `run FILE` and `doctor`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from appliance import options
from appliance.runner.launcher import Launcher, LauncherGone
from appliance.runner.pool import Runner
from appliance.settings import Settings


@asynccontextmanager
async def open_runner(launcher: Launcher, settings: Settings) -> AsyncIterator[Runner]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, launcher, name="launcher")
        yield Runner(launcher, options.pool_options(settings), options.bounds(settings))
        nursery.cancel_scope.cancel()


async def _listen(launcher: Launcher) -> None:
    with suppress(LauncherGone):  # the run's outcome says so
        await launcher.listen()
