"""Each attack of the table, in each language that can say it: held by the cage, and an attack outside of it."""

import os
import shutil
import signal
import subprocess

import pytest

from engines.table import Language, spec_of
from tests.appliance import Appliance, alive, eventually, marked, status_of
from tests.attacks import inside, outside
from tests.attacks.table import ATTACKS, LANGUAGES, MARK, payloads

CASES = [(language, name) for language in LANGUAGES for name in payloads(language).PAYLOADS]
WITHOUT_SCOPE = [case for case in CASES if not ATTACKS[case[1]].needs_scope]


def leave_out_for_an_ordinary_user(name: str) -> None:
    if ATTACKS[name].needs_root and os.geteuid() != 0:
        pytest.skip("NOT TESTED: without root there is no such thing to attack")


@pytest.mark.parametrize(("language", "name"), WITHOUT_SCOPE)
def test_the_cage_holds_against(appliance: Appliance, language: str, name: str) -> None:
    leave_out_for_an_ordinary_user(name)
    assert inside.comes_to(appliance, language, name) in ATTACKS[name].inside
    assert inside.is_unhurt(appliance)


@pytest.mark.parametrize(("language", "name"), CASES)
def test_outside_the_cage_it_is_an_attack(language: str, name: str) -> None:
    leave_out_for_an_ordinary_user(name)
    skip_if_lacking(language)
    assert outside.comes_to(language, name) in ATTACKS[name].outside


def skip_if_lacking(language: str) -> None:
    program = spec_of(Language(language)).program
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"NOT TESTED: there is no {program} on PATH")


def left_behind() -> list[int]:
    return alive(marked(f"sleep\0{MARK}"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_outlives_its_program_does_not_outlive_its_run(appliance: Appliance, language: str) -> None:
    inside.skip_if_lacking(appliance, language)
    assert appliance.run(payloads(language).OUTLIVES, language=language).body == b"left behind\n"
    eventually(lambda: not left_behind())


@pytest.mark.parametrize("language", LANGUAGES)
def test_outside_the_cage_it_outlives_its_program_and_hears_no_request_to_end(language: str) -> None:
    skip_if_lacking(language)
    chosen = payloads(language)
    done = subprocess.run(chosen.command(chosen.OUTLIVES), capture_output=True, text=True, check=True)
    assert done.stdout == "left behind\n"
    [pid] = left_behind()
    ignored = int(status_of(pid)["SigIgn"], 16)
    os.kill(pid, signal.SIGKILL)
    assert all(ignored >> number - 1 & 1 for number in (signal.SIGTERM, signal.SIGHUP))
    eventually(lambda: not left_behind())


def test_python_says_every_attack() -> None:
    assert set(payloads("python").PAYLOADS) == set(ATTACKS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_at_least_twenty(language: str) -> None:
    said = set(payloads(language).PAYLOADS)
    assert said <= set(ATTACKS)
    assert len(said) >= 20
