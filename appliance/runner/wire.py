"""What travels between the server and the launcher, and between the server and an action's engine: bytes ↔ values.

The launcher's messages are JSON packets of at most 4 KiB on a SOCK_SEQPACKET socket; descriptors go beside them. The
engine's frames are u32 header length, u32 blob length (big-endian), a JSON header, a blob of raw bytes: no base64, and no
text that grows by escapes. What comes from an engine was written by a tenant: `FrameReader` refuses what is too big before
it is kept.
"""

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from appliance.entities import Language, LogType, Network
from appliance.runner.outcome import Job, OutcomeKind, Purpose

PACKET_BYTES = 4096
_LENGTHS = struct.Struct("!II")
MAX_HEADER_BYTES = 256 << 10
RunId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f-]{36}$")]  # becomes a unit's description
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 50)]
MAX_LOG_CONTENT_BYTES = 8000 * 4


class Claim(msgspec.Struct, frozen=True, kw_only=True, tag="claim", tag_field="op"):
    """Server → launcher: a sandbox for this run, with these limits; `deadline_ms` is the guard's own backstop. With a descriptor
    for a compiled language: of the program, or of the file that a build is to fill."""

    ticket: int
    language: Language
    purpose: Purpose
    run_id: RunId
    network: Network
    memory_bytes: Positive
    cpu_percent: Positive
    tasks: Positive
    deadline_ms: int


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag="kill", tag_field="op"):
    sandbox: int


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", tag_field="op"):
    """Launcher → server, once, when runs can be started; `floor` names what is below the least that a run needs,
    `absent` what the host lacks without being weaker for it. `languages` are those that can be run, with their versions,
    `lacking` the others, with the reason. `reasons`: why the host lacks what is missing, by name, where there is more to say."""

    missing: list[str]
    absent: list[str]
    floor: str
    languages: dict[Language, str]
    lacking: dict[Language, str]
    reasons: dict[str, str]


class Claimed(msgspec.Struct, frozen=True, kw_only=True, tag="claimed", tag_field="op"):
    """With four descriptors: job (write), answers, standard output, standard error (read)."""

    ticket: int
    sandbox: int


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", tag_field="op"):
    ticket: int
    reason: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended", tag_field="op"):
    """The worker has ended with this `wait_status` (waitpid(2)), and what it left behind is being killed; where that is None, its
    end was never reported, and nothing of the sandbox lives any more. A figure that the host can't tell is None."""

    sandbox: int
    wait_status: int | None
    cpu_us: int | None
    memory_peak_bytes: int | None
    tasks_peak: int | None
    oom_kills: int | None


class OrphanKind(StrEnum):
    """What was found that belongs to no sandbox: a zygote without its launcher, a process with a sandbox's uid, a scope."""

    ZYGOTE = "zygote"
    PROCESS = "process"
    SCOPE = "scope"


class Swept(msgspec.Struct, frozen=True, kw_only=True, tag="swept", tag_field="op"):
    """One orphan was ended."""

    kind: OrphanKind


class NotServed(msgspec.Struct, frozen=True, kw_only=True, tag="not_served", tag_field="op"):
    """Instead of a hello: this server gets no sandboxes, and the connection ends."""

    reason: str


ToLauncher = Claim | Kill
FromLauncher = Hello | Claimed | Refused | Ended | Swept | NotServed

_encoder = msgspec.json.Encoder()
_to_launcher: msgspec.json.Decoder[ToLauncher] = msgspec.json.Decoder(ToLauncher)
_from_launcher: msgspec.json.Decoder[FromLauncher] = msgspec.json.Decoder(FromLauncher)


def pack(message: ToLauncher | FromLauncher) -> bytes:
    return _encoder.encode(message)


def to_launcher(packet: bytes) -> ToLauncher:
    return _to_launcher.decode(packet)


def from_launcher(packet: bytes) -> FromLauncher:
    return _from_launcher.decode(packet)


class Plain(msgspec.Struct, frozen=True, tag="plain"):
    """The source is a plain program: its standard output is the result."""


class Log(msgspec.Struct, frozen=True, tag="log"):
    level: LogType


class ResultHead(msgspec.Struct, frozen=True, tag="result"):
    status_code: int
    content_type: str
    headers: list[tuple[str, str]]


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """So many log entries had no room until now; told before the end, in case there will be none."""

    dropped: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Of `dropped` 0 is also what an engine says that wasn't there at the end."""

    kind: OutcomeKind
    message: str
    dropped: int = 0


class Done(msgspec.Struct, frozen=True, tag="done"):
    dropped: int = 0


FrameHead = Plain | Log | ResultHead | Dropped | Failed | Done
_frame_head: msgspec.json.Decoder[FrameHead] = msgspec.json.Decoder(FrameHead)


class Malformed(ValueError):
    """The action's side of the channel sent what is no frame, or one that is too big."""


def job_frame(job: Job, max_log_bytes: int, max_result_bytes: int) -> bytes:
    source = job.source.encode("utf-8", "surrogatepass")
    head: dict[str, Any] = {
        "type": "job",
        "source_bytes": len(source),
        "method": job.method,
        "path": job.path,
        "params": job.params,
        "headers": job.headers,
        "limits": job.limits,
        "max_log_bytes": max_log_bytes,
        "max_result_bytes": max_result_bytes,
    }
    header = _encoder.encode(head)
    return b"".join((_LENGTHS.pack(len(header), len(source) + len(job.body)), header, source, job.body))


class FrameReader:
    """Takes bytes as they come, gives frames as they are whole."""

    def __init__(self, max_result_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_blob = max(max_result_bytes, MAX_LOG_CONTENT_BYTES)

    def feed(self, data: bytes) -> Iterator[tuple[FrameHead, bytes]]:
        """The frames that are whole now, to be taken before the next bytes; at one that is none, after those before it, raises
        `Malformed`."""
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    @property
    def is_in_the_middle(self) -> bool:
        """What came last is the beginning of a frame."""
        return bool(self._buffer)

    def _next(self) -> tuple[FrameHead, bytes] | None:
        buffer = self._buffer
        if len(buffer) < _LENGTHS.size:
            return None
        header_bytes, blob_bytes = _LENGTHS.unpack_from(buffer)
        if header_bytes > MAX_HEADER_BYTES or blob_bytes > self._max_blob:
            raise Malformed("a frame is too big")
        end = _LENGTHS.size + header_bytes + blob_bytes
        if len(buffer) < end:
            return None
        try:
            head = _frame_head.decode(bytes(buffer[_LENGTHS.size : _LENGTHS.size + header_bytes]))
        except (msgspec.MsgspecError, RecursionError) as error:  # the latter for a header that is nested deep
            raise Malformed("a frame can't be read") from error
        blob = bytes(buffer[_LENGTHS.size + header_bytes : end])
        del buffer[:end]
        return head, blob
