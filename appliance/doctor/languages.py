"""Which languages this host runs: an action in each, and what is missing for the others."""

import shutil
from collections.abc import AsyncIterator

import msgspec

from appliance.doctor.report import LanguageFound
from appliance.entities import Language
from appliance.runner.launcher import Launcher
from appliance.selftest import answers_as_it_must, run_sample
from appliance.settings import Settings
from engines.table import spec_of


async def languages_of(launcher: Launcher, settings: Settings, path: str) -> AsyncIterator[LanguageFound]:
    """One after the other, since each is to have the host for itself. A language that is compiled is so first."""
    for language in Language:
        spec = spec_of(language)
        if language not in launcher.languages:
            yield LanguageFound(name=spec.label, works=None, message=launcher.lacking[language])
            continue
        outcome, logs = await run_sample(launcher, settings, language)
        found = LanguageFound(
            name=spec.label,
            version=launcher.languages[language],
            program=program_of(settings, language, path),
            works=answers_as_it_must(outcome, logs),
            wall_ms=outcome.usage.wall_ms,
        )
        yield found if found.works else msgspec.structs.replace(found, message=outcome.message or "not what its action answers")


def program_of(settings: Settings, language: Language, path: str) -> str:
    """The host's program that the language is run with; empty for one that needs none."""
    name = spec_of(language).program
    return "" if name is None else str(getattr(settings, name) or shutil.which(name, path=path) or "")
