"""Settings → the small values that each part is given: parts don't know the settings."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from appliance import __version__
from appliance.api.services import ApiOptions
from appliance.builds import BuildOptions
from appliance.calls import CallOptions
from appliance.codes import Rules
from appliance.entities import Language
from appliance.runner.execution import Bounds
from appliance.runner.pool import PoolOptions, Runner
from appliance.settings import Settings, default_limits
from engines.table import spec_of


def pool_options(settings: Settings) -> PoolOptions:
    return PoolOptions(
        workers=settings.worker_pool_size,
        queue=settings.worker_pool_queue_size,
        project_queue=settings.worker_pool_project_queue_size,
        queue_timeout=settings.queue_timeout,
    )


def bounds(settings: Settings) -> Bounds:
    return Bounds(max_log_bytes=settings.max_log_bytes, max_result_bytes=settings.max_result_bytes)


def call_options(settings: Settings, instance: str) -> CallOptions:
    limits = default_limits(settings)
    return CallOptions(
        memory_bytes=limits.memory_bytes,
        cpu_percent=limits.cpu_percent,
        tasks=limits.tasks,
        network=limits.network,
        max_memory_bytes=settings.max_memory,
        max_cpu_percent=settings.max_cpu,
        max_tasks=settings.max_tasks,
        redacted_headers=frozenset(name.lower() for name in settings.redact_headers),
        instance=instance,
    )


def api_options(settings: Settings, runner: Runner) -> ApiOptions:
    return ApiOptions(
        version=__version__,
        rules=Rules(
            blacklist=settings.blacklist,
            max_memory_bytes=settings.max_memory,
            max_cpu_percent=settings.max_cpu,
            max_tasks=settings.max_tasks,
            # Where no run at all can start, that isn't a language's: a source is kept, and its calls say why.
            lacking={language: reason for language, reason in runner.lacking.items() if reason != runner.floor},
        ),
        max_body_bytes=settings.max_body_bytes,
        html_sandbox=settings.html_sandbox,
        cors_origins=settings.cors_origins,
        trusted_proxies=settings.trusted_proxies,
        ui_path=None,
    )


def build_options(settings: Settings, folder: Path) -> BuildOptions:
    return BuildOptions(
        folder=folder,
        timeout_s=math.ceil(settings.build_timeout),
        memory_bytes=settings.build_memory,
        cache_bytes=settings.go_cache_bytes,
    )


def launcher_arguments(settings: Settings, path: str, toolchain_cache: str, log_level: str, log_style: str) -> list[str]:
    """`path` is the host's PATH, `toolchain_cache` the folder that builds may read. The limits are those of parked sandboxes:
    they need as little memory as the most modest run, and the threads of each runtime. A run's own are set at its claim."""
    limits, specs = default_limits(settings), [spec_of(language) for language in Language]
    weight = [] if limits.cpu_weight is None else ["--cpu-weight", str(limits.cpu_weight)]
    return [
        "--keep",
        str(min(settings.worker_pool_size, _MOST_PARKED)),
        "--runs",
        str(settings.worker_pool_size),
        "--memory",
        str(max(limits.memory_bytes, min(spec.least_memory_bytes for spec in specs))),
        "--memory-reservation",
        str(limits.memory_reservation),
        "--cpu",
        str(limits.cpu_percent),
        *weight,
        "--tasks",
        str(max(limits.tasks, max(spec.least_tasks for spec in specs))),
        "--uid-base",
        str(settings.sandbox_uid_base),
        "--network",
        limits.network.value,
        *(word for where in settings.network_allow for word in ("--network-allow", where)),
        *_programs(settings, path),
        "--toolchain-cache",
        toolchain_cache,
        "--log-level",
        log_level,
        "--log-style",
        log_style,
    ]


def _programs(settings: Settings, path: str) -> Iterator[str]:
    """What languages need of the host: named by the setting of that name, or on PATH."""
    for language in Language:
        if (name := spec_of(language).program) is not None:
            named: Path | None = getattr(settings, name)
            if (found := named or shutil.which(name, path=path)) is not None:
                yield from ("--program", f"{language}={found}")


# A parked sandbox costs some megabytes; more than this at once is a burst that waits a few milliseconds each.
_MOST_PARKED = 8
