"""How a run ended and what it cost, as values. What user code did is a value; only our own failure is an exception."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from appliance.entities import Language, LogType, Network

LEAST_CPU_PERCENT = 5  # with less, not even the start of a run comes to its end in a reasonable time


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one run may use: the keys and units of the contract's `extra.limits`."""

    timeout_s: int
    memory_bytes: int
    cpu_percent: int
    tasks: int
    network: Network


NETWORK_FILTER = "network_filter"
SCOPE = "scope"
CGROUP_V2 = "cgroup_v2"


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """How strong the cage is on this host; `missing` names what it lacks (scope, seccomp, network_filter, own_uid, …), `absent`
    what could be there but makes no difference to the degree (landlock). `reasons`: why this host lacks it, by name, if known."""

    level: str
    missing: tuple[str, ...]
    absent: tuple[str, ...] = ()
    reasons: Mapping[str, str] = {}


class Purpose(StrEnum):
    """What a sandbox is for."""

    RUN = "run"
    RUN_MORE = "run_more"  # of a source that wants more of its language's library loaded
    BUILD = "build"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a run executes: the source and the request that it sees. Header names in canonical form, in order, repeated.

    `program` is, for a compiled language, the descriptor of what its source was compiled to, or of the empty file that a build is
    to fill. It stays the maker's to close, when the run has ended.
    """

    run_id: str
    language: Language
    source: str
    limits: Limits
    purpose: Purpose = Purpose.RUN
    program: int | None = None
    method: str = ""
    path: str = ""
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the action answered. `content_type` is `text`, `json`, `html` or a media type, as the action said it."""

    value: bytes = b""
    status_code: int = 200
    content_type: str = "text"
    headers: tuple[tuple[str, str], ...] = ()


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    type: LogType
    content: str
    at: datetime


class OutcomeKind(StrEnum):
    COMPLETED = "completed"
    ERROR = "error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_MANY_PROCESSES = "too_many_processes"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"
    COULD_NOT_START = "could_not_start"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run cost, in the contract's units. A figure that the host can't tell is None, and absent from JSON."""

    queue_ms: float | None = None
    wall_ms: float | None = None
    cpu_ms: float | None = None
    memory_peak_bytes: int | None = None
    tasks_peak: int | None = None
    oom_kills: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a run. `message` is what the caller is told (None when it completed); `result` is set only when it completed."""

    kind: OutcomeKind
    message: str | None = None
    result: Result | None = None
    usage: Usage = Usage()
