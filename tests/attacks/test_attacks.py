"""Each attack of the table, in each language that can say it: held by the cage, and an attack outside of it."""

import os

import pytest

from tests.appliance import Appliance
from tests.attacks import inside, outside
from tests.attacks.table import ATTACKS, LANGUAGES, payloads

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
    assert outside.comes_to(language, name) in ATTACKS[name].outside


def test_python_says_every_attack() -> None:
    assert set(payloads("python").PAYLOADS) == set(ATTACKS)
