"""The limits of one sandbox: as properties for systemd, and as what the kernel's files must then say. Pure functions."""

from collections.abc import Iterator
from typing import NamedTuple

from appliance.runner.launch import cgroups
from appliance.runner.launch.manager import Property

SLICE = "codeactions-runs.slice"
OOM_POLICY = "OOMPolicy"  # of scopes since systemd 253
GUARD_TASKS = 1  # the guard is a process of the scope, and none of the tenant's
SWAP_V1 = "memory.memsw.limit_in_bytes"  # of memory and swap together; there only if the kernel counts swap
SWAP_V2 = "memory.swap.max"
RESERVATION_V1 = "memory.soft_limit_in_bytes"
_STOP_US = 500_000  # until systemd kills what it has stopped; what is in a scope has no end of its own to come to
_SIGKILL = 9


class Limits(NamedTuple):
    """Of one sandbox; `memory_reservation` 0 and `cpu_weight` None are unset."""

    memory_bytes: int
    cpu_percent: int
    tasks: int
    memory_reservation: int
    cpu_weight: int | None


def limit_properties(limits: Limits) -> dict[str, Property]:
    memory = cgroups.whole_pages(limits.memory_bytes)
    values = {
        "MemoryMax": memory,
        "MemoryLow": reservation_of(limits),
        "MemorySwapMax": 0,
        "CPUQuotaPerSecUSec": limits.cpu_percent * 10_000,
        "TasksMax": limits.tasks + GUARD_TASKS,
    }
    if limits.cpu_weight is not None:
        values["CPUWeight"] = limits.cpu_weight
    return {name: (name, ("t", value)) for name, value in values.items()}


def unit_properties(limits: Limits, binds_to: str | None) -> list[Property]:
    """Of a new scope, but for its processes; `binds_to` is the launcher's own service."""
    bound: list[Property] = [(name, ("as", [binds_to])) for name in ("BindsTo", "After") if binds_to]
    return [
        ("Description", ("s", "a parked sandbox")),
        ("Slice", ("s", SLICE)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("KillSignal", ("i", _SIGKILL)),
        ("TimeoutStopUSec", ("t", _STOP_US)),
        (OOM_POLICY, ("s", "continue")),  # the worker's end is the guard's to report, not a reason to stop the scope
        *bound,
        *limit_properties(limits).values(),
    ]


def expected_files(limits: Limits, hierarchies: cgroups.Hierarchies) -> list[cgroups.Limit]:
    """Each file that holds one of the limits, with what it must say."""
    return [
        *(_memory_v1(limits) if hierarchies.is_v1("memory") else _memory_v2(limits)),
        cgroups.Limit("pids", "pids.max", str(limits.tasks + GUARD_TASKS)),
        *(_cpu_v1(limits) if hierarchies.is_v1("cpu") else _cpu_v2(limits)),
    ]


def _memory_v1(limits: Limits) -> Iterator[cgroups.Limit]:
    memory = str(cgroups.whole_pages(limits.memory_bytes))
    yield cgroups.Limit("memory", "memory.limit_in_bytes", memory)
    yield cgroups.Limit("memory", SWAP_V1, memory)
    if reservation := reservation_of(limits):
        yield cgroups.Limit("memory", RESERVATION_V1, str(reservation))


def _memory_v2(limits: Limits) -> Iterator[cgroups.Limit]:
    yield cgroups.Limit("memory", "memory.max", str(cgroups.whole_pages(limits.memory_bytes)))
    yield cgroups.Limit("memory", "memory.low", str(reservation_of(limits)))
    yield cgroups.Limit("memory", SWAP_V2, "0")


def _cpu_v1(limits: Limits) -> Iterator[cgroups.Limit]:
    yield cgroups.Limit("cpu", "cpu.cfs_period_us", str(cgroups.PERIOD_US))
    yield cgroups.Limit("cpu", "cpu.cfs_quota_us", str(_quota_us(limits)))
    if limits.cpu_weight is not None:
        yield cgroups.Limit("cpu", "cpu.shares", str(max(2, limits.cpu_weight * 1024 // 100)))  # systemd's own conversion


def _cpu_v2(limits: Limits) -> Iterator[cgroups.Limit]:
    yield cgroups.Limit("cpu", "cpu.max", f"{_quota_us(limits)} {cgroups.PERIOD_US}")
    if limits.cpu_weight is not None:
        yield cgroups.Limit("cpu", "cpu.weight", str(limits.cpu_weight))


def default_weight(hierarchies: cgroups.Hierarchies, times: int) -> cgroups.Limit:
    """So many times the weight that a scope has whose `cpu_weight` is unset."""
    if hierarchies.is_v1("cpu"):
        return cgroups.Limit("cpu", "cpu.shares", str(1024 * times))
    return cgroups.Limit("cpu", "cpu.weight", str(100 * times))


def reservation_of(limits: Limits) -> int:
    return cgroups.whole_pages(min(limits.memory_reservation, limits.memory_bytes))


def _quota_us(limits: Limits) -> int:
    return limits.cpu_percent * cgroups.PERIOD_US // 100
