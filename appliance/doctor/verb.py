"""The verb: a launcher of its own, one sandbox a check, a report, an exit status."""

import argparse
import sys

import trio

from appliance import logsetup, startup
from appliance.doctor import host
from appliance.doctor.checks import CHECKS, Cage
from appliance.doctor.facts import host_facts
from appliance.doctor.languages import languages_of
from appliance.doctor.report import Finding, LanguageFound, Report, as_json, as_text, report_of
from appliance.entities import Language
from appliance.localrunner import open_launcher, runner_of
from appliance.settings import Loaded


def main(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """0 when nothing got through; 1 when something did, could not be tried, or no run can start. Raises `CannotStart`."""
    logsetup.configure("critical", logsetup.style_of(sys.stderr, loaded.host.journal_stream))
    of_host = trio.run(host.examine, loaded.settings)
    begun = startup.begin(loaded, "critical", listen=False)
    report = trio.run(_examine, loaded, begun, of_host)
    sys.stdout.write(as_json(report) if arguments.json else as_text(report))
    return 0 if report.passed else 1


async def _examine(loaded: Loaded, begun: startup.Begun, of_host: list[Finding]) -> Report:
    async with open_launcher(begun) as launcher:
        runner = runner_of(launcher, loaded.settings)
        findings: list[Finding] = []
        languages: list[LanguageFound] = []
        floor = runner.floor or runner.lacking.get(Language.PYTHON, "")
        if not floor:
            async with host_facts() as facts:
                cage = Cage(runner, loaded.settings, facts)
                of_host = [*of_host, *await host.limits(cage)]
                findings.extend([await check(cage) for check in CHECKS])
        if not runner.floor:
            languages = [found async for found in languages_of(launcher, loaded.settings, loaded.host.path)]
    return report_of(findings, of_host, languages, launcher.isolation, floor)
