"""What is kept of a call: the run's row at its start and at its end, and the status that the caller is answered."""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from appliance.entities import RunStatus
from appliance.runner.outcome import Isolation, Limits, Outcome, OutcomeKind

REDACTED = "[redacted]"
BASE64 = "base64"
WITHOUT_BODY = frozenset({204, 205, 304})  # RFC 9110, 15.3.5, 15.3.6, 15.4.5: a value that is set isn't sent
_STATUS = {
    OutcomeKind.TIMEOUT: 408,
    OutcomeKind.COULD_NOT_START: 503,
    OutcomeKind.INTERRUPTED: 503,
}
_REPLACED = str.maketrans({"\0": "\ufffd"} | {chr(code): "\ufffd" for code in range(0xD800, 0xE000)})


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run before it starts, and kept with it from then on."""

    project_uuid: str
    instance: str
    limits: Limits
    isolation: Isolation

    def extra(self) -> dict[str, Any]:
        return {
            "limits": msgspec.to_builtins(self.limits),
            "isolation": self.isolation.level,
            "isolation_missing": list(self.isolation.missing),
            "project_uuid": self.project_uuid,
            "instance": self.instance,
        }


def status_of(outcome: Outcome) -> int:
    """What the caller is answered: the action's own status when it completed."""
    if outcome.result is not None:
        return outcome.result.status_code
    return _STATUS.get(outcome.kind, 500)


def receipt(origin: Origin, outcome: Outcome) -> dict[str, Any]:
    """The contract's `extra` of a run that has ended."""
    return {
        "status_code": status_of(outcome),
        "content_type": outcome.result.content_type if outcome.result else "json",
        "outcome": outcome.kind.value,
        "message": outcome.message,
        "usage": msgspec.to_builtins(outcome.usage),
        **origin.extra(),
    }


def run_status(outcome: Outcome) -> RunStatus:
    return RunStatus.COMPLETED if outcome.kind is OutcomeKind.COMPLETED else RunStatus.FAILED


def kept_text(text: str) -> str:
    """What every store can hold: no U+0000, no lone surrogate."""
    return text.translate(_REPLACED)


def kept_bytes(data: bytes) -> tuple[str, str | None]:
    """Text as it is; bytes that aren't UTF-8 as base64, with the encoding's name."""
    try:
        return data.decode().replace("\0", "\ufffd"), None
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), BASE64


def kept_headers(headers: tuple[tuple[str, str], ...], redacted: frozenset[str]) -> dict[str, list[str]]:
    """Name → values in order; the values of `redacted` names (lower case) aren't kept."""
    kept: dict[str, list[str]] = {}
    for name, value in headers:
        kept.setdefault(kept_text(name), []).append(REDACTED if name.lower() in redacted else kept_text(value))
    return kept


def kept_params(params: Mapping[str, str]) -> dict[str, str]:
    return {kept_text(name): kept_text(value) for name, value in params.items()}
