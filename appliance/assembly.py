"""Puts the opened resources together into what the API uses."""

from dataclasses import dataclass

from appliance import __version__, options
from appliance.access import Access
from appliance.api.services import Services
from appliance.builds import FOLDER, Builds
from appliance.calls import Calls
from appliance.coordination.interface import Coordination
from appliance.disk import DiskWatch
from appliance.ends import Ends
from appliance.health import Health, standalone_probes
from appliance.metrics import Metrics
from appliance.runner.launcher import Launcher
from appliance.runner.pool import Runner
from appliance.settings import Settings
from appliance.storage.interface import Storage
from appliance.supervisor import Jobs


@dataclass(frozen=True)
class Opened:
    """What `serve` has open for as long as anything runs."""

    storage: Storage
    coordination: Coordination
    ends: Ends
    launcher: Launcher


def assemble(settings: Settings, opened: Opened, jobs: Jobs, instance: str, admin_token: str) -> tuple[Services, Runner]:
    storage = opened.storage
    runner = Runner(opened.launcher, options.pool_options(settings), options.bounds(settings))
    metrics = Metrics(runner.stats, settings.metrics_codes)
    builds = Builds(opened.launcher, jobs, options.build_options(settings, settings.state_dir / FOLDER))
    calls = Calls(
        jobs=jobs,
        limiter=opened.coordination.limiter,
        storage=storage,
        ends=opened.ends,
        runner=runner,
        builds=builds,
        metrics=metrics,
        disk=DiskWatch(settings.state_dir, settings.min_free_disk),
        options=options.call_options(settings, instance),
    )
    access = Access(
        admin_token=admin_token,
        auth_token=settings.auth_token,
        metrics_token=settings.metrics_token,
        open_to_all=settings.auth == "none",
        permissions=storage.permissions,
    )
    return Services(
        storage=storage, calls=calls, builds=builds, access=access, health=_health(settings, storage, runner), metrics=metrics
    ), runner


def _health(settings: Settings, storage: Storage, runner: Runner) -> Health:
    return Health(
        probes=standalone_probes(storage, runner.languages, runner.lacking, runner.isolation),
        isolation=runner.isolation,
        state_dir=settings.state_dir,
        min_free_disk=settings.min_free_disk,
        cache_s=settings.health_check_cache_time,
        version=__version__,
    )
