"""What was found, for a person and for a machine."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from appliance.degrees import degree_of
from appliance.runner.outcome import Isolation


class Verdict(StrEnum):
    OK = "ok"
    FAILED = "FAILED"
    """It got through, or it could not be tried."""
    REDUCED = "reduced"
    """It did not get through, but what holds it on a complete host is missing here."""
    SKIPPED = "skipped"
    """There is nothing here to try it on."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check's result. `because`: the names of what is missing and would have held it; `remedy`: what to do, where that is
    this check's own."""

    name: str
    expected: str
    happened: str
    verdict: Verdict
    because: tuple[str, ...] = ()
    remedy: str = ""


class Lack(msgspec.Struct, frozen=True, kw_only=True):
    """`reason`: this host's own, if known; `counts`: whether the degree is `reduced` for it."""

    name: str
    reason: str
    counts: bool
    then: str
    remedy: str


class LanguageFound(msgspec.Struct, frozen=True, kw_only=True):
    """`works`: whether an action in it answered as it must, None where this host lacks it; `message`: why it didn't, or what to
    install. `program` is the host's, "" for a language that needs none."""

    name: str
    works: bool | None
    version: str = ""
    program: str = ""
    wall_ms: float | None = None
    message: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`floor`: why no run can start at all; then nothing was tried. `host`: what the host gives the appliance."""

    passed: bool
    isolation: str
    floor: str
    host: tuple[Finding, ...]
    languages: tuple[LanguageFound, ...]
    checks: tuple[Finding, ...]
    lacks: tuple[Lack, ...]


def report_of(
    findings: Sequence[Finding], host: Sequence[Finding], languages: Sequence[LanguageFound], isolation: Isolation, floor: str
) -> Report:
    names = [(name, True) for name in isolation.missing] + [(name, False) for name in isolation.absent]
    return Report(
        passed=not floor
        and all(finding.verdict is not Verdict.FAILED for finding in (*findings, *host))
        and all(language.works is not False for language in languages),
        isolation=isolation.level,
        floor=floor,
        host=tuple(host),
        languages=tuple(languages),
        checks=tuple(findings),
        lacks=tuple(
            Lack(name=name, reason=isolation.reasons.get(name, ""), counts=counts, **degree_of(name)._asdict())
            for name, counts in names
        ),
    )


def as_json(report: Report) -> str:
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def as_text(report: Report) -> str:
    tables = (*_table("THIS HOST", report.host), *_table("A RUN TRIES TO", report.checks))
    return "\n".join((*tables, *_languages(report.languages), *_lacks(report), _conclusion(report))) + "\n"


def _table(head: str, findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    rows = [(head, "EXPECTED", "WHAT HAPPENED", "")]
    rows += [(finding.name, finding.expected, finding.happened, _said(finding)) for finding in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        yield "  ".join((*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3])).rstrip()
    for finding in findings:
        if finding.remedy:
            yield f"{finding.name}: {finding.happened}\n    to do: {finding.remedy}"
    yield ""


def _languages(languages: Sequence[LanguageFound]) -> Iterator[str]:
    width = max((len(language.name) for language in languages), default=0)
    for language in languages:
        yield f"{language.name.ljust(width)}  {_language(language)}"
    if languages:
        yield ""


def _language(language: LanguageFound) -> str:
    if language.works is None:
        return f"not on this host: {language.message}"
    what = f"{language.version}{f', {language.program}' if language.program else ''}"
    return f"{what}: an action ran in {language.wall_ms:.1f} ms" if language.works else f"{what}: FAILED: {language.message}"


def _said(finding: Finding) -> str:
    return f"{finding.verdict}: no {', '.join(finding.because)}" if finding.because else finding.verdict.value


def _lacks(report: Report) -> Iterator[str]:
    for lack in report.lacks:
        yield f"no {lack.name}{f' ({lack.reason})' if lack.reason else ''}{f': {lack.then}' if lack.then else ''}"
        yield f"    to do: {lack.remedy}"
    if report.lacks:
        yield ""


def _conclusion(report: Report) -> str:
    if report.floor:
        return f"isolation: {report.isolation}; no run can start on this host: {report.floor}"
    findings = (*report.host, *report.checks)
    failed = sum(finding.verdict is Verdict.FAILED for finding in findings)
    broken = ", ".join(language.name for language in report.languages if language.works is False)
    if broken and not failed:
        return f"isolation: {report.isolation}; no action ran in {broken}"
    said = f"{failed} of {len(findings)} checks FAILED" if failed else "nothing got through"
    return f"isolation: {report.isolation}; {said}"
