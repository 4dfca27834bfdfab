"""The list of what is checked. A check is a function; most of them run one probe in a sandbox."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import msgspec

from appliance.doctor.facts import Params
from appliance.doctor.probes import PROBES, TASKS, Probe
from appliance.doctor.report import Finding, Verdict
from appliance.entities import Language, new_id
from appliance.runner.outcome import Job, Limits, LogEntry, Outcome
from appliance.runner.pool import Runner
from appliance.settings import Settings

_TIMEOUT_S = 30  # a probe takes milliseconds, 16 000 files on a loaded machine some seconds


class Cage(NamedTuple):
    """What the checks are made with. `facts`: what this host has that is to be tried."""

    runner: Runner
    settings: Settings
    facts: Params


Check = Callable[[Cage], Awaitable[Finding]]


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe says. Neither: there was nothing to get."""

    got: str | None = None
    refused: str | None = None


async def try_probe(probe: Probe, cage: Cage) -> Finding:
    if probe.targets and not cage.facts[probe.targets]:
        return Finding(name=probe.name, expected=probe.expected, happened="this host has none", verdict=Verdict.SKIPPED)
    with cage.runner.admit("doctor") as ticket:
        outcome = await ticket.run(_job(probe, cage), _ignore)
    return judge(probe, outcome, cage.runner.isolation.missing)


def _job(probe: Probe, cage: Cage) -> Job:
    settings = cage.settings
    limits = Limits(
        timeout_s=_TIMEOUT_S,
        memory_bytes=min(probe.memory_mib << 20, settings.max_memory),
        cpu_percent=min(100, settings.max_cpu),
        tasks=min(TASKS, settings.max_tasks),
        network=probe.network,
    )
    params = tuple(cage.facts.items())
    return Job(run_id=new_id(), language=Language.PYTHON, source=probe.source, limits=limits, params=params)


async def _ignore(_: LogEntry) -> None:
    pass


def judge(probe: Probe, outcome: Outcome, missing: tuple[str, ...]) -> Finding:
    """Held only by what happened; and held by the cage only where nothing is missing that this host should hold it with."""
    happened, has_got_through, was_tried = _what_happened(probe, outcome)
    because = tuple(name for name in probe.held_by if name in missing)
    held = Verdict.REDUCED if because else Verdict.OK
    verdict = Verdict.FAILED if has_got_through or not was_tried else held
    return Finding(name=probe.name, expected=probe.expected, happened=happened, verdict=verdict, because=because)


def _what_happened(probe: Probe, outcome: Outcome) -> tuple[str, bool, bool]:
    """In words; whether it got through; whether it was tried at all."""
    if outcome.result is None:
        return outcome.message or outcome.kind.value, False, outcome.kind in probe.ended_by
    seen = msgspec.json.decode(outcome.result.value, type=_Seen)
    return seen.got or seen.refused or "nothing there", seen.got is not None, True


CHECKS: tuple[Check, ...] = tuple(partial(try_probe, probe) for probe in PROBES)
