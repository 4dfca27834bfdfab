"""The status channel between the launcher and a sandbox's guard: records of 32 bytes, each one packet.

Both sides are ours; the worker never holds this channel. Anything that isn't a whole record means that the guard is gone.
"""

import struct
from typing import NamedTuple

SIZE = 32
_RECORD = struct.Struct("!4si24s")
_COST = struct.Struct("!q")
_LIMITS = struct.Struct("!QQ")
_UNTOLD = -1  # not 0: a worker that was claimed before its processor took it up has spent nothing so far

GO = b"GO  "  # launcher → guard: the sandbox is where it belongs; take up the tenant's identity; 1: without a rehearsal
TIME = b"TIME"  # launcher → guard: milliseconds until it ends everything itself, the backstop; what the worker has spent so far
PARKED = b"PARK"  # guard → launcher: the worker waits for its job
FAILED = b"FAIL"  # guard → launcher: the errno, and the step that failed
EXIT = b"EXIT"  # guard → launcher: the worker's wait status, and its CPU time

LIMITS_BYTES = _LIMITS.size  # of the packet that a compiled language's program comes with: the limits of its run


class Record(NamedTuple):
    kind: bytes
    number: int
    payload: bytes


class Cost(NamedTuple):
    """CPU time in µs; None where it can't be told. At the run's end: of all processes of the sandbox that the guard knows."""

    cpu_us: int | None


def pack(kind: bytes, number: int = 0, payload: bytes = b"") -> bytes:
    return _RECORD.pack(kind, number, payload[:24])


def unpack(packet: bytes) -> Record | None:
    """None for anything that isn't a record: the other side is gone, or not itself."""
    if len(packet) != SIZE:
        return None
    kind, number, payload = _RECORD.unpack(packet)
    return Record(kind, number, payload)


def pack_cost(cost: Cost) -> bytes:
    return _COST.pack(_UNTOLD if cost.cpu_us is None else cost.cpu_us)


def unpack_cost(payload: bytes) -> Cost:
    [cpu_us] = _COST.unpack_from(payload)
    return Cost(None if cpu_us == _UNTOLD else cpu_us)


def pack_limits(memory_bytes: int, tasks: int) -> bytes:
    return _LIMITS.pack(memory_bytes, tasks)


def unpack_limits(packet: bytes) -> dict[str, int]:
    """By their names in a job."""
    memory_bytes, tasks = _LIMITS.unpack(packet)
    return {"memory_bytes": memory_bytes, "tasks": tasks}
