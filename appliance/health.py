"""Whether the appliance can do its work: one probe a service, asked together, and the answer kept for a moment."""

import os
import platform
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
import structlog
import trio

from appliance.entities import Language, now
from appliance.errors import StoreFailed
from appliance.runner.outcome import SCOPE, Isolation
from appliance.storage.interface import Storage
from engines.table import spec_of

# A load balancer asks every few seconds; a probe that takes longer than this has failed it.
PROBE_TIMEOUT_S = 5.0

log = structlog.get_logger()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """`latency` is what the probe took, in seconds."""

    status: str
    message: str
    latency: float
    timestamp: datetime


class Isolated(msgspec.Struct, frozen=True, kw_only=True):
    level: str
    missing: tuple[str, ...]
    absent: tuple[str, ...]
    reasons: Mapping[str, str]


class System(msgspec.Struct, frozen=True, kw_only=True):
    python: str
    cpus: int
    load: tuple[float, ...]
    memory_rss_bytes: int
    disk_free_bytes: int
    isolation: Isolated
    warnings: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`uptime` is in seconds."""

    status: str
    timestamp: datetime
    version: str
    uptime: float
    services: dict[str, Service]
    system: System

    @property
    def healthy(self) -> bool:
        return self.status == "healthy"


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """What `/` and `/healthz` say; `uptime` is in seconds."""

    status: str
    timestamp: datetime
    uptime: float
    version: str


class Unhealthy(Exception):
    """A service that is configured can't be used; the message says why."""


Probe = Callable[[], Awaitable[str]]


class Health:
    """`probes`: what to ask, by the contract's names; each returns its message, or raises `Unhealthy`."""

    def __init__(
        self,
        *,
        probes: Mapping[str, Probe],
        isolation: Isolation,
        state_dir: Path,
        min_free_disk: int,
        cache_s: float,
        version: str,
    ) -> None:
        self._probes = probes
        self._isolation = isolation
        self._state_dir = state_dir
        self._min_free_disk = min_free_disk
        self._cache_s = cache_s
        self._version = version
        self._started = time.monotonic()
        self._asking = trio.Lock()
        self._kept: Report | None = None
        self._kept_until = 0.0

    def alive(self) -> Alive:
        """Touches nothing: that this returns is the news."""
        return Alive(status="ok", timestamp=now(), uptime=self._uptime(), version=self._version)

    async def report(self) -> Report:
        """The probes' answers, at most `cache_s` old; callers who come together share one round."""
        async with self._asking:
            if self._kept is None or time.monotonic() >= self._kept_until:
                self._kept = await self._ask()
                self._kept_until = time.monotonic() + self._cache_s
            return self._kept

    def _uptime(self) -> float:
        return round(time.monotonic() - self._started, 3)

    async def _ask(self) -> Report:
        services: dict[str, Service] = {}

        async def ask(name: str, probe: Probe) -> None:
            services[name] = await _asked(name, probe)

        async with trio.open_nursery() as nursery:
            for name, probe in self._probes.items():
                nursery.start_soon(ask, name, probe, name=f"probe {name}")
        return Report(
            status="healthy" if all(one.status == "healthy" for one in services.values()) else "unhealthy",
            timestamp=now(),
            version=self._version,
            uptime=self._uptime(),
            services={name: services[name] for name in self._probes},
            system=await trio.to_thread.run_sync(self._system),
        )

    def _system(self) -> System:
        free, here = shutil.disk_usage(self._state_dir).free, self._isolation
        return System(
            python=platform.python_version(),
            cpus=len(os.sched_getaffinity(0)),
            load=tuple(round(figure, 2) for figure in os.getloadavg()),
            memory_rss_bytes=_resident_bytes(),
            disk_free_bytes=free,
            isolation=Isolated(level=here.level, missing=here.missing, absent=here.absent, reasons=here.reasons),
            warnings=self._warnings(free),
        )

    def _warnings(self, free: int) -> tuple[str, ...]:
        if free >= self._min_free_disk:
            return ()
        return (f"low disk: {free} bytes are free, MIN_FREE_DISK is {self._min_free_disk}: bodies and results of runs are cut",)


async def _asked(name: str, probe: Probe) -> Service:
    began = time.monotonic()
    status, message = "unhealthy", f"no answer within {PROBE_TIMEOUT_S:g} s"
    with trio.move_on_after(PROBE_TIMEOUT_S):
        try:
            status, message = "healthy", await probe()
        except Unhealthy as error:
            message = str(error)
    if status != "healthy":
        log.warning("service unhealthy", service=name, reason=message)
    return Service(status=status, message=message, latency=round(time.monotonic() - began, 6), timestamp=now())


def standalone_probes(
    storage: Storage, languages: Mapping[Language, str], lacking: Mapping[Language, str], isolation: Isolation
) -> dict[str, Probe]:
    """The probes of an appliance with only its embedded parts. `lacking`: why the languages that aren't there can't be run."""
    return {
        "database": _database(storage),
        "redis": _says("not configured: limits and locks are this process's own"),
        "rabbitmq": _says("not configured: no events are consumed"),
        "s3": _says("not configured: logs are kept in the database"),
        "systemd": _says(_systemd_message(isolation)),
        **{f"engine_{language}": _engine(language, languages, lacking) for language in Language},
    }


def _database(storage: Storage) -> Probe:
    async def probe() -> str:
        try:
            await storage.check()
        except StoreFailed as error:
            raise Unhealthy(str(error)) from error
        return "answers"

    return probe


def _engine(language: Language, languages: Mapping[Language, str], lacking: Mapping[Language, str]) -> Probe:
    """A language that needs a program of the host is one that an operator may do without."""

    async def probe() -> str:
        if version := languages.get(language):
            return version
        if spec_of(language).program is None:
            raise Unhealthy(f"no action in it can run: {lacking[language]}")
        return f"not configured: {lacking[language]}"

    return probe


def _says(message: str) -> Probe:
    async def probe() -> str:
        return message

    return probe


def _systemd_message(isolation: Isolation) -> str:
    if SCOPE not in isolation.missing:
        return "puts each run into a scope"
    if Path("/run/systemd/system").is_dir():
        return f"not used for runs: {isolation.reasons.get(SCOPE, 'the log says why')}"
    return "not configured: it doesn't run this host"


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
