"""The behaviour that every engine must have, from engines/cases/*.json (its README describes the fields).

The same cases run against an engine by itself and over HTTP.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "engines" / "cases"


class Matches(msgspec.Struct, frozen=True):
    """A text that is known by a regular expression only, which must match all of it."""

    matches: str


Text = str | Matches


class CaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str = "POST"
    path: str = "/action/endpoint/00000000-0000-4000-8000-000000000000"
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    body_base64: str | None = None

    @property
    def body_bytes(self) -> bytes:
        return (self.body or "").encode() if self.body_base64 is None else base64.b64decode(self.body_base64)


class CaseLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    memory_bytes: int | None = None
    tasks: int | None = None


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`None` (left out) is not looked at."""

    outcome: str = "completed"
    message: Text | None = None
    status: int = 200
    body: Text | None = None
    body_json: Any = msgspec.UNSET
    body_base64: str | None = None
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] | None = None
    logs: tuple[tuple[str, Text], ...] | None = None
    any_order: bool = False


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One language's form of a case."""

    name: str
    source: str
    expect: Expect
    request: CaseRequest
    limits: CaseLimits


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A case as its file has it; `differs` replaces fields of `expect` for a language."""

    name: str
    source: dict[str, str | tuple[str, ...]]
    expect: dict[str, Any]
    differs: dict[str, dict[str, Any]] = {}
    request: CaseRequest = CaseRequest()
    limits: CaseLimits = CaseLimits()

    def in_language(self, language: str) -> Case:
        source = self.source[language]
        text = source if isinstance(source, str) else "\n".join(source) + "\n"
        expect = msgspec.convert(self.expect | self.differs.get(language, {}), Expect)
        return Case(self.name, text, expect, self.request, self.limits)


def load_cases(language: str) -> list[Case]:
    written = [
        case for path in sorted(FOLDER.glob("*.json")) for case in msgspec.json.decode(path.read_bytes(), type=list[_Written])
    ]
    return [case.in_language(language) for case in written if language in case.source]


def served_content_type(said: str) -> str:
    """What HTTP says for the content type that an action named: the contract's section HTTP."""
    if "/" in said:
        return said
    return {"json": "application/json", "html": "text/html"}.get(said, "text/plain") + "; charset=UTF-8"


def is_text(actual: str, expected: Text) -> bool:
    if isinstance(expected, str):
        return actual == expected
    return re.fullmatch(expected.matches, actual, re.DOTALL) is not None


def check_body(expect: Expect, body: bytes) -> None:
    if expect.body is not None:
        assert is_text(body.decode(), expect.body), body
    if expect.body_json is not msgspec.UNSET:
        assert json.loads(body) == expect.body_json
    if expect.body_base64 is not None:
        assert body == base64.b64decode(expect.body_base64)


def check_result(expect: Expect, header: Mapping[str, Any], body: bytes) -> None:
    """A result as an engine reports it: status, content type and headers, and its body."""
    assert header["status_code"] == expect.status
    assert expect.content_type in (None, header["content_type"])
    check_headers(expect, header["headers"])
    check_body(expect, body)


def check_logs(expect: Expect, logs: Iterable[tuple[str, str]]) -> None:
    if expect.logs is None:
        return
    actual = list(logs)
    expected = list(expect.logs)
    if expect.any_order:
        actual.sort(key=str)
        expected.sort(key=str)
    assert len(actual) == len(expected), actual
    for entry, wanted in zip(actual, expected, strict=True):
        is_wanted = entry[0] == wanted[0] and is_text(entry[1], wanted[1])
        assert is_wanted, f"{entry} is not {wanted}"


def check_headers(expect: Expect, headers: Sequence[tuple[str, str]]) -> None:
    """Those expected are there, as often as expected; a server adds its own."""
    for name, value in expect.headers or ():
        assert (name.lower(), value) in [(other.lower(), text) for other, text in headers], headers
