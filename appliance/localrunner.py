"""A launcher for one verb, without a server: `run FILE`, `doctor` and `selftest`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from appliance import options
from appliance.builds import FOLDER, Builds, NotBuilt, closing_program
from appliance.calls import Request, job_of
from appliance.entities import Code, new_id
from appliance.errors import CannotStart
from appliance.runner.execution import OnLog
from appliance.runner.launcher import Launcher, LauncherGone, connect
from appliance.runner.outcome import Job, Outcome
from appliance.runner.pool import Runner, Ticket
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
    """As a call would, but that nothing is kept; a compiled program is, where the server keeps them and we may write."""
    job = job_of(new_id(), code, request, options.call_options(settings, instance="").limits_of(code))
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        async with trio.open_nursery() as nursery:
            builds = Builds(launcher, nursery, options.build_options(settings, _folder(settings, Path(temporary))))
            with runner_of(launcher, settings).admit(code.project_uuid) as ticket:
                outcome = await _execute(ticket, builds, job, on_log)
            nursery.cancel_scope.cancel()
    return outcome


def _folder(settings: Settings, temporary: Path) -> Path:
    kept = settings.state_dir / FOLDER
    return kept if os.access(kept, os.W_OK) else temporary


async def _execute(ticket: Ticket, builds: Builds, job: Job, on_log: OnLog) -> Outcome:
    program = await builds.program(job.language, job.source, project_uuid="")
    if isinstance(program, NotBuilt):
        for entry in program.entries:
            await on_log(entry)
        return program.outcome
    with closing_program(program):
        return await ticket.run(msgspec.structs.replace(job, program=program), on_log)


async def _listen(launcher: Launcher) -> None:
    with suppress(LauncherGone):  # the run's outcome says so
        await launcher.listen()
